"""Crowd: all connections of a worker, and which of them has to go when there are too many."""

from collections import Counter
from collections.abc import Iterator

from gateway.web.connection import Connection, Phase
from gateway.web.settings import WebSettings

MAX_CONNECTIONS = 1024
BURST_SECONDS = 1.0
"""A client may open many connections at once, if it then uses them."""


class Crowd:
    """Half-open and resting connections, oldest first, and the number of those that threads have."""

    def __init__(self, settings: WebSettings, *, files: int) -> None:
        """`files` is how many descriptors they and what their threads open may take."""
        self._limit = max(64, min(MAX_CONNECTIONS, files - 2 * settings.threads - 64))
        self._max_half_open = settings.max_half_open
        self._max_per_address = settings.max_half_open_per_address
        self._half_open: dict[int, Connection] = {}
        self._idle: dict[int, Connection] = {}
        self._answering = 0

    def __len__(self) -> int:
        return len(self._half_open) + len(self._idle) + self._answering

    def get(self, fd: int) -> Connection | None:
        """The held connection of this descriptor."""
        return self._half_open.get(fd) or self._idle.get(fd)

    @property
    def full(self) -> bool:
        """Whether another connection may only come in for one that goes."""
        return len(self._half_open) >= self._max_half_open or len(self) >= self._limit

    def most_dispensable(self) -> Connection | None:
        """Who goes first: the oldest half-open one if those are too many, else the longest at rest.

        A client in earnest is half-open for milliseconds, so the oldest is never one of those.
        """
        order = (self._half_open, self._idle)
        if len(self._half_open) < self._max_half_open:
            order = (self._idle, self._half_open)
        for group in order:
            if group:
                return next(iter(group.values()))
        return None

    def hold(self, connection: Connection) -> None:
        """Take a connection that waits for its client; its phase says in which group it is."""
        fd = connection.fd
        if connection.phase is Phase.IDLE:
            self._half_open.pop(fd, None)
            self._idle[fd] = connection
        else:
            self._idle.pop(fd, None)
            self._half_open.setdefault(fd, connection)

    def release(self, connection: Connection) -> None:
        """A thread has it now."""
        self.forget(connection)
        self._answering += 1

    def take_back(self) -> None:
        """A thread has given one back; `hold` or `forget` follows."""
        self._answering -= 1

    def forget(self, connection: Connection) -> None:
        """It is no longer held."""
        self._half_open.pop(connection.fd, None)
        self._idle.pop(connection.fd, None)

    def expired(self, now: float) -> list[Connection]:
        """Those whose deadline has passed."""
        return [connection for connection in self._held() if connection.deadline <= now]

    def crowding(self, now: float) -> list[Connection]:
        """Per address, the oldest half-open ones over its limit, but none younger than a second."""
        surplus = Counter(c.key for c in self._half_open.values() if c.key and c.phase is not Phase.CLOSING)
        surplus = Counter({key: n - self._max_per_address for key, n in surplus.items() if n > self._max_per_address})
        found = []
        for connection in self._half_open.values() if surplus else ():
            if connection.phase is Phase.CLOSING or connection.since > now - BURST_SECONDS:
                continue
            if surplus[connection.key] > 0:
                surplus[connection.key] -= 1
                found.append(connection)
        return found

    def hurry(self, deadline: float) -> None:
        """Move forward the deadlines of those that have not begun to send a request."""
        for connection in self._held():
            if not connection.spoke:
                connection.deadline = min(connection.deadline, deadline)

    def _held(self) -> Iterator[Connection]:
        yield from self._half_open.values()
        yield from self._idle.values()

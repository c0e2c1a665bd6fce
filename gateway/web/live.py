"""Live: a reply that comes as things happen, driven by the pump on one thread for all of them."""

from __future__ import annotations

import select
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.errors import GatewayError

ROOM = "gateway.web.has_room"
"""Where a request's WSGI environ says whether there is room for another Live: a function; see `has_room`."""


class Live(ABC):
    """A reply body whose bytes are not there yet. Nothing in it may block: many share one thread.

    The pump calls `produce` when one of `sources` is readable, when `wake_at` is reached, and whenever all that was
    produced before has been taken by the client's socket: so nothing piles up here for a slow reader.
    An exception out of any method cuts the connection.
    """

    upgrades: bool = False
    """Whether this writes every byte of the connection itself, from the reply's head on, and takes what the client
    sends (`receive`): a WebSocket. Otherwise these are pieces of an HTTP body, and the client's bytes are not read."""

    caller: str = "an unknown caller"
    """Whom it is sent to, in the words of the log."""

    takes_in: bool = False
    """Whether `take_in` does anything."""

    @abstractmethod
    def sources(self) -> tuple[int, ...]:
        """The descriptors that wake it when readable. Asked for again after each `produce`, and with `upgrades` also
        while the client has not taken all of that: then only those that `receive` deals with."""

    @abstractmethod
    def produce(self) -> bytes | None:
        """The next bytes for the client, at most about 1 MiB; b"" when there are none now; None when it is complete."""

    @abstractmethod
    def wake_at(self) -> float:
        """The monotonic time by which `produce` wants to be called again: a heartbeat, a time limit."""

    def take_in(self) -> int:
        """One of `sources` is readable while the client takes nothing: what came is to wait here, where all that waits
        is bounded (`pump.MAX_HELD_BYTES`), and not where it comes from. How many bytes of it are here by now."""
        return 0

    def receive(self, data: bytes) -> None:
        """Takes what the client has sent; only with `upgrades`. b"" where nothing has come, but one of `sources` is
        readable while the client takes nothing that was produced: what it has sent may go on meanwhile."""
        raise NotImplementedError

    def wants_input(self) -> bool:
        """Whether more of the client's bytes may be read now; only with `upgrades`."""
        return True

    def refuse(self, error: GatewayError) -> None:
        """The caller may have no more of it. Here as if it had left, and the connection is cut: raises `error`."""
        self.gone()
        raise error

    def gone(self) -> None:  # noqa: B027 - most have nobody to tell
        """The client has left before the end. `close` follows."""

    def stop(self) -> bool:
        """The worker ends. Says whether this ends by itself within seconds; else it is cut as soon as what was produced
        is sent, and its client goes on with the next worker. `close` follows either way, `gone` does not."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Gives back what it holds; called exactly once."""

    def __iter__(self) -> Iterator[bytes]:
        """The same bytes for a server without a pump, blocking: for a WSGI test client."""
        try:
            while (data := self.produce()) is not None:
                if data:
                    yield data
                    continue
                poll = select.poll()
                for fd in self.sources():
                    poll.register(fd, select.POLLIN)
                poll.poll(max(0.0, self.wake_at() - time.monotonic()) * 1000)
        finally:
            self.close()


def has_room(environ: Mapping[str, Any]) -> bool:
    """Whether the server would carry another Live now (`WebSettings.max_streams`): ask before anything is begun for it.

    Without a pump (a test client) there is always room.
    """
    room = environ.get(ROOM)
    return room is None or bool(room())

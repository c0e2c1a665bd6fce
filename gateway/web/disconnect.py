"""ClientConnection: how a handler learns, while it waits for something else, that its client has left."""

import select
from collections.abc import Mapping
from typing import Any, NamedTuple

# RDHUP: the peer will send no more (its FIN has come). The kernel knows it before, and without, any
# byte being read, so it holds under TLS, and bytes that merely arrive (a pipelined request, a
# session ticket, a key update) do not count. HUP and ERR: reset, or TCP_USER_TIMEOUT ran out.
_LEFT = select.POLLRDHUP | select.POLLHUP | select.POLLERR | select.POLLNVAL


ENDING = "gateway.web.ending"
"""Where a request's WSGI environ has a descriptor that becomes readable when the server can wait no longer."""


class Ready(NamedTuple):
    """What `ClientConnection.wait` saw; both are False when the time ran out, or the server's own time did."""

    fd: bool
    """The other descriptor has something to read, or its peer closed it."""
    gone: bool
    """The client has left."""


class ClientConnection:
    """The client's end of one request. A client that closes only its sending side counts as gone.

    Made without a socket (a test client, no server) it is never gone.
    """

    def __init__(self, client_fd: int | None, ending_fd: int | None = None) -> None:
        """`ending_fd` becomes readable when the server is about to end."""
        self._fd = client_fd
        self._ending_fd = ending_fd

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> "ClientConnection":
        """The connection that a WSGI environ came in by."""
        sock = environ.get("gunicorn.socket")
        return cls(None if sock is None else sock.fileno(), environ.get(ENDING))

    def gone(self) -> bool:
        """Whether the client has left; never waits."""
        return self.wait(None, 0).gone

    def wait(self, fd: int | None, timeout: float | None) -> Ready:
        """Wait until `fd` has something to read, the client leaves, or `timeout` seconds are over.

        `fd` None waits for the client alone; `timeout` None waits until the server ends, which lets requests that
        wait some seconds (`worker.STOP_WAITS_SECONDS`). Returns within milliseconds of each of these.
        """
        if self._fd is not None and self._fd < 0:
            return Ready(fd=False, gone=True)  # closed by our own side
        poll = select.poll()
        if self._fd is not None:
            poll.register(self._fd, select.POLLRDHUP)
        if fd is not None:
            poll.register(fd, select.POLLIN)
        if self._ending_fd is not None:
            poll.register(self._ending_fd, select.POLLIN)
        events = dict(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))
        return Ready(
            fd=fd is not None and fd in events,
            gone=self._fd is not None and bool(events.get(self._fd, 0) & _LEFT),
        )

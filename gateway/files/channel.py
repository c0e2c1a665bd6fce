"""Channel: the two pipes to a launcher in file mode, and how long one waits at them."""

from __future__ import annotations

import os
import select
import time

from gateway.clientwatch import Watch
from gateway.errors import ClientGone, GatewayRestarting
from gateway.errors_files import GuestFilesFailed, GuestFilesStalled
from gateway.files.wire import HEADER, Frame, WireError, check_header, data_header, parse

_LOOK_PIECES = 1024
"""After so many pieces that were not waited for, one looks whether the client is still there."""
STALL_SECONDS = 30.0
"""How long a guest may neither give nor take a byte."""


class Channel:
    """Both ends are non-blocking, and ours to close. Not for more than one thread at a time.

    Whatever is not the launcher's wire, its end too, is GuestFilesFailed; nothing more can be asked then.
    """

    def __init__(self, reading: int, writing: int, watch: Watch | None, stall_s: float = STALL_SECONDS) -> None:
        """`watch` also waits for the client, while anything waits here; None: there is none to wait for."""
        self.reading = reading
        self._writing = writing
        self._watch = watch
        self._stall_s = stall_s
        self._kind = ""
        self._left = HEADER.size
        self._parts: list[bytes] = []
        self._unwaited = 0
        self._room = select.epoll()
        self._room.register(writing, select.EPOLLOUT)

    def ask(self, request: bytes) -> Frame:
        """The first frame of the answer."""
        self.send(request)
        return self.next()

    def next(self) -> Frame:
        """The next frame, waited for. Raises GuestFilesStalled, ClientGone, and what the watch raises."""
        while (frame := self.take()) is None:
            self._wait(self.reading)
        self._unwaited += 1
        if self._unwaited >= _LOOK_PIECES:
            self._look()
        return frame

    def take(self) -> Frame | None:
        """The next frame if it is here; of content whatever has come of it. Never waits."""
        try:
            while (frame := self._read()) is None:
                pass
        except BlockingIOError:
            return None
        except (OSError, WireError) as exc:
            raise _failed() from exc
        return frame

    def put(self, piece: bytes) -> None:
        """Sends a piece of content."""
        self.send(data_header(len(piece)) + piece)

    def close(self) -> None:
        self._room.close()
        os.close(self.reading)
        os.close(self._writing)

    def _read(self) -> Frame | None:
        piece = os.read(self.reading, self._left)
        if not piece:
            raise WireError("the launcher has ended")
        self._left -= len(piece)
        if self._kind == "D":
            if not self._left:
                self._begin()
            return piece
        self._parts.append(piece)
        if self._left:
            return None
        body, self._parts = b"".join(self._parts), []
        if self._kind:
            kind = self._kind
            self._begin()
            return parse(kind, body)
        self._kind, self._left = check_header(body)
        if self._left:
            return None
        kind = self._kind
        self._begin()
        return parse(kind, b"")

    def _begin(self) -> None:
        self._kind, self._left = "", HEADER.size

    def send(self, data: bytes) -> None:
        """Sends a request, whose answer is to be taken."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._writing, rest) :]
            except BlockingIOError:
                self._wait(self._room.fileno())
            except BrokenPipeError:
                return  # it has said why, if it could
            except OSError as exc:
                raise _failed() from exc

    def _look(self) -> None:
        """A guest that never lets one wait could keep one for ever. Raises ClientGone, and what the watch raises."""
        self._unwaited = 0
        if self._watch is not None and self._watch.wait(None, 0).gone:
            raise ClientGone

    def _wait(self, fd: int) -> None:
        self._unwaited = 0
        began = time.monotonic()
        if self._watch is None:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            ready = bool(poll.poll(self._stall_s * 1000))
        else:
            seen = self._watch.wait(fd, self._stall_s)
            ready = seen.fd
            if seen.gone:
                raise ClientGone
        if not ready and time.monotonic() - began < self._stall_s / 2:  # for nothing: our process ends
            raise GatewayRestarting("the gateway's web service restarts; send the request again", retry_after=1)
        if not ready:
            raise stalled(self._stall_s)


def stalled(seconds: float) -> GuestFilesStalled:
    """For a guest that neither gives nor takes a byte."""
    return GuestFilesStalled(f"a file system of the guest did not answer within {seconds:.0f} s; look at it there")


def _failed() -> GuestFilesFailed:
    return GuestFilesFailed(
        "our process in the guest was ended, or answered what it never does; if the guest has not just stopped, "
        "somebody in it interferes"
    )

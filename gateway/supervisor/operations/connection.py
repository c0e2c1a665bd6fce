"""One connection to the supervisor's socket: one request at a time, in bounded frames.

A peer that sends what no peer of ours sends is closed and nothing else happens. The socket is plain, so that a re-exec
can hand it to the next image.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import GatewayError, InternalError
from gateway.supervisor.execs.queued import Attempt, Begun
from gateway.supervisor.link.protocol import (
    CLIENT_LEFT,
    PREFIX,
    ProtocolError,
    decode_header,
    frame_size,
    pieces,
    split,
)

log = logging.getLogger(__name__)

Reply = tuple[dict[str, Any], tuple[bytes, ...]]
Dispatch = Callable[["Connection", dict[str, Any], list[bytes]], Awaitable[Reply]]
_READ = 262_144
_MAX_PIECES = 512  # of one sendmsg(2): IOV_MAX is 1024


@dataclass
class Peers:
    """What all connections to one socket have in common: `closed` is told of each that has closed."""

    loop: asyncio.AbstractEventLoop
    dispatch: Dispatch
    max_blob: int
    closed: Callable[[Connection], None]
    open: set[Connection] = field(default_factory=set)
    silence: GatewayError | None = None
    """What a question to a peer is answered with in its place, once none is asked any more."""


class Connection:
    """One peer. While its request is answered nothing more is read; a close then cancels the answer."""

    def __init__(self, peers: Peers, sock: socket.socket) -> None:
        self.sock = sock
        self._peers = peers
        self._in = bytearray()
        self._out: list[memoryview] = []
        self._writing = False
        self.task: asyncio.Task[None] | None = None
        self.request: tuple[dict[str, Any], list[bytes]] | None = None
        self.begun: Begun | None = None
        """What the request in work has begun, or found: known from ourselves alone, never from the peer's words."""
        self.attempt: Attempt | None = None
        """What the request in work has to become, until it has."""
        self.attends: str | None = None
        """The exec whose client this is: it may end with it."""
        self.follows: set[str] = set()
        self.writes: str | None = None
        self.holds: object = None
        """What its client has in hand for as long as it is open."""
        self.rights: list[int] = []
        """Descriptors that go with the first byte of the next answer (SCM_RIGHTS); ours until then."""
        self.client_left = False
        """Whether the peer has said that its own client left; one that merely closes is a web that died."""
        self._asked: asyncio.Future[dict[str, Any]] | None = None
        """What the peer is to answer in the midst of its request."""
        self._paused = False
        peers.loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or (self.task is not None and self._asked is None):
            # Nothing but that word may follow a request before its answer, so other bytes are as good as a close.
            self.client_left = CLIENT_LEFT in (data, bytes(self._in))
            self.close()
            return
        self._in += data
        self._take_frame()

    def _take_frame(self) -> None:
        if len(self._in) < PREFIX.size:
            return
        try:
            header_size, blob_size = frame_size(self._in, self._peers.max_blob)
            end = PREFIX.size + header_size + blob_size
            if len(self._in) < end:
                return
            if len(self._in) > end:
                if self._in[end:] != CLIENT_LEFT:
                    raise ProtocolError("bytes behind the frame")
                self.client_left = True  # nobody is there to read an answer, so nothing is begun
                self.close()
                return
            header = decode_header(self._in[PREFIX.size : PREFIX.size + header_size])
            blobs = split(header, bytes(self._in[PREFIX.size + header_size :]))
        except ProtocolError as exc:
            log.warning("closed a connection: %s", exc)
            self.close()
            return
        self._in = bytearray()
        if self._asked is None:
            self.answer(header, blobs)
        elif not self._asked.done():
            self._asked.set_result(header)

    async def ask(self, question: dict[str, Any], timeout: float) -> dict[str, Any]:
        """What the peer says to a question in the midst of its own; a pause does not hold that up. Raises TimeoutError;
        one that closes instead cancels the work on its request, as ever. Raises what `Peers.silence` is."""
        if self._peers.silence is not None:
            raise self._peers.silence
        self._asked = self._peers.loop.create_future()
        self._peers.loop.add_reader(self.sock.fileno(), self._readable)
        try:
            self._send(pieces(question))
            async with asyncio.timeout(timeout):
                return await self._asked
        finally:
            self._asked = None
            if self._paused:
                self.pause()

    def ask_no_more(self, error: GatewayError) -> None:
        if self._asked is not None and not self._asked.done():
            self._asked.set_exception(error)

    def answer(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        self.request = header, blobs
        self.task = self._peers.loop.create_task(self._answer(header, blobs))

    async def _answer(self, header: dict[str, Any], blobs: list[bytes]) -> None:
        try:
            reply, parts = await self._peers.dispatch(self, header, blobs)
            frame = pieces({"ok": reply}, *parts)
        except GatewayError as error:
            frame = pieces({"error": error.to_wire()})
        except ProtocolError as exc:
            log.warning("closed a connection: %s", exc)
            self.close()
            return
        except Exception:
            log.exception("a request failed")
            frame = pieces({"error": InternalError("the supervisor failed; its log tells why").to_wire()})
        self.task = self.request = self.begun = self.attempt = None
        self._send(frame)

    def _send(self, frame: list[bytes]) -> None:
        if self.sock.fileno() < 0:
            return
        self._out = [memoryview(piece) for piece in frame if piece]
        self._write()

    def _write(self) -> None:
        try:
            while self._out:
                self._sent(self._send_some())
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._peers.loop.add_writer(self.sock.fileno(), self._write)
            return
        except OSError:
            self._hear_last_word()
            self.close()
            return
        if self._writing:
            self._writing = False
            self._peers.loop.remove_writer(self.sock.fileno())

    def _send_some(self) -> int:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", self.rights))] if self.rights else []
        size = self.sock.sendmsg(self._out[:_MAX_PIECES], ancillary)
        self._drop_rights()
        return size

    def _drop_rights(self) -> None:
        rights, self.rights = self.rights, []
        for fd in rights:
            os.close(fd)

    def _hear_last_word(self) -> None:
        """The peer has closed before it took its answer: that its client left may stand unread behind that."""
        with contextlib.suppress(OSError):
            self._in += self.sock.recv(_READ)
        self.client_left = self._in == CLIENT_LEFT

    def _sent(self, size: int) -> None:
        done = 0
        for piece in self._out:
            if size < len(piece):
                break
            size -= len(piece)
            done += 1
        del self._out[:done]
        if size:
            self._out[0] = self._out[0][size:]

    @property
    def peers(self) -> set[Connection]:
        """All open connections, this among them."""
        return self._peers.open

    def pause(self) -> None:
        """Reads no more, but for the answer to a question: what the peer sends waits in the kernel."""
        self._paused = True
        if self.sock.fileno() < 0 or self._asked is not None:
            return
        self._peers.loop.remove_reader(self.sock.fileno())

    def go_on(self) -> None:
        """Reads again."""
        self._paused = False
        if self.sock.fileno() < 0:
            return
        self._peers.loop.add_reader(self.sock.fileno(), self._readable)

    def to_state(self) -> dict[str, Any]:
        """What `resume` needs: the socket by number, what is half read and half written, the request in work."""
        request = None
        if self.request is not None:
            header, blobs = self.request
            header = {name: value for name, value in header.items() if name not in Begun._fields}
            if self.begun is not None:
                header |= self.begun._asdict()
            request = {"header": header, "blobs": [blob.hex() for blob in blobs]}
        return {
            "fd": self.sock.fileno(),
            "in": self._in.hex(),
            "out": b"".join(self._out).hex(),
            "request": request,
            "attempt": vars(self.attempt) if self.attempt is not None else None,
            "attends": self.attends,
            "follows": sorted(self.follows),
            "writes": self.writes,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on where an earlier image of this program was."""
        self._in += bytes.fromhex(state["in"])
        self.attends, self.follows, self.writes = state["attends"], set(state["follows"]), state["writes"]
        if state["out"]:
            self._send([bytes.fromhex(state["out"])])
        if state["request"] is not None:
            header, blobs = state["request"]["header"], state["request"]["blobs"]
            exec_id, replayed = (header.pop(name, None) for name in Begun._fields)
            self.begun = Begun(exec_id, bool(replayed)) if exec_id is not None else None
            self.attempt = Attempt(**state["attempt"]) if state.get("attempt") else None
            self.answer(header, [bytes.fromhex(blob) for blob in blobs])

    def close(self) -> None:
        """Closes it; whoever works on its request is told by cancellation."""
        if self.sock.fileno() < 0:
            return
        self._peers.loop.remove_reader(self.sock.fileno())
        if self._writing:
            self._peers.loop.remove_writer(self.sock.fileno())
        self.sock.close()
        self._drop_rights()
        self._peers.open.discard(self)
        if self.task is not None:
            self.task.cancel()
        self._peers.closed(self)

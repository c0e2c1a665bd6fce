"""A supervisor connection that never blocks: one question at a time, its answer when it is readable."""

from __future__ import annotations

import socket
from typing import Any

from gateway.errors import GatewayError, SupervisorUnavailable
from gateway.exec.origin import Origin
from gateway.exec.reply import EventBatch, GapEvent, OutputEvent, OutputSlice, StdinReply
from gateway.exec.view import ExecView
from gateway.supervisor.link.calling import reply_of
from gateway.supervisor.link.protocol import CLIENT_LEFT, FrameReader, ProtocolError, encode

Answer = EventBatch | OutputSlice | StdinReply | ExecView


class Feed:
    """One exec, followed or fed by one client. Made by SupervisorClient.feed; not for more than one thread."""

    def __init__(self, sock: socket.socket, exec_id: str, origin: Origin) -> None:
        self.exec_id = exec_id
        self.asked = False
        """Whether an answer is still to come: then nothing else can be asked."""
        self._sock = sock
        self._origin = origin
        self._reader = FrameReader()
        self._out = memoryview(b"")
        self._operation = ""
        sock.setblocking(False)

    @property
    def fd(self) -> int:
        """Readable when `take` may have something."""
        return self._sock.fileno()

    def ask_events(self, cursor: int, *, seen: int, limit: int, wait: float) -> None:
        """Asks for output behind `cursor`, `limit` bytes at most; the answer is an EventBatch.

        When there is nothing behind place `seen`, it comes as soon as there is, when the exec ends, or after `wait`
        seconds with no event in it. `seen` is `cursor`, or more where the bytes between are known and not wanted yet.
        To a cursor past the newest byte the answer comes at once, with nothing in it.
        """
        self._ask("events", {"cursor": cursor, "seen": seen, "limit": limit, "wait": float(wait)})

    def ask_output(self, stream: str, offset: int, *, length: int, wait: float) -> None:
        """Asks for one stream's bytes from `offset`; the answer, an OutputSlice, waits for there to be any."""
        self._ask("output", {"stream": stream, "offset": offset, "length": length, "wait": float(wait)})

    def ask_claim(self) -> None:
        """Asks to be the only writer until this is closed; the answer is a StdinReply, or raises WriterTaken."""
        self._ask("claim", {})

    def ask_stdin(self, data: bytes, *, offset: int | None, eof: bool) -> None:
        """Sends input; the answer, a StdinReply, comes when the command's pipe, or its queue, has taken it all.

        `offset` None goes on from where the input ends. At most 64 KiB at once: that fits the socket's buffer, and what
        does not is sent only by `take`.
        """
        self._ask("stdin", {"offset": offset, "eof": eof}, data)

    def ask_signal(self, number: int, *, tree: bool) -> None:
        """Sends a signal to the command, or to its whole tree; the answer is the exec's view."""
        self._ask("signal", {"number": number, "tree": tree})

    def ask_resize(self, rows: int, cols: int) -> None:
        """Gives the terminal another size; the answer is the exec's view."""
        self._ask("resize", {"rows": rows, "cols": cols})

    def take(self) -> Answer | None:
        """The answer, if it is here. Raises the GatewayError that it is, or SupervisorUnavailable."""
        try:
            self._flush()
            while (frame := self._reader.read(self._sock)) is None:
                pass
        except BlockingIOError:
            return None
        except (OSError, ProtocolError) as exc:
            raise _lost() from exc
        header, blobs = frame
        self.asked = False
        return _answer(self._operation, reply_of(header), blobs)

    @property
    def half_read(self) -> int:
        """Bytes of an answer that is not whole yet."""
        return self._reader.half_read

    def rest(self) -> None:
        """Nothing will be asked for a while: gives back the room for large answers."""
        self._reader.rest()

    def leave(self) -> None:
        """Tells the supervisor that the client has left; `close` follows."""
        try:
            self._sock.send(CLIENT_LEFT)
        except OSError:
            return

    def close(self) -> None:
        self._sock.close()

    def _ask(self, operation: str, members: dict[str, Any], *blobs: bytes) -> None:
        assert not self.asked, "one question at a time"
        header = {"op": operation, "origin": self._origin.to_wire(), "id": self.exec_id, **members}
        self._operation = operation
        self.asked = True
        self._out = memoryview(encode(header, *blobs))
        try:
            self._flush()
        except BlockingIOError:
            return  # a frame larger than the socket's room: `take` goes on with it
        except OSError as exc:
            raise _lost() from exc

    def _flush(self) -> None:
        while self._out:
            self._out = self._out[self._sock.send(self._out) :]


def _answer(operation: str, reply: dict[str, Any], blobs: list[bytes]) -> Answer:
    if operation == "events":
        events = tuple(_event(blobs, *entry) for entry in reply["events"])
        return EventBatch(events, reply["cursor"], reply["total"], reply["exec"], reply["ended"])
    if operation == "output":
        kept = tuple((start, end) for start, end in reply["kept"])
        return OutputSlice(blobs[0], reply["total"], kept, reply["ended"])
    if operation in ("stdin", "claim"):
        return StdinReply(reply["offset"], reply["eof"])
    view: ExecView = reply["exec"]
    return view


def _event(
    blobs: list[bytes], stream: str, cursor: int, offset: int, size: int, blob: int | None
) -> OutputEvent | GapEvent:
    if blob is None:
        return GapEvent(stream, cursor, offset, size)
    return OutputEvent(stream, cursor, offset, blobs[blob])


def _lost() -> GatewayError:
    return SupervisorUnavailable(
        "the supervisor went away; the exec goes on if it can: follow it again; "
        "see `systemctl status pve-exec-gateway-supervisor`",
        retry_after=1,
    )

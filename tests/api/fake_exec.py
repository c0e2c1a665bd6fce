"""A running exec in memory, and its end of the supervisor's socket: real frames, so that the real Feed is tested."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from gateway.errors import ExecEnded, GatewayError, NotATerminal, StdinClosed, StdinOffset
from gateway.exec.origin import Origin
from gateway.exec.view import ExecView
from gateway.supervisor.link.feed import Feed
from gateway.supervisor.link.protocol import PREFIX, decode_header, encode, frame_size, split

Reply = tuple[dict[str, Any], list[bytes]]


class FakeExec:
    """What a test lets a command do. `log` holds (stream, bytes) as they came; an int for bytes is a gap of that size.

    `largest` cuts the output that is asked for into events, `cut_after` breaks each connection after so many answers.
    """

    def __init__(self, view: ExecView) -> None:
        self.view = view
        self.log: list[tuple[str, bytes | int]] = []
        self.largest = 1 << 20
        self.cut_after: int | None = None
        self.stdin = b""
        self.stdin_open = False
        self.eof = False
        self.tty: tuple[int, int] | None = None
        self.signals: list[tuple[int, bool]] = []
        self.left = threading.Event()
        """A client said that it left."""
        self.asked: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._feeds: dict[socket.socket, int] = {}
        """Connections, and what wakes the thread of each."""

    # ---- what the command does

    def write(self, stream: str, data: bytes | int) -> None:
        """Bytes come out of it; an int for bytes that were not kept."""
        with self._changed:
            self.log.append((stream, data))
            self._wake()

    def end(self, exit_code: int = 0) -> None:
        """It ends."""
        with self._changed:
            self.view["exit_code"] = exit_code
            self.view["state"] = "ended"
            self._wake()

    def feed(self, origin: Origin) -> Feed:
        """A connection to it, as SupervisorClient.feed gives one."""
        ours, theirs = socket.socketpair()
        with self._changed:
            self._feeds[theirs] = os.eventfd(0, os.EFD_NONBLOCK)
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return Feed(ours, self.view["id"], origin)

    def wait_for_feeds(self, count: int) -> bool:
        """Whether soon there are `count` connections."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._feeds) == count, 20)

    # ---- what it is asked

    def events(self, cursor: int, limit: int) -> Reply:
        """As the supervisor answers; the frame's members and blobs."""
        with self._changed:
            entries: list[list[Any]] = []
            blobs: list[bytes] = []
            for stream, place, offset, data in self._behind(cursor):
                if isinstance(data, int):
                    entries.append([stream, place, offset, data, None])
                else:
                    entries.append([stream, place, offset, len(data), len(blobs)])
                    blobs.append(data)
                cursor = place
                if sum(map(len, blobs)) >= limit:
                    break
            total = self._total()
            ended = self._ended() and cursor >= total
            return {"events": entries, "cursor": cursor, "total": total, "exec": self.view, "ended": ended}, blobs

    def output(self, stream: str, offset: int, length: int) -> Reply:
        """One stream's bytes, up to a gap."""
        with self._changed:
            kept: list[list[int]] = []
            position, found = 0, b""
            for name, data in self.log:
                if name != stream:
                    continue
                size = data if isinstance(data, int) else len(data)
                if isinstance(data, bytes):
                    if kept and kept[-1][1] == position:
                        kept[-1][1] += size
                    else:
                        kept.append([position, position + size])
                    if position <= offset + len(found) < position + size:
                        found += data[offset + len(found) - position :]
                position += size
            members = {"total": position, "kept": kept, "ended": self._ended()}
            return members, [found[: min(length, self.largest)]]

    def put_stdin(self, data: bytes, offset: int | None, eof: bool) -> tuple[int, bool]:
        """Takes input: its new end, and whether it is closed."""
        with self._changed:
            if self._ended():
                raise ExecEnded("this exec has ended", exec_id=self.view["id"])
            at = len(self.stdin) if offset is None else offset
            if at > len(self.stdin):
                raise StdinOffset("the input goes on elsewhere", expected=len(self.stdin))
            new = data[len(self.stdin) - at :]
            if not self.stdin_open or (self.eof and new):
                raise StdinClosed("the input is closed")
            self.stdin += new
            self.eof = self.eof or eof
            return len(self.stdin), self.eof

    def signal(self, number: int, tree: bool) -> ExecView:
        if self._ended():
            raise ExecEnded("this exec has ended", exec_id=self.view["id"])
        self.signals.append((number, tree))
        return self.view

    def resize(self, rows: int, cols: int) -> ExecView:
        if self.tty is None:
            raise NotATerminal("no terminal", exec_id=self.view["id"])
        self.tty = rows, cols
        return self.view

    def size(self, stream: str) -> int:
        """Bytes of a stream so far."""
        return sum(data if isinstance(data, int) else len(data) for name, data in self.log if name == stream)

    def _total(self) -> int:
        return self.size("stdout") + self.size("stderr")

    def _ended(self) -> bool:
        return self.view["state"] == "ended"

    def _behind(self, cursor: int) -> Iterator[tuple[str, int, int, bytes | int]]:
        """(stream, place, offset, data) of all behind `cursor`, in pieces of at most `largest`."""
        begin, offsets = 0, {"stdout": 0, "stderr": 0}
        for stream, entry in self.log:
            size = entry if isinstance(entry, int) else len(entry)
            skipped = min(size, max(0, cursor - begin))
            step = size if isinstance(entry, int) else self.largest
            for start in range(skipped, size, step):
                end = min(size, start + step)
                data = end - start if isinstance(entry, int) else entry[start:end]
                yield stream, begin + end, offsets[stream] + start, data
            begin += size
            offsets[stream] += size

    def _wake(self) -> None:
        for wake in self._feeds.values():
            os.eventfd_write(wake, 1)

    # ---- its end of the socket

    def _serve(self, sock: socket.socket) -> None:
        answers = 0
        try:
            with sock:
                while (question := _read_question(sock)) is not None:
                    header, blobs = question
                    self.asked.append(header)
                    if self.cut_after is not None and answers >= self.cut_after:
                        return
                    self._wait(sock, header)
                    try:
                        members, parts = self._answer(header, blobs)
                    except GatewayError as error:
                        sock.sendall(encode({"error": error.to_wire()}))
                    else:
                        sock.sendall(encode({"ok": members}, *parts))
                    answers += 1
        except _ClientLeft:
            self.left.set()
        except OSError:
            return
        finally:
            with self._changed:
                os.close(self._feeds.pop(sock))
                self._changed.notify_all()

    def _wait(self, sock: socket.socket, header: dict[str, Any]) -> None:
        """Until there is something to answer, or the time is over. Raises _ClientLeft, OSError when nobody waits."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        poll.register(self._feeds[sock], select.POLLIN)
        deadline = time.monotonic() + header.get("wait", 0.0)
        while not self._is_due(header) and (left := deadline - time.monotonic()) > 0:
            if sock.fileno() in dict(poll.poll(left * 1000)):
                _read_exactly(sock, 2)
                raise ConnectionResetError
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._feeds[sock])

    def _is_due(self, header: dict[str, Any]) -> bool:
        with self._changed:
            if header["op"] == "output":
                return self._ended() or self.size(header["stream"]) > header["offset"]
            return self._ended() or header["op"] != "events" or self._total() > header["seen"]

    def _answer(self, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        operation = header["op"]
        if operation == "events":
            return self.events(header["cursor"], header["limit"])
        if operation == "output":
            return self.output(header["stream"], header["offset"], header["length"])
        if operation == "signal":
            return {"exec": self.signal(header["number"], header["tree"])}, []
        if operation == "resize":
            return {"exec": self.resize(header["rows"], header["cols"])}, []
        if operation == "claim":
            return {"offset": len(self.stdin), "eof": self.eof}, []
        offset, eof = self.put_stdin(blobs[0], header["offset"], header["eof"])
        return {"offset": offset, "eof": eof}, []


class _ClientLeft(Exception):
    """The byte that says so has come."""


def _read_question(sock: socket.socket) -> tuple[dict[str, Any], list[bytes]] | None:
    prefix = _read_exactly(sock, PREFIX.size)
    if prefix is None:
        return None
    header_size, blob_size = frame_size(prefix)
    rest = _read_exactly(sock, header_size + blob_size)
    if rest is None:
        return None
    header = decode_header(rest[:header_size])
    return header, split(header, rest[header_size:])


def _read_exactly(sock: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            if data == b"\x00":
                raise _ClientLeft
            return None
        data += piece
    return data

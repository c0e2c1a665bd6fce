"""A command in our own terminal: raw bytes both ways, sizes, detach keys, and attaching again after a cut."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from pvex.errors import ClientError, Problem, UsageError
from pvex.events import PATIENCE, Retry
from pvex.paths import segment
from pvex.signals import Left
from pvex.websocket import Output, WebSocket

if TYPE_CHECKING:
    from pvex.api import Api

DETACH_KEYS = "ctrl-p,ctrl-q"
_STDIN = 0
_READ = 64 << 10
_AHEAD = 512 << 10
"""Bytes of input that may wait for the gateway's word that it has them; it allows a MiB."""
_CTRL_C = 3


class Detached(Exception):
    """The detach keys were pressed: the command goes on."""


@dataclass(frozen=True)
class Begin:
    """What GET /exec/{vmid}/terminal is to start, once, however often it is asked with this key."""

    vmid: int
    spec: dict[str, Any]
    key: str


class Keys:
    """Finds the detach keys in what is typed; what may begin them is held back."""

    def __init__(self, keys: str) -> None:
        """Like `ctrl-p,ctrl-q` or `~,.`; empty for none. Raises UsageError."""
        self._keys = bytes(_read_key(key) for key in keys.split(",")) if keys else b""
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be sent on, and whether they are complete."""
        if not self._keys or (not self._matched and self._keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            out += self._keys[: self._matched]
            self._matched = int(byte == self._keys[0])
            if not self._matched:
                out.append(byte)
        return bytes(out), False


def terminal_size() -> dict[str, int]:
    """Rows and columns of our terminal."""
    size = os.get_terminal_size(_STDIN)
    return {"rows": max(1, size.lines), "cols": max(1, size.columns)}


class Terminal:
    """One session with one exec, over as many connections as it takes."""

    def __init__(
        self, api: Api, exec_id: str, keys: Keys, *, begin: Begin | None = None, patience: float = PATIENCE
    ) -> None:
        """`begin`: what to start, in place of an `exec_id`."""
        self._api = api
        self._exec_id = exec_id
        self._begin = begin
        self._keys = keys
        self._retry = Retry(patience)
        self._cursor = 0
        self._typed = bytearray()
        """Input from `_taken` on, which the gateway has not confirmed."""
        self._taken = 0
        self._sent = 0
        self._placed = False
        """Whether the gateway has said where our input begins: somebody may have typed before us."""
        self._writes = True
        self._eof = False
        self._resized = False

    @property
    def exec_id(self) -> str:
        """Empty before the gateway has told that of what was to start."""
        return self._exec_id

    def run(self) -> dict[str, Any]:
        """The exec, when it has ended. Raises Detached, Left, ClientError; the terminal is as it was before."""
        with _raw(), self._signals():
            while True:
                try:
                    return self._hold()
                except ClientError as error:
                    if isinstance(error, Left):
                        raise
                    if isinstance(error, Problem) and error.code == "stdin_closed" and not self._placed:
                        told = f"{self._exec_id} takes no input: `pvex logs -f {self._exec_id}` follows it"
                        raise ClientError(told) from error
                    if isinstance(error, Problem) and error.code in ("exec_ended", "stdin_closed") and self._writes:
                        self._writes = False
                        continue
                    self._retry.after(error, self._exec_id or None, wait=self._wait)

    def _hold(self) -> dict[str, Any]:
        """One connection, until the exec has ended. Raises Cut and Problem."""
        with self._connect() as socket:
            may_write = False
            while True:
                for message in socket.receive():
                    self._retry.succeeded()
                    if isinstance(message, Output):
                        self._show(message.data)
                    elif message["type"] == "ack":
                        may_write = True
                        self._confirmed(message["offset"])
                    elif message["type"] == "gap":
                        self._cursor = message["cursor"]
                    elif message["type"] == "started":
                        self._exec_id = message["exec"]["id"]
                        self._resized = True
                    elif message["type"] == "end":
                        view: dict[str, Any] = message["exec"]
                        return view
                if may_write:
                    self._send(socket)
                reads: list[Any] = [socket, self._wake]
                if not self._eof and len(self._typed) < _AHEAD:
                    reads.append(_STDIN)
                writes = [socket] if socket.waits_to_write else []
                left = max(0.0, socket.silent_until - time.monotonic())
                ready, _, _ = select.select(reads, writes, [], left + 0.1)
                if self._wake in ready:
                    os.read(self._wake, 512)
                if _STDIN in ready:
                    self._read()
                socket.flush()

    def _connect(self) -> WebSocket:
        if self._exec_id or self._begin is None:
            query = f"from={self._cursor}" + ("&write=1" if self._writes else "")
            return WebSocket(self._api.profile, f"/execs/{segment(self._exec_id)}/attach?{query}")
        socket = WebSocket(self._api.profile, f"/exec/{self._begin.vmid}/terminal")
        socket.say("start", **self._begin.spec, idempotency_key=self._begin.key)
        return socket

    def _send(self, socket: WebSocket) -> None:
        if self._resized:
            self._resized = False
            with contextlib.suppress(OSError):
                socket.say("resize", **terminal_size())
        new = self._typed[self._sent - self._taken :]
        if new:
            socket.send_input(self._sent, bytes(new))
            self._sent += len(new)

    def _confirmed(self, offset: int) -> None:
        """The gateway has all before `offset`; on a new connection it goes on there."""
        if not self._placed:
            self._placed = True
            self._taken = self._sent = offset
            return
        del self._typed[: max(0, offset - self._taken)]
        self._taken = max(self._taken, offset)
        self._sent = max(self._sent, self._taken)

    def _show(self, data: bytes) -> None:
        self._cursor += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def _read(self) -> None:
        """What was typed. Raises Detached."""
        try:
            data = os.read(_STDIN, _READ)
        except OSError:
            data = b""
        if not data:  # the terminal has gone; SIGHUP tells the rest
            self._eof = True
        typed, detach = self._keys.feed(data)
        self._typed += typed
        if detach:
            raise Detached

    def _wait(self, seconds: float) -> None:
        """Between two connections. Raises Detached, for a Ctrl-C, too: there is nobody else to take it."""
        self._sent = self._taken
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([] if self._eof else [_STDIN], [], [], left)
            if ready:
                before = len(self._typed)
                self._read()
                if _CTRL_C in self._typed[before:]:
                    raise Detached

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Sizes are noted, and what ends us ends the session. `_wake` is readable after any signal."""
        reader, writer = os.pipe()
        for fd in (reader, writer):
            os.set_blocking(fd, False)
        self._wake = reader

        def resized(number: int, frame: FrameType | None) -> None:
            self._resized = True

        def continued(number: int, frame: FrameType | None) -> None:
            tty.setraw(_STDIN, termios.TCSADRAIN)
            self._resized = True

        def leave(number: int, frame: FrameType | None) -> None:
            raise Left("left; the gateway was asked to end the command", number)

        handlers = {
            signal.SIGWINCH: resized,
            signal.SIGCONT: continued,
            signal.SIGTERM: leave,
            signal.SIGHUP: leave,
            signal.SIGINT: leave,
            signal.SIGQUIT: leave,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reader)
            os.close(writer)


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """The terminal hands every byte on, until we leave, however."""
    sys.stdout.flush()
    try:
        before = termios.tcgetattr(_STDIN)
    except termios.error as exc:
        raise UsageError("stdin is no terminal: leave -t out") from exc
    try:
        tty.setraw(_STDIN, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):  # it has gone
            termios.tcsetattr(_STDIN, termios.TCSADRAIN, before)


def _read_key(text: str) -> int:
    if len(text) == 1 and text.isascii():
        return ord(text)
    if len(text) == 6 and text.startswith("ctrl-") and "@" <= text[5].upper() <= "_":
        return ord(text[5].upper()) & 0x1F
    raise UsageError(f"--detach-keys: {text!r} is no key; give characters or ctrl-X, with commas between")

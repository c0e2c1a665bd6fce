"""Signals that come to pvex go on to the command; the third Ctrl-C ends the whole tree and leaves."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from pvex.errors import ClientError

if TYPE_CHECKING:
    from pvex.api import Api

_TO_TREE = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
"""As a terminal's, they mean the whole job: a shell that runs one program has to go, and so has the program."""
_TO_COMMAND = (signal.SIGUSR1, signal.SIGUSR2)
_IMPATIENT = 3
_BEGIN_SECONDS = 2.0
"""How long a signal waits for a command that has not begun; then it is pvex's own."""


class Left(ClientError):
    """A signal has ended pvex before the command had ended."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number
        self.exit_code = 128 + number


class Forwarding:
    """A context in which signals are the command's: `begun` says which. Raises Left where somebody will not wait."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._begun = threading.Event()
        self._hopeless = False
        self._exec_id = ""
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}

    def begun(self, exec_id: str) -> None:
        """The command runs; what has come meanwhile is sent to it."""
        self._exec_id = exec_id
        self._begun.set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._send_all, name="signals", daemon=True).start()
        for number in (*_TO_TREE, *_TO_COMMAND):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._queue.put(None)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._hopeless:
            raise Left("left before the command had begun", number)
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts >= _IMPATIENT:
                raise Left("left; the gateway was asked to end the command", number)
        self._queue.put(number)

    def _send_all(self) -> None:
        api: Api | None = None
        while (number := self._queue.get()) is not None:
            if not self._begun.wait(_BEGIN_SECONDS):
                self._hopeless = True
                os.kill(os.getpid(), number)
                return
            api = api or self._api.twin()
            to = "tree" if number in _TO_TREE else "command"
            with contextlib.suppress(ClientError):  # it has ended, or its stream will tell what is wrong
                api.post(f"/execs/{self._exec_id}/signal", {"signal": int(number), "to": to})


@contextlib.contextmanager
def leaving(text: str = "left") -> Iterator[None]:
    """A context in which TERM and HUP end us as Ctrl-C does, with all that has to be put away. They raise Left."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise Left(text, number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_quietly(api: Api, exec_id: str) -> None:
    """Asks for its end; that it has ended, or has not begun, is as good."""
    if not exec_id:
        return
    try:
        api.twin().call("DELETE", f"/execs/{exec_id}")
    except ClientError:
        return

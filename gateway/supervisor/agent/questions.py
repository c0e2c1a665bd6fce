"""Questions to guest agents, which block: each asked by a thread, one at a time in a machine, a few at a time in all.

An agent takes one client at a time; a second one waits, and PVE counts that on its time limit. The threads are no pool:
one that hangs must not keep the supervisor from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from gateway.exec.agent import Agent, AgentAway

T = TypeVar("T")

_AT_ONCE = 16


class Questions:
    """`make_agent` is called with the first question: what it needs is loaded only on nodes with such guests."""

    def __init__(self, io: asyncio.AbstractEventLoop, make_agent: Callable[[], Agent]) -> None:
        self._io = io
        self._make_agent = cache(make_agent)
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._turns: dict[int, _Turn] = {}
        self._open = asyncio.Event()
        self._open.set()
        self._asking = 0

    async def ask(self, vmid: int, question: Callable[[Agent], T], *, begun: bool = False) -> T:
        """The answer. Raises what `question` raises, or AgentAway when it could not be asked.

        Once asked, it is asked, whoever stops waiting for the answer. `begun`: it belongs to what must come to its end
        before anything can be handed over, and so does not wait for `go_on`.
        """
        turn = self._turns.setdefault(vmid, _Turn())
        turn.takers += 1
        try:
            while True:
                if not begun:
                    await self._open.wait()  # before its turn: others that need not wait for this have theirs
                async with turn.lock, self._places:
                    if begun or self._open.is_set():
                        return await self._in_thread(question)
        finally:
            turn.takers -= 1
            if not turn.takers:
                del self._turns[vmid]

    @property
    def quiet(self) -> bool:
        """Whether no thread waits for an answer."""
        return not self._asking

    def hold(self) -> None:
        """Asks nothing more until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def _in_thread(self, question: Callable[[Agent], T]) -> asyncio.Future[T]:
        answer: asyncio.Future[T] = self._io.create_future()

        def work() -> None:
            try:
                result = question(self._make_agent())
            except BaseException as exc:
                self._hand_in(_set_exception, answer, exc)
            else:
                self._hand_in(_set_result, answer, result)

        try:
            threading.Thread(target=work, name="agent", daemon=True).start()
        except RuntimeError as exc:  # the node, or the service, is out of threads
            raise AgentAway("it was not asked: the node is out of threads") from exc
        self._asking += 1
        return answer

    def _hand_in(self, settle: Callable[..., None], *arguments: object) -> None:
        def arrived() -> None:
            self._asking -= 1
            settle(*arguments)

        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._io.call_soon_threadsafe(arrived)


class _Turn:
    """Whose turn it is in one machine."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.takers = 0


def _set_result(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _set_exception(answer: asyncio.Future[T], exc: BaseException) -> None:
    if not answer.done():
        answer.set_exception(exc)

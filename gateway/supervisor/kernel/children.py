"""Our child processes: each one that ends is reaped, and whoever watches it learns its status.

The supervisor is a child subreaper (prctl(2)): a command whose lxc-attach has been ended becomes its own child,
so the true wait status is seen, not lxc-attach's rendering of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
from collections.abc import Callable

from gateway.supervisor.kernel.signals import open_signalfd

log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_AT_A_TIME = 64
Ended = Callable[[int], None]


class Children:
    """Dispatches the ends of child processes, each to the one callback that watches its pid."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[int, Ended] = {}
        self._before_unknown: dict[object, Callable[[], None]] = {}
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot become a child subreaper")
        self._signals = open_signalfd([signal.SIGCHLD])  # three for each exec: an event loop's own way costs more
        loop.add_reader(self._signals, self._signalled)

    def watch(self, pid: int, ended: Ended) -> bool:
        """Calls `ended(wait_status)` once when this child has ended and been reaped. False: another watches it."""
        return self._watched.setdefault(pid, ended) is ended

    def before_unknown(self, who: object, call: Callable[[], None] | None) -> None:
        """Has `call` called when an unknown child has ended: its pid may stand in an unread message. None: no more."""
        if call is None:
            self._before_unknown.pop(who, None)
        else:
            self._before_unknown[who] = call

    def forget(self, pid: int) -> None:
        """Its end is nobody's business any more; it is still reaped."""
        self._watched.pop(pid, None)

    def owns(self, pid: int) -> bool:
        """Whether `pid` is a child of ours that has not been reaped."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._signals, 4096)
        self.reap()

    def reap(self) -> None:
        """Reaps what has ended, a bounded number at a time: any command can make children of ours without end, by
        clone(CLONE_PARENT), and everybody else must get a turn between them."""
        asked = False
        for _ in range(_AT_A_TIME):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid not in self._watched and not asked:
                asked = True
                for call in list(self._before_unknown.values()):
                    call()
            ended = self._watched.pop(pid, None)
            if ended is not None:
                self._tell(ended, status)
        self._loop.call_soon(self.reap)

    def _tell(self, ended: Ended, status: int) -> None:
        try:
            ended(status)
        except Exception:  # it concerns one exec; the others' children must be reaped all the same
            log.exception("the end of a child was not handled")

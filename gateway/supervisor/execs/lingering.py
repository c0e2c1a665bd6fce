"""What an exec waits for once its command is over: output read, terminal hung up, its tree empty or let go of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway.exec.order import Order
from gateway.exec.spec import Background, Placement
from gateway.exec.view import Usage
from gateway.supervisor.execs.course import Course
from gateway.supervisor.kernel.cgroup import Tree, read_event
from gateway.supervisor.kernel.timers import Timers
from gateway.supervisor.kernel.watch import PriorityWatch
from gateway.supervisor.output.streams import Streams

_EMPTY_RETRY = 0.002
_HANGUP = 0.2
"""Seconds that a terminal without processes is given to say its last: the kernel hands that over a little later."""
_LOOK_AGAIN = 0.05


class Rest(NamedTuple):
    """What there was of an exec, and how many of its processes live on."""

    usage: Usage
    survivors: int


class Lingering:
    """The wait of one exec. `again` is called when it may be over."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        events: PriorityWatch,
        order: Order,
        tree: Tree,
        streams: Streams,
        timers: Timers,
        again: Callable[[], object],
    ) -> None:
        self._io = io
        self._events = events
        self._order = order
        self._tree = tree
        self._streams = streams
        self._timers = timers
        self._again = again
        self._watched: int | None = None

    def look(self, course: Course) -> Rest | None:
        """What is left of it, for good; None while that has to be waited for. Raises OSError: `look_later`."""
        self._streams.drain()
        if self._streams.has_terminal and self._streams.has_writers and not self._tree.pids():
            hung_up_by = (course.command_ended or course.begun) + _HANGUP
            if self._io.time() < hung_up_by:
                self._look_in(_EMPTY_RETRY)
                return None
        usage = self._tree.usage()
        if self._tree.remove():
            return Rest(usage, survivors=int(self._leaves_writers_behind(course)))
        alive = len(self._tree.pids())
        if not alive:
            self._look_in(_EMPTY_RETRY)
            return None
        if course.ends_by_itself:
            if self._order.background is Background.DETACH:
                return Rest(usage, survivors=alive)
            if self._order.background is Background.KILL:
                course.note_killed(self._tree.kill())
        elif course.kill_at is None:
            course.note_killed(self._tree.kill())
            course.kill_at = self._io.time()
        self._wait_empty()
        return None

    def look_later(self) -> None:
        """The node is out of what a look takes: again in a moment."""
        self._look_in(_LOOK_AGAIN)

    def close(self) -> None:
        """Waits no more."""
        if self._watched is not None:
            self._events.remove(self._watched)
            self._watched = None

    def _look_in(self, seconds: float) -> None:
        self._timers.arm("empty", self._io.time() + seconds, self._again)

    def _leaves_writers_behind(self, course: Course) -> bool:
        """Whether somebody still holds its pipes although its tree is empty: `placement: guest` loses sight of those
        whose parents have died. They are to live on only if the exec ended by itself and detaches."""
        detaches = self._order.placement is Placement.GUEST and self._order.background is Background.DETACH
        return course.ends_by_itself and detaches and self._streams.has_writers

    def _wait_empty(self) -> None:
        fd = self._tree.events_fd()
        if fd is None:
            self._look_in(_LOOK_AGAIN)
        elif self._watched is None:
            self._watched = fd
            self._events.add(fd, self._events_changed)
            self._events_changed()

    def _events_changed(self) -> None:
        if self._watched is not None and not read_event(self._watched, "populated"):
            self._again()

"""One exec from spawn to end: a state machine driven by the spawn, by timers and by the deaths of processes."""

from __future__ import annotations

import errno
import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

from gateway.errors import ExecEnded, NotATerminal
from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.spec import OnLimit, TtySpec
from gateway.exec.view import Reason, Usage
from gateway.supervisor.execs.course import Course, Phase
from gateway.supervisor.execs.lingering import Lingering
from gateway.supervisor.execs.stray import LOOK_SECONDS, StraySignal, may_be_stray
from gateway.supervisor.execs.survivors import Survivors
from gateway.supervisor.guests.containers import Incarnation
from gateway.supervisor.kernel.cgroup import Tree
from gateway.supervisor.kernel.timers import Timers
from gateway.supervisor.launching.handshake import LAUNCH_FAILED, spawn_error
from gateway.supervisor.launching.launch import Terminal
from gateway.supervisor.launching.services import Services
from gateway.supervisor.launching.spawning import Spawn, attach_failed
from gateway.supervisor.output.streams import Streams

log = logging.getLogger(__name__)

_REAPED_WITHIN = 0.2


class Owner(Protocol):
    """Who is told what becomes of an execution."""

    def mark_go(self, order: Order, pid: int) -> None:
        """Called with the command's pid before it may begin: from then on nobody can know that it did not. OSError:
        it must not."""

    def on_ended(self, execution: Execution, left: Survivors | None) -> None:
        """Called once, when the outcome is known; what outlives the command, if anything does, goes with it."""

    def on_survivors_gone(self, left: Survivors) -> None:
        """Called once for each of those, when the last process of it is gone."""


class Execution:
    """A command in a guest, and everything that descends from it."""

    def __init__(
        self,
        services: Services,
        owner: Owner,
        order: Order,
        guest: Incarnation,
        tree: Tree,
        make_streams: Callable[[Callable[[], object] | None], Streams],
    ) -> None:
        """`make_streams` is given what is to be called when an output passes its limit."""
        self.order = order
        self.guest = guest
        self.ending: Ending | None = None
        self._services = services
        self._io = services.loop.io
        kills = order.on_limit is OnLimit.KILL
        self.streams = make_streams((lambda: self.end(Reason.OUTPUT_LIMIT)) if kills else None)
        self.started = self._io.create_future()
        """Done when the command runs, or has ended without."""
        self.writer: object = None
        """Who alone may give input: the connection that claimed it."""
        self.input_from: set[str] = set()
        """The tokens of which it is recorded that they give input."""
        self._owner = owner
        self._tree = tree
        self._spawn: Spawn | None = None
        self._course = Course(self._io.time())
        self._timers = Timers(self._io)
        self._lingering = Lingering(
            self._io, services.loop.events, order, tree, self.streams, self._timers, self._progress
        )
        self._stdin = b""

    # ---- beginning

    def spawn(self, spec: bytes, stdin: bytes, *, stdin_open: bool, tty: TtySpec | None) -> None:
        """Starts lxc-attach with the launcher. A node without room for a process ends it as `spawn_failed`."""
        self._stdin, self._course.size = stdin, tty
        terminal = None
        if tty is not None:
            terminal = Terminal(tty.rows, tty.cols, process=self.guest.proc / str(self.guest.pid))
        try:
            images = self._services.launcher.programs.images(self.guest.key, privileged=self.guest.privileged)
            launched = self._services.launcher.launch(
                vmid=self.order.vmid,
                images=images,
                spec=spec,
                stdin=bool(stdin) or stdin_open,
                cgroup=self._tree.join_fd(),
                terminal=terminal,
            )
        except OSError as exc:
            log.error("%s: cannot start lxc-attach: %s", self.order.id, exc.strerror)
            self._course.spawn_error = attach_failed(exc.errno or errno.EIO)
            self._progress()
            return
        self.streams.connect(stdout=launched.stdout, stderr=launched.stderr)
        if launched.stdin is not None:
            self.streams.connect_stdin(launched.stdin, stdin, stay_open=stdin_open)
            self._stdin = b""
        self._timers.arm("spawn", self._course.begun + self._services.config.spawn_timeout, self._spawn_timed_out)
        if not self._services.launcher.tool.slow:
            self._timers.arm(
                "timeout", self._course.begun + self.order.limits.timeout, lambda: self.end(Reason.TIMEOUT)
            )
        self._spawn = Spawn(self._services.loop, launched, self, self.order.id)

    def attach_known(self, pid: int) -> None:
        self._tree.take_root(pid)

    def terminal_opened(self, master: int) -> None:
        self.streams.connect_terminal(master, self._stdin)
        self._stdin = b""
        if self._course.size is not None:
            self.streams.resize(self._course.size.rows, self._course.size.cols)

    def command_known(self, pid: int) -> bool:
        if not self._tree.holds(pid):
            return False
        self._course.command_pid = pid
        self._tree.take_root(pid)
        return True

    def may_go(self, pid: int) -> bool:
        if self._course.end_reason is not None or self._course.spawn_error is not None:
            self._kill_tree()
            return False
        try:
            self._owner.mark_go(self.order, pid)
        except OSError as exc:
            self._course.spawn_error = spawn_error("spool", exc.errno or errno.EIO)
            self._kill_tree()
            return False
        self._course.phase = Phase.RUNNING
        return True

    def did_not_go(self) -> None:
        self._course.phase = Phase.STARTING

    def began(self) -> None:
        self._course.ran = self._io.time()
        self._timers.disarm("spawn")
        if self._services.launcher.tool.slow:
            self._timers.arm("timeout", self._course.ran + self.order.limits.timeout, lambda: self.end(Reason.TIMEOUT))
        self._now_started()

    def came_to_nothing(self) -> None:
        self._course.command_pid = None
        self._take_spawn_error()
        self._explain_missing_command()
        self._progress()

    def _spawn_timed_out(self) -> None:
        if self._course.end_reason is None:
            self._course.spawn_error = attach_failed(errno.ETIMEDOUT)
        self.kill()

    def _take_spawn_error(self) -> None:
        if self._spawn is not None and self._course.spawn_error is None:
            self._course.spawn_error = self._spawn.error

    def _explain_missing_command(self) -> None:
        """It is known that the command never began; where nothing has told why, there are two reasons left."""
        if self._course.ends_by_itself:
            if self.guest.stopping():
                self._course.end_reason = Reason.CONTAINER_STOPPED
            else:
                self._course.spawn_error = attach_failed(errno.EPROTO)

    def _now_started(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    # ---- acting on what runs

    def signal(self, number: int, *, tree: bool) -> None:
        """Sends a signal to the command, or to its whole tree. Raises ExecEnded."""
        if self._course.phase is Phase.ENDED or (self._course.command_pid is None and not tree):
            raise ExecEnded(f"the command of {self.order.id} has ended already")
        if tree:
            self._tree.signal(number)
        elif self._course.command_pid is not None and self._services.loop.children.owns(self._course.command_pid):
            os.kill(self._course.command_pid, number)

    def resize(self, rows: int, cols: int) -> None:
        """Gives its terminal another size. Raises NotATerminal."""
        if self._course.size is None:
            raise NotATerminal(f"{self.order.id} was started without a tty")
        self._course.size = TtySpec(rows=rows, cols=cols)
        self.streams.resize(rows, cols)

    # ---- ending

    def end(self, reason: Reason) -> bool:
        """Ends the whole tree: TERM, grace, KILL. The first reason stays. False when it has ended already."""
        if self._course.phase is Phase.ENDED:
            return False
        if self._course.ends_by_itself:
            self._course.end_reason = reason
        if self._course.kill_at is not None:
            return True
        grace = self.order.limits.kill_grace if self._course.phase is not Phase.STARTING else 0.0
        self._course.kill_at = self._io.time() + grace
        if grace:
            self._timers.arm("kill", self._course.kill_at, self.kill)
            self._ask_to_end()
        else:
            self.kill()
        return True

    def _ask_to_end(self) -> None:
        """TERM, and with a terminal HUP, which ends the shells that ignore TERM; CONT lets the stopped ones hear it."""
        try:
            self._course.note_killed(self._tree.signal(signal.SIGTERM))
            if self._course.size is not None:
                self._tree.signal(signal.SIGHUP)
            self._tree.signal(signal.SIGCONT)
        except OSError as exc:  # out of descriptors or memory: killed it will be all the same
            log.error("%s: cannot ask it to end: %s", self.order.id, exc.strerror)

    def _kill_tree(self) -> None:
        try:
            self._course.note_killed(self._tree.kill())
        except OSError as exc:  # the same: `_stop_waiting_for_status` does it again
            log.error("%s: cannot kill all of it yet: %s", self.order.id, exc.strerror)

    def kill(self) -> None:
        """Kills the whole tree now."""
        self._timers.disarm("kill")
        self._kill_tree()
        if self._spawn is not None:
            self._spawn.kill_attach()
        self._timers.arm("abandon", self._io.time() + _REAPED_WITHIN, self._stop_waiting_for_status)
        if self._course.phase is Phase.LINGERING:
            self._progress()

    def look_after(self) -> None:
        """Called now and then: a command whose tree is empty has ended, even if its end cannot be seen."""
        course = self._course
        lost = course.phase is Phase.RUNNING and course.command_pid is not None and "abandon" not in self._timers
        if lost and not self._tree.populated():
            self._timers.arm("abandon", self._io.time() + _REAPED_WITHIN, self._stop_waiting_for_status)

    def _stop_waiting_for_status(self) -> None:
        """A dead command whose guest's root traces it cannot be reaped by us: that its tree is empty is its end."""
        still_to_be_born = (
            self._spawn is not None
            and not (self._spawn.over or self._spawn.attached)
            and self._io.time() < self._course.begun + self._services.config.spawn_timeout
        )
        if still_to_be_born or self._tree.populated():
            if self._course.kill_at is not None:
                self._kill_tree()  # what was born after the first time
            self._timers.arm("abandon", self._io.time() + _REAPED_WITHIN, self._stop_waiting_for_status)
            return
        if self._spawn is not None:
            self._spawn.abandon()
        if self._course.command_pid is not None:
            self._services.loop.children.forget(self._course.command_pid)
        self._course.command_pid = None
        self._course.phase = Phase.LINGERING
        self._progress()

    def guest_died(self) -> None:
        """The guest's init is dead, so the kernel has killed everything in it."""
        settling = "settle" in self._timers
        if self._course.phase is Phase.ENDED or (self._course.wait_status is not None and not settling):
            return
        if self._course.end_reason is None:
            self._course.end_reason = Reason.CONTAINER_STOPPED
        if self._course.phase is Phase.STARTING:
            self.kill()  # whoever is on the way into it: on the node, where the kernel has ended nobody
        elif settling:
            self._timers.disarm("settle")
            self._progress()

    def command_died(self, status: int) -> None:
        self._course.command_pid = None
        self._tree.forget_root()
        self._course.wait_status = status
        self._course.command_ended = self._io.time()
        if self._course.phase is not Phase.RUNNING or status == LAUNCH_FAILED:
            self._take_spawn_error()  # once told to go, a guest's root can send such a message of its own
        if self._course.phase is Phase.STARTING:
            self._explain_missing_command()
        self._course.phase = Phase.LINGERING
        self._timers.disarm("spawn")
        if may_be_stray(status) and self._course.ends_by_itself:
            self._look_at_guest(StraySignal(self.guest, self._course.command_ended))
        else:
            self._progress()

    def _look_at_guest(self, stray: StraySignal) -> None:
        """Whether a stray signal was the guest's end, unless somebody has ended the exec meanwhile."""
        ended = stray.ended_the_guest(self._io.time())
        if self._course.end_reason is None and ended is None:
            self._timers.arm("settle", self._io.time() + LOOK_SECONDS, lambda: self._look_at_guest(stray))
            return
        if self._course.end_reason is None and ended:
            self._course.end_reason = Reason.CONTAINER_STOPPED
        self._progress()

    def _progress(self) -> None:
        """Finishes if nothing stands in the way any more: called after each death that matters."""
        spawning = self._spawn is not None and not self._spawn.over
        unfinished = spawning or self._course.command_pid is not None or "settle" in self._timers
        if self._course.phase is Phase.ENDED or unfinished:
            return
        try:
            rest = self._lingering.look(self._course)
            if rest is not None:
                self._finish(*rest)
        except OSError as exc:  # out of descriptors or memory: what was not done now is done later
            log.error("%s: cannot end it yet: %s", self.order.id, exc.strerror)
            self._lingering.look_later()

    def _finish(self, usage: Usage, survivors: int) -> None:
        """Makes the outcome known. Survivors are let go of: they live on. Raises OSError; nothing is changed then."""
        if survivors:
            self._tree.events_fd()  # raises OSError where they cannot be watched yet
        self.ending = self._course.ending(self.order, self._io.time(), self.streams.counts(), usage, survivors)
        self._course.phase = Phase.ENDED
        self._now_started()
        left = self._hand_over() if survivors else None
        self._release()
        self._owner.on_ended(self, left)
        if left is not None:
            left.watch()

    def _hand_over(self) -> Survivors:
        """The tree and its pipes, out of our hands."""
        pipes = self.streams.give_up()
        tree, self._tree = self._tree, self.guest.own_tree()
        return Survivors(self._services.loop, self.order, tree, pipes, self._owner.on_survivors_gone)

    def _release(self) -> None:
        """Gives back every timer and descriptor."""
        self._timers.disarm_all()
        self._lingering.close()
        self.streams.close()
        if self._spawn is not None:
            self._spawn.close()
        self._tree.close()

    # ---- handing over to the next image of this program

    @property
    def can_be_handed_over(self) -> bool:
        """Whether the handshake of its spawn is behind it, and nobody waits to see whether its guest has stopped."""
        spawned = self._course.ran is not None or self._course.phase is Phase.LINGERING
        return spawned and self.guest.alive() and "settle" not in self._timers

    def to_state(self) -> dict[str, Any]:
        """Everything that `resume` needs; descriptors by number, times by the monotonic clock."""
        return {**self.streams.to_state(), "order": self.order.to_wire(), **self._course.to_state()}

    @classmethod
    def resume(
        cls,
        services: Services,
        owner: Owner,
        state: dict[str, Any],
        guest: Incarnation,
        tree: Tree,
        make_streams: Callable[[Callable[[], object] | None], Streams],
    ) -> Execution:
        """Goes on with an execution that an earlier image of this program began. Descriptors are taken over."""
        self = cls(services, owner, Order.from_wire(state["order"]), guest, tree, make_streams)
        self._now_started()
        course = self._course = Course.from_state(state)
        self._timers.arm(
            "timeout", (course.ran or course.begun) + self.order.limits.timeout, lambda: self.end(Reason.TIMEOUT)
        )
        if course.kill_at is not None:
            self._timers.arm("kill", course.kill_at, self.kill)
        if course.command_pid is not None:
            self._tree.take_root(course.command_pid)
            services.loop.children.watch(course.command_pid, self.command_died)
        else:
            self._io.call_soon(self._progress)
        return self

"""One exec from spawn to end: a state machine driven by the spawn, by timers and by the deaths of processes.

STARTING  the command is on its way into the guest
RUNNING   the command was told to go
LINGERING the command has ended, its tree has not, and its end is being waited for
ENDED     the outcome is known; descendants that were to live on may still do so
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from gateway.config import ExecConfig
from gateway.errors import ExecEnded, NotATerminal
from gateway.exec.ending import Ending, exit_code_of, timestamp
from gateway.exec.order import Order
from gateway.exec.spec import Background, OnLimit, Placement, TtySpec
from gateway.exec.view import Reason, SpawnError, Usage
from gateway.supervisor.cgroup import Tree, read_event
from gateway.supervisor.descendants import Descendants
from gateway.supervisor.guests import Incarnation
from gateway.supervisor.launch import LAUNCH_FAILED, Launcher, Terminal, failed_exit_code
from gateway.supervisor.loop import Loop
from gateway.supervisor.spawning import Spawn, attach_failed
from gateway.supervisor.streams import Streams
from gateway.supervisor.survivors import Survivors

log = logging.getLogger(__name__)

_SETTLE = 0.05
"""Seconds between two looks at the guest after a stray signal: a hard stop kills the command before its init."""
_SHUTDOWN = 2.5
"""Seconds for which such looks go on while init seems to shut down: busybox' lives 2 s past the TERM it sends."""
_REAPED_WITHIN = 0.2
_EMPTY_RETRY = 0.002
_LOOK_AGAIN = 0.05
_HANGUP = 0.2
"""Seconds that a terminal without processes is given to say its last: the kernel hands that over a little later."""
_STRAY_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


class Phase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    LINGERING = "lingering"
    ENDED = "ended"


@dataclass(frozen=True)
class Services:
    """What every execution needs of its supervisor."""

    loop: Loop
    config: ExecConfig
    launcher: Launcher


class Owner(Protocol):
    """Who is told what becomes of an execution."""

    def mark_go(self, order: Order, pid: int) -> None:
        """Called with the command's pid before it may begin: from then on nobody can know that it did not."""

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
        self.phase = Phase.STARTING
        self.ending: Ending | None = None
        self._services = services
        self._io = services.loop.io
        self.streams = make_streams(self._passed_output_limit if order.on_limit is OnLimit.KILL else None)
        self.started = self._io.create_future()
        """Done when the command runs, or has ended without."""
        self.writer: object = None
        """Who alone may give input: the connection that claimed it."""
        self.input_from: set[str] = set()
        """The tokens of which it is recorded that they give input."""
        self._owner = owner
        self._tree = tree
        self._spawn: Spawn | None = None
        self._spawn_error: SpawnError | None = None
        self._command_pid: int | None = None
        self._wait_status: int | None = None
        self._end_reason: Reason | None = None
        self._killed = 0
        self._begun = self._io.time()
        self._ran: float | None = None
        self._command_ended: float | None = None
        self._kill_at: float | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._watched_events: int | None = None
        self._stdin = b""
        self._size: TtySpec | None = None

    # ---- beginning

    def spawn(self, spec: bytes, stdin: bytes, *, stdin_open: bool, tty: TtySpec | None) -> None:
        """Starts lxc-attach with the launcher. A node without room for a process ends it as `spawn_failed`."""
        self._stdin, self._size = stdin, tty
        terminal = None
        if tty is not None:
            terminal = Terminal(tty.rows, tty.cols, process=self.guest.proc / str(self.guest.init_pid))
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
            self._spawn_error = attach_failed(exc.errno or errno.EIO)
            self._progress()
            return
        self.streams.connect(stdout=launched.stdout, stderr=launched.stderr)
        if launched.stdin is not None:
            self.streams.connect_stdin(launched.stdin, stdin, stay_open=stdin_open)
            self._stdin = b""
        self._arm("spawn", self._begun + self._services.config.spawn_timeout, self._spawn_timed_out)
        if not self._services.launcher.tool.slow:
            self._arm("timeout", self._begun + self.order.limits.timeout, self._timed_out)
        self._spawn = Spawn(self._services.loop, launched, self, self.order.id)

    def attach_known(self, pid: int) -> None:
        self._tree.take_root(pid)

    def terminal_opened(self, master: int) -> None:
        self.streams.connect_terminal(master, self._stdin)
        self._stdin = b""
        if self._size is not None:
            self.streams.resize(self._size.rows, self._size.cols)

    def command_known(self, pid: int) -> bool:
        if not self._tree.holds(pid):
            return False
        self._command_pid = pid
        self._tree.take_root(pid)
        return True

    def may_go(self, pid: int) -> bool:
        if self._end_reason is not None or self._spawn_error is not None:
            self._killed = max(self._killed, self._tree.kill())
            return False
        self._owner.mark_go(self.order, pid)
        self.phase = Phase.RUNNING
        return True

    def began(self) -> None:
        self._ran = self._io.time()
        self._disarm("spawn")
        if self._services.launcher.tool.slow:
            self._arm("timeout", self._ran + self.order.limits.timeout, self._timed_out)
        self._now_started()

    def came_to_nothing(self) -> None:
        self._command_pid = None
        self._take_spawn_error()
        if self._spawn_error is None and self._end_reason is None:
            if self.guest.stopping():
                self._end_reason = Reason.CONTAINER_STOPPED
            else:
                self._spawn_error = attach_failed(errno.EPROTO)
        self._progress()

    def _spawn_timed_out(self) -> None:
        if self._end_reason is None:
            self._spawn_error = attach_failed(errno.ETIMEDOUT)
        self.kill()

    def _take_spawn_error(self) -> None:
        if self._spawn is not None and self._spawn_error is None:
            self._spawn_error = self._spawn.error

    def _now_started(self) -> None:
        if not self.started.done():
            self.started.set_result(None)

    # ---- acting on what runs

    def signal(self, number: int, *, tree: bool) -> None:
        """Sends a signal to the command, or to its whole tree. Raises ExecEnded."""
        if self.phase is Phase.ENDED or (self._command_pid is None and not tree):
            raise ExecEnded(f"the command of {self.order.id} has ended already")
        if tree:
            self._tree.signal(number)
        elif self._command_pid is not None and self._services.loop.children.owns(self._command_pid):
            os.kill(self._command_pid, number)

    def resize(self, rows: int, cols: int) -> None:
        """Gives its terminal another size. Raises NotATerminal."""
        if self._size is None:
            raise NotATerminal(f"{self.order.id} was started without a tty")
        self._size = TtySpec(rows=rows, cols=cols)
        self.streams.resize(rows, cols)

    # ---- ending

    def end(self, reason: Reason) -> bool:
        """Ends the whole tree: TERM, grace, KILL. The first reason stays. False when it has ended already."""
        if self.phase is Phase.ENDED:
            return False
        if self._end_reason is None and self._spawn_error is None:
            self._end_reason = reason
        if self._kill_at is not None:
            return True
        grace = self.order.limits.kill_grace if self.phase is not Phase.STARTING else 0.0
        self._kill_at = self._io.time() + grace
        if grace:
            self._ask_to_end()
            self._arm("kill", self._kill_at, self.kill)
        else:
            self.kill()
        return True

    def _ask_to_end(self) -> None:
        """TERM, and with a terminal HUP, which ends the shells that ignore TERM; CONT lets the stopped ones hear it."""
        self._killed = max(self._killed, self._tree.signal(signal.SIGTERM))
        if self._size is not None:
            self._tree.signal(signal.SIGHUP)
        self._tree.signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kills the whole tree now."""
        self._disarm("kill")
        self._killed = max(self._killed, self._tree.kill())
        if self._spawn is not None:
            self._spawn.kill_attach()
        self._arm("abandon", self._io.time() + _REAPED_WITHIN, self._stop_waiting_for_status)
        if self.phase is Phase.LINGERING:
            self._progress()

    def look_after(self) -> None:
        """Called now and then: a command whose tree is empty has ended, even if its end cannot be seen."""
        lost = self.phase is Phase.RUNNING and self._command_pid is not None and "abandon" not in self._timers
        if lost and not self._tree.populated():
            self._arm("abandon", self._io.time() + _REAPED_WITHIN, self._stop_waiting_for_status)

    def _stop_waiting_for_status(self) -> None:
        """A dead command whose guest's root traces it cannot be reaped by us: that its tree is empty is its end."""
        still_to_be_born = (
            self._spawn is not None
            and not (self._spawn.over or self._spawn.attached)
            and self._io.time() < self._begun + self._services.config.spawn_timeout
        )
        if still_to_be_born or self._tree.populated():
            if self._kill_at is not None:
                self._killed = max(self._killed, self._tree.kill())  # what was born after the first time
            self._arm("abandon", self._io.time() + _REAPED_WITHIN, self._stop_waiting_for_status)
            return
        if self._spawn is not None:
            self._spawn.abandon()
        self._command_pid = None
        self.phase = Phase.LINGERING
        self._progress()

    def guest_died(self) -> None:
        """The guest's init is dead, so the kernel has killed everything in it."""
        settling = "settle" in self._timers
        if self.phase is Phase.ENDED or (self._wait_status is not None and not settling):
            return
        if self._end_reason is None:
            self._end_reason = Reason.CONTAINER_STOPPED
        if settling:
            self._disarm("settle")
            self._progress()

    def command_died(self, status: int) -> None:
        self._command_pid = None
        self._tree.forget_root()
        self._wait_status = status
        self._command_ended = self._io.time()
        if self.phase is not Phase.RUNNING or status == LAUNCH_FAILED:
            self._take_spawn_error()  # once told to go, a guest's root can send such a message of its own
        self.phase = Phase.LINGERING
        self._disarm("spawn")
        if status & 0x7F in _STRAY_SIGNALS and self._end_reason is None and self._spawn_error is None:
            if self.guest.stopping():
                self._end_reason = Reason.CONTAINER_STOPPED
            else:
                self._arm("settle", self._command_ended + _SETTLE, self._look_at_guest)
        self._progress()

    def _timed_out(self) -> None:
        self.end(Reason.TIMEOUT)

    def _passed_output_limit(self) -> None:
        self.end(Reason.OUTPUT_LIMIT)

    def _look_at_guest(self) -> None:
        """Whether a stray signal was the guest's end: init is given the time that it takes to shut down."""
        assert self._command_ended is not None
        now = self._io.time()
        if self._end_reason is None and self.guest.stopping():
            self._end_reason = Reason.CONTAINER_STOPPED
        elif self._end_reason is None and now < self._command_ended + _SHUTDOWN and self.guest.seems_to_shut_down():
            self._arm("settle", now + _SETTLE, self._look_at_guest)
            return
        self._progress()

    def _progress(self) -> None:
        """Finishes if nothing stands in the way any more: called after each death that matters."""
        spawning = self._spawn is not None and not self._spawn.over
        if self.phase is Phase.ENDED or spawning or self._command_pid is not None or "settle" in self._timers:
            return
        try:
            self._try_to_finish()
        except OSError as exc:  # out of descriptors or memory: what was not done now is done later
            log.error("%s: cannot end it yet: %s", self.order.id, exc.strerror)
            self._arm("empty", self._io.time() + _LOOK_AGAIN, self._progress)

    def _try_to_finish(self) -> None:
        self.streams.drain()
        if self.streams.has_terminal and self.streams.has_writers and not self._tree.pids():
            hung_up_by = (self._command_ended or self._begun) + _HANGUP
            if self._io.time() < hung_up_by:
                self._arm("empty", self._io.time() + _EMPTY_RETRY, self._progress)
                return
        usage = self._tree.usage()
        if self._tree.remove():
            self._finish(usage, survivors=int(self._leaves_writers_behind()))
            return
        alive = len(self._tree.pids())
        if not alive:
            self._arm("empty", self._io.time() + _EMPTY_RETRY, self._progress)
            return
        if self._end_reason is None and self._spawn_error is None:
            if self.order.background is Background.DETACH:
                self._finish(usage, survivors=alive)
                return
            if self.order.background is Background.KILL:
                self._killed = max(self._killed, self._tree.kill())
        elif self._kill_at is None:
            self._kill_at = self._io.time()
            self._killed = max(self._killed, self._tree.kill())
        self._wait_empty()

    def _leaves_writers_behind(self) -> bool:
        """Whether somebody still holds its pipes although its tree is empty: `placement: guest` loses sight of those
        whose parents have died. They are to live on only if the exec ended by itself and detaches."""
        ended_by_itself = self._end_reason is None and self._spawn_error is None
        detaches = self.order.placement is Placement.GUEST and self.order.background is Background.DETACH
        return ended_by_itself and detaches and self.streams.has_writers

    def _wait_empty(self) -> None:
        fd = self._tree.events_fd()
        if fd is None:
            self._arm("empty", self._io.time() + _LOOK_AGAIN, self._progress)
        elif self._watched_events is None:
            self._watched_events = fd
            self._services.loop.events.add(fd, self._events_changed)
            self._events_changed()

    def _events_changed(self) -> None:
        if self._watched_events is not None and not read_event(self._watched_events, "populated"):
            self._progress()

    def _finish(self, usage: Usage, survivors: int) -> None:
        """Makes the outcome known. Survivors are let go of: they live on."""
        now = self._io.time()
        reason = self._reason()
        exit_code, signal_name = exit_code_of(self._wait_status, reason)
        failed = self._spawn_error if reason is Reason.SPAWN_FAILED else None
        if failed is not None:
            exit_code, signal_name = failed_exit_code(failed), None
        ended = self._command_ended or now
        ran = self._ran or ended
        self.ending = Ending(
            reason=reason,
            exit_code=exit_code,
            signal=signal_name,
            ended_at=timestamp(),
            spawn_error=failed,
            output=self.streams.counts(),
            usage=usage,
            killed=self._killed,
            survivors=survivors,
            timing={
                "queued_ms": self.order.queued_ms,
                "spawn_ms": round((ran - self._begun) * 1000),
                "run_ms": round((ended - ran) * 1000),
            },
        )
        self.phase = Phase.ENDED
        self._now_started()
        left = self._hand_over() if survivors else None
        self._release()
        self._owner.on_ended(self, left)
        if left is not None:
            left.watch()

    def _reason(self) -> Reason:
        if self._end_reason is not None:
            return self._end_reason
        if self._spawn_error is not None:
            return Reason.SPAWN_FAILED
        signaled = self._wait_status is not None and self._wait_status & 0x7F
        return Reason.SIGNALED if signaled else Reason.EXITED

    def _hand_over(self) -> Survivors:
        """The tree and its pipes, out of our hands."""
        pipes = self.streams.give_up()
        tree, self._tree = self._tree, Descendants(self.guest.proc, self.guest.ns)
        return Survivors(self._services.loop, self.order, tree, pipes, self._owner.on_survivors_gone)

    def _release(self) -> None:
        """Gives back every timer and descriptor."""
        for name in list(self._timers):
            self._disarm(name)
        if self._watched_events is not None:
            self._services.loop.events.remove(self._watched_events)
            self._watched_events = None
        self.streams.close()
        if self._spawn is not None:
            self._spawn.close()
        self._tree.close()

    # ---- handing over to the next image of this program

    @property
    def can_be_handed_over(self) -> bool:
        """Whether the handshake of its spawn is behind it."""
        return not self.guest.closed and (self._ran is not None or self.phase is Phase.LINGERING)

    def to_state(self) -> dict[str, Any]:
        """Everything that `resume` needs; descriptors by number, times by the monotonic clock."""
        return {
            **self.streams.to_state(),
            "order": self.order.to_wire(),
            "phase": self.phase,
            "spawn_error": self._spawn_error,
            "command_pid": self._command_pid,
            "wait_status": self._wait_status,
            "end_reason": self._end_reason,
            "killed": self._killed,
            "begun": self._begun,
            "ran": self._ran,
            "command_ended": self._command_ended,
            "kill_at": self._kill_at,
            "size": [self._size.rows, self._size.cols] if self._size is not None else None,
        }

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
        self.phase = Phase(state["phase"])
        self._spawn_error, self._wait_status = state["spawn_error"], state["wait_status"]
        self._end_reason = Reason(state["end_reason"]) if state["end_reason"] else None
        self._killed, self._kill_at = state["killed"], state["kill_at"]
        self._begun, self._ran, self._command_ended = state["begun"], state["ran"], state["command_ended"]
        self._command_pid = state["command_pid"]
        if state["size"] is not None:
            self._size = TtySpec(rows=state["size"][0], cols=state["size"][1])
        self._arm("timeout", (self._ran or self._begun) + self.order.limits.timeout, self._timed_out)
        if self._kill_at is not None:
            self._arm("kill", self._kill_at, self.kill)
        if self._command_pid is not None:
            self._tree.take_root(self._command_pid)
            services.loop.children.watch(self._command_pid, self.command_died)
        else:
            self._io.call_soon(self._progress)
        return self

    # ---- timers

    def _arm(self, name: str, at: float, action: Callable[[], None]) -> None:
        def fire() -> None:
            self._timers.pop(name, None)
            action()

        self._disarm(name)
        self._timers[name] = self._io.call_at(at, fire)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

"""One exec from spawn to end: a state machine driven by messages, timers and the deaths of processes.

SPAWNING  lxc-attach is on its way; nothing of the request has run
READY     the launcher waits in the guest; lxc-attach is being ended, so that the command becomes our child
RUNNING   the launcher was told to go
LINGERING the command has ended, its tree has not, and its end is being waited for
ENDED     the outcome is known; descendants that were to live on may still do so
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from gateway.config import ExecConfig
from gateway.exec.ending import Ending, exit_code_of, timestamp
from gateway.exec.order import Order
from gateway.exec.spec import Background, Keep, OnLimit
from gateway.exec.view import Reason, SpawnError
from gateway.supervisor.capture import Capture
from gateway.supervisor.cgroup import Tree, read_event
from gateway.supervisor.children import Children
from gateway.supervisor.descendants import Descendants
from gateway.supervisor.guests import Incarnation
from gateway.supervisor.launch import (
    Launched,
    Launcher,
    Message,
    failed_exit_code,
    receive,
    send_go,
    spawn_error,
)
from gateway.supervisor.pipes import PipeReader, StdinWriter
from gateway.supervisor.survivors import Survivors
from gateway.supervisor.watch import PriorityWatch

log = logging.getLogger(__name__)

_KILLED_SETTLE = 0.05
"""Seconds that a stray SIGKILL is looked at twice: a hard stop of the guest kills the command before its init."""
_SHUTDOWN_SETTLE = 2.5
"""Seconds for the same when only init is left in the guest: busybox' init lives 2 s past the TERM it sends."""
_EMPTY_RETRY = 0.002


class Phase(StrEnum):
    SPAWNING = "spawning"
    READY = "ready"
    RUNNING = "running"
    LINGERING = "lingering"
    ENDED = "ended"


@dataclass
class Services:
    """What every execution needs of its supervisor."""

    loop: asyncio.AbstractEventLoop
    config: ExecConfig
    children: Children
    events: PriorityWatch
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
        self, services: Services, owner: Owner, order: Order, guest: Incarnation, tree: Tree, keep: Keep
    ) -> None:
        self.order = order
        self.guest = guest
        self.phase = Phase.SPAWNING
        self.ending: Ending | None = None
        self.stdout = Capture(order.limits.output_limit, keep)
        self.stderr = Capture(order.limits.output_limit, keep)
        self._services = services
        self._owner = owner
        self._tree = tree
        self._begun = services.loop.time()
        self._ran: float | None = None
        self._command_ended: float | None = None
        self._launched: Launched | None = None
        self._attached = False
        self._attach_pid: int | None = None
        self._command_pid: int | None = None
        self._wait_status: int | None = None
        self._spawn_error: SpawnError | None = None
        self._end_reason: Reason | None = None
        self._killed = 0
        self._kill_at: float | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._readers: list[PipeReader] = []
        self._writer: StdinWriter | None = None
        self._watched_events: int | None = None

    # ---- beginning

    def spawn(self, spec: bytes, stdin: bytes) -> None:
        """Starts lxc-attach with the launcher. Raises OSError when the node has no room for a process."""
        self._launched = launched = self._services.launcher.launch(
            vmid=self.order.vmid, spec=spec, stdin=stdin, cgroup=self._tree.join_fd()
        )
        self._tree.take_root(launched.pid)
        self._services.children.watch(launched.pid, self._launcher_ended)
        self._services.loop.add_reader(launched.status.fileno(), self.read_messages)
        self._read_output(launched.stdout, launched.stderr)
        if launched.stdin is not None:
            self._writer = StdinWriter(self._services.loop, launched.stdin, stdin)
        self._arm("spawn", self._begun + self._services.config.spawn_timeout, self._spawn_timed_out)
        self._arm("timeout", self._begun + self.order.limits.timeout, lambda: self.end(Reason.TIMEOUT))

    def read_messages(self) -> None:
        """Takes what the launcher has said; also called before a death is judged."""
        while self._launched is not None and self._launched.status.fileno() >= 0:
            message = receive(self._launched.status)
            if message is None:
                return
            self._heard(message)

    def _heard(self, message: Message) -> None:
        assert self._launched is not None
        if message.kind == b"H" and not self._attached:
            self._attached = True
            self._attach_pid = message.pid
            if message.pid != self._launched.pid:
                self._services.children.watch(message.pid, self._attach_ended)
        elif message.kind == b"R" and self.phase is Phase.SPAWNING and self._attach_pid is not None:
            self.phase = Phase.READY
            self._command_pid = message.pid
            self._tree.take_root(message.pid)
            self._services.children.watch(message.pid, self._command_died)
            if self._services.children.owns(self._attach_pid):
                os.kill(self._attach_pid, signal.SIGKILL)
        elif message.error is not None and self._spawn_error is None:
            self._spawn_error = message.error
            if not self._attached:
                self._progress()
        elif message.kind == b"":
            self._close_status()
            if not self._attached:  # it died on the host, before it could say a word
                self._attach_ended(0)
            if self.phase is Phase.RUNNING and self._ran is None:
                self._ran = self._services.loop.time()
                self._disarm("spawn")

    def _close_status(self) -> None:
        if self._launched is not None and self._launched.status.fileno() >= 0:
            self._services.loop.remove_reader(self._launched.status.fileno())
            self._launched.status.close()

    def _launcher_ended(self, status: int) -> None:
        """The spawned process: it has become lxc-attach itself, or has given birth to it in the cgroup."""
        self.read_messages()
        assert self._launched is not None
        if self._attach_pid == self._launched.pid:
            self._attach_ended(status)

    def _attach_ended(self, status: int) -> None:
        self.read_messages()
        self._attach_pid = None
        if self.phase is Phase.READY and self._end_reason is None:
            assert self._command_pid is not None and self._launched is not None
            if self._services.children.owns(self._command_pid):
                self._owner.mark_go(self.order, self._command_pid)
                self.phase = Phase.RUNNING
                send_go(self._launched.status)
                return
            # Somebody in the guest forged the handshake: only what is our own child may be the command.
            self._services.children.forget(self._command_pid)
            self._command_pid = None
            self._killed = self._tree.kill()
        elif self._spawn_error is None and self.phase is Phase.SPAWNING and self._end_reason is None:
            log.warning("%s: lxc-attach ended with status %d: %s", self.order.id, status, self._attach_words())
            if self.guest.stopping():
                self._end_reason = Reason.CONTAINER_STOPPED
        if self._spawn_error is None and self._end_reason is None:
            self._spawn_error = spawn_error("attach", 0)
        self._progress()

    def _attach_words(self) -> str:
        assert self._launched is not None
        try:
            return repr(os.read(self._launched.attach_stderr, 2048).decode(errors="replace"))
        except OSError:
            return "''"

    def _spawn_timed_out(self) -> None:
        if self._spawn_error is None:
            self._spawn_error = spawn_error("attach", 110)  # ETIMEDOUT
        self._killed = max(self._killed, self._tree.kill())

    # ---- ending

    def end(self, reason: Reason) -> bool:
        """Ends the whole tree: TERM, grace, KILL. The first reason stays. False when it has ended already."""
        if self.phase is Phase.ENDED:
            return False
        if self._end_reason is None and self._spawn_error is None:
            self._end_reason = reason
        if self._kill_at is not None:
            return True
        grace = self.order.limits.kill_grace if self.phase in (Phase.RUNNING, Phase.LINGERING) else 0.0
        self._kill_at = self._services.loop.time() + grace
        if grace:
            self._killed = max(self._killed, self._tree.signal(signal.SIGTERM))
            self._arm("kill", self._kill_at, self.kill)
        else:
            self.kill()
        return True

    def kill(self) -> None:
        """Kills the whole tree now."""
        self._disarm("kill")
        self._killed = max(self._killed, self._tree.kill())
        if self._command_pid is None and self._attach_pid is None and self.phase is not Phase.SPAWNING:
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

    def _command_died(self, status: int) -> None:
        self.read_messages()
        self._close_status()
        self._command_pid = None
        self._wait_status = status
        self._command_ended = self._services.loop.time()
        if self.phase is not Phase.SPAWNING:
            self.phase = Phase.LINGERING
        self._disarm("spawn")
        stray = status & 0x7F in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
        if stray and self._end_reason is None and self._spawn_error is None:
            if self.guest.stopping():
                self._end_reason = Reason.CONTAINER_STOPPED
            elif self.guest.only_init_left():
                self._arm("settle", self._command_ended + _SHUTDOWN_SETTLE, self._settled)
                return
            elif status & 0x7F == signal.SIGKILL:
                self._arm("settle", self._command_ended + _KILLED_SETTLE, self._settled)
                return
        self._progress()

    def _settled(self) -> None:
        if self._end_reason is None and self.guest.stopping():
            self._end_reason = Reason.CONTAINER_STOPPED
        self._progress()

    def _progress(self) -> None:
        """Finishes if nothing stands in the way any more: called after each death that matters."""
        if self.phase is Phase.ENDED or self._attach_pid is not None or self._command_pid is not None:
            return
        if "settle" in self._timers:
            return
        for reader in self._readers:
            reader.drain()
        usage = self._tree.usage()
        if self._tree.remove():
            self._finish(usage, survivors=0)
            return
        alive = len(self._tree.pids())
        if not alive:
            self._arm("empty", self._services.loop.time() + _EMPTY_RETRY, self._progress)
            return
        if self._end_reason is None and self._spawn_error is None:
            if self.order.background is Background.DETACH:
                self._finish(usage, survivors=alive)
                return
            if self.order.background is Background.KILL:
                self._killed = max(self._killed, self._tree.kill())
        elif self._kill_at is None:
            self._kill_at = self._services.loop.time()
            self.kill()
        self._watch_empty()

    def _watch_empty(self) -> None:
        if self._watched_events is not None:
            return
        fd = self._tree.events_fd()
        if fd is None:
            self._arm("empty", self._services.loop.time() + 0.05, self._progress)
            return
        self._watched_events = fd
        self._services.events.add(fd, self._events_changed)
        self._events_changed()

    def _events_changed(self) -> None:
        if self._watched_events is None or read_event(self._watched_events, "populated"):
            return
        self._progress()

    def _finish(self, usage: Any, survivors: int) -> None:
        """Makes the outcome known. Survivors go on: their pipes are read until the last of them is gone."""
        now = self._services.loop.time()
        if self._spawn_error is not None and self._end_reason is None:
            reason = Reason.SPAWN_FAILED
            exit_code: int | None = failed_exit_code(self._spawn_error)
            signal_sent = None
        else:
            signaled = self._wait_status is not None and self._wait_status & 0x7F
            reason = self._end_reason or (Reason.SIGNALED if signaled else Reason.EXITED)
            exit_code, signal_sent = exit_code_of(self._wait_status, reason)
        ran = self._ran if self._ran is not None else (self._command_ended or now)
        self.ending = Ending(
            reason=reason,
            exit_code=exit_code,
            signal=signal_sent,
            ended_at=timestamp(),
            spawn_error=self._spawn_error if reason is Reason.SPAWN_FAILED else None,
            output={"stdout": self.stdout.count(), "stderr": self.stderr.count()},
            usage=usage,
            killed=self._killed,
            survivors=survivors,
            timing={
                "queued_ms": self.order.queued_ms,
                "spawn_ms": round((ran - self._begun) * 1000),
                "run_ms": round(((self._command_ended or now) - ran) * 1000),
            },
        )
        self.phase = Phase.ENDED
        left = self._hand_over() if survivors else None
        self._release()
        self._owner.on_ended(self, left)
        if left is not None:
            left.watch()

    def _hand_over(self) -> Survivors:
        """The tree and its pipes, out of our hands."""
        pipes = [reader.give_up() for reader in self._readers if reader.fd is not None]
        tree, self._tree = self._tree, Descendants(self.guest.proc)
        services = self._services
        return Survivors(services.loop, services.events, self.order, tree, pipes, self._owner.on_survivors_gone)

    def _release(self) -> None:
        """Gives back every timer and descriptor, and the cgroup."""
        for name in list(self._timers):
            self._disarm(name)
        if self._watched_events is not None:
            self._services.events.remove(self._watched_events)
            self._watched_events = None
        for reader in self._readers:
            reader.close()
        if self._writer is not None:
            self._writer.close()
        self._close_status()
        if self._launched is not None:
            with contextlib.suppress(OSError):
                os.close(self._launched.attach_stderr)
        self._tree.close()

    # ---- timers and output

    def _read_output(self, stdout: int, stderr: int) -> None:
        pairs = ((stdout, self.stdout), (stderr, self.stderr))
        self._readers = [PipeReader(self._services.loop, fd, self._sink(capture)) for fd, capture in pairs]

    def _sink(self, capture: Capture) -> Callable[[bytes], None]:
        if self.order.on_limit is OnLimit.DROP:
            return capture.feed

        def feed(data: bytes) -> None:
            capture.feed(data)
            if capture.over_limit:
                self.end(Reason.OUTPUT_LIMIT)

        return feed

    def _arm(self, name: str, at: float, action: Callable[[], object]) -> None:
        def fire() -> None:
            self._timers.pop(name, None)
            action()

        self._disarm(name)
        self._timers[name] = self._services.loop.call_at(at, fire)

    def _disarm(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

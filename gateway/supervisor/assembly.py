"""Everything of one supervisor, wired together, and what it looks after from time to time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.keys import load_keys
from gateway.audit.unfinished import UnfinishedChanges
from gateway.config import Config
from gateway.errors import SpoolFull
from gateway.exec.agent import Agent
from gateway.exec.order import GuestKind, Order
from gateway.supervisor import readiness
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.changes.announced import Announced
from gateway.supervisor.changes.pauses import Pauses
from gateway.supervisor.changes.pvesh import Pvesh
from gateway.supervisor.changes.root_changes import RootChanges
from gateway.supervisor.execs.acceptance import Acceptance
from gateway.supervisor.execs.acting import Acting
from gateway.supervisor.execs.audit_trail import AuditTrail
from gateway.supervisor.execs.drivers import AgentDriver, ContainerDriver, Driver
from gateway.supervisor.execs.figures import Figures
from gateway.supervisor.execs.following import Following
from gateway.supervisor.execs.looking import Looking
from gateway.supervisor.execs.reboot import find_lost, note_boot, rebooted
from gateway.supervisor.execs.recovery import recover
from gateway.supervisor.execs.registry import Execs
from gateway.supervisor.execs.survivors import reopen_pipes
from gateway.supervisor.files.pct_mounts import PctMounts
from gateway.supervisor.files.sessions import FileSessions
from gateway.supervisor.files.stopped_roots import StoppedRoots
from gateway.supervisor.guests.containers import Guests, Incarnation
from gateway.supervisor.guests.machines import Machine, Machines
from gateway.supervisor.kernel.cgroup import ExecGroup
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.inspection import Inspections
from gateway.supervisor.launching.launch import Launcher
from gateway.supervisor.launching.library import LookedAt
from gateway.supervisor.launching.services import Services
from gateway.supervisor.launching.tools import choose_tool
from gateway.supervisor.limits.memory import Memory
from gateway.supervisor.limits.places import Places
from gateway.supervisor.operations.acting import ActingOperations
from gateway.supervisor.operations.execs import ExecOperations
from gateway.supervisor.operations.files import FileOperations
from gateway.supervisor.operations.guests import GuestOperations
from gateway.supervisor.operations.server import Server
from gateway.supervisor.operations.table import Operations
from gateway.supervisor.operations.tickets import Tickets
from gateway.supervisor.spool.idempotency import IdempotencyKeys, key_of
from gateway.supervisor.spool.spool import Spool

log = logging.getLogger(__name__)

MakeAgent = Callable[[Callable[[str, str, float], object]], Agent]
"""Makes the way to the guest agents; who counts its calls to PVE is given (Figures.count_call)."""

_SWEEP_SECONDS = 30.0
_SWEPT_AT_ONCE = 4
_SWEEP_PAUSE = 0.005
_LOOK_SECONDS = 1.0
_START_POLL = 0.005


class Supervisor:
    """The parts by their names; `process` runs them."""

    def __init__(self, config: Config, io: asyncio.AbstractEventLoop, make_agent: MakeAgent) -> None:
        self.config = config
        self.loop = Loop.start(io)
        self.audit_keys = load_keys(config.audit.key_file)
        redactor = self.audit_keys.redactor
        self.audit = AsyncAuditClient(config.audit.socket, redactor)
        self.spool = Spool(config.spool)
        self.guests = Guests(config.lxc, config.supervisor.instance, self._watch_guest)
        self.machines = Machines(config.pve.qemu_run, config.lxc.proc, self._watch_machine)
        self.figures = figures = Figures(config.exec.driver)
        self.questions = Questions(io, lambda: make_agent(figures.count_call))
        self.services = services = Services(self.loop, config.exec, Launcher(config.lxc, choose_tool(config)))
        self.trail = AuditTrail(self.audit, redactor)
        self.places = places = Places(
            io,
            places=config.exec.max_running,
            places_per_token=config.exec.max_running_per_token,
            places_per_guest=config.exec.max_running_per_guest,
            max_waiting=config.exec.max_queued,
        )
        self.memory = memory = Memory(config.exec.memory)
        self.execs = execs = Execs(config.lxc.proc, self.loop, self.spool, self.trail, places, memory, figures)
        looking = Looking(execs, self.spool, self.guests, self.machines)
        drivers: dict[GuestKind, Driver] = {
            GuestKind.LXC: ContainerDriver(config.exec.path, services, self.guests, execs),
            GuestKind.QEMU: AgentDriver(self.loop, self.machines, self.questions, execs),
        }
        self.keys = IdempotencyKeys(redactor.hash)
        self.spool.on_forgotten = self.keys.forget
        self.acceptance = Acceptance(
            io, config, drivers, self.spool, self.trail, places, memory, execs, looking, self.keys
        )
        following, acting = Following(io, execs, looking), Acting(execs, looking, self.trail)
        self.tickets = Tickets(io.time)
        self.announced = announced = Announced(io, self.trail, UnfinishedChanges(config.pve.changes))
        self.inspections = Inspections(self.loop, self.guests, services.launcher.nursery)
        pct = PctMounts(self.loop, config.lxc, services.launcher.nursery)
        self.roots = StoppedRoots(io, config, self.guests, pct)
        self.root_changes = RootChanges(config, announced, Pvesh(self.loop, config.pve.pvesh), self.roots.let_go)
        self.files = FileSessions(
            io, config, services, self.guests, self.roots, self.machines, self.questions, places, self.trail
        )
        library = LookedAt(config)
        self.operations = Operations(
            ExecOperations(self.acceptance, execs, looking, following),
            ActingOperations(acting, looking, self.tickets),
            FileOperations(self.files),
            GuestOperations(self.root_changes, Pauses(config, self.guests, announced), self.inspections),
            show_health=lambda: {
                "checks": readiness.checks(config, library.find()),
                "running": len(execs.running),
            },
            show_figures=self.show_figures,
        )
        self.server = Server(
            io,
            self.operations.dispatch,
            allowed_uids=config.supervisor.allowed_uids,
            max_blob=config.web.max_body + 1024,
            closed=self.operations.closed,
        )

    def _watch_guest(self, guest: Incarnation) -> None:
        def died() -> None:
            self.loop.io.remove_reader(guest.pidfd)
            self.loop.events.remove(guest.ns_events)
            self.guests.forget(guest)
            self.services.launcher.programs.forget(guest.key)
            self.execs.died_with(guest)
            self.files.died_with(guest)
            guest.close()

        self.loop.io.add_reader(guest.pidfd, died)
        self.loop.events.add(guest.ns_events, guest.mirror_freeze)
        guest.mirror_freeze()

    def _watch_machine(self, machine: Machine) -> None:
        def died() -> None:
            self.loop.io.remove_reader(machine.pidfd)
            machine.close()
            self.machines.forget(machine)
            self.execs.died_with(machine)
            self.files.died_with(machine)

        self.loop.io.add_reader(machine.pidfd, died)

    def recover(self) -> None:
        """Settles what an earlier supervisor left behind, what has been taken over apart."""
        spool, proc = self.spool, self.config.lxc.proc
        booted = rebooted(self.config.spool.directory, proc)
        recover(
            spool=spool,
            guests=self.guests,
            proc=proc,
            keep={*self.execs.running, *self.execs.surviving, *self.files.names()},
            record_outcome=self.execs.tell_outcome,
            adopt=self._adopt_survivors,
            booted=booted,
        )
        self.keys.remember(entry.key for entry in spool.remembered().values() if entry.key is not None)
        self.keys.remember(filter(None, (key_of(running.order) for running in self.execs.running.values())))
        if booted:
            self._recover_keys()
        self.roots.recover()
        self.files.recover()

    def _recover_keys(self) -> None:
        """Finds the execs with a key that a loss of power took from the spool: their keys must run nothing again."""
        since = time.time() - self.config.spool.retention
        known = {*self.spool.remembered(), *self.execs.running}
        most = self.config.spool.max_ended // 4
        try:
            lost = find_lost(
                self.config.audit.directory, self.audit_keys, since=since, knows=known.__contains__, at_most=most
            )
        except OSError as exc:  # the next start looks again
            log.error("cannot look for execs that a reboot took from the spool: %s", exc.strerror)
            return
        for order, ending in lost:
            try:
                self.spool.restore(order, ending)
            except (SpoolFull, OSError) as exc:
                log.error("%s is remembered by its key alone: %s", order.id, exc)
        self.keys.remember(filter(None, (key_of(order) for order, _ in lost)))
        note_boot(self.config.spool.directory, self.config.lxc.proc)

    def _adopt_survivors(self, order: Order, group: ExecGroup) -> None:
        self.execs.adopt_survivors(order, group, reopen_pipes(self.config.lxc.proc, group.pids()))

    async def nothing_starts(self, timeout: float, give_up: Callable[[], bool]) -> bool:
        """Waits until no exec is on its way into its guest, no change of ours and no file under way and no guest looked
        at; False when that takes longer than `timeout` seconds, or than until `give_up` says so."""
        deadline = self.loop.io.time() + timeout
        while (
            self.acceptance.under_way
            or self.announced.under_way
            or self.inspections.under_way
            or self.files.under_way
            or self.roots.under_way
            or not all(e.can_be_handed_over for e in self.execs.running.values())
        ):
            if self.loop.io.time() > deadline or give_up():
                return False
            await asyncio.sleep(_START_POLL)
        return True

    def show_figures(self) -> dict[str, Any]:
        """What has been counted, and what there is now."""
        running = Counter(self.figures.driver_of(execution.order.kind) for execution in self.execs.running.values())
        return {
            **self.figures.to_wire(),
            "driver": self.config.exec.driver,
            "running": dict(running),
            "queued": len(self.execs.queued),
            "surviving": len(self.execs.surviving),
            "places": self.config.exec.max_running,
            "remembered": len(self.spool.remembered()),
            "spool_bytes": self.spool.size,
            "spool_limit": self.config.spool.total,
            "connections": len(self.server.connections),
        }

    def sweep(self) -> None:
        """Forgets what is past its retention, again and again; of many a few at a time, for others wait meanwhile."""
        more = self.spool.sweep(time.time(), at_most=_SWEPT_AT_ONCE)
        self.loop.io.call_later(_SWEEP_PAUSE if more else _SWEEP_SECONDS, self.sweep)

    def look_after(self) -> None:
        """Looks at what runs, again and again: an end that could not be seen is noticed so."""
        self.loop.io.call_later(_LOOK_SECONDS, self.look_after)
        for execution in list(self.execs.running.values()):
            execution.look_after()

"""The supervisor process: one event loop, one socket, every command of the node."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.keys import load_keys
from gateway.config import Config
from gateway.errors import ConfigError, SpoolFull
from gateway.exec.agent import Agent
from gateway.exec.order import GuestKind, Order
from gateway.memory import return_large_blocks
from gateway.notify import notify
from gateway.supervisor import readiness, reexec
from gateway.supervisor.acceptance import Acceptance
from gateway.supervisor.acting import Acting
from gateway.supervisor.audit_trail import AuditTrail
from gateway.supervisor.cgroup import ExecGroup
from gateway.supervisor.drivers import AgentDriver, ContainerDriver, Driver
from gateway.supervisor.execs import Execs
from gateway.supervisor.following import Following
from gateway.supervisor.guests import Guests, Incarnation
from gateway.supervisor.idempotency import IdempotencyKeys, key_of
from gateway.supervisor.launch import Launcher, reserve_low_descriptors
from gateway.supervisor.loop import Loop
from gateway.supervisor.machines import Machine, Machines
from gateway.supervisor.memory import Memory
from gateway.supervisor.operations import Operations
from gateway.supervisor.places import Places
from gateway.supervisor.questions import Questions
from gateway.supervisor.reboot import find_lost, note_boot, rebooted
from gateway.supervisor.recovery import recover
from gateway.supervisor.server import Connection, Server, bind
from gateway.supervisor.services import Services
from gateway.supervisor.signals import Signals
from gateway.supervisor.spool import Spool
from gateway.supervisor.survivors import reopen_pipes
from gateway.supervisor.tickets import Tickets
from gateway.supervisor.tools import choose_tool

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 30.0
_SWEPT_AT_ONCE = 4
_SWEEP_PAUSE = 0.005
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 10.0
_HANDOVER_SECONDS = 15.0
_FLUSH_SECONDS = 2.0
_START_POLL = 0.005
_STOPS = (signal.SIGTERM, signal.SIGINT)


class Supervisor:
    """Everything of one supervisor, wired together."""

    def __init__(self, config: Config, io: asyncio.AbstractEventLoop, make_agent: Callable[[], Agent]) -> None:
        self.config = config
        self.loop = Loop.start(io)
        self.audit_keys = load_keys(config.audit.key_file)
        redactor = self.audit_keys.redactor
        self.audit = AsyncAuditClient(config.audit.socket, redactor)
        self.spool = Spool(config.spool)
        self.guests = Guests(config.lxc, config.supervisor.instance, self._watch_guest)
        self.machines = Machines(config.pve.qemu_run, config.lxc.proc, self._watch_machine)
        self.questions = Questions(io, make_agent)
        services = Services(self.loop, config.exec, Launcher(config.lxc, choose_tool(config)))
        self.trail = AuditTrail(self.audit, redactor)
        self.places = places = Places(
            io,
            places=config.exec.max_running,
            places_per_token=config.exec.max_running_per_token,
            places_per_guest=config.exec.max_running_per_guest,
            max_waiting=config.exec.max_queued,
        )
        self.memory = memory = Memory(config.exec.memory)
        self.execs = execs = Execs(
            config.lxc.proc,
            services,
            self.guests,
            self.spool,
            self.trail,
            places,
            memory,
            self.machines,
            self.questions,
        )
        drivers: dict[GuestKind, Driver] = {
            GuestKind.LXC: ContainerDriver(config.exec.path, services, self.guests, execs),
            GuestKind.QEMU: AgentDriver(self.loop, self.machines, self.questions, execs),
        }
        self.keys = IdempotencyKeys(redactor.hash)
        self.spool.on_forgotten = self.keys.forget
        self.acceptance = Acceptance(io, config, drivers, self.spool, self.trail, places, memory, execs, self.keys)
        following, acting = Following(io, self.execs), Acting(self.execs, self.trail)
        self.tickets = Tickets(io.time)
        self.operations = Operations(config, self.acceptance, self.execs, following, acting, self.tickets)
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
            self.execs.guest_died(guest)
            guest.close()

        self.loop.io.add_reader(guest.pidfd, died)
        self.loop.events.add(guest.ns_events, guest.mirror_freeze)
        guest.mirror_freeze()

    def _watch_machine(self, machine: Machine) -> None:
        def died() -> None:
            self.loop.io.remove_reader(machine.pidfd)
            machine.close()
            self.execs.machine_died(machine)

        self.loop.io.add_reader(machine.pidfd, died)

    def recover(self) -> None:
        """Settles what an earlier supervisor left behind, what has been taken over apart."""
        spool, proc = self.spool, self.config.lxc.proc
        booted = rebooted(self.config.spool.directory, proc)
        recover(
            spool=spool,
            guests=self.guests,
            proc=proc,
            keep={*self.execs.running, *self.execs.surviving},
            record_outcome=self.trail.outcome,
            adopt=self._adopt_survivors,
            booted=booted,
        )
        self.keys.remember(entry.key for entry in spool.remembered().values() if entry.key is not None)
        self.keys.remember(filter(None, (key_of(running.order) for running in self.execs.running.values())))
        if booted:
            self._recover_keys()

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

    async def nothing_starts(self, timeout: float) -> bool:
        """Waits until no exec is on its way into its guest; False when that takes longer than `timeout` seconds."""
        deadline = self.loop.io.time() + timeout
        while self.acceptance.under_way or not all(e.can_be_handed_over for e in self.execs.running.values()):
            if self.loop.io.time() > deadline:
                return False
            await asyncio.sleep(_START_POLL)
        return True

    def sweep(self) -> None:
        """Forgets what is past its retention, again and again; of many a few at a time, for others wait meanwhile."""
        more = self.execs.sweep(_SWEPT_AT_ONCE)
        self.loop.io.call_later(_SWEEP_PAUSE if more else _SWEEP_SECONDS, self.sweep)

    def look_after(self) -> None:
        """Looks at what runs, again and again: an end that could not be seen is noticed so."""
        for execution in list(self.execs.running.values()):
            execution.look_after()
        self.loop.io.call_later(_LOOK_SECONDS, self.look_after)

    # ---- the whole in one memfd

    def to_state(self) -> dict[str, Any]:
        """Everything that `take_over` needs; descriptors by number."""
        return {
            "guests": [guest.to_state() for guest in self.guests.known()],
            "machines": [machine.to_state() for machine in self.machines.known()],
            "execs": [execution.to_state() for execution in self.execs.running.values()],
            "survivors": [left.to_state() for left in self.execs.surviving.values()],
            "connections": [connection.to_state() for connection in self.server.connections],
            "followers": self._followers_state(),
            "memory": self.memory.promised_to(self.execs.running),
            "tickets": self.tickets.to_state(),
            "audit": self.audit.unsettled(),
        }

    def _followers_state(self) -> dict[str, list[list[Any]]]:
        """Of each exec, its followers' connections by descriptor, and what they have taken."""
        state: dict[str, list[list[Any]]] = {}
        for exec_id, execution in self.execs.running.items():
            state[exec_id] = [
                [who.sock.fileno() if isinstance(who, Connection) else None, offsets]
                for who, offsets in execution.streams.followers.places()
            ]
        return state

    def take_over(self, state: dict[str, Any]) -> None:
        """Goes on with everything that the image before this one had."""
        for record in state["audit"]:
            self.audit.post(record)
        guests = [Incarnation.from_state(reexec.take_all(entry), self.config.lxc) for entry in state["guests"]]
        for guest in guests:
            self._try(self.guests.adopt, guest)
        by_run = {(guest.vmid, guest.key): guest for guest in guests}
        machines = [Machine.from_state(reexec.take_all(entry)) for entry in state.get("machines", ())]
        for machine in machines:
            self.machines.adopt(machine)
        by_machine = {(machine.vmid, machine.key): machine for machine in machines}
        for entry in state["execs"]:
            order = Order.from_wire(entry["order"])
            run = order.vmid, order.incarnation
            if order.kind is GuestKind.LXC:
                self._try(self.execs.resume, reexec.take_all(entry), by_run.get(run))
            else:
                self._try(self.execs.resume_in_machine, reexec.take_all(entry), by_machine.get(run))
        promises = state.get("memory", {})
        self.memory.renew({exec_id: promises[exec_id] for exec_id in self.execs.running if exec_id in promises})
        for entry in state["survivors"]:
            order = Order.from_wire(entry["order"])
            if order.kind is GuestKind.LXC:
                self._try(self.execs.resume_survivors, reexec.take_all(entry), by_run)
            else:
                run = order.vmid, order.incarnation
                self._try(self.execs.resume_survivor_in_machine, entry, by_machine.get(run))
        self.tickets.resume(state["tickets"])
        connections: dict[int | None, Connection] = {}
        for entry in sorted(state["connections"], key=_since):  # those that waited go on in their order
            sock = socket.socket(fileno=reexec.take(entry["fd"]))
            connection = connections[entry["fd"]] = self.server.adopt(sock)
            connection.resume(entry)
            self.operations.resumed(connection)
        for exec_id, places in state.get("followers", {}).items():
            if exec_id in self.execs.running:
                followers = self.execs.running[exec_id].streams.followers
                followers.resume([(connections.get(fd), offsets) for fd, offsets in places])

    def _try(self, take_over: Callable[..., object], *arguments: object) -> None:
        """One that cannot be taken over must not take the others along: `recover` ends what is left of it."""
        try:
            take_over(*arguments)
        except Exception:
            log.exception("cannot go on with something of the image before this one")


def _since(connection: dict[str, Any]) -> float:
    """Since when a connection's request waits for a place; 0 where none does."""
    attempt = connection.get("attempt") or {}
    return float(attempt.get("since") or 0)


def run(config: Config, make_agent: Callable[[], Agent]) -> int:
    """Runs the supervisor until SIGTERM; its exit code. Raises ConfigError when it cannot start.

    `make_agent` is called when the first command is to be run in a virtual machine.
    """
    return asyncio.run(_main(config, make_agent))


async def _main(config: Config, make_agent: Callable[[], Agent]) -> int:
    io = asyncio.get_running_loop()
    return_large_blocks()
    readiness.require_pure_v2(config.lxc)
    state = reexec.inherited_state()
    reserve_low_descriptors()
    _raise_descriptor_limit()
    lock = reexec.take(state["lock"]) if state else _lock(config.spool.directory)
    supervisor = Supervisor(config, io, make_agent)
    if state:
        supervisor.take_over(state)
    supervisor.recover()
    listener = socket.socket(fileno=reexec.take(state["listener"])) if state else bind(config.supervisor.socket)
    supervisor.server.listen(listener)
    signals = Signals(io, (*_STOPS, signal.SIGHUP))
    supervisor.loop.children.reap()
    supervisor.sweep()
    supervisor.look_after()
    gc.collect()
    gc.freeze()  # what is here now stays: no collection needs to look at it again
    notify("READY=1")
    while await signals.next() not in _STOPS and not signals.waits(_STOPS):
        await _hand_over(supervisor, lock, signals)
    notify("STOPPING=1")
    await _shut_down(supervisor)
    os.close(lock)
    return 0


async def _hand_over(supervisor: Supervisor, lock: int, signals: Signals) -> None:
    """Becomes a new image of this program. Comes back only if that cannot be; then all goes on as before.

    Signals that come meanwhile wait, for the new image or for the return.
    """
    notify("RELOADING=1")
    if await reexec.new_image_starts(supervisor.loop, _HANDOVER_SECONDS):
        await _become_new_image(supervisor, lock, signals)
    else:
        log.error("not reloaded: the new program or its configuration does not start; see its message above")
    notify("READY=1")


async def _become_new_image(supervisor: Supervisor, lock: int, signals: Signals) -> None:
    """The same without the check. Nothing begins meanwhile, and nobody is listened to."""
    listener = supervisor.server.stop_listening()
    connections = list(supervisor.server.connections)
    for connection in connections:
        connection.pause()
    supervisor.places.hold()
    supervisor.questions.hold()
    try:
        await supervisor.audit.flush(_FLUSH_SECONDS)
        if listener is not None and await supervisor.nothing_starts(_HANDOVER_SECONDS):
            # No turn of the loop from here to the new image: what the state says is what is.
            if not signals.waits(_STOPS):
                reexec.become_new_image({**supervisor.to_state(), "lock": lock, "listener": listener.fileno()})
            log.error("not reloaded: it is being stopped")
        else:
            log.error("not reloaded: execs were being started all the time; try again")
    except Exception:
        log.exception("not reloaded; all goes on as before")
    supervisor.places.go_on()
    supervisor.questions.go_on()
    if listener is not None:
        supervisor.server.listen(listener)
    for connection in connections:
        connection.go_on()


async def _shut_down(supervisor: Supervisor) -> None:
    supervisor.server.stop_listening()
    supervisor.acceptance.stop()
    await supervisor.execs.shut_down(_STOP_SECONDS)
    await supervisor.server.finish_replies(_FLUSH_SECONDS)
    await supervisor.audit.flush(_FLUSH_SECONDS)
    await supervisor.audit.close()


def _raise_descriptor_limit() -> None:
    """An exec takes about nine descriptors; commands get limits of their own from the launcher."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise ConfigError(f"another supervisor uses {directory}; stop it first") from exc
    return fd

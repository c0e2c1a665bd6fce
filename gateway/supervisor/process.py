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
import sys
from pathlib import Path
from typing import Any

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.keys import load_keys
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.exec.order import Order
from gateway.notify import notify
from gateway.supervisor import readiness, reexec
from gateway.supervisor.acceptance import Acceptance
from gateway.supervisor.audit_trail import AuditTrail
from gateway.supervisor.cgroup import ExecGroup
from gateway.supervisor.execs import Execs
from gateway.supervisor.execution import Services
from gateway.supervisor.guests import Guests, Incarnation
from gateway.supervisor.launch import Launcher, reserve_low_descriptors
from gateway.supervisor.loop import Loop
from gateway.supervisor.memory import Memory
from gateway.supervisor.operations import Operations
from gateway.supervisor.places import Places
from gateway.supervisor.recovery import recover
from gateway.supervisor.server import Server, bind
from gateway.supervisor.spool import Spool
from gateway.supervisor.survivors import reopen_pipes

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_STOP_SECONDS = 10.0
_HANDOVER_SECONDS = 15.0
_FLUSH_SECONDS = 2.0
_START_POLL = 0.005
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
    """Everything of one supervisor, wired together."""

    def __init__(self, config: Config, io: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.loop = Loop.start(io)
        redactor = load_keys(config.audit.key_file).redactor
        self.audit = AsyncAuditClient(config.audit.socket, redactor)
        self.spool = Spool(config.spool)
        self.guests = Guests(config.lxc, config.supervisor.instance, self._watch_guest)
        services = Services(self.loop, config.exec, Launcher(config.lxc))
        self.trail = AuditTrail(self.audit, redactor)
        self.places = places = Places(
            io,
            places=config.exec.max_running,
            places_each=config.exec.max_running_per_token,
            max_waiting=config.exec.max_queued,
        )
        memory = Memory(config.exec.memory)
        self.execs = Execs(config.lxc.proc, services, self.guests, self.spool, self.trail, places, memory)
        self.acceptance = Acceptance(config, services, self.guests, self.spool, self.trail, places, memory, self.execs)
        self.operations = Operations(config, self.acceptance, self.execs)
        self.server = Server(
            io,
            self.operations.dispatch,
            allowed_uids=config.supervisor.allowed_uids,
            max_blob=config.web.max_body + 1024,
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

    def recover(self) -> None:
        """Settles what an earlier supervisor left behind, what has been taken over apart."""
        recover(
            spool=self.spool,
            guests=self.guests,
            proc=self.config.lxc.proc,
            keep={*self.execs.running, *self.execs.surviving},
            record_outcome=self.trail.outcome,
            adopt=self._adopt_survivors,
        )

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
        """Forgets what is past its retention, again and again."""
        self.execs.sweep()
        self.loop.io.call_later(_SWEEP_SECONDS, self.sweep)

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
            "execs": [execution.to_state() for execution in self.execs.running.values()],
            "survivors": [left.to_state() for left in self.execs.surviving.values()],
            "connections": [connection.to_state() for connection in self.server.connections],
            "audit": self.audit.unsettled(),
        }

    def take_over(self, state: dict[str, Any]) -> None:
        """Goes on with everything that the image before this one had."""
        for record in state["audit"]:
            self.audit.post(record)
        guests = [Incarnation.from_state(reexec.take_all(entry), self.config.lxc) for entry in state["guests"]]
        for guest in guests:
            self.guests.adopt(guest)
        by_run = {(guest.vmid, guest.key): guest for guest in guests}
        for entry in state["execs"]:
            order = entry["order"]
            self.execs.resume(reexec.take_all(entry), by_run[order["vmid"], order["incarnation"]])
        for entry in state["survivors"]:
            self.execs.resume_survivors(reexec.take_all(entry), by_run)
        for entry in state["connections"]:
            sock = socket.socket(fileno=reexec.take(entry["fd"]))
            self.server.adopt(sock).resume(entry)


def run(config: Config) -> int:
    """Runs the supervisor until SIGTERM; its exit code. Raises ConfigError when it cannot start."""
    return asyncio.run(_main(config))


async def _main(config: Config) -> int:
    io = asyncio.get_running_loop()
    readiness.require_pure_v2(config.lxc)
    state = reexec.inherited_state()
    reserve_low_descriptors()
    _raise_descriptor_limit()
    lock = reexec.take(state["lock"]) if state else _lock(config.spool.directory)
    supervisor = Supervisor(config, io)
    if state:
        supervisor.take_over(state)
    supervisor.recover()
    listener = socket.socket(fileno=reexec.take(state["listener"])) if state else bind(config.supervisor.socket)
    supervisor.server.listen(listener)
    stop, reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        io.add_signal_handler(number, stop.set)
    io.add_signal_handler(signal.SIGHUP, reload.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    supervisor.loop.children.reap()
    supervisor.sweep()
    supervisor.look_after()
    gc.collect()
    gc.freeze()  # what is here now stays: no collection needs to look at it again
    notify("READY=1")
    while not stop.is_set():
        await _first_of(stop, reload)
        if reload.is_set():
            reload.clear()
            await _hand_over(supervisor, lock)
    notify("STOPPING=1")
    await _shut_down(supervisor)
    os.close(lock)
    return 0


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()


async def _hand_over(supervisor: Supervisor, lock: int) -> None:
    """Becomes a new image of this program. Comes back only if that cannot be; then all goes on as before."""
    notify("RELOADING=1")
    if not await _new_image_starts(supervisor.loop):
        log.error("not reloaded: the new program or its configuration does not start; see its message above")
        notify("READY=1")
        return
    listener = supervisor.server.stop_listening()
    connections = list(supervisor.server.connections)
    for connection in connections:
        connection.pause()
    supervisor.places.hold()
    try:
        await supervisor.audit.flush(_FLUSH_SECONDS)
        if listener is not None and await supervisor.nothing_starts(_HANDOVER_SECONDS):
            # No turn of the loop from here to the new image: what the state says is what is.
            state = {**supervisor.to_state(), "lock": lock, "listener": listener.fileno()}
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            reexec.become_new_image(state)
        log.error("not reloaded: execs were being started all the time; try again")
    except Exception:
        log.exception("not reloaded; all goes on as before")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    supervisor.places.go_on()
    if listener is not None:
        supervisor.server.listen(listener)
    for connection in connections:
        connection.go_on()
    notify("READY=1")


async def _new_image_starts(loop: Loop) -> bool:
    """Whether the program on the disk starts with the configuration on the disk: it says so itself."""
    done: asyncio.Future[int] = loop.io.create_future()

    def ended(status: int) -> None:
        if not done.done():
            done.set_result(status)

    pid = os.posix_spawn(
        sys.executable, [*reexec.command_line(), "--check"], dict(os.environ), setsigmask=[], setsid=True
    )
    loop.children.watch(pid, ended)
    try:
        async with asyncio.timeout(_HANDOVER_SECONDS):
            return bool(await done == 0)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        return False


async def _shut_down(supervisor: Supervisor) -> None:
    supervisor.server.stop_listening()
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

"""The supervisor process: one event loop, one socket, every command of the node."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
from pathlib import Path
from typing import Any

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.keys import load_keys
from gateway.audit.record import Event, build_record
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.exec import trail
from gateway.exec.ending import Ending
from gateway.exec.order import Order
from gateway.exec.origin import Origin
from gateway.notify import notify
from gateway.supervisor import readiness
from gateway.supervisor.capture import kept_ranges
from gateway.supervisor.cgroup import ExecGroup
from gateway.supervisor.children import Children
from gateway.supervisor.execs import Execs
from gateway.supervisor.execution import Services
from gateway.supervisor.guests import Guests, Incarnation
from gateway.supervisor.launch import Launcher, reserve_low_descriptors
from gateway.supervisor.protocol import ProtocolError
from gateway.supervisor.recovery import recover
from gateway.supervisor.server import Connection, Reply, Server, bind
from gateway.supervisor.spool import Spool
from gateway.supervisor.survivors import Survivors, reopen_pipes
from gateway.supervisor.watch import PriorityWatch

log = logging.getLogger(__name__)

_SWEEP_SECONDS = 30.0
_STOP_SECONDS = 10.0


class Supervisor:
    """Everything of one supervisor, wired together; `run` is its life."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.loop = loop
        redactor = load_keys(config.audit.key_file).redactor
        self.audit = AsyncAuditClient(config.audit.socket, redactor)
        self.spool = Spool(config.spool)
        self.events = PriorityWatch(loop)
        self.guests = Guests(config.lxc, config.supervisor.instance, self._watch_guest)
        self.children = Children(loop, self._read_messages)
        services = Services(
            loop=loop,
            config=config.exec,
            children=self.children,
            events=self.events,
            launcher=Launcher(config.lxc),
        )
        self.execs = Execs(config, services, self.guests, self.spool, self.audit, redactor)
        self.server = Server(
            loop,
            self._dispatch,
            allowed_uids=config.supervisor.allowed_uids,
            max_blob=config.web.max_body + 1024,
        )

    # ---- what the parts tell each other

    def _read_messages(self) -> None:
        for execution in list(self.execs.running.values()):
            execution.read_messages()

    def _watch_guest(self, guest: Incarnation) -> None:
        def died() -> None:
            self.loop.remove_reader(guest.pidfd)
            self.events.remove(guest.ns_events)
            self.execs.guest_died(guest)
            guest.close()

        self.loop.add_reader(guest.pidfd, died)
        self.events.add(guest.ns_events, guest.mirror_freeze)
        guest.mirror_freeze()

    # ---- requests

    async def _dispatch(self, connection: Connection, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        operation = header.get("op")
        if operation == "health":
            return {"checks": readiness.checks(self.config), "running": len(self.execs.running)}, ()
        try:
            origin = Origin.from_wire(header.get("origin"))
            handler = {
                "run": self._run,
                "get": self._get,
                "list": self._list,
                "output": self._output,
                "kill": self._kill,
            }[str(operation)]
            return await handler(connection, header, blobs, origin)
        except (KeyError, ValueError, TypeError) as exc:
            raise ProtocolError(f"malformed request: {type(exc).__name__}") from exc

    async def _run(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        exec_id = header.get("exec_id")
        if exec_id is None:
            vmid, config_id = header["vmid"], header["config_id"]
            if type(vmid) is not int or not isinstance(config_id, str) or len(blobs) != 1:
                raise ProtocolError("malformed run")
            execution = await self.execs.start(vmid, blobs[0], origin, config_id)
            exec_id = connection.exec_id = execution.order.id
        try:
            await self.execs.wait_end(exec_id)
        except asyncio.CancelledError:
            running = self.execs.running.get(exec_id)
            if running is not None and not self.handing_over:
                self.execs.client_gone(running)
            raise
        view, stdout, stderr = self.execs.result(exec_id, origin)
        return {"exec": view}, (stdout, stderr)

    handing_over = False
    """Set while another image of this program takes over: connections are let go of, their clients are not gone."""

    async def _get(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, wait = _text(header["id"]), float(header.get("wait", 0))
        order = self.execs.order(exec_id, origin)
        if wait > 0:
            await self.execs.wait_end(exec_id, min(wait, 60.0))
        return {"exec": self.execs.get(exec_id, origin), "guest": self._guest_of(order)}, ()

    async def _list(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        found, after = self.execs.list(
            origin,
            vmid=header.get("vmid"),
            state=header.get("state"),
            labels=dict(header.get("labels") or {}),
            limit=min(int(header["limit"]), 1000),
            after=header.get("after"),
        )
        execs = [{"exec": view, "guest": self._guest_of(order)} for order, view in found]
        return {"execs": execs, "after": after}, ()

    async def _output(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, stream = _text(header["id"]), header["stream"]
        if stream not in ("stdout", "stderr"):
            raise ProtocolError("no such stream")
        order = self.execs.order(exec_id, origin)
        offset, length = max(0, int(header["offset"])), max(0, int(header["length"]))
        data, count, ended = self.execs.read_output(exec_id, stream, origin, offset, length)
        total, kept = (count["bytes"], kept_ranges(count)) if count else (0, [])
        return {"total": total, "kept": kept, "ended": ended, "guest": self._guest_of(order)}, (data,)

    async def _kill(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id = _text(header["id"])
        order = self.execs.order(exec_id, origin)
        return {"exec": self.execs.kill(exec_id, origin), "guest": self._guest_of(order)}, ()

    def _guest_of(self, order: Order) -> dict[str, Any]:
        return {
            "vmid": order.vmid,
            "config_id": order.config_id,
            "same_run": self.execs.same_run(order),
            "token_id": order.token_id,
        }

    # ---- life

    def recover(self, keep: set[str]) -> None:
        def record(order: Order, ending: Ending | None) -> None:
            data = trail.outcome(ending) if ending else {"reason": "unknown"}
            record = build_record(
                Event.EXEC_OUTCOME,
                audit_id=order.audit_id,
                request_id=order.request_id,
                token_id=order.token_id,
                token_name=order.token_name,
                remote=order.remote,
                action="exec:run",
                vmid=order.vmid,
                node=order.node,
                exec_id=order.id,
                data=data,
            )
            self.audit.post(record)

        recover(
            spool=self.spool,
            guests=self.guests,
            config=self.config.lxc,
            keep=keep,
            record_outcome=record,
            adopt=self._adopt_survivors,
        )

    def _adopt_survivors(self, order: Order, group: ExecGroup) -> None:
        pipes = reopen_pipes(self.config.lxc.proc, group.pids())
        left = Survivors(self.loop, self.events, order, group, pipes, self.execs.on_survivors_gone)
        self.execs.surviving[order.id] = left
        left.watch()

    def sweep(self) -> None:
        self.execs.sweep()
        self.loop.call_later(_SWEEP_SECONDS, self.sweep)


def run(config: Config) -> int:
    """Runs the supervisor until SIGTERM; its exit code. Raises ConfigError when it cannot start."""
    reserve_low_descriptors()
    lock = _lock(config.spool.directory)
    try:
        return asyncio.run(_main(config))
    finally:
        os.close(lock)


async def _main(config: Config) -> int:
    loop = asyncio.get_running_loop()
    readiness.require_pure_v2(config.lxc)
    supervisor = Supervisor(config, loop)
    supervisor.recover(set())
    listener = bind(config.supervisor.socket)
    supervisor.server.listen(listener)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    supervisor.sweep()
    notify("READY=1")
    await stop.wait()
    notify("STOPPING=1")
    supervisor.server.stop_listening()
    await supervisor.execs.shut_down(_STOP_SECONDS)
    await supervisor.audit.flush(2.0)
    await asyncio.sleep(0)  # the replies of the execs that were just ended
    for connection in list(supervisor.server.connections):
        connection.close()
    await supervisor.audit.close()
    return 0


def _lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise ConfigError(f"another supervisor uses {directory}; stop it first") from exc
    return fd


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a string")
    return value

"""What a peer on the supervisor's socket can ask for: run, get, list, output, kill, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from gateway.config import Config
from gateway.errors import NodeNotReady
from gateway.exec.order import Order
from gateway.exec.origin import Origin
from gateway.supervisor import readiness
from gateway.supervisor.acceptance import Acceptance
from gateway.supervisor.capture import kept_ranges
from gateway.supervisor.execs import Execs
from gateway.supervisor.protocol import ProtocolError
from gateway.supervisor.server import Connection, Reply

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_WAIT = 60.0
_MAX_LISTED = 1000


class Operations:
    """Turns frames into calls of the registry. Whatever is no request of ours is a ProtocolError."""

    def __init__(self, config: Config, acceptance: Acceptance, execs: Execs) -> None:
        self._acceptance = acceptance
        self._config = config
        self._execs = execs
        self._handlers: dict[str, Callable[[Connection, dict[str, Any], list[bytes], Origin], Awaitable[Reply]]] = {
            "run": self._run,
            "get": self._get,
            "list": self._list,
            "output": self._output,
            "kill": self._kill,
        }

    async def dispatch(self, connection: Connection, header: dict[str, Any], blobs: list[bytes]) -> Reply:
        """The answer to one request. Raises ProtocolError, or the GatewayError that is the answer."""
        operation = header.get("op")
        if operation == "health":
            return {"checks": readiness.checks(self._config), "running": len(self._execs.running)}, ()
        handler = self._handlers.get(str(operation))
        if handler is None:
            raise ProtocolError("no such operation")
        try:
            origin = Origin.from_wire(header.get("origin"))
        except ValueError as exc:
            raise ProtocolError(str(exc)) from exc
        try:
            return await handler(connection, header, blobs, origin)
        except OSError as exc:
            log.error("%s failed: %s", operation, exc)
            raise NodeNotReady(
                f"the node is out of something that a command needs ({exc.strerror}); try again", missing=["resources"]
            ) from exc

    async def _run(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        exec_id = header.get("exec_id")
        if exec_id is None:
            vmid, config_id = _member(header, "vmid", int), _member(header, "config_id", str)
            if len(blobs) != 1:
                raise ProtocolError("a run has one body")
            execution = await self._acceptance.start(vmid, blobs[0], origin, config_id)
            exec_id = connection.exec_id = execution.order.id
            connection.request = header, []  # its body is not needed again
            blobs.clear()
        try:
            ended = await self._execs.wait_end(exec_id)
        except asyncio.CancelledError:
            self._execs.client_gone(exec_id)
            raise
        view, stdout, stderr = ended or self._execs.result(exec_id, origin)
        return {"exec": view}, (stdout, stderr)

    async def _get(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, wait = _member(header, "id", str), _member(header, "wait", float)
        order = self._execs.order(exec_id, origin)
        if wait > 0:
            await self._execs.wait_end(exec_id, min(wait, _MAX_WAIT))
        return {"exec": self._execs.get(exec_id, origin), "guest": _guest_of(order, self._execs.same_run(order))}, ()

    async def _list(self, __: Connection, header: dict[str, Any], ___: list[bytes], origin: Origin) -> Reply:
        found, after = self._execs.page(
            origin,
            vmid=_optional(header, "vmid", int),
            state=_optional(header, "state", str),
            labels=_member(header, "labels", dict),
            limit=min(_member(header, "limit", int), _MAX_LISTED),
            after=_optional(header, "after", str),
        )
        runs: dict[tuple[int, str], bool] = {}
        for order, _ in found:
            run = (order.vmid, order.incarnation)
            if run not in runs:
                runs[run] = self._execs.same_run(order)
        execs = [
            {"exec": view, "guest": _guest_of(order, runs[order.vmid, order.incarnation])} for order, view in found
        ]
        return {"execs": execs, "after": after}, ()

    async def _output(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, stream = _member(header, "id", str), header.get("stream")
        if stream not in ("stdout", "stderr"):
            raise ProtocolError("no such stream")
        order = self._execs.order(exec_id, origin)
        offset, length = max(0, _member(header, "offset", int)), max(0, _member(header, "length", int))
        data, count, ended = self._execs.read_output(exec_id, stream, origin, offset, length)
        total, kept = (count["bytes"], kept_ranges(count)) if count else (0, [])
        return {"total": total, "kept": kept, "ended": ended, "guest": _guest_of(order, self._execs.same_run(order))}, (
            data,
        )

    async def _kill(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id = _member(header, "id", str)
        order = self._execs.order(exec_id, origin)
        return {
            "exec": await self._execs.kill(exec_id, origin),
            "guest": _guest_of(order, self._execs.same_run(order)),
        }, ()


def _guest_of(order: Order, same_run: bool) -> dict[str, Any]:
    """What the web needs to tell whether a new guest has the vmid now."""
    return {"vmid": order.vmid, "config_id": order.config_id, "same_run": same_run, "token_id": order.token_id}


def _member(header: dict[str, Any], name: str, kind: type[T]) -> T:
    value = header.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ProtocolError(f"{name} is not of type {kind.__name__}")
    return value


def _optional(header: dict[str, Any], name: str, kind: type[T]) -> T | None:
    return None if header.get(name) is None else _member(header, name, kind)

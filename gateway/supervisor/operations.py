"""What a peer on the supervisor's socket can ask for: run, get, list, output, kill, health."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

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
            return await handler(connection, header, blobs, Origin.from_wire(header.get("origin")))
        except (KeyError, ValueError, TypeError, OverflowError) as exc:
            raise ProtocolError(f"malformed {operation}: {exc!r}") from exc
        except OSError as exc:
            log.error("%s failed: %s", operation, exc)
            raise NodeNotReady(
                f"the node is out of something that a command needs ({exc.strerror}); try again", missing=["resources"]
            ) from exc

    async def _run(self, connection: Connection, header: dict[str, Any], blobs: list[bytes], origin: Origin) -> Reply:
        exec_id = header.get("exec_id")
        if exec_id is None:
            vmid, config_id = header["vmid"], header["config_id"]
            if type(vmid) is not int or not isinstance(config_id, str) or len(blobs) != 1:
                raise ProtocolError("malformed run")
            execution = await self._acceptance.start(vmid, blobs[0], origin, config_id)
            exec_id = connection.exec_id = execution.order.id
        try:
            ended = await self._execs.wait_end(exec_id)
        except asyncio.CancelledError:
            self._execs.client_gone(exec_id)
            raise
        view, stdout, stderr = ended or self._execs.result(exec_id, origin)
        return {"exec": view}, (stdout, stderr)

    async def _get(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, wait = _text(header["id"]), float(header.get("wait", 0))
        order = self._execs.order(exec_id, origin)
        if wait > 0:
            await self._execs.wait_end(exec_id, min(wait, _MAX_WAIT))
        return {"exec": self._execs.get(exec_id, origin), "guest": self._guest_of(order)}, ()

    async def _list(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        found, after = self._execs.page(
            origin,
            vmid=header.get("vmid"),
            state=header.get("state"),
            labels=dict(header.get("labels") or {}),
            limit=min(int(header["limit"]), _MAX_LISTED),
            after=header.get("after"),
        )
        execs = [{"exec": view, "guest": self._guest_of(order)} for order, view in found]
        return {"execs": execs, "after": after}, ()

    async def _output(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id, stream = _text(header["id"]), header["stream"]
        if stream not in ("stdout", "stderr"):
            raise ProtocolError("no such stream")
        order = self._execs.order(exec_id, origin)
        offset, length = max(0, int(header["offset"])), max(0, int(header["length"]))
        data, count, ended = self._execs.read_output(exec_id, stream, origin, offset, length)
        total, kept = (count["bytes"], kept_ranges(count)) if count else (0, [])
        return {"total": total, "kept": kept, "ended": ended, "guest": self._guest_of(order)}, (data,)

    async def _kill(self, _: Connection, header: dict[str, Any], __: list[bytes], origin: Origin) -> Reply:
        exec_id = _text(header["id"])
        order = self._execs.order(exec_id, origin)
        return {"exec": await self._execs.kill(exec_id, origin), "guest": self._guest_of(order)}, ()

    def _guest_of(self, order: Order) -> dict[str, Any]:
        """What the web needs to tell whether a new guest has the vmid now."""
        return {
            "vmid": order.vmid,
            "config_id": order.config_id,
            "same_run": self._execs.same_run(order),
            "token_id": order.token_id,
        }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a string")
    return value

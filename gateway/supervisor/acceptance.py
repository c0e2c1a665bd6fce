"""How an exec is accepted: checked, given a place, remembered, recorded, and only then started."""

from __future__ import annotations

import asyncio

from pydantic import ValidationError

from gateway import ulid
from gateway.audit.record import new_audit_id
from gateway.config import Config
from gateway.errors import GatewayError, GuestNotFound, InternalError
from gateway.exec import trail
from gateway.exec.ending import timestamp
from gateway.exec.limits import Limits, resolve_limits
from gateway.exec.order import Order
from gateway.exec.origin import Origin
from gateway.exec.spec import Background, ExecSpec, Placement
from gateway.supervisor.audit_trail import AuditTrail
from gateway.supervisor.cgroup import Tree
from gateway.supervisor.descendants import Descendants
from gateway.supervisor.execs import Execs
from gateway.supervisor.execution import Execution, Services
from gateway.supervisor.guests import Guests, Incarnation
from gateway.supervisor.launch import build_spec
from gateway.supervisor.memory import Memory
from gateway.supervisor.places import Places
from gateway.supervisor.spool import Spool


class Acceptance:
    """The one way in."""

    def __init__(
        self,
        config: Config,
        services: Services,
        guests: Guests,
        spool: Spool,
        audit: AuditTrail,
        places: Places,
        memory: Memory,
        execs: Execs,
    ) -> None:
        self.under_way = 0
        """How many have a place and are not yet spawned."""
        self._config = config
        self._services = services
        self._guests = guests
        self._spool = spool
        self._audit = audit
        self._places = places
        self._memory = memory
        self._execs = execs

    async def start(self, vmid: int, body: bytes, origin: Origin, config_id: str) -> Execution:
        """Accepts and spawns what `body` (an ExecSpec as JSON) asks for. Raises a GatewayError when nothing was run."""
        spec = _parse(body)
        limits = resolve_limits(spec, self._config.exec)
        if not origin.may_run(vmid):
            raise GuestNotFound.for_vmid(vmid)
        guest = self._guests.find(vmid)
        if spec.background is Background.DETACH:
            self._execs.check_room_for_survivors(vmid, self._config.exec.max_survivors)
        exec_id = ulid.new("ex_")
        over_default = max(0, limits.output_limit - self._config.exec.output_limit)
        self._memory.promise(exec_id, 2 * len(body) + 2 * over_default)
        try:
            queued = await self._places.take(origin.token_id, limits.queue_timeout)
            self.under_way += 1
            try:
                if queued:
                    guest = self._guests.find(vmid)
                order = self._order(exec_id, spec, limits, origin, guest, config_id, queued)
                tree = await self._record(order, spec, guest)
            except BaseException:
                self._places.give_back(origin.token_id)
                raise
            finally:
                self.under_way -= 1
        except BaseException:
            self._memory.release(exec_id)
            raise
        execution = Execution(self._services, self._execs, order, guest, tree, spec.output.keep)
        self._execs.add(execution)
        env = {"PATH": self._config.exec.path, **spec.env}
        execution.spawn(build_spec(argv=spec.argv(), env=env, cwd=spec.cwd, user=spec.user), spec.stdin_bytes())
        return execution

    async def _record(self, order: Order, spec: ExecSpec, guest: Incarnation) -> Tree:
        """The exec's own place on disk and in the guest's cgroup tree, with its intent durable."""
        intent = self._audit.intent(spec, order)
        self._spool.accept(order)
        receipt = asyncio.ensure_future(self._audit.commit(intent))
        tree: Tree | None = None
        try:
            await asyncio.sleep(0)  # so that it is on its way
            tree = self._make_tree(order, guest)  # while the disk works
            await receipt
            self._guests.find(order.vmid)  # it may have stopped or frozen meanwhile
        except BaseException as exc:
            self._spool.drop(order.id)
            if tree is not None:
                tree.remove()
                tree.close()
            receipt.cancel()  # an intent without a taker is followed by `aborted`
            if receipt.done() and not receipt.cancelled() and receipt.exception() is None:
                self._audit.abort(intent, exc.detail if isinstance(exc, GatewayError) else "its client left")
            raise
        return tree

    def _make_tree(self, order: Order, guest: Incarnation) -> Tree:
        if order.placement is Placement.GUEST:
            return Descendants(guest.proc, guest.ns)
        return guest.group.make(order.id)

    def _order(
        self,
        exec_id: str,
        spec: ExecSpec,
        limits: Limits,
        origin: Origin,
        guest: Incarnation,
        config_id: str,
        queued: float,
    ) -> Order:
        return Order(
            id=exec_id,
            audit_id=new_audit_id(),
            request_id=origin.request_id,
            vmid=guest.vmid,
            node=self._config.node,
            incarnation=guest.key,
            config_id=config_id,
            token_id=origin.token_id,
            token_name=origin.token_name,
            remote=origin.remote,
            command=trail.shown_command(spec, self._audit.hash),
            labels=spec.labels,
            created_at=timestamp(),
            queued_ms=round(queued * 1000),
            limits=limits,
            background=spec.background,
            on_disconnect=spec.on_disconnect,
            on_limit=spec.output.on_limit,
            placement=spec.placement,
        )


def _parse(body: bytes) -> ExecSpec:
    try:
        return ExecSpec.model_validate_json(body)
    except ValidationError as exc:
        raise InternalError("the web sent a request that it should have refused") from exc

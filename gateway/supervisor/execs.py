"""All execs of this node: how one is accepted, found, listed and ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Any

from pydantic import ValidationError

from gateway import ulid
from gateway.audit.aio import AsyncAuditClient
from gateway.audit.keys import Redactor
from gateway.audit.record import Event, build_aborted, build_record, new_audit_id
from gateway.config import Config
from gateway.errors import ExecEnded, ExecNotFound, GatewayError, GuestNotFound, InternalError
from gateway.exec import trail
from gateway.exec.ending import Ending, render, timestamp
from gateway.exec.limits import resolve_limits
from gateway.exec.order import Order
from gateway.exec.origin import Origin
from gateway.exec.spec import ExecSpec, OnDisconnect, Placement
from gateway.exec.view import ExecView, Reason, State, StreamCount
from gateway.supervisor.capture import place_in_kept
from gateway.supervisor.cgroup import Tree
from gateway.supervisor.descendants import Descendants
from gateway.supervisor.execution import Execution, Services
from gateway.supervisor.guests import Guests, Incarnation, start_time
from gateway.supervisor.launch import build_spec
from gateway.supervisor.places import Places
from gateway.supervisor.spool import Spool
from gateway.supervisor.survivors import Survivors

log = logging.getLogger(__name__)

_START_POLL = 0.005
_LIST_SCAN = 2000
"""How many remembered execs one listing looks at; the caller pages on from there."""


class Execs:
    """The registry: those that run, those whose survivors live on, and by way of the spool those that ended."""

    def __init__(
        self,
        config: Config,
        services: Services,
        guests: Guests,
        spool: Spool,
        audit: AsyncAuditClient,
        redactor: Redactor,
    ) -> None:
        self.running: dict[str, Execution] = {}
        self.surviving: dict[str, Survivors] = {}
        self.starting = 0
        self._config = config
        self._services = services
        self._guests = guests
        self._spool = spool
        self._audit = audit
        self._hash = redactor.hash
        self._places = Places(services.loop.io, places=config.exec.max_running, max_waiting=config.exec.max_queued)
        self._ends: dict[str, asyncio.Future[None]] = {}

    # ---- beginning

    async def start(self, vmid: int, body: bytes, origin: Origin, config_id: str) -> Execution:
        """Accepts and spawns an exec: place, spool, durable intent, then the process, in this order.

        Raises a GatewayError when nothing was run.
        """
        spec = _parse(body)
        limits = resolve_limits(spec, self._config.exec)
        if not origin.may_run(vmid):
            raise GuestNotFound.for_vmid(vmid)
        self._guests.find(vmid)
        queued = await self._places.take(limits.queue_timeout)
        self.starting += 1
        try:
            guest = self._guests.find(vmid)
            order = Order(
                id=ulid.new("ex_"),
                audit_id=new_audit_id(),
                request_id=origin.request_id,
                vmid=vmid,
                node=self._config.node,
                incarnation=guest.key,
                config_id=config_id,
                token_id=origin.token_id,
                token_name=origin.token_name,
                remote=origin.remote,
                command=trail.shown_command(spec, self._hash),
                labels=spec.labels,
                created_at=timestamp(),
                queued_ms=round(queued * 1000),
                limits=limits,
                background=spec.background,
                on_disconnect=spec.on_disconnect,
                on_limit=spec.output.on_limit,
                placement=spec.placement,
            )
            return await self._accept(order, spec, guest)
        except BaseException:
            self._places.give_back()
            raise
        finally:
            self.starting -= 1

    async def _accept(self, order: Order, spec: ExecSpec, guest: Incarnation) -> Execution:
        intent = self._record(Event.EXEC_INTENT, order, trail.intent(spec, order, self._hash))
        self._spool.accept(order)
        tree: Tree | None = None
        try:
            receipt = self._services.loop.io.create_task(self._audit.commit(intent))
            try:
                tree = self._make_tree(order, guest)  # while the disk works
            except BaseException:
                await _settle(receipt)
                if not receipt.cancelled() and receipt.exception() is None:
                    self._audit.post(build_aborted(intent, "the guest stopped"))
                raise
            await receipt
            try:
                self._guests.find(order.vmid)
            except GatewayError:
                self._audit.post(build_aborted(intent, "the guest stopped or froze"))
                raise
        except BaseException:
            self._spool.drop(order.id)
            if tree is not None:
                tree.remove()
                tree.close()
            raise
        execution = Execution(self._services, self, order, guest, tree, spec.output.keep)
        self.running[order.id] = execution
        self._ends[order.id] = self._services.loop.io.create_future()
        words = build_spec(
            argv=spec.argv(), env={"PATH": self._config.exec.path, **spec.env}, cwd=spec.cwd, user=spec.user
        )
        execution.spawn(words, spec.stdin_bytes())
        return execution

    def _make_tree(self, order: Order, guest: Incarnation) -> Tree:
        if order.placement is Placement.GUEST:
            return Descendants(self._config.lxc.proc)
        return guest.group.make(order.id)

    def mark_go(self, order: Order, pid: int) -> None:
        """The command may begin from here on."""
        self._spool.mark_go(order, pid, start_time(self._config.lxc.proc / str(pid)))

    def resume(self, state: dict[str, Any], guest: Incarnation) -> None:
        """Takes over an exec that an earlier image of this program began."""
        order = Order.from_wire(state["order"])
        tree: Tree | None = None
        if order.placement is Placement.OWN:
            tree = guest.group.open(order.id)
        self._spool.reopen(order)
        self._places.occupy()
        self._ends[order.id] = self._services.loop.io.create_future()
        tree = tree or Descendants(self._config.lxc.proc)
        self.running[order.id] = Execution.resume(self._services, self, state, guest, tree)

    # ---- ending

    def on_ended(self, execution: Execution, left: Survivors | None) -> None:
        """An exec's outcome is known: remember it, record it, wake who waits."""
        order, ending = execution.order, execution.ending
        assert ending is not None
        del self.running[order.id]
        self._spool.end(order, ending, execution.stdout.kept(), execution.stderr.kept())
        if left is None:
            self._spool.retire(order.id)
        else:
            self.surviving[order.id] = left
        self.record_outcome(order, ending)
        self._places.give_back()
        waiter = self._ends.pop(order.id)
        if not waiter.done():
            waiter.set_result(None)

    def on_survivors_gone(self, left: Survivors) -> None:
        """Nothing of an ended exec runs any more."""
        self.surviving.pop(left.order.id, None)
        self._spool.retire(left.order.id)

    def record_outcome(self, order: Order, ending: Ending | None) -> None:
        """Has the outcome written, without waiting: an end cannot be refused. None: nobody knows it."""
        data = trail.outcome(ending) if ending is not None else {"reason": State.UNKNOWN}
        try:
            self._audit.post(self._record(Event.EXEC_OUTCOME, order, data))
        except GatewayError as error:
            log.error("%s: its outcome is not in the audit log: %s", order.id, error.detail)

    def client_gone(self, exec_id: str) -> None:
        """The client of a waiting `run` has left."""
        execution = self.running.get(exec_id)
        if execution is not None and execution.order.on_disconnect is OnDisconnect.KILL:
            execution.end(Reason.CLIENT_GONE)

    def guest_died(self, guest: Incarnation) -> None:
        self._guests.forget(guest)
        for execution in list(self.running.values()):
            if execution.guest is guest:
                execution.guest_died()

    def kill(self, exec_id: str, origin: Origin) -> ExecView:
        """Begins to end the whole tree. Raises ExecNotFound, or ExecEnded, which touches no survivor."""
        execution = self.running.get(exec_id)
        if execution is None:
            self.get(exec_id, origin)
            raise ExecEnded(f"{exec_id} has ended already; processes it left behind were not touched")
        self._check_seen(execution.order, origin)
        execution.end(Reason.CANCELLED)
        return render(execution.order, State.RUNNING)

    async def wait_end(self, exec_id: str, timeout: float | None = None) -> None:
        """Returns when the exec has ended or the time is over."""
        future = self._ends.get(exec_id)
        if future is not None:
            await asyncio.wait([future], timeout=timeout)

    # ---- looking

    def order(self, exec_id: str, origin: Origin) -> Order:
        """The order of an exec that this caller may see. Raises ExecNotFound."""
        return self._look_up(exec_id, origin)[0]

    def get(self, exec_id: str, origin: Origin) -> ExecView:
        """The exec as it stands. Raises ExecNotFound for another token's, too."""
        return render(*self._look_up(exec_id, origin))

    def same_run(self, order: Order) -> bool:
        """Whether the guest has not been started again since this exec began."""
        guest = self._guests.current(order.vmid)
        return guest is not None and guest.key == order.incarnation

    def page(
        self,
        origin: Origin,
        *,
        vmid: int | None,
        state: str | None,
        labels: dict[str, str],
        limit: int,
        after: str | None,
    ) -> tuple[list[tuple[Order, ExecView]], str | None]:
        """Newest first, and where to go on: the id after which the next page begins, None at the end."""
        found: list[tuple[Order, ExecView]] = []
        ids = sorted({*self.running, *self._spool.ended_ids()}, reverse=True)
        page = [exec_id for exec_id in ids if after is None or exec_id < after]
        last = None
        for scanned, exec_id in enumerate(page):
            if len(found) >= limit or scanned >= _LIST_SCAN:
                return found, last
            last = exec_id
            try:
                order, stands, ending = self._look_up(exec_id, origin)
            except ExecNotFound:
                continue
            if (
                (vmid is None or order.vmid == vmid)
                and (state is None or stands == state)
                and labels.items() <= order.labels.items()
            ):
                found.append((order, render(order, stands, ending)))
        return found, None

    def read_output(
        self, exec_id: str, stream: str, origin: Origin, offset: int, length: int
    ) -> tuple[bytes, StreamCount | None, bool]:
        """Kept bytes from a stream's `offset`, at most `length` and not past a gap; its counts; whether it has ended.

        Empty inside a gap, which the counts tell.
        """
        order, _, ending = self._look_up(exec_id, origin)
        execution = self.running.get(exec_id)
        if execution is not None:
            capture = execution.stdout if stream == "stdout" else execution.stderr
            start, size = place_in_kept(capture.count(), offset, length)
            return capture.kept()[start : start + size], capture.count(), False
        counts = ending.output if ending else None
        if counts is None:
            return b"", None, True
        count = counts["stdout"] if stream == "stdout" else counts["stderr"]
        start, size = place_in_kept(count, offset, length)
        return self._spool.read(order.id, stream, start, size), count, True

    def result(self, exec_id: str, origin: Origin) -> tuple[ExecView, bytes, bytes]:
        """An ended exec with all that was kept of its output."""
        order, stands, ending = self._look_up(exec_id, origin)
        stdout, stderr = (self._spool.read(order.id, stream, 0, None) for stream in ("stdout", "stderr"))
        return render(order, stands, ending), stdout, stderr

    def _look_up(self, exec_id: str, origin: Origin) -> tuple[Order, State, Ending | None]:
        execution = self.running.get(exec_id)
        if execution is not None:
            self._check_seen(execution.order, origin)
            return execution.order, State.RUNNING, None
        life = self._spool.find(exec_id)
        if life is None:
            raise ExecNotFound.for_id(exec_id)
        self._check_seen(life.order, origin)
        return life.order, State.ENDED if life.ending else State.UNKNOWN, life.ending

    def _check_seen(self, order: Order, origin: Origin) -> None:
        if not origin.sees(order.token_id, order.vmid):
            raise ExecNotFound.for_id(order.id)

    def _record(self, event: Event, order: Order, data: dict[str, Any]) -> dict[str, Any]:
        return build_record(
            event,
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

    # ---- the whole

    def resume_survivors(self, state: dict[str, Any], guests: dict[tuple[int, str], Incarnation]) -> None:
        """Takes over what outlives an exec that ended under an earlier image of this program."""
        order = Order.from_wire(state["order"])
        guest = guests.get((order.vmid, order.incarnation))
        group = guest.group.open(order.id) if guest is not None else None
        tree = group or Descendants(self._config.lxc.proc)
        self.adopt_survivors(order, tree, list(state["fds"].values()))

    def adopt_survivors(self, order: Order, tree: Tree, pipes: list[int]) -> None:
        """Owns what outlives an exec: its pipes are read until the last process of it is gone."""
        left = Survivors(self._services.loop, order, tree, pipes, self.on_survivors_gone)
        self.surviving[order.id] = left
        left.watch()

    async def wait_started(self, timeout: float) -> bool:
        """Waits until no exec is on its way into its guest; False when that takes too long."""
        deadline = self._services.loop.io.time() + timeout
        while self.starting or not all(execution.can_be_handed_over for execution in self.running.values()):
            if self._services.loop.io.time() > deadline:
                return False
            await asyncio.sleep(_START_POLL)
        return True

    async def shut_down(self, timeout: float) -> None:
        """Ends all that runs, as `gateway_lost`; survivors of ended execs are left alone."""
        for execution in list(self.running.values()):
            execution.end(Reason.GATEWAY_LOST)
            execution.kill()
        futures = list(self._ends.values())
        if futures:
            await asyncio.wait(futures, timeout=timeout)

    def sweep(self) -> None:
        self._spool.sweep(time.time())


def _parse(body: bytes) -> ExecSpec:
    try:
        return ExecSpec.model_validate_json(body)
    except ValidationError as exc:
        raise InternalError("the web sent a request that it should have refused") from exc


async def _settle(task: asyncio.Task[Any]) -> None:
    with contextlib.suppress(GatewayError):
        await task

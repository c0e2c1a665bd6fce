"""How an exec is accepted: checked, given a place, remembered, recorded, and only then started."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

from pydantic import ValidationError

from gateway.audit.record import new_audit_id
from gateway.config import Config
from gateway.errors import FieldError, GatewayError, IdempotencyConflict, InternalError, InvalidRequest
from gateway.exec import trail
from gateway.exec.ending import timestamp
from gateway.exec.limits import Limits, resolve_limits
from gateway.exec.order import GuestKind, Order
from gateway.exec.origin import Origin
from gateway.exec.spec import Background, ExecSpec, OnDisconnect
from gateway.supervisor.execs.audit_trail import AuditTrail
from gateway.supervisor.execs.drivers import Driver, Entry
from gateway.supervisor.execs.looking import Looking
from gateway.supervisor.execs.queued import Attempt, Queued
from gateway.supervisor.execs.registry import Execs, claim_of
from gateway.supervisor.limits.memory import Memory
from gateway.supervisor.limits.places import Places, Turn, Withdrawn
from gateway.supervisor.limits.stopping import stopping
from gateway.supervisor.output.capture import Capture
from gateway.supervisor.output.interleaving import STREAMS
from gateway.supervisor.output.layout import Layout
from gateway.supervisor.spool.idempotency import IdempotencyKeys, Reservation, fingerprint
from gateway.supervisor.spool.spool import Spool

DecideAgain = Callable[[], Awaitable[Origin]]
"""The caller as its token is now. Raises TokenStoreError; where it is refused, the work on its request is cancelled."""


class Acceptance:
    """The one way in."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        config: Config,
        drivers: Mapping[GuestKind, Driver],
        spool: Spool,
        audit: AuditTrail,
        places: Places,
        memory: Memory,
        execs: Execs,
        looking: Looking,
        keys: IdempotencyKeys,
    ) -> None:
        self.under_way = 0
        """How many have a place and are not yet spawned."""
        self._stopped = False
        self._io = io
        self._config = config
        self._drivers = drivers
        self._spool = spool
        self._audit = audit
        self._places = places
        self._memory = memory
        self._execs = execs
        self._looking = looking
        self._keys = keys

    async def start(
        self,
        vmid: int,
        body: bytes,
        origin: Origin,
        attempt: Attempt,
        *,
        kind: GuestKind,
        config_id: str,
        decide_again: DecideAgain,
        key: str | None,
        spooled: bool,
        attended: bool,
        terminal: bool,
    ) -> tuple[str, bool]:
        """Accepts and begins what `body` (an ExecSpec as JSON) asks for. Raises a GatewayError when nothing was run.

        Its id, and whether an earlier request with the same Idempotency-Key had begun it: it runs then, has ended, or
        was cancelled while it waited. `spooled`: it is streamed or detached; `attended`: streamed; `terminal`: by
        exec:terminal. `decide_again` is asked where it has had to wait: for a place, or for another one with its key.
        """
        spec = _parse(body)
        origin.require_permit(vmid, spec, terminal=terminal)
        _check_way(spec, spooled=spooled)
        limits = resolve_limits(spec, self._config, spooled=spooled)
        driver = self._drivers[kind]
        driver.require_supported(spec, vmid, streamed=attended)
        guest = vmid, kind, config_id
        asked = fingerprint(vmid, spec, self._audit.hash, terminal=terminal) if key is not None else ""
        if spooled and not attended:  # who follows it later, by its key too, is not whom it was started for
            spec = spec.model_copy(update={"on_disconnect": OnDisconnect.CONTINUE})
        begin = partial(
            self._begin,
            driver,
            guest,
            spec,
            limits,
            origin,
            attempt,
            decide_again,
            size=len(body),
            spooled=spooled,
            terminal=terminal,
        )
        if key is None:
            await begin()
            return attempt.exec_id, False
        used = await self._keys.reserve(origin.token_id, key, asked)
        if isinstance(used, str):
            self._require_same_guest(self._looking.order(used, origin), config_id)
            return used, True
        with used as reservation:
            await begin(reservation=reservation)
        return attempt.exec_id, False

    def stop(self) -> None:
        """Lets nothing begin any more. Who waits for a place, or for the receipt of its intent, is told that nothing
        of it has run, and so says the record."""
        self._stopped = True
        for waiting in list(self._execs.queued.values()):
            if not waiting.has_its_place:
                refusal = stopping("command")
                self._audit.never_began(waiting.order, refusal.detail)
                waiting.is_told = True
                waiting.refuse(refusal)

    def _require_going_on(self) -> None:
        if self._stopped:
            raise stopping("command")

    def _require_same_guest(self, order: Order, config_id: str) -> None:
        """Raises IdempotencyConflict when the key's exec was of another guest that had this vmid: nothing of that one
        is shown, nor may its outcome pass for this one's."""
        if not self._looking.same_run(order) and order.config_id != config_id:
            raise IdempotencyConflict(
                f"this Idempotency-Key was used for guest {order.vmid} before that was changed or replaced; "
                "look at the guest, then send the request with a new key"
            )

    async def _begin(
        self,
        driver: Driver,
        guest: tuple[int, GuestKind, str],
        spec: ExecSpec,
        limits: Limits,
        origin: Origin,
        attempt: Attempt,
        decide_again: DecideAgain,
        *,
        size: int,
        spooled: bool,
        terminal: bool,
        reservation: Reservation | None = None,
    ) -> None:
        """Waits for a place, asks whether it may begin still, records, and begins. The reservation's key is used as
        soon as a command may run."""
        vmid = guest[0]
        entry = await driver.find(vmid)
        if spec.background is Background.DETACH:
            self._execs.check_room_for_survivors(vmid, self._config.exec.max_survivors)
        order = self._order(
            attempt.exec_id, spec, limits, origin, (*guest, entry.run), spooled, terminal=terminal, key=reservation
        )
        over_default = 0 if spooled else max(0, limits.output_limit - self._config.exec.output_limit)
        self._memory.promise(order.id, 2 * size + 2 * over_default)
        undecided = True
        try:
            self._require_going_on()
            queued = await self._take_place(order, attempt, origin.max_running)
            self.under_way += 1
            try:
                if queued:
                    entry = await driver.find(vmid)
                    order = replace(order, incarnation=entry.run, queued_ms=round(queued * 1000))
                if attempt.is_old(self._io.time()):
                    permit = (await decide_again()).require_permit(vmid, spec, terminal=terminal)
                    order = replace(order, terms=permit.mark)
                undecided = False
                captures = await self._record(order, spec, entry)
            except BaseException:
                self._places.give_back(claim_of(order))
                raise
            finally:
                self.under_way -= 1
        except BaseException as exc:
            self._memory.release(order.id)
            is_told = self._wait_over(order)
            if undecided and attempt.since is not None and not is_told and not isinstance(exc, Withdrawn):
                self._audit.never_began(order, _why_not_begun(exc))
            if not isinstance(exc, Withdrawn):
                raise
            if reservation is not None:
                reservation.confirm(order.id)
            return
        if reservation is not None:
            reservation.confirm(order.id)
        before = self._io.time() - attempt.came
        self._execs.figures.began(order.kind, queued=queued, overhead=before - queued)
        entry.begin(order, spec, captures)
        self._wait_over(order)

    async def _take_place(self, order: Order, attempt: Attempt, most: int | None) -> float:
        """How many seconds it has waited, under an earlier image of this program too. Meanwhile it is `queued`."""
        now = self._io.time

        def wait(turn: Turn) -> None:
            if attempt.since is None:
                attempt.since = now()
            self._execs.queued[order.id] = Queued(order, attempt.since, turn)

        timeout = order.limits.queue_timeout
        if attempt.since is not None:
            timeout = max(0.0, timeout - (now() - attempt.since))
        await self._places.take(claim_of(order)._replace(most=most), timeout, wait)
        return now() - attempt.since if attempt.since is not None else 0.0

    def _wait_over(self, order: Order) -> bool:
        """Whether it is recorded already why nothing came of it."""
        waiting = self._execs.queued.pop(order.id, None)
        if waiting is not None:
            waiting.leave()
        return waiting is not None and waiting.is_told

    async def _record(self, order: Order, spec: ExecSpec, entry: Entry) -> tuple[Capture, Capture]:
        """The exec's own place on disk and in the guest, with its intent durable."""
        intent = self._audit.intent(spec, order)
        self._spool.accept(order)
        receipt = asyncio.ensure_future(self._audit.commit(intent))
        captures: list[Capture] = []
        try:
            await asyncio.sleep(0)  # so that it is on its way
            entry.prepare(order)  # while the disk works
            captures += (self._capture(order, name) for name in STREAMS)
            await receipt
            self._require_going_on()
            entry.check()  # it may have stopped or frozen meanwhile
        except BaseException as exc:
            for capture in captures:
                capture.close()
            self._spool.drop(order.id)
            entry.undo()
            receipt.cancel()  # an intent without a taker is followed by `aborted`
            if receipt.done() and not receipt.cancelled() and receipt.exception() is None:
                self._audit.abort(intent, exc.detail if isinstance(exc, GatewayError) else "its client left")
            raise
        return captures[0], captures[1]

    def _capture(self, order: Order, stream: str) -> Capture:
        limit = order.limits.output_limit
        layout = (Layout.spooled if order.spooled else Layout.in_memory)(limit, order.keep)
        return Capture(limit, layout, self._spool.room(order, stream))

    def _order(
        self,
        exec_id: str,
        spec: ExecSpec,
        limits: Limits,
        origin: Origin,
        guest: tuple[int, GuestKind, str, str],
        spooled: bool,
        *,
        terminal: bool,
        key: Reservation | None,
    ) -> Order:
        vmid, kind, config_id, run = guest
        return Order(
            id=exec_id,
            audit_id=new_audit_id(),
            request_id=origin.request_id,
            vmid=vmid,
            node=self._config.node,
            incarnation=run,
            config_id=config_id,
            token_id=origin.token_id,
            token_name=origin.token_name,
            remote=origin.remote,
            command=trail.shown_command(spec, self._audit.hash),
            labels=spec.labels,
            created_at=timestamp(),
            queued_ms=0,
            limits=limits,
            background=spec.background,
            on_disconnect=spec.on_disconnect if kind is GuestKind.LXC else OnDisconnect.CONTINUE,
            on_limit=spec.output.on_limit,
            placement=spec.placement,
            keep=spec.output.keep,
            spooled=spooled,
            exclusive=spec.exclusive,
            terms=origin.require_permit(vmid, spec, terminal=terminal).mark,
            kind=kind,
            idempotency=key.key if key is not None else None,
            fingerprint=key.fingerprint if key is not None else None,
            terminal=terminal,
        )


def _why_not_begun(exc: BaseException) -> str:
    """For the record of one that had waited."""
    if isinstance(exc, GatewayError):
        return exc.detail[:256]
    return "its client left while it waited, or may not run it any more"


def _check_way(spec: ExecSpec, *, spooled: bool) -> None:
    """Raises InvalidRequest for what only a streamed or detached exec can have."""
    asked = [name for name, wanted in (("tty", spec.tty is not None), ("stdin_open", spec.stdin_open)) if wanted]
    if asked and not spooled:
        errors = [FieldError(name, "needs_stream", "only for a streamed or detached exec").to_json() for name in asked]
        raise InvalidRequest(
            "an answer all at once cannot have this; stream it, or send Prefer: respond-async", errors=errors
        )


def _parse(body: bytes) -> ExecSpec:
    try:
        return ExecSpec.model_validate_json(body)
    except ValidationError as exc:
        raise InternalError("the web sent a request that it should have refused") from exc

"""Changes of containers that PVE allows to root@pam alone: decided again by node policy, recorded, made by pvesh."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gateway.audit.record import Event, build_record, new_audit_id
from gateway.audit.unfinished import UnfinishedChanges
from gateway.config import Config
from gateway.errors import GuestNotFound, NodeNotReady
from gateway.exec.origin import Origin
from gateway.exec.permit import within
from gateway.policy.node import NodePolicy
from gateway.policy.root import RootChange
from gateway.supervisor.audit_trail import AuditTrail
from gateway.supervisor.pvesh import Pvesh, Said

log = logging.getLogger(__name__)

_AT_ONCE = 2  # pvesh takes a second of a processor
_MAX_WAITING = 32
_SET_SECONDS, _CREATE_SECONDS = 30.0, 600.0
_MAX_WORDS = 4096


class RootChanges:
    """A change that has been announced in the audit log is made, and its outcome recorded, whoever waits for it."""

    def __init__(self, io: asyncio.AbstractEventLoop, config: Config, trail: AuditTrail, pvesh: Pvesh) -> None:
        self._io = io
        self._config = config
        self._policy = NodePolicy(config.policy)
        self._trail = trail
        self._pvesh = pvesh
        self._unfinished = UnfinishedChanges(config.pve.changes)
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._working: set[asyncio.Task[dict[str, Any]]] = set()
        self._awaited = 0

    @property
    def under_way(self) -> bool:
        """Whether any is being made, waits for its turn or is being answered: none can be handed to another image."""
        return bool(self._working or self._awaited)

    async def make(self, change: RootChange, origin: Origin) -> dict[str, Any]:
        """What pvesh said: `exit_code` (None: killed after its time), `status`, `words`, `upid`, `audit_id`.

        Raises GuestNotFound beyond the caller's grants, PolicyRefused, NodeNotReady, AuditUnavailable; then nothing was
        done.
        """
        if not within(change.vmid, origin.root_guests) or change.vmid in self._config.guests.protected:
            raise GuestNotFound.for_vmid(change.vmid)
        if change.node != self._config.node:
            raise NodeNotReady(f"this is node {self._config.node}; ask the gateway of {change.node}", missing=["node"])
        self._policy.require(change.describe())
        if len(self._working) >= _MAX_WAITING:
            raise NodeNotReady("as many changes as root@pam are waiting as may; try again", missing=["resources"])
        work = self._io.create_task(self._work(change, origin))
        self._working.add(work)
        work.add_done_callback(self._working.discard)
        self._awaited += 1
        try:
            return await asyncio.shield(work)
        finally:
            self._awaited -= 1

    async def _work(self, change: RootChange, origin: Origin) -> dict[str, Any]:
        async with self._turns:
            audit_id = new_audit_id()
            intent = self._record(Event.GUEST_ROOT_CONFIG, change, origin, audit_id, change.show())
            unfinished = self._unfinished.begin(intent)  # if we are killed, web says that its outcome is unknown
            try:
                await self._trail.commit(intent)
            except BaseException:
                unfinished.close()
                raise
            try:
                said = await self._pvesh.call(change.arguments(), _CREATE_SECONDS if change.create else _SET_SECONDS)
            except OSError as exc:
                said = Said(127, "", f"cannot run pvesh: {exc.strerror}")
            outcome = {
                **_judge(said),
                "exit_code": said.exit_code,
                "status": said.status if said.exit_code else None,
                "words": said.words[:_MAX_WORDS] if said.exit_code != 0 else "",
                "upid": said.upid,
            }
            self._trail.note(self._record(Event.GUEST_OUTCOME, change, origin, audit_id, outcome))
            unfinished.close()
            return {**outcome, "audit_id": audit_id}

    def _record(
        self, event: Event, change: RootChange, origin: Origin, audit_id: str, data: dict[str, Any]
    ) -> dict[str, Any]:
        return build_record(
            event,
            audit_id=audit_id,
            request_id=origin.request_id,
            token_id=origin.token_id,
            token_name=origin.token_name,
            remote=origin.remote,
            action="guest:root-config",
            vmid=change.vmid,
            node=change.node,
            data=data,
        )


def _judge(said: Said) -> dict[str, str]:
    """The outcome's `reason`; none where pvesh has waited for a task, whose end it does not look at (PVE.md)."""
    if said.exit_code is None:
        return {"reason": "unknown"}
    if said.exit_code:
        return {"reason": "failed"}
    return {} if said.upid else {"reason": "ok"}

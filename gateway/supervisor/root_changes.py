"""Changes of containers that PVE allows to root@pam alone: decided again by node policy, recorded, made by pvesh."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gateway.audit.record import Event
from gateway.config import Config
from gateway.errors import GuestNotFound, NodeNotReady
from gateway.exec.origin import Origin
from gateway.exec.permit import within
from gateway.policy.node import NodePolicy
from gateway.policy.root import RootChange
from gateway.supervisor.announced import Announced
from gateway.supervisor.pvesh import Pvesh, Said

log = logging.getLogger(__name__)

_AT_ONCE = 2  # pvesh takes a second of a processor
_MAX_WAITING = 32
_SET_SECONDS, _CREATE_SECONDS = 30.0, 600.0
_MAX_WORDS = 4096


class RootChanges:
    """A change that has been announced in the audit log is made, and its outcome recorded, whoever waits for it."""

    def __init__(self, config: Config, announced: Announced, pvesh: Pvesh) -> None:
        self._config = config
        self._policy = NodePolicy(config.policy)
        self._announced = announced
        self._pvesh = pvesh
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

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
        if self._waiting >= _MAX_WAITING:
            raise NodeNotReady("as many changes as root@pam are waiting as may; try again", missing=["resources"])
        self._waiting += 1
        return await self._announced.finish(self._work(change, origin))

    async def _work(self, change: RootChange, origin: Origin) -> dict[str, Any]:
        try:
            async with self._turns:
                return await self._announced.make(
                    Event.GUEST_ROOT_CONFIG,
                    origin,
                    "guest:root-config",
                    change.vmid,
                    change.node,
                    change.show(),
                    lambda: self._call(change),
                )
        finally:
            self._waiting -= 1

    async def _call(self, change: RootChange) -> dict[str, Any]:
        try:
            said = await self._pvesh.call(change.arguments(), _CREATE_SECONDS if change.create else _SET_SECONDS)
        except OSError as exc:
            said = Said(127, "", f"cannot run pvesh: {exc.strerror}")
        return {
            **_judge(said),
            "exit_code": said.exit_code,
            "status": said.status if said.exit_code else None,
            "words": said.words[:_MAX_WORDS] if said.exit_code != 0 else "",
            "upid": said.upid,
        }


def _judge(said: Said) -> dict[str, str]:
    """The outcome's `reason`; none where pvesh has waited for a task, whose end it does not look at (PVE.md)."""
    if said.exit_code is None:
        return {"reason": "unknown"}
    if said.exit_code:
        return {"reason": "failed"}
    return {} if said.upid else {"reason": "ok"}

"""Changes of containers that PVE allows to root@pam alone: decided again by node policy, recorded, made by pvesh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.audit.record import Event
from gateway.config import Config
from gateway.errors import GuestNotFound, NodeNotReady
from gateway.exec.origin import Origin
from gateway.exec.permit import within
from gateway.policy.node import NodePolicy
from gateway.policy.root import RootChange
from gateway.supervisor.changes.announced import Announced
from gateway.supervisor.changes.pvesh import Pvesh, Said
from gateway.supervisor.limits.stopping import stopping
from gateway.supervisor.limits.turns import Turns

_AT_ONCE = 2  # pvesh takes a second of a processor
_MAX_WAITING = 32
_SET_SECONDS, _CREATE_SECONDS = 30.0, 600.0
_MAX_WORDS = 4096


class RootChanges:
    """A change that has been announced in the audit log is made, and its outcome recorded, whoever waits for it."""

    def __init__(
        self, config: Config, announced: Announced, pvesh: Pvesh, make_way: Callable[[int], Awaitable[None]]
    ) -> None:
        """`make_way`: called with a container's vmid before it is changed, so that nothing of ours is in its way."""
        self._config = config
        self._policy = NodePolicy(config.policy)
        self._announced = announced
        self._pvesh = pvesh
        self._make_way = make_way
        self.turns = Turns(_AT_ONCE, _MAX_WAITING)

    async def make(
        self,
        change: RootChange,
        origin: Origin,
        decide_again: Callable[[], Awaitable[Origin]],
        *,
        has_waited: bool,
        begins: Callable[[], None],
    ) -> dict[str, Any]:
        """What pvesh said: `exit_code` (None: killed after its time), `status`, `words`, `upid`, `audit_id`.

        One that has to wait for its turn, or `has_waited` under an earlier image of this program, is decided again when
        that comes: `decide_again` gives its caller as the token is then. It is made from `begins` on, whoever waits.
        Raises GuestNotFound beyond the caller's grants, PolicyRefused, NodeNotReady, AuditUnavailable, and what
        `decide_again` raises; then nothing was done.
        """
        self._require(change, origin)
        full = NodeNotReady("as many changes as root@pam are waiting as may; try again", missing=["resources"])
        waited = await self.turns.take(full)
        made = None
        try:
            with self._announced.busy():
                if waited or has_waited:
                    origin = await decide_again()
                    self._require(change, origin)
                begins()
                made = self._make(change, origin)
                return await self._announced.finish(made)
        finally:
            if made is None:
                self.turns.give_back()

    def stop(self) -> None:
        """Lets nothing begin any more; who waits is told that nothing was done."""
        self.turns.stop(stopping("change"))

    def _require(self, change: RootChange, origin: Origin) -> None:
        if not within(change.vmid, origin.root_guests) or change.vmid in self._config.guests.protected:
            raise GuestNotFound.for_vmid(change.vmid)
        if change.node != self._config.node:
            raise NodeNotReady(f"this is node {self._config.node}; ask the gateway of {change.node}", missing=["node"])
        self._policy.require(change.describe())

    async def _make(self, change: RootChange, origin: Origin) -> dict[str, Any]:
        try:
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
            self.turns.give_back()

    async def _call(self, change: RootChange) -> dict[str, Any]:
        await self._make_way(change.vmid)
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

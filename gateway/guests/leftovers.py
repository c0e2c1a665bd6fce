"""Leftovers: guests that a process of ours was making when it died. What nobody has touched since is removed."""

from __future__ import annotations

import logging
import threading
from typing import Any

from gateway.errors import GatewayError
from gateway.exec.order import GuestKind
from gateway.guests.trail import Intent, Reason
from gateway.guests.undo import clear_up
from gateway.pve.guests import GuestMap
from gateway.pve.ids import Upid
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve
from gateway.pve.tasks import Task

log = logging.getLogger(__name__)


class Leftovers:
    """Safe in many threads."""

    def __init__(self, pve: Pve, guests: GuestMap) -> None:
        self._pve = pve
        self._guests = guests

    def settle(self, intent: Intent, told: Task | GatewayError) -> None:
        """The task of a change that an earlier process began has ended so, or nobody can tell: records what is known.

        A guest that its task has made, and that was to be whole or not at all, is removed unless it may be in use.
        Never waits: whoever tells this of a task tells of others, too.
        """
        if isinstance(told, Task) and told.ok and intent.is_to_be_whole:
            threading.Thread(target=self._remove, args=(intent, told), name="leftovers", daemon=True).start()
        else:
            intent.end_with(told)

    def _remove(self, intent: Intent, task: Task) -> None:
        try:
            guest = _guest_of(intent.record, task.upid)
            end = clear_up(self._pve, self._guests, guest, task.upid) if guest is not None else None
        except Exception:
            log.exception("what is left of %s is not known", intent.audit_id)
            end = None
        if end is None:
            intent.end_with(task)
            return
        said = "the gateway ended before it was made whole; " + ("nothing of it is left" if end.clean else end.why)
        intent.end(Reason.FAILED, upid=str(task.upid), words=said[:256], undone=end.clean)


def _guest_of(record: Any, maker: Upid) -> GuestRef | None:
    """The guest that was made; None where its node is not the task's: what has touched it since is not known here."""
    vmid, node = record.get("vmid"), record.get("node")
    if type(vmid) is not int or node != maker.node:
        return None
    return GuestRef(vmid, GuestKind.LXC if maker.type.startswith("vz") else GuestKind.QEMU, maker.node)

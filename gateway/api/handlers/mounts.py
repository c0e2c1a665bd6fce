"""The mount points of containers: given, as devices are."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from gateway.api.call import Call, Reply
from gateway.api.handlers.devices import require_container
from gateway.api.handlers.passing import giver_of, giving, require_power, tell
from gateway.api.models.devices import MountRequest
from gateway.api.services import Services
from gateway.auth.actions import Action
from gateway.errors import FieldError, Forbidden, InvalidRequest
from gateway.exec.reply import Found
from gateway.guests.giving import Gift
from gateway.policy.change import GuestChange, describe_options
from gateway.pve.models import GuestRef


def describe_mount(services: Services, call: Call) -> GuestChange:
    """For node policy: the directory of the node, or the new volume."""
    guest = require_container(services, call, call.vmid)
    return describe_options(guest.vmid, {"mp0": _value(services, guest, call.body)}, whole=False)


def give_mount(services: Services, call: Call) -> Reply:
    """Gives it as a free `mp[n]`, and looks whether the guest has it; what fails is taken back."""
    asked: MountRequest = call.body
    guest = require_container(services, call, call.vmid)
    action = Action.GUEST_ROOT_CONFIG
    if asked.source is not None and call.actor.decide(action, guest.vmid) is not None:
        raise Forbidden(
            f"PVE lets root@pam alone give directories of the node, and this token may not {action} in this guest; "
            "see GET /tokens/self for what it may",
            action=action,
            vmid=guest.vmid,
        )
    require_power(call, starts=asked.restart)
    gift = Gift(
        "mp",
        asked.path,
        _value(services, guest, asked),
        compare_directory(asked.source),
        for_root=asked.source is not None,
    )
    return tell(guest, giving(services).give(giver_of(call), guest, [gift], restart=asked.restart))


def _value(services: Services, guest: GuestRef, asked: MountRequest) -> str:
    """As PVE's option; a new volume is made where the root's is unless its storage is named."""
    if asked.source is not None or asked.storage is not None:
        return asked.value("")
    root = services.pve.guests.config(guest, pending=False).options.get("rootfs", "")
    return asked.value(root.removeprefix("volume=").partition(":")[0])


def compare_directory(source: str | None) -> Callable[[Found], str | None]:
    """What is wrong with a place in the guest that is to be `source`, a directory of the node; None: a new volume.
    Raises InvalidRequest where that cannot be looked at."""
    wanted = None if source is None else _look(source)

    def differs(found: Found) -> str | None:
        if found.error:
            return "nothing is there"
        if not stat.S_ISDIR(found.mode):
            return "no directory, but something else"
        there = os.makedev(found.file_system_major, found.file_system_minor), found.inode
        same = wanted is None or there == (wanted.st_dev, wanted.st_ino)
        return None if same else "another directory is there"

    return differs


def _look(source: str) -> os.stat_result:
    """The directory of the node, which node policy has looked at before. Raises InvalidRequest if it is gone."""
    try:
        return os.stat(source)
    except OSError as exc:
        wrong = FieldError("source", "no_directory", f"the node cannot look at it: {exc.strerror}")
        raise InvalidRequest("some fields cannot be taken; see `errors`", errors=[wrong.to_json()]) from exc

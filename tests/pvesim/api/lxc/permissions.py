"""Who may change which key of a container's configuration: check_ct_modify_config_perm (PVE/LXC.pm)."""

import re
from collections.abc import Mapping
from typing import Any

from tests.pvesim.api import storages
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die, forbid
from tests.pvesim.api.lxc import properties
from tests.pvesim.api.privileges import may, require, require_for_vm

_PRIVILEGE = {
    **dict.fromkeys(("cores", "cpuunits", "cpulimit"), "VM.Config.CPU"),
    **dict.fromkeys(("memory", "swap"), "VM.Config.Memory"),
    **dict.fromkeys(("nameserver", "searchdomain", "hostname"), "VM.Config.Network"),
}
NEW_VOLUME = re.compile(r"([^:\s]+):(\d+(\.\d+)?)")


def check_changes(
    call: Call, old: GuestConfig | None, changes: Mapping[str, Any], delete: list[str], *,
    unprivileged: bool, pool: str | None = None,
) -> None:  # fmt: skip
    """Raises Failure(403), in PVE's words, for the first key that the caller may not change. root@pam may all."""
    if call.is_root:
        return
    for key, value in [*changes.items(), *((key, None) for key in delete)]:
        _check_one(call, old, key, None if value is None else str(value), unprivileged, pool)


def check_volume_access(call: Call, volume_id: str, content: str) -> None:
    """PVE::Storage::check_volume_access: may the caller make use of a template, a backup or another's volume."""
    if ":" not in volume_id or volume_id.startswith("/"):
        if not call.is_root:
            die("Only root can pass arbitrary filesystem paths.")
        return
    volume, on = storages.parse(volume_id), f"/storage/{volume_id.partition(':')[0]}"
    kind = "images" if content == "rootdir" and volume.type == "images" else content
    if volume.type != kind:
        die(f"unable to use volume {volume_id} - content type needs to be '{content}'")
    if may(call.user, on, "Datastore.Allocate"):
        return
    if volume.type in ("import", "iso", "vztmpl"):
        require(call.user, on, "Datastore.AllocateSpace", "Datastore.Audit", any_of=True)
    elif volume.type == "backup":
        require(call.user, on, "Datastore.AllocateSpace")
        require(call.user, f"/vms/{volume.owner}", "VM.Backup")
    elif volume.owner != call.get("vmid"):
        require(call.user, on, "Datastore.Audit")
        require(call.user, f"/vms/{volume.owner}", "VM.Config.Disk")


def _check_one(
    call: Call, old: GuestConfig | None, key: str, value: str | None, unprivileged: bool, pool: str | None
) -> None:
    def need(*privileges: str) -> None:
        require_for_vm(call.user, call.vmid, pool, *privileges)

    if properties.is_mount_key(key):
        need("VM.Config.Disk")
        if value is not None:
            _check_mount(call, key, value)
    elif re.fullmatch(r"net\d+", key):
        need("VM.Config.Network")
        for text in (old.get(key) if old else "", value or ""):
            if text:
                check_bridge(call, text)
    elif re.fullmatch(r"dev\d+", key):
        forbid("configuring device passthrough is only allowed for root@pam")
    elif key == "hookscript":
        forbid("changing the hookscript is only allowed for root@pam")
    elif key == "features":
        _check_features(old.get(key) if old else "", value or "", unprivileged)
        need("VM.Allocate")
    elif key == "tags":
        need("VM.Config.Options")
    else:
        need(_PRIVILEGE.get(key, "VM.Config.Options"))


def check_bridge(call: Call, net: str) -> None:
    """check_bridge_access: SDN.Use on the bridge."""
    parts = properties.parse("net0", net)
    if "bridge" in parts:
        tag = f"/{parts['tag']}" if "tag" in parts else ""
        require(call.user, f"/sdn/zones/localnetwork/{parts['bridge']}{tag}", "SDN.Use")


def _check_mount(call: Call, key: str, value: str) -> None:
    point = properties.MountPoint(key, properties.parse(key, value))
    if point.type != "volume":
        forbid(f"mount point type {point.type} is only allowed for root@pam")
    new = NEW_VOLUME.fullmatch(point.volume)
    if new:
        require(call.user, f"/storage/{new[1]}", "Datastore.AllocateSpace")
    else:
        check_volume_access(call, point.volume, "rootdir")


def _check_features(old: str, new: str, unprivileged: bool) -> None:
    if not unprivileged:
        forbid("changing feature flags for privileged container is only allowed for root@pam")
    before, after = (properties.parse("features", text) if text else {} for text in (old, new))
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    if changed - {"nesting"}:
        forbid("changing feature flags (except nesting) is only allowed for root@pam")

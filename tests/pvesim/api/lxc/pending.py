"""Changes of a container's configuration: queued as pending, then applied at once where PVE can (LXC/Config.pm).

A stopped container takes all of them at once, a running one those that can be hot-plugged; the rest waits in
`[pve:pending]` for its next start.
"""

import secrets
import shutil

from tests.pvesim import config
from tests.pvesim.api import storages, volumes
from tests.pvesim.api.call import Parameters
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.formats import print_size
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.lxc import hotplug, properties

# $LXC_FASTPLUG_OPTIONS, and what vmconfig_hotplug_pending does something for.
_FAST = {"description", "onboot", "startup", "protection", "hostname", "hookscript", "cores", "tags"}
_HOT = {"cpulimit", "cpuunits", "memory", "swap"}
_REQUIRED = {"memory", "rootfs", "ostype"}


def queue(store: Store, guest: GuestConfig, changes: Parameters, delete: list[str], revert: list[str]) -> set[str]:
    """Write the wishes into `pending`; the keys they are about. Raises Failure."""
    vmid = store.vmid
    for key in revert:
        guest.pending.pop(key, None)
        guest.unmark_deleted(key)
    touched: set[str] = set()
    for key in delete:
        if key not in guest.values and key not in guest.pending:
            print(f"cannot delete '{key}' - not set in current configuration!")
            continue
        if key in _REQUIRED:
            die(f"unable to delete required option '{key}'")
        if key == "unprivileged":
            die("unable to delete read-only option: 'unprivileged'")
        if properties.is_mount_key(key) or key.startswith("unused"):
            store.check_protection(guest, f"can't remove CT {vmid} drive '{key}'")
        guest.mark_deleted(key)
        touched.add(key)
    for key, value in sorted(changes.items()):
        if key == "unprivileged":
            die("unable to modify read-only option: 'unprivileged'")
        if properties.is_mount_key(key):
            store.check_protection(guest, f"can't update CT {vmid} drive '{key}'")
            _check_content(key, str(value))
        guest.pending[key] = _normalize(key, str(value))
        guest.unmark_deleted(key)
        touched.add(key)
    for key in [key for key, value in guest.pending.items() if guest.values.get(key) == value]:
        del guest.pending[key]
    for key in [key for key in guest.pending_delete if key not in guest.values]:  # cleanup_pending
        guest.unmark_deleted(key)
    return touched


def apply(guest: GuestConfig, vmid: int | None = None, only: set[str] | None = None, *, running: bool = False) -> None:
    """Take what is pending, or `only` these keys of it, over; with `running` what can be hot-plugged."""
    for key in guest.pending_delete:
        if (only is None or key in only) and (not running or _can_plug(guest, key, is_deleted=True)):
            _drop(guest, key)
            guest.unmark_deleted(key)
    for key in sorted(set(guest.pending) - {"delete"}):
        if (only is None or key in only) and (not running or _can_plug(guest, key, is_deleted=False)):
            value = guest.pending.pop(key)
            guest.values[key] = make_volume(vmid, guest, key, value) if properties.is_mount_key(key) else value
            if running and vmid is not None and (properties.is_mount_key(key) or key.startswith("dev")):
                _plug(vmid, guest, key)


def make_volume(vmid: int | None, guest: GuestConfig, key: str, value: str) -> str:
    """A mount point's text with a real volume: `local-lvm:8` asks for a new one of 8 GiB."""
    point = properties.MountPoint(key, properties.parse(key, value))
    storage_id, _, size = point.volume.partition(":")
    if point.type != "volume" or not size.replace(".", "", 1).isdigit():
        return value
    storage = storages.find(storage_id)
    wanted = int(float(size) * (1 << 30))
    made = volumes.allocate(storage, vmid or 0, wanted)
    if guest.get("unprivileged") == "1":
        shutil.chown(volumes.tree(made), config.UID_SHIFT, config.UID_SHIFT)
    return point.with_volume(made, print_size(wanted))


def _normalize(key: str, value: str) -> str:
    if key[:3] == "net" and key[3:].isdigit():
        net = {"type": "veth", **properties.parse(key, value)}
        net.setdefault("hwaddr", random_mac())
        return properties.print_parts(net)
    if key == "tags":
        words = [word.lower() for word in value.replace(",", ";").replace(" ", ";").split(";") if word]
        return ";".join(sorted(set(words)))
    return value


def random_mac() -> str:
    """With the prefix that PVE 8 and later use."""
    return ":".join(["BC", "24", "11", *(f"{byte:02X}" for byte in secrets.token_bytes(3))])


def _can_plug(guest: GuestConfig, key: str, *, is_deleted: bool) -> bool:
    if key in _FAST or key in _HOT or key.startswith(("net", "unused")):
        return not (is_deleted and key == "memory")
    if properties.is_mount_key(key) or key.startswith("dev"):
        return not is_deleted and key not in guest.values
    return False


def _plug(vmid: int, guest: GuestConfig, key: str) -> None:
    """Raises Failure(400), before anything is written, as PVE's API does for what cannot be hot-plugged."""
    try:
        hotplug.plug(vmid, guest, key)
    except OSError as error:
        refuse({key: f"unable to hotplug {key}: {error.strerror}"})


def _drop(guest: GuestConfig, key: str) -> None:
    value = guest.values.pop(key, None)
    if value is None:
        return
    if properties.is_mount_key(key):
        point = properties.MountPoint(key, properties.parse(key, value))
        if point.type == "volume":
            free = next(number for number in range(256) if f"unused{number}" not in guest.values)
            guest.values[f"unused{free}"] = point.volume
    elif key.startswith("unused"):
        volumes.free(value)


def _check_content(key: str, value: str) -> None:
    point = properties.MountPoint(key, properties.parse(key, value))
    if point.type == "volume":
        name = point.volume.partition(":")[0]
        if "rootdir" not in storages.find(name).content:
            die(f"storage '{name}' does not allow content type 'rootdir' (Container)")

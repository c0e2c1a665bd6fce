"""Changes of a machine's configuration: what a running one takes at once, and what waits (PVE/QemuServer.pm)."""

import hashlib
import re

from tests.pvesim.api import storages, volumes
from tests.pvesim.api.call import Parameters
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die
from tests.pvesim.api.formats import parse_size, print_size
from tests.pvesim.api.lxc.pending import random_mac

_FAST = {
    *("name", "description", "onboot", "protection", "startup", "shares", "hookscript", "tags", "vmstatestorage"),
    *("agent", "hotplug", "lock"),
}
DRIVE = re.compile(r"(ide|sata|scsi|virtio|efidisk|tpmstate)\d+")
NEW_DISK = re.compile(r"([^:,\s]+):(\d+(\.\d+)?|cloudinit)((?:,.*)?)")


def queue(guest: GuestConfig, changes: Parameters, delete: list[str], revert: list[str]) -> set[str]:
    """Write the wishes into `pending`; the keys they are about."""
    for key in revert:
        guest.pending.pop(key, None)
        guest.unmark_deleted(key)
    for key in delete:
        if key in guest.values or key in guest.pending:
            guest.mark_deleted(key)
    for key, value in changes.items():
        guest.pending[key] = _normalize(key, str(value))
        guest.unmark_deleted(key)
    for key in [key for key, value in guest.pending.items() if guest.values.get(key) == value]:
        del guest.pending[key]
    return {*changes, *delete}


def apply(guest: GuestConfig, vmid: int = 0, only: set[str] | None = None, *, running: bool = False) -> None:
    """Take what is pending over; with `running` what is hot-plugged by default: networks and disks that are new."""
    for key in guest.pending_delete:
        if (only is None or key in only) and (not running or _can_plug(guest, key)):
            value = guest.values.pop(key, None)
            guest.unmark_deleted(key)
            if value and DRIVE.fullmatch(key) and not value.startswith("none"):
                free = next(number for number in range(256) if f"unused{number}" not in guest.values)
                guest.values[f"unused{free}"] = value.partition(",")[0]
            elif value and key.startswith("unused"):
                volumes.free(value)
    for key in sorted(set(guest.pending) - {"delete"}):
        if (only is None or key in only) and (not running or _can_plug(guest, key)):
            value = guest.pending.pop(key)
            guest.values[key] = make_disk(vmid, value) if DRIVE.fullmatch(key) else value


def make_disk(vmid: int, value: str) -> str:
    """A drive's text with a real volume: `local-lvm:8` asks for a new one of 8 GiB, `local-lvm:cloudinit` for the drive
    that cloud-init reads, and `local-lvm:0,import-from=...` for a copy of an image, as large as that is."""
    found = NEW_DISK.fullmatch(value)
    if found is None:
        return value
    storage = storages.find(found[1])
    if "images" not in storage.content:
        die(f"storage '{storage.id}' does not support vm images")
    if found[2] == "cloudinit":
        volume = volumes.allocate(storage, vmid, 4 << 20, name=f"vm-{vmid}-cloudinit", suffix="qcow2")
        return f"{volume},media=cdrom,size=4M"
    parts = [part for part in found[4].split(",") if part]
    image = next((part.partition("=")[2] for part in parts if part.startswith("import-from=")), None)
    size = volumes.size_of_image(image) if image else int(float(found[2]) * (1 << 30))
    left = [part for part in parts if not part.startswith("import-from=")]
    return ",".join([volumes.allocate(storage, vmid, size), *left, f"size={print_size(size)}"])


def disks(values: dict[str, str]) -> dict[str, str]:
    """The volume of each drive that has one."""
    drives = {key: value.partition(",")[0] for key, value in values.items() if DRIVE.fullmatch(key)}
    return {
        key: volume
        for key, volume in drives.items()
        if ":" in volume and "/iso/" not in volume and ":iso/" not in volume
    }


def size_of(value: str) -> int:
    found = re.search(r"size=([^,]+)", value)
    return parse_size(found[1]) if found else 0


def _normalize(key: str, value: str) -> str:
    if key[:3] == "net" and key[3:].isdigit():
        model, _, rest = value.partition(",")
        return f"{model}={random_mac()},{rest}".rstrip(",") if "=" not in model else value
    if key == "cipassword":
        return "$5$" + hashlib.sha256(value.encode()).hexdigest()
    if key == "tags":
        return ";".join(sorted({word.lower() for word in re.split(r"[;,\s]+", value) if word}))
    return value


def _can_plug(guest: GuestConfig, key: str) -> bool:
    return (
        key in _FAST
        or key[:3] == "net"
        or key.startswith("unused")
        or (DRIVE.fullmatch(key) is not None and key not in guest.values)
    )

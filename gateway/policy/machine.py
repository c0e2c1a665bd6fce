"""What a virtual machine's configuration takes of the node: read off its options, as change.py does for containers."""

from __future__ import annotations

import re

from gateway.policy.change import GuestChange, Options

# Of qemu-server's configurations: what gives nothing of the node away. Not here: args, hostpci, usb, parallel, rng0,
# virtiofs, cicustom, ivshmem, and whatever comes later.
_HARMLESS = frozenset((
    "acpi", "affinity", "agent", "allow-ksm", "amd-sev", "arch", "audio0", "autostart", "balloon", "bios", "boot",
    "bootdisk", "cdrom", "cipassword", "citype", "ciupgrade", "ciuser", "cores", "cpu", "cpulimit", "cpuunits",
    "description", "digest", "freeze", "hotplug", "hugepages", "ipconfig[n]", "keephugepages", "keyboard", "kvm",
    "localtime", "lock", "machine", "memory", "meta", "migrate_downtime", "migrate_speed", "name", "nameserver",
    "net[n]", "numa", "numa[n]", "onboot", "ostype", "parent", "pool", "protection", "reboot", "scsihw",
    "searchdomain", "shares", "smbios1", "smp", "snaptime", "sockets", "spice_enhancements", "sshkeys", "startdate",
    "startup", "tablet", "tags", "tdf", "template", "vcpus", "vga", "vmgenid", "vmstate", "vmstatestorage", "watchdog",
))  # fmt: skip
_DISK = re.compile(r"(?:ide|sata|scsi|virtio)[0-9]{1,2}|efidisk0|tpmstate0|unused[0-9]{1,3}|vmstate")
_IMAGE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*:iso/[^,/]+")
_NUMBERED = re.compile(r"[0-9]{1,3}$")


def describe_machine(vmid: int, options: Options) -> GuestChange:
    """The change that giving a machine these options would be: its disks as mounts, and all that is not known as
    harmless by its name."""
    mounts: list[str] = []
    raw_keys: list[str] = []
    for name, value in options.items():
        first = str(value).partition(",")[0].removeprefix("file=").removeprefix("volume=")
        if name in ("unprivileged", "hookscript"):
            continue
        if name == "cdrom" or _DISK.fullmatch(name):
            if first != "none" and not _IMAGE.fullmatch(first):
                mounts.append(first)
        elif re.fullmatch(r"serial[0-3]", name) and first == "socket":
            continue
        elif name not in _HARMLESS and _NUMBERED.sub("[n]", name) not in _HARMLESS:
            raw_keys.append(name)
    hookscript = options.get("hookscript")
    return GuestChange(
        vmid=vmid,
        mounts=tuple(mounts),
        hookscript=str(hookscript) if hookscript is not None else None,
        raw_keys=tuple(raw_keys),
    )

"""What a virtual machine's configuration takes of the node: read off its options, as change.py does for containers."""

from __future__ import annotations

import re

from gateway.policy.change import GuestChange, Options, read_property

# Of qemu-server's configurations, and of what makes one of a backup: what gives nothing of the node away. Not here:
# args, hostpci, usb, parallel, rng0, virtiofs, cicustom, ivshmem, and whatever comes later.
_HARMLESS = frozenset((
    "acpi", "affinity", "agent", "allow-ksm", "amd-sev", "arch", "audio0", "autostart", "balloon", "bios", "boot",
    "bootdisk", "cdrom", "cipassword", "citype", "ciupgrade", "ciuser", "cores", "cpu", "cpulimit", "cpuunits",
    "description", "digest", "freeze", "hotplug", "hugepages", "ipconfig[n]", "keephugepages", "keyboard", "kvm",
    "localtime", "lock", "machine", "memory", "meta", "migrate_downtime", "migrate_speed", "name", "nameserver",
    "net[n]", "numa", "numa[n]", "onboot", "ostype", "parent", "pool", "protection", "reboot",
    "running-nets-host-mtu", "runningcpu", "runningmachine", "scsihw",
    "searchdomain", "shares", "smbios1", "smp", "snaptime", "sockets", "spice_enhancements", "sshkeys", "startdate",
    "startup", "storage", "tablet", "tags", "tdf", "template", "unique", "vcpus", "vga", "vmgenid", "vmstate",
    "vmstatestorage", "watchdog",
))  # fmt: skip
# PVE::QemuServer::Drive, all formats together.
_DISK_KEYS = frozenset((
    "aio", "backup", "bps", "bps_max_length", "bps_rd", "bps_rd_length", "bps_rd_max_length", "bps_wr",
    "bps_wr_length", "bps_wr_max_length", "cache", "cyls", "detect_zeroes", "discard", "efitype", "file", "format",
    "heads", "import-from", "iops", "iops_max", "iops_max_length", "iops_rd", "iops_rd_length", "iops_rd_max",
    "iops_rd_max_length", "iops_wr", "iops_wr_length", "iops_wr_max", "iops_wr_max_length", "iothread", "mbps",
    "mbps_max", "mbps_rd", "mbps_rd_max", "mbps_wr", "mbps_wr_max", "media", "model", "ms-cert", "pre-enrolled-keys",
    "product", "queues", "replicate", "rerror", "ro", "scsiblock", "secs", "serial", "shared", "size", "snapshot",
    "ssd", "trans", "vendor", "version", "werror", "wwn",
))  # fmt: skip
_DISK_ALIASES = {"volume": "file"}
_DISK = re.compile(r"(?:ide|sata|scsi|virtio)[0-9]{1,2}|efidisk0|tpmstate0|unused[0-9]{1,3}|vmstate")
_CLOUD_INIT = re.compile(r"[A-Za-z][A-Za-z0-9._-]*:cloudinit")  # made anew
_CD = re.compile(r"[A-Za-z][A-Za-z0-9._-]*:iso/.+")
_SOURCE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*:(?:iso|import)/.+")
_NETWORK = re.compile(r"net[0-9]{1,2}")
_BRIDGE = re.compile(r"(?:^|,)bridge=[A-Za-z0-9]")
_NUMBERED = re.compile(r"[0-9]{1,3}$")


def describe_machine(vmid: int, options: Options) -> GuestChange:
    """The change that giving a machine these options would be: its disks, and what is copied into them, as mounts or
    images, and all that is not known as harmless by its name. Raises PolicyRefused for what cannot be read for
    certain."""
    mounts: list[str] = []
    images: list[str] = []
    raw_keys: list[str] = []
    for name, value in options.items():
        if name in ("unprivileged", "hookscript"):
            continue
        if name == "cdrom" or _DISK.fullmatch(name):
            parts = read_property(name, value, "file", _DISK_KEYS, _DISK_ALIASES)
            file, source = parts["file"], parts.get("import-from")
            if file != "none" and not _CLOUD_INIT.fullmatch(file):
                is_cd = name == "cdrom" or parts.get("media") == "cdrom"  # a disk would be written to
                (images if is_cd and _CD.fullmatch(file) else mounts).append(file)
            if source is not None:
                (images if _SOURCE.fullmatch(source) else mounts).append(source)
        elif re.fullmatch(r"serial[0-3]", name) and value == "socket":
            continue
        elif _NETWORK.fullmatch(name) and not _BRIDGE.search(str(value)):
            raw_keys.append(name)  # QEMU's own network, where 10.0.2.2 is the node's loopback
        elif name not in _HARMLESS and _NUMBERED.sub("[n]", name) not in _HARMLESS:
            raw_keys.append(name)
    hookscript = options.get("hookscript")
    return GuestChange(
        vmid=vmid,
        mounts=tuple(mounts),
        images=tuple(images),
        hookscript=str(hookscript) if hookscript is not None else None,
        raw_keys=tuple(raw_keys),
    )

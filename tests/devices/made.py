"""A /dev and a /sys as a node with a graphics card, a USB stick and a disk has them: device nodes are real ones."""

from __future__ import annotations

import os
import stat
from pathlib import Path

RENDER, CARD, DISK, STICK = (226, 128), (226, 0), (8, 0), (189, 4)
VIDEO_GID = 44  # Debian's base-passwd


def make_dev(dev: Path) -> None:
    """Needs root and a file system that takes device nodes; nothing of this machine is behind their numbers."""
    dev.mkdir()
    dev.chmod(0o755)
    for place in ("dri/by-path", "disk/by-id", "bus/usb/001", "shm", "net"):
        (dev / place).mkdir(parents=True)
    (dev / "shm").chmod(0o1777)
    make_node(dev / "dri/renderD128", *RENDER, gid=VIDEO_GID)
    make_node(dev / "dri/card0", *CARD, gid=VIDEO_GID)
    make_node(dev / "sda", *DISK, gid=6, block=True)
    make_node(dev / "bus/usb/001/005", *STICK, mode=0o664)
    make_node(dev / "null", 1, 3, mode=0o666)
    make_node(dev / "net/tun", 10, 200, mode=0o666)
    make_node(dev / "shm/null", 1, 3, mode=0o666)
    (dev / "dri/by-path/pci-0000:00:02.0-render").symlink_to("../renderD128")
    (dev / "disk/by-id/ata-DISK_1").symlink_to("../../sda")
    (dev / "far").symlink_to("/dev/dri/renderD128")
    (dev / "out").symlink_to("/etc/shadow")
    (dev / "up").symlink_to("../etc/shadow")
    (dev / "around").symlink_to("dri/../dri/./card0")
    (dev / "round").symlink_to("round")
    (dev / "file").write_text("")
    os.mkfifo(dev / "fifo")


def make_node(path: Path, major: int, minor: int, *, gid: int = 0, mode: int = 0o660, block: bool = False) -> None:
    os.mknod(path, (stat.S_IFBLK if block else stat.S_IFCHR) | mode, os.makedev(major, minor))
    path.chmod(mode)
    os.chown(path, 0, gid)


def make_sys(sys: Path) -> None:
    """Attributes as the kernel has them."""
    gpu = sys / "devices/pci0000:00/0000:00:02.0"
    stick = sys / "devices/pci0000:00/0000:00:14.0/usb1/1-1"
    disk = sys / "devices/pci0000:00/0000:00:17.0/ata1/host0/target0:0:0/0:0:0:0"
    (sys / "bus/pci").mkdir(parents=True)
    for place, attributes in (
        (gpu, {"vendor": "0x8086\n", "device": "0x56a0\n"}),
        (gpu / "drm/renderD128", {}),
        (stick.parents[1], {"vendor": "0x8086\n", "device": "0xa0ed\n"}),
        (stick, {"idVendor": "0403\n", "idProduct": "6001\n", "manufacturer": "FT\x1b[31mDI\n", "product": "UART\n"}),
        (disk.parents[3], {"vendor": "0x8086\n", "device": "0xa0d3\n"}),
        (disk, {"vendor": "ATA     \n", "model": "Samsung SSD 870 \n"}),
        (disk / "block/sda", {}),
    ):
        place.mkdir(parents=True, exist_ok=True)
        for name, text in attributes.items():
            (place / name).write_text(text)
    (gpu / "subsystem").symlink_to(sys / "bus/pci")
    (disk / "block/sda/device").symlink_to("../../../0:0:0:0")
    for kind, number, target in (
        ("char", RENDER, gpu / "drm/renderD128"),
        ("char", STICK, stick),
        ("block", DISK, disk / "block/sda"),
    ):
        link = sys / "dev" / kind / f"{number[0]}:{number[1]}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

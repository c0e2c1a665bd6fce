"""What a device is for, by its name in /dev: what people give to guests, and all the rest."""

from __future__ import annotations

import re
from enum import StrEnum


class Kind(StrEnum):
    """What a device is for."""

    DRM = "drm"
    NVIDIA = "nvidia"
    KFD = "kfd"
    ACCEL = "accel"
    USB = "usb"
    SERIAL = "serial"
    TUN = "tun"
    FUSE = "fuse"
    KVM = "kvm"
    INPUT = "input"
    SOUND = "sound"
    VIDEO = "video"
    DISK = "disk"
    OTHER = "other"


# The kernel's Documentation/admin-guide/devices.txt, and the names that drivers and udev's rules give.
_NAMES: tuple[tuple[Kind, str], ...] = (
    (Kind.DRM, r"dri/(?:card|renderD|controlD)[0-9]+"),
    (Kind.NVIDIA, r"nvidia(?:[0-9]+|ctl|-modeset|-uvm|-uvm-tools|-nvlink|-nvswitch.*|-vgpu.*)|nvidia-caps/.+"),
    (Kind.KFD, r"kfd"),
    (Kind.ACCEL, r"accel/.+|apex_[0-9]+"),
    (Kind.USB, r"bus/usb/[0-9]{3}/[0-9]{3}|usb/.+"),
    (Kind.SERIAL, r"tty(?:S|USB|ACM|AMA|XRUSB|O|SC|MXUSB|mxc)[0-9]+"),
    (Kind.TUN, r"net/(?:tun|tap)|tap[0-9]+"),
    (Kind.FUSE, r"fuse"),
    (Kind.KVM, r"kvm"),
    (Kind.INPUT, r"input/.+|uinput|hidraw[0-9]+"),
    (Kind.SOUND, r"snd/.+"),
    (Kind.VIDEO, r"(?:video|media|v4l-subdev|cec|vbi|radio)[0-9]+|dvb/.+"),
)
_KNOWN = tuple((kind, re.compile(pattern)) for kind, pattern in _NAMES)

LINKS: dict[Kind, tuple[str, ...]] = {
    Kind.DRM: ("dri/by-path",),
    Kind.SERIAL: ("serial/by-id", "serial/by-path"),
    Kind.INPUT: ("input/by-id", "input/by-path"),
    Kind.SOUND: ("snd/by-id", "snd/by-path"),
    Kind.VIDEO: ("v4l/by-id", "v4l/by-path"),
    Kind.DISK: ("disk/by-id", "disk/by-path", "disk/by-uuid", "disk/by-label", "disk/by-partuuid", "disk/by-partlabel"),
}
"""Where udev keeps the names that stay the same over reboots."""


def kind_of(name: str, *, block: bool) -> Kind:
    """`name`: the node's own, below /dev."""
    if block:
        return Kind.DISK
    return next((kind for kind, pattern in _KNOWN if pattern.fullmatch(name)), Kind.OTHER)

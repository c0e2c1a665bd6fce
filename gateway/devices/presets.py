"""Presets: the devices that belong together, by one word: `gpu`, `tun`, `fuse`, `usb:VENDOR:PRODUCT`."""

from __future__ import annotations

import re

from gateway.devices.kinds import Kind
from gateway.devices.sysfs import Sysfs
from gateway.devices.tree import DeviceTree
from gateway.errors import DeviceNotFound

PATTERN = r"^(?:gpu|tun|fuse|usb:[0-9a-f]{4}:[0-9a-f]{4})$"
OPEN_TO_ALL = {"tun": 0o666, "fuse": 0o666}
"""The modes that udev gives these two everywhere: the kernel itself checks who may do what with them."""

_PATHS = {"tun": "/dev/net/tun", "fuse": "/dev/fuse"}
_GPU = (Kind.DRM, Kind.KFD, Kind.NVIDIA)


def preset_paths(tree: DeviceTree, sysfs: Sysfs, preset: str) -> list[str]:
    """The devices that a preset is on this node, at this moment. Raises DeviceNotFound where it has none of them.

    A USB device has another number each time it is plugged in: it is given as what it is now.
    """
    if preset in _PATHS:
        return [_PATHS[preset]]
    if preset == "gpu":
        found = [node.path for node in tree.nodes() if node.kind in _GPU and not re.search("/controlD", node.path)]
    else:
        _, vendor, product = preset.split(":")
        found = [
            node.path
            for node in tree.nodes()
            if node.kind is Kind.USB
            and ((it := sysfs.hardware(node.major, node.minor, block=False)).vendor, it.product) == (vendor, product)
        ]
    if not found:
        raise DeviceNotFound(f"this node has no device for `{preset}`; see GET /devices", preset=preset)
    return sorted(found)

"""Who made a device: its vendor and product as the kernel's sysfs tells them, by the number of the device."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_MAX_UP, _MAX_BYTES, _MAX_TEXT = 12, 256, 120
_ID = re.compile(r"0x([0-9a-f]{4})")
_USB_ID = re.compile(r"[0-9a-f]{4}")


@dataclass(frozen=True)
class Hardware:
    """`vendor` and `product` are four hexadecimal digits, by the ids of `bus` (`pci`, `usb`, `virtio`); all None where
    no hardware is behind a device, or sysfs does not tell."""

    bus: str | None = None
    vendor: str | None = None
    product: str | None = None
    model: str | None = None


NOTHING = Hardware()


class Sysfs:
    """What stands in the directory that is /sys to everybody else."""

    def __init__(self, sys: Path) -> None:
        self._sys = sys

    def hardware(self, major: int, minor: int, *, block: bool) -> Hardware:
        """What is behind the device. One that vanishes meanwhile is nothing.

        The nearest parent that has ids counts; above a disk only USB's, for there comes its controller.
        """
        top = os.path.realpath(self._sys / "devices")
        place = os.path.realpath(self._sys / "dev" / ("block" if block else "char") / f"{major}:{minor}")
        model = _join(_text(f"{place}/device/vendor"), _text(f"{place}/device/model")) if block else None
        for _ in range(_MAX_UP):
            if not place.startswith(f"{top}/"):
                break
            vendor, product = _text(f"{place}/idVendor"), _text(f"{place}/idProduct")
            if vendor and product and _USB_ID.fullmatch(vendor) and _USB_ID.fullmatch(product):
                name = model or _join(_text(f"{place}/manufacturer"), _text(f"{place}/product"))
                return Hardware("usb", vendor, product, name)
            ids = _ID.fullmatch(_text(f"{place}/vendor") or ""), _ID.fullmatch(_text(f"{place}/device") or "")
            if ids[0] and ids[1] and not block:
                return Hardware(_bus(place), ids[0][1], ids[1][1], None)
            place = os.path.dirname(place)
        return Hardware(model=model)


def _bus(place: str) -> str | None:
    try:
        return os.path.basename(os.readlink(f"{place}/subsystem"))[:32]
    except OSError:
        return None


def _text(path: str) -> str | None:
    """One attribute; what a USB device says of itself is anybody's text: what cannot be printed is left out."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        data = os.read(fd, _MAX_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    words = "".join(letter for letter in data.decode(errors="replace") if letter.isprintable()).strip()
    return words[:_MAX_TEXT] or None


def _join(*words: str | None) -> str | None:
    return " ".join(word for word in words if word)[:_MAX_TEXT] or None

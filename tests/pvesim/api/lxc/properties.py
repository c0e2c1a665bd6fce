"""The values of a container's configuration that have parts: networks, mount points, devices, features."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.pvesim.api import facts
from tests.pvesim.api.failure import die

_RULES = facts.load()["POST", "/nodes/{node}/lxc"]["parameters"]


@dataclass(frozen=True)
class MountPoint:
    """`rootfs` or one of `mp0` to `mp255`."""

    key: str
    parts: dict[str, str]

    @property
    def volume(self) -> str:
        return self.parts["volume"]

    @property
    def type(self) -> str:
        """volume, bind or device, by the look of it (classify_mountpoint)."""
        if not self.volume.startswith("/"):
            return "volume"
        return "device" if self.volume.startswith("/dev/") else "bind"

    def with_volume(self, volume: str, size: str | None = None) -> str:
        """Its text with another volume, as print_ct_mountpoint writes it: the volume first."""
        parts = {**self.parts, "volume": volume, **({"size": size} if size else {})}
        rest = "".join(f",{name}={value}" for name, value in sorted(parts.items()) if name != "volume")
        return f"{volume}{rest}"


def parse(key: str, text: str) -> dict[str, str]:
    """The parts of `net0`, `mp1`, `features` and so on. Raises Failure."""
    rule = facts.find_rule(_RULES, key)
    if rule is None or not isinstance(rule.get("format"), dict):
        die(f"no such option: {key}")
    return facts.parse_properties(rule["format"], text)


def print_parts(parts: Mapping[str, str]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted(parts.items()))


def mount_points(values: Mapping[str, str]) -> Iterator[MountPoint]:
    """`rootfs` first, as foreach_volume goes."""
    keys = [key for key in values if key[:2] == "mp" and key[2:].isdigit()]
    for key in (*(["rootfs"] if "rootfs" in values else []), *sorted(keys, key=lambda key: int(key[2:]))):
        yield MountPoint(key, parse(key, values[key]))


def volumes(values: Mapping[str, str]) -> list[MountPoint]:
    return [point for point in mount_points(values) if point.type == "volume"]


def is_mount_key(key: str) -> bool:
    return key == "rootfs" or (key[:2] == "mp" and key[2:].isdigit())


def networks(values: Mapping[str, str]) -> dict[int, dict[str, str]]:
    keys = [key for key in values if key[:3] == "net" and key[3:].isdigit()]
    return {int(key[3:]): parse(key, values[key]) for key in sorted(keys)}

"""PVE's named formats: whether a parameter's text is one, and PVE's words when it is not (JSONSchema.pm and others)."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

Rule = Mapping[str, Any]

_NODE = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?")
_CONFIG_ID = re.compile(r"[a-zA-Z][a-zA-Z0-9_-]+")
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DISK_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT](?:iB)?)?")
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def _address(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            kind(text)
        except ValueError:
            return False
        return True

    return check


def _network(text: str, version: int, longest: int) -> bool:
    address, slash, length = text.partition("/")
    known = _address(ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address)(address)
    return bool(slash and known and re.fullmatch(r"\d+", length) and 8 <= int(length) <= longest)


def _matches(pattern: str, flags: int = 0) -> Callable[[str], bool]:
    return lambda text: re.fullmatch(pattern, text, flags) is not None


def _like(what: str) -> str:
    return f"value does not look like a valid {what}"


_IPV4, _IPV6 = _address(ipaddress.IPv4Address), _address(ipaddress.IPv6Address)
_USER = r"[^\s:/]+@[A-Za-z][A-Za-z0-9._-]+"

# name: whether it is one, and what PVE says when not; {} is the value.
_FORMATS: dict[str, tuple[Callable[[str], bool], str]] = {
    "pve-node": (_matches(_NODE.pattern), _like("node name")),
    "pve-vmid": (_matches(r"[1-9][0-9]{2,8}"), _like("VM ID")),
    "pve-configid": (_matches(_CONFIG_ID.pattern), "invalid configuration ID '{}'"),
    "pve-storage-id": (_matches(r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]"), "storage ID '{}' contains illegal characters"),
    "pve-poolid": (_matches(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,2}"), "pool name '{}' contains invalid characters"),
    "pve-roleid": (_matches(r"[A-Za-z0-9._-]+"), "role name '{}' contains invalid characters"),
    "pve-groupid": (_matches(r"[A-Za-z0-9._-]+"), "group name '{}' contains invalid characters"),
    "pve-userid": (_matches(_USER), "value '{}' does not look like a valid user name"),
    "pve-tokenid": (_matches(_USER + r"![A-Za-z][A-Za-z0-9._-]+"), "value '{}' does not look like a valid token ID"),
    "pve-realm": (_matches(r"[A-Za-z][A-Za-z0-9._-]+"), _like("realm")),
    "pve-priv": (_matches(r"[A-Z][A-Za-z]+(\.[A-Z][A-Za-z]+)+"), "invalid privilege '{}'"),
    "pve-tag": (_matches(r"[a-z0-9_][a-z0-9_\-+.]*", re.IGNORECASE), "invalid characters in tag"),
    "pve-storage-content": (
        _matches(r"images|rootdir|vztmpl|iso|backup|snippets|import|none"), "invalid content type '{}'"),
    "pve-task-status-type": (_matches(r"ok|error|warning|unknown", re.IGNORECASE), "invalid status '{}'"),
    "pve-volume-id": (_matches(r"[a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]:\S+"), "unable to parse volume ID '{}'"),
    "pve-startup-order": (_matches(r"((order=)?\d+|up=\d+|down=\d+)(,(up=\d+|down=\d+|order=\d+))*"),
                          "unable to parse startup options"),
    "pve-bridge-id": (_matches(r"[-_.\w\d]+"), "invalid bridge ID '{}'"),
    "pve-ct-timezone": (_matches(r"[A-Za-z0-9_+/-]+"), "invalid time zone '{}'"),
    "pve-lxc-dev-string": (_matches(r"/dev/.+"), "{} must start with /dev/"),
    "pve-lxc-mp-string": (lambda text: ".." not in text.split("/"), "path is not allowed to contain '..'"),
    "dns-name": (_matches(rf"({_LABEL}\.)*{_LABEL}"), _like("DNS name")),
    "ipv4": (_IPV4, _like("IPv4 address")),
    "ipv6": (_IPV6, _like("IPv6 address")),
    "ip": (lambda text: _IPV4(text) or _IPV6(text), _like("IP address")),
    "lxc-ip-with-ll-iface": (lambda text: _IPV4(text) or _IPV6(text) or text == "host", _like("IP address")),
    "mac-addr": (lambda text: re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", text, re.I) is not None
                 and not int(text[:2], 16) & 1, _like("unicast MAC address")),
    "pve-ipv4-config": (lambda text: text in ("dhcp", "manual") or _network(text, 4, 32),
                        _like("ipv4 network configuration")),
    "pve-ipv6-config": (lambda text: text in ("auto", "dhcp", "manual") or _network(text, 6, 128),
                        _like("ipv6 network configuration")),
    "CIDR": (lambda text: _network(text, 4, 32) or _network(text, 6, 128), _like("CIDR network")),
    "disk-size": (_matches(_DISK_SIZE.pattern), _like("disk size") + ": {}"),
}  # fmt: skip


def mistake(name: str, text: str) -> str | None:
    """What is wrong with `text` as a `name`, with PVE's newline; None for nothing, or a format not known here."""
    if name.endswith("-list") and name not in _FORMATS:
        words = [word for word in re.split(r"[,;\0\s]+", text) if word]
        return next((wrong for wrong in (mistake(name[:-5], word) for word in words) if wrong), None)
    if name.endswith("-opt") and not text:
        return None
    if name not in _FORMATS:
        return None
    is_one, words_of_pve = _FORMATS[name]
    return None if is_one(text) else words_of_pve.replace("{}", text) + "\n"


def parse_size(text: str) -> int:
    """Bytes of `8G`, `512M`, or a plain number of bytes. Raises ValueError."""
    found = _DISK_SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"no size: {text}")
    return int(float(found[1]) * 1024 ** _UNITS[(found[2] or "")[:1]])


def print_size(size: int) -> str:
    """As PVE::JSONSchema::format_size: the largest unit that gives a whole number."""
    for unit in ("", "K", "M", "G"):
        if size < 1024 or size % 1024:
            return f"{size}{unit}"
        size //= 1024
    return f"{size}T"

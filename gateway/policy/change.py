"""GuestChange: what a request would give a guest of the node; described by hand, or read off the options for PVE."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from gateway.errors import PolicyRefused

Options = Mapping[str, str | int | bool]
"""Options of a guest by their names in PVE: what is sent to it, or stands in a configuration."""


@dataclass(frozen=True, kw_only=True)
class GuestChange:
    """What of a change to guest `vmid` needs the node's leave. What is left out is not part of the change.

    `mounts` are the sources of its mount points, volumes or host paths; `devices` host paths; `features` words like
    `nesting` or `mount=nfs`; `raw_keys` the names of all options that nothing here knows, `lxc.*` above all;
    `images` volumes that a machine has as CDs, or that its disks are made of. `elsewhere` is the node that it is on
    then, if that is not the gateway's own: there a path is something else.
    """

    vmid: int
    mounts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    privileged: bool = False
    hookscript: str | None = None
    raw_keys: tuple[str, ...] = ()
    template: str | None = None
    images: tuple[str, ...] = ()
    elsewhere: str | None = None


def describe_options(vmid: int, options: Options, *, whole: bool) -> GuestChange:
    """The change that giving `options` to PVE would be: the surest description, for it is of what is really sent.

    `whole`: they are all of the guest's options, so that no `unprivileged` means a privileged guest: for what is
    created, cloned or restored. Property strings are read as PVE::JSONSchema::parse_property_string does. Raises
    PolicyRefused for what cannot be read for certain.
    """
    mounts: list[str] = []
    devices: list[str] = []
    features: list[str] = []
    raw_keys: list[str] = []
    for name, value in options.items():
        kind = re.sub(r"[0-9]{1,3}$", "[n]", name)
        if kind in ("rootfs", "mp[n]", "unused[n]"):
            parts = read_property(name, value, "volume", _MOUNT_KEYS)
            mounts.append(parts["volume"])
            raw_keys += ["idmap"] if "idmap" in parts else []
        elif kind == "dev[n]":
            devices.append(read_property(name, value, "path", _DEVICE_KEYS)["path"])
        elif name == "features":
            features += _read_features(read_property(name, value, None, _FEATURE_KEYS))
        elif kind not in _HARMLESS and name not in ("hookscript", "ostemplate", "unprivileged"):
            raw_keys.append(name)
    return GuestChange(
        vmid=vmid,
        mounts=tuple(mounts),
        devices=tuple(devices),
        features=tuple(features),
        privileged=not _is_surely_on(options["unprivileged"]) if "unprivileged" in options else whole,
        hookscript=_text(options, "hookscript"),
        raw_keys=tuple(raw_keys),
        template=_text(options, "ostemplate"),
    )


def on_node(change: GuestChange, node: str, here: str) -> GuestChange:
    """`change` of a guest that is on `node` then, as the gateway of `here` decides about it."""
    return change if node == here else replace(change, elsewhere=node)


def is_known_option(name: str) -> bool:
    """Whether it is an option of PVE's containers that this module can read, so that nothing of it goes unseen."""
    kind = re.sub(r"[0-9]{1,3}$", "[n]", name)
    return kind in _HARMLESS or kind in _GIVING or name in _GIVING


# Of PVE's API, POST /nodes/{node}/lxc, and of its container configurations: what gives nothing of the node away.
_HARMLESS = frozenset((
    "arch", "bwlimit", "cmode", "console", "cores", "cpulimit", "cpuunits", "debug", "description", "digest",
    "entrypoint", "env", "force", "ha-managed", "hostname", "ignore-unpack-errors", "lock", "memory", "nameserver",
    "net[n]", "onboot", "ostype", "parent", "password", "pool", "protection", "restore", "searchdomain", "snaptime",
    "ssh-public-keys", "start", "startup", "storage", "swap", "tags", "template", "timezone", "tty", "unique",
))  # fmt: skip
_GIVING = frozenset(("rootfs", "mp[n]", "unused[n]", "dev[n]", "features", "hookscript", "ostemplate", "unprivileged"))
_MOUNT_KEYS = frozenset((
    "volume", "mp", "acl", "backup", "idmap", "keepattrs", "mountoptions", "quota", "replicate", "ro", "shared", "size",
))  # fmt: skip
_DEVICE_KEYS = frozenset(("path", "mode", "uid", "gid", "deny-write"))
_FEATURE_KEYS = frozenset(("nesting", "keyctl", "fuse", "mknod", "mount", "force_rw_sys"))
_NO_ALIASES: Mapping[str, str] = {}


def read_property(
    name: str, value: object, default: str | None, known: frozenset[str], aliases: Mapping[str, str] = _NO_ALIASES
) -> dict[str, str]:
    """The parts of option `name`, a property string. `aliases`: other names of known parts; PVE takes the last of
    those given, so that there may be one only.

    Raises PolicyRefused for what PVE refuses, and for all that some reader of it may take otherwise.
    """
    parts: dict[str, str] = {}
    for part in str(value).split(","):
        key, equals, text = part.partition("=")
        if not equals:
            key, text = default or "", part
        key = aliases.get(key, key)
        if key not in known or key in parts or not text or _ODD.search(text):
            raise _unreadable(name)
        parts[key] = text
    if default is not None and default not in parts:
        raise _unreadable(name)
    return parts


# Neither in a path nor in a volume's name: what some reader of it may take for the end of the value.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f=\u2028\u2029]")


def _read_features(parts: Mapping[str, str]) -> Iterator[str]:
    for name, value in parts.items():
        if name == "mount":
            yield from (f"mount={word}" for word in value.split(";"))
        elif not _is_surely_off(value):
            yield name


def _is_surely_off(value: object) -> bool:
    """Whether PVE takes it for off, and nothing else does (PVE::JSONSchema::parse_boolean)."""
    return str(value).lower() in ("0", "off", "no", "false")


def _is_surely_on(value: object) -> bool:
    return str(value).lower() in ("1", "on", "yes", "true")


def _text(options: Options, name: str) -> str | None:
    return str(options[name]) if name in options else None


def _unreadable(name: str) -> PolicyRefused:
    return PolicyRefused.for_things([(f"option `{name}`: its value cannot be read for certain", None)])

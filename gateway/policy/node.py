"""NodePolicy: the one function that decides whether a change to a guest is allowed on this node, before any grant."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from dataclasses import replace

from gateway.config import PolicyConfig
from gateway.errors import PolicyRefused
from gateway.policy.change import GuestChange
from gateway.policy.paths import is_below, is_device, is_plain, leads_there, matches

_STORAGE = r"[A-Za-z][A-Za-z0-9._-]*"
_NEW_VOLUME = re.compile(rf"{_STORAGE}:[0-9]+(\.[0-9]+)?")
# PVE::Storage::Plugin, parse_name_dir and its like: a volume's last name says whose it is, or a directory of a number.
_OWNED_VOLUME = re.compile(
    rf"{_STORAGE}:(?:[A-Za-z0-9._-]+/)*?(?:([0-9]+)/)?(?:vm|subvol|base|basevol)-([1-9][0-9]*)-[A-Za-z0-9._-]+"
)
_ARCHIVE = re.compile(rf"{_STORAGE}:vztmpl/[A-Za-z0-9][A-Za-z0-9._+~:/-]*")

Refusal = tuple[str, str | None]
"""What is not allowed, and the configuration key that could allow it; None where nothing can."""


class NodePolicy:
    """What `policy` in the configuration lets guests be given; nothing that it does not name."""

    def __init__(self, config: PolicyConfig) -> None:
        self._config = config

    def require(self, change: GuestChange) -> None:
        """Raises PolicyRefused, naming all of `change` that is not allowed and by which key it could be.

        Every route that makes a guest or changes one comes through here (api.route.Route.change), and grants do not
        matter: what is refused is refused for every token. Looks at the host's files only below what is allowed.
        """
        elsewhere = list(_of_another_node(change))
        if elsewhere:
            own = tuple(source for source in change.mounts if not source.startswith("/"))
            change = replace(change, mounts=own, devices=(), raw_keys=())
        refused = [
            *elsewhere,
            *self._mounts(change),
            *self._images(change),
            *self._devices(change),
            *self._words(change),
            *self._template(change),
        ]
        if refused:
            raise PolicyRefused.for_things(refused)

    def _mounts(self, change: GuestChange) -> Iterator[Refusal]:
        for source in change.mounts:
            if source.startswith("/dev/") or source == "/dev":  # PVE::LXC::Config, classify_mountpoint
                if not self._may_have_device(source):
                    yield f"device {_shown(source)} as a mount point", "policy.devices"
            elif source.startswith("/"):
                if not _is_allowed(source, self._config.bind_sources, stat.S_IFDIR):
                    yield f"bind source {_shown(source)}", "policy.bind_sources"
            elif not _is_volume_of(change.vmid, source):
                yield f"volume {_shown(source)}, which is not a new one or the guest's own", None

    def _images(self, change: GuestChange) -> Iterator[Refusal]:
        for volume in change.images:
            allowed = any(matches(volume, pattern) for pattern in self._config.images)
            if not allowed or not is_plain("/" + volume.partition(":")[2]):
                yield f"image {_shown(volume)}", "policy.images"

    def _devices(self, change: GuestChange) -> Iterator[Refusal]:
        for path in change.devices:
            if not self._may_have_device(path):
                yield f"device {_shown(path)}", "policy.devices"

    def _words(self, change: GuestChange) -> Iterator[Refusal]:
        for feature in change.features:
            if feature not in self._config.features:
                yield f"feature {_shown(feature)}", "policy.features"
        if change.privileged and not self._config.privileged:
            yield "a privileged guest", "policy.privileged"
        if change.hookscript is not None and change.hookscript not in self._config.hookscripts:
            yield f"hookscript {_shown(change.hookscript)}", "policy.hookscripts"
        for key in change.raw_keys:
            if key not in self._config.raw_keys:
                yield f"option {_shown(key)}", "policy.raw_keys"

    def _template(self, change: GuestChange) -> Iterator[Refusal]:
        template = change.template
        if template is None or (_ARCHIVE.fullmatch(template) and is_plain("/" + template.partition(":")[2])):
            return
        if not _is_allowed(template, self._config.template_paths, stat.S_IFREG):
            yield f"template {_shown(template)}", "policy.template_paths"

    def _may_have_device(self, path: str) -> bool:
        allowed = any(matches(path, pattern) for pattern in self._config.devices)
        return is_plain(path) and allowed and is_device(path)


def _of_another_node(change: GuestChange) -> Iterator[Refusal]:
    """What only the policy of another node could allow: that of its own gateway."""
    if change.elsewhere is not None:
        where = f"of node {change.elsewhere}, which its own gateway decides about"
        yield from ((f"{_shown(path)} {where}", None) for path in change.mounts if path.startswith("/"))
        yield from ((f"device {_shown(path)} {where}", None) for path in change.devices)
        yield from ((f"option {_shown(key)} {where}", None) for key in change.raw_keys)


def _is_allowed(path: str, tops: tuple[str, ...], kind: int) -> bool:
    return is_plain(path) and any(is_below(path, top) and leads_there(path, top, kind) for top in tops)


def _is_volume_of(vmid: int, volume: str) -> bool:
    """Whether it is a volume to be made, or one of guest `vmid`: pvesh would hand out any other guest's, too."""
    if _NEW_VOLUME.fullmatch(volume):
        return True
    owned = _OWNED_VOLUME.fullmatch(volume)
    if owned is None or not is_plain("/" + volume.partition(":")[2]):
        return False
    return {owner for owner in owned.groups() if owner is not None} == {str(vmid)}


def _shown(text: str) -> str:
    return ascii(text[:200])

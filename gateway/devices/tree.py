"""The node's /dev: finds device nodes and the lasting names of each, by looking alone. No device is ever opened."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.devices.kinds import LINKS, Kind, kind_of
from gateway.errors import DeviceNotFound, NotADevice
from gateway.policy.paths import is_below, is_plain

DEV = "/dev"
_MAX_LINKS, _MAX_DEPTH, _MAX_ENTRIES = 40, 6, 20_000
_NOT_ENTERED = frozenset(("fd", "pts", "shm", "mqueue", "hugepages"))


@dataclass(frozen=True)
class Node:
    """A device as its node shows it: `path` is its own, no link's; `mode` are the twelve bits; owner by number."""

    path: str
    kind: Kind
    block: bool
    major: int
    minor: int
    mode: int
    uid: int
    gid: int

    @classmethod
    def read(cls, path: str, status: os.stat_result) -> Node:
        block = stat.S_ISBLK(status.st_mode)
        return cls(
            path=path,
            kind=kind_of(path.removeprefix(f"{DEV}/"), block=block),
            block=block,
            major=os.major(status.st_rdev),
            minor=os.minor(status.st_rdev),
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
        )


class DeviceTree:
    """What stands in the directory that is /dev to everybody else."""

    def __init__(self, dev: Path) -> None:
        self._dev = dev

    def find(self, path: str) -> Node:
        """The device that `path` is, or leads to by links that stay in /dev.

        Raises DeviceNotFound for what is not there (any more), NotADevice for a path that is none below /dev, and for
        what is no device: a directory, a file, a link out of /dev, anything where others than root may make names.
        """
        if not is_plain(path) or not is_below(path, DEV):
            raise NotADevice("give the path of a device: absolute, below /dev, without `.`, `..`, commas or quotes")
        try:
            return self._follow(path)
        except FileNotFoundError as exc:
            raise DeviceNotFound.for_path(path) from exc
        except OSError as exc:  # ENOTDIR, ENAMETOOLONG, EACCES, EIO
            raise NotADevice(f"{path} cannot be looked at: {exc.strerror}", path=path) from exc

    def nodes(self) -> Iterator[Node]:
        """All that are there now, a directory at a time by name; of 20,000 entries the rest is left out."""
        left = _MAX_ENTRIES
        places = [""]
        while places:
            place = places.pop()
            below: list[str] = []
            for entry in self._entries(place)[:left]:
                left -= 1
                name = posixpath.join(place, entry.name)
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                    yield Node.read(f"{DEV}/{name}", status)
                elif stat.S_ISDIR(status.st_mode) and name not in _NOT_ENTERED and not _is_open_to_all(status):
                    below.append(name)
            if place.count("/") < _MAX_DEPTH:
                places += reversed(below)

    def names(self, kind: Kind) -> dict[str, list[str]]:
        """The lasting names of the devices of a kind, by the device's own path."""
        found: dict[str, list[str]] = defaultdict(list)
        for place in LINKS.get(kind, ()):
            for entry in self._entries(place)[:_MAX_ENTRIES]:
                try:
                    target = os.readlink(entry.path)
                except OSError:
                    continue
                found[posixpath.normpath(posixpath.join(DEV, place, target))].append(f"{DEV}/{place}/{entry.name}")
        return found

    def _entries(self, place: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._dev / place) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:
            return []

    def _follow(self, path: str) -> Node:
        """As the kernel goes, but for links that lead out of /dev, and for places that are not root's alone."""
        waiting = path.split("/")[:1:-1]
        here: list[str] = []
        links = 0
        while True:
            status = os.lstat(self._dev.joinpath(*here))
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = os.readlink(self._dev.joinpath(*here))
                if links > _MAX_LINKS:
                    raise NotADevice(f"{path} leads through too many links", path=path)
                here = here[:-1]
                if target.startswith("/"):
                    if not is_below(target, DEV):
                        raise NotADevice(f"{path} leads out of /dev", path=path)
                    here, target = [], target.removeprefix(DEV)
                waiting += [part for part in reversed(target.split("/")) if part not in ("", ".")]
            elif not waiting:
                break
            elif not stat.S_ISDIR(status.st_mode):
                raise DeviceNotFound.for_path(path)
            elif _is_open_to_all(status):
                raise NotADevice(f"{path}: others than root may make names there, so nothing in it is taken", path=path)
            if waiting:
                part = waiting.pop()
                if part != "..":
                    here.append(part)
                elif here:
                    here.pop()
                else:
                    raise NotADevice(f"{path} leads out of /dev", path=path)
        if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise NotADevice(f"{path} is no device: neither a character nor a block device", path=path)
        return Node.read("/".join([DEV, *here]), status)


def _is_open_to_all(status: os.stat_result) -> bool:
    return bool(status.st_mode & 0o022)

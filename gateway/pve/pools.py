"""Who is in which pool: read off PVE's user.cfg, and read again when that was replaced."""

from __future__ import annotations

import logging
import re
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

_SEPARATORS = re.compile(r"[,;\s]+")  # PVE::Tools::split_list
_VMID = re.compile(r"[1-9][0-9]{2,8}")
_MAX_BYTES = 1 << 20  # pmxcfs holds no larger file

Pools = Mapping[str, frozenset[int]]

log = logging.getLogger(__name__)


class PoolFile:
    """The pools of `path`, a user.cfg. Safe in many threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: tuple[tuple[int, int, int], Pools] | None = None

    def read(self) -> Pools:
        """The members of each pool now: one stat, and the same object for as long as the file is the same.

        No pool has members when the file cannot be read: a grant on a pool then reaches nobody.
        """
        with self._lock:
            try:
                info = self._path.stat()
                if not stat.S_ISREG(info.st_mode):
                    raise OSError("not a regular file")
                # pmxcfs replaces by rename, with times of whole seconds: the inode and the size tell.
                stamp = info.st_ino, info.st_size, info.st_mtime_ns
                if self._known is None or self._known[0] != stamp:
                    with self._path.open("rb") as file:
                        text = file.read(_MAX_BYTES + 1)
                    self._known = stamp, parse_pools(text.decode("utf-8", "replace"))
            except OSError as exc:
                if self._known is None or self._known[0] != _ABSENT:
                    log.warning("pools are unknown, so nobody is in them: cannot read %s: %s", self._path, exc.strerror)
                    self._known = _ABSENT, {}
            return self._known[1]


_ABSENT = (0, 0, 0)


def parse_pools(text: str) -> Pools:
    """The pools of a user.cfg's text: `pool:NAME:COMMENT:VMIDS:STORAGES:`, and all else ignored.

    As PVE::AccessControl::parse_user_config reads it: a guest is in the first pool that lists it and in no other.
    """
    pools: dict[str, set[int]] = {}
    taken: set[int] = set()
    for line in text.split("\n"):
        fields = [field.strip() for field in line.split(":")]
        if len(fields) < 4 or fields[0] != "pool":
            continue
        members = pools.setdefault(fields[1], set())
        for word in _SEPARATORS.split(fields[3]):
            if _VMID.fullmatch(word) and int(word) not in taken:
                taken.add(int(word))
                members.add(int(word))
    return {name: frozenset(members) for name, members in pools.items()}

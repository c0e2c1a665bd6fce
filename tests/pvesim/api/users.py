"""`/etc/pve/user.cfg`: users, tokens, groups, pools, roles and access lists, read whole and changed line by line."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from tests.pvesim import pmxcfs
from tests.pvesim.api.call import split_list
from tests.pvesim.api.roles import BUILTIN

FILE = pmxcfs.ROOT / "user.cfg"
_LOCK = Path("/run/pvesim/user.cfg.lock")


@dataclass(frozen=True)
class Pool:
    """A resource pool."""

    comment: str = ""
    vmids: frozenset[int] = frozenset()
    storages: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Entry:
    """One line of an access list; `who` is a user, a token or `@group`."""

    path: str
    who: str
    role: str
    propagate: bool


@dataclass
class Users:
    """All of user.cfg."""

    users: dict[str, bool] = field(default_factory=lambda: {"root@pam": True})
    """Enabled or not."""
    tokens: dict[str, bool] = field(default_factory=dict)
    """Privilege separation or not."""
    expiries: dict[str, int] = field(default_factory=dict)
    """Of users and tokens that have one: seconds since 1970."""
    groups: dict[str, set[str]] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    roles: dict[str, frozenset[str]] = field(default_factory=lambda: dict(BUILTIN))
    entries: list[Entry] = field(default_factory=list)

    def is_valid(self, who: str) -> bool:
        """A user that is enabled, or a token of one, before its time is over."""
        owner = who.partition("!")[0]
        over = any(0 < self.expiries.get(name, 0) < time.time() for name in (owner, who))
        return bool(self.users.get(owner)) and (who == owner or who in self.tokens) and not over

    def pool_of(self, vmid: int) -> str | None:
        return next((name for name, pool in self.pools.items() if vmid in pool.vmids), None)


def read() -> Users:
    """As parse_user_config reads it; unknown lines are ignored. The same object for as long as the file is the same."""
    try:
        status = FILE.stat()
    except FileNotFoundError:
        return Users()
    return _parse(status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4)
def _parse(*_: int) -> Users:
    found = Users()
    for line in read_lines():
        kind, *fields = [field.strip() for field in line.split(":")]
        fields += [""] * 6
        if kind == "user":
            found.users[fields[0]] = fields[1] == "1"
            found.expiries[fields[0]] = int(fields[2] or "0")
        elif kind == "token":
            found.tokens[fields[0]] = fields[2] != "0"
            found.expiries[fields[0]] = int(fields[1] or "0")
        elif kind == "group":
            found.groups[fields[0]] = set(split_list(fields[1]))
        elif kind == "pool":
            vmids = frozenset(int(word) for word in split_list(fields[2]) if word.isdigit())
            found.pools[fields[0]] = Pool(fields[1].replace("%3A", ":"), vmids, frozenset(split_list(fields[3])))
        elif kind == "role":
            found.roles[fields[0]] = frozenset(split_list(fields[1]))
        elif kind == "acl":
            propagate, path, whom, roles = fields[:4]
            found.entries += [
                Entry(path, who, role, propagate == "1") for who in split_list(whom) for role in split_list(roles)
            ]
    return found


def read_lines() -> list[str]:
    return [line for line in FILE.read_text().splitlines() if line.strip()] if FILE.exists() else []


@contextlib.contextmanager
def changing() -> Iterator[list[str]]:
    """The lines, to be changed in place; then the file is replaced, as pmxcfs replaces it."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = read_lines()
        yield lines
        pmxcfs.write(FILE, "\n".join(lines) + "\n")


def set_line(lines: list[str], kind: str, name: str, *fields: str) -> None:
    """Write or replace the one line of a user, token, group, pool or role."""
    drop_line(lines, kind, name)
    lines.append(":".join((kind, name, *fields, "")))


def drop_line(lines: list[str], kind: str, name: str) -> None:
    lines[:] = [line for line in lines if line.split(":")[:2] != [kind, name]]


def write_pool(lines: list[str], name: str, pool: Pool) -> None:
    members = ",".join(map(str, sorted(pool.vmids)))
    set_line(lines, "pool", name, pool.comment.replace(":", "%3A"), members, ",".join(sorted(pool.storages)))


def forget_guest(vmid: int) -> None:
    """remove_vm_access: a guest that is destroyed leaves its pool and its access lists."""
    known = read()
    name = known.pool_of(vmid)
    path = f"/vms/{vmid}"
    if name is None and not any(entry.path == path for entry in known.entries):
        return
    with changing() as lines:
        lines[:] = [line for line in lines if not (line.startswith("acl:") and line.split(":")[2] == path)]
        if name is not None:
            pool = read().pools[name]
            write_pool(lines, name, replace(pool, vmids=pool.vmids - {vmid}))


def add_to_pool(vmid: int, name: str) -> None:
    """add_vm_to_pool."""
    with changing() as lines:
        pool = read().pools.get(name)
        if pool is not None:
            write_pool(lines, name, replace(pool, vmids=pool.vmids | {vmid}))

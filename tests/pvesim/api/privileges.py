"""What a user or token may do on a path, and the checks that methods make of it (RPCEnvironment.pm)."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from tests.pvesim.api import users
from tests.pvesim.api.call import ROOT_USER
from tests.pvesim.api.failure import forbid
from tests.pvesim.api.roles import EVERY_PRIVILEGE
from tests.pvesim.api.users import Users


def privileges_on(user: str, path: str, known: Users | None = None) -> frozenset[str]:
    """What `user` may do on `path`: a token with privilege separation no more than its owner and its own lists."""
    if user == ROOT_USER:
        return EVERY_PRIVILEGE
    known = known or users.read()
    owner, _, token = user.partition("!")
    if not known.users.get(owner):
        return frozenset()
    if not token:
        return _listed(user, path, known)
    if user not in known.tokens:
        return frozenset()
    owned = privileges_on(owner, path, known)
    return owned & _listed(user, path, known) if known.tokens[user] else owned


def may(user: str, path: str, *privileges: str, any_of: bool = False) -> bool:
    held = privileges_on(user, path)
    return bool(held & set(privileges)) if any_of else held >= set(privileges)


def require(user: str, path: str, *privileges: str, any_of: bool = False) -> None:
    """Raises Failure(403) that names the path and what is missing."""
    held = privileges_on(user, path)
    if any_of:
        if not held & set(privileges):
            forbid(f"{path}, {'|'.join(dict.fromkeys(privileges))}")
        return
    for name in privileges:
        if name not in held:
            forbid(f"{path}, {name}")


def require_for_vm(user: str, vmid: int, pool: str | None, *privileges: str) -> None:
    """check_vm_perm: on the pool it shall be in, or on the guest."""
    if not (pool and may(user, f"/pool/{pool}", *privileges)):
        require(user, f"/vms/{vmid}", *privileges)


def authorize(user: str, permissions: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """The check that a method's facts ask for. Raises Failure(403)."""
    if user == ROOT_USER or permissions.get("user") in ("all", "world"):
        return
    if "check" not in permissions:
        forbid("user != root@pam")
    if not _passes(user, permissions["check"], parameters, quiet=False):
        forbid()


def _passes(user: str, check: list[Any], parameters: Mapping[str, Any], *, quiet: bool) -> bool:
    kind, *rest = check
    if kind == "and":
        return all(_passes(user, one, parameters, quiet=quiet) for one in rest)
    if kind == "or":
        return any(_passes(user, one, parameters, quiet=True) for one in rest)
    if kind == "perm":
        return _passes_path(user, rest, parameters, quiet=quiet)
    if kind == "userid-param":
        userid = str(parameters.get("userid"))
        realm = userid.rpartition("@")[2]
        return userid == user if rest[0] == "self" else may(user, f"/access/realm/{realm}", rest[0])
    if kind == "userid-group":
        return may(user, "/access/groups", *rest[0], any_of=True)
    assert kind == "perm-modify", kind
    path = str(parameters.get("path"))
    by_path = {"vms": "VM.Allocate", "storage": "Datastore.Allocate", "pool": "Pool.Allocate"}
    allocate = by_path.get(path.split("/")[1] if "/" in path else "")
    return may(user, path, "Permissions.Modify", *([allocate] if allocate else []), any_of=True)


def _passes_path(user: str, rest: list[Any], parameters: Mapping[str, Any], *, quiet: bool) -> bool:
    template, wanted, *flags = rest
    options = dict(zip(flags[::2], flags[1::2], strict=True))
    if options.get("require_param") and parameters.get(options["require_param"]) is None:
        return False
    path = re.sub(r"{(\w+)}", lambda found: str(parameters.get(found[1], "")), template)
    if may(user, path, *wanted, any_of=bool(options.get("any"))):
        return True
    if not quiet:
        require(user, path, *wanted, any_of=bool(options.get("any")))
    return False


def _listed(who: str, path: str, known: Users) -> frozenset[str]:
    """By the access lists: the deepest path that has a list for `who` decides; a guest gets its pool's, too."""
    held = _by_path(who, path, known)
    kind, _, name = path[1:].partition("/")
    for pool, members in known.pools.items():
        inside = {"vms": {str(vmid) for vmid in members.vmids}, "storage": members.storages}.get(kind, set())
        if name in inside:
            held |= _by_path(who, f"/pool/{pool}", known)
    return held


def _by_path(who: str, path: str, known: Users) -> frozenset[str]:
    groups = {f"@{name}" for name, members in known.groups.items() if who in members}
    roles: Collection[str] = ()
    parts = [part for part in path.split("/") if part]
    above = ["/", *("/" + "/".join(parts[:depth]) for depth in range(1, len(parts) + 1))]
    for level in above:
        here = [entry for entry in known.entries if entry.path == level and (entry.propagate or level == path)]
        own = {entry.role for entry in here if entry.who == who}
        roles = own or {entry.role for entry in here if entry.who in groups} or roles
    if "NoAccess" in roles:
        return frozenset()
    return frozenset().union(*(known.roles.get(role, frozenset()) for role in roles))

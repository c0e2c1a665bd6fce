"""Pools: list, make, change, remove (pve-manager, API2/Pool.pm)."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tests.pvesim.api import cluster, users
from tests.pvesim.api.call import Call, Handler, split_list
from tests.pvesim.api.failure import Failure, die
from tests.pvesim.api.privileges import may, require
from tests.pvesim.api.users import Pool


def list_pools(call: Call) -> Any:
    """Those that the caller may audit; of one named by `poolid` also the members."""
    wanted = call.get("poolid")
    told = []
    for name, pool in sorted(users.read().pools.items()):
        if wanted in (None, name) and may(call.user, f"/pool/{name}", "Pool.Audit"):
            entry: dict[str, Any] = {"poolid": name, "comment": pool.comment}
            told.append({**entry, "members": _members(call, pool)} if wanted else entry)
    if wanted and not told:
        die(f"pool '{wanted}' does not exist")
    return told


def show_pool(call: Call) -> Any:
    pool = _find(call["poolid"])
    members = _members(call, pool)
    kind = call.get("type")
    return {"comment": pool.comment, "members": [one for one in members if kind in (None, one["type"])]}


def create_pool(call: Call) -> Any:
    name = call["poolid"]
    with _changing("create pool failed") as lines:
        known = users.read().pools
        if name in known:
            die(f"pool '{name}' already exists")
        parent, slash, leaf = name.rpartition("/")
        if slash and parent not in known:
            die(f"parent '{parent}' of pool '{name}' does not exist")
        if not leaf[:1].isalpha():
            die("pool name must start with a letter")
        users.write_pool(lines, name, Pool(call.get("comment", "")))


def change_pool(call: Call) -> Any:
    """Add guests and storages, with `delete` take them out, with `allow-move` out of another pool."""
    name = call["poolid"]
    with _changing("update pools failed") as lines:
        pool = _find(name)
        vmids, stores = set(pool.vmids), set(pool.storages)
        for vmid in map(int, split_list(call.get("vms"))):
            require(call.user, f"/vms/{vmid}", "Permissions.Modify", "VM.Allocate", any_of=True)
            if not call.get("delete") and vmid not in vmids:
                _leave_other(call, lines, name, vmid)
            _change(call, vmids, vmid, f"VM {vmid}")
        for storage in split_list(call.get("storage")):
            require(call.user, f"/storage/{storage}", "Permissions.Modify", "Datastore.Allocate", any_of=True)
            _change(call, stores, storage, f"Storage '{storage}'")
        comment = call.get("comment", pool.comment)
        users.write_pool(lines, name, Pool(comment, frozenset(vmids), frozenset(stores)))


def remove_pool(call: Call) -> Any:
    name = call["poolid"]
    with _changing("delete pool failed") as lines:
        pool = _find(name)
        for below in users.read().pools:
            if below.startswith(f"{name}/"):
                die(f"pool '{name}' is not empty (contains pool '{below}')")
        if pool.vmids:
            die(f"pool '{name}' is not empty (contains VM {min(pool.vmids)})")
        if pool.storages:
            die(f"pool '{name}' is not empty (contains storage '{min(pool.storages)}')")
        users.drop_line(lines, "pool", name)


@contextlib.contextmanager
def _changing(failed: str) -> Iterator[list[str]]:
    """lock_user_config: what goes wrong in it is a 500 with `failed` before it, a missing privilege too."""
    try:
        with users.changing() as lines:
            yield lines
    except Failure as failure:
        die(f"{failed}: {failure.message.strip()}")


def _change(call: Call, members: set[Any], one: Any, title: str) -> None:
    if call.get("delete"):
        if one not in members:
            die(f"{title} is not a pool member")
        members.discard(one)
    else:
        if one in members:
            die(f"{title} is already a pool member")
        members.add(one)


def _leave_other(call: Call, lines: list[str], name: str, vmid: int) -> None:
    other = users.read().pool_of(vmid)
    if other is not None and other != name:
        if not call.get("allow-move"):
            die(f"VM {vmid} belongs already to pool '{other}' and 'allow-move' is not set")
        require(call.user, f"/pool/{other}", "Pool.Allocate")
        left = users.read().pools[other]
        users.write_pool(lines, other, replace(left, vmids=left.vmids - {vmid}))


def _members(call: Call, pool: Pool) -> list[dict[str, Any]]:
    everything = cluster.list_resources(Call(call.sim, call.user, call.node, {}))
    return [
        one
        for one in everything
        if one.get("vmid") in pool.vmids or (one["type"] == "storage" and one["storage"] in pool.storages)
    ]


def _find(name: str) -> Pool:
    pool = users.read().pools.get(name)
    if pool is None:
        die(f"pool '{name}' does not exist")
    return pool


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/pools"): list_pools,
    ("POST", "/pools"): create_pool,
    ("PUT", "/pools"): change_pool,
    ("DELETE", "/pools"): remove_pool,
    ("GET", "/pools/{poolid}"): show_pool,
    ("PUT", "/pools/{poolid}"): change_pool,
    ("DELETE", "/pools/{poolid}"): remove_pool,
}

"""Storages of a node and of the cluster, with their room (pve-storage, API2/Storage/Status.pm and Config.pm)."""

from typing import Any

from tests.pvesim.api import storages, volumes
from tests.pvesim.api.call import Call, Handler, split_list
from tests.pvesim.api.privileges import may
from tests.pvesim.api.storages import AUDIT, Storage


def usage(call: Call, storage: Storage) -> dict[str, int]:
    """Bytes: an image counts with its nominal size."""
    nominal = sum(volumes.describe(volume)["size"] for volume in volumes.images(storage))
    files = sum(file.stat().st_size for file in storage.root.glob("[dt]*/**/*") if file.is_file())
    used = storages.CAPACITY if call.sim.faults.is_full(storage.id) else min(storages.CAPACITY, nominal + files)
    return {"total": storages.CAPACITY, "used": used, "avail": storages.CAPACITY - used}


def list_of_node(call: Call) -> Any:
    wanted, told = set(split_list(call.get("content"))), []
    for storage in storages.every_storage().values():
        if storage.options.get("disable") == "1" and call.get("enabled"):
            continue
        if call.get("storage", storage.id) != storage.id or not storage.is_on(call.node):
            continue
        if wanted and not wanted & storage.content:
            continue
        if may(call.user, f"/storage/{storage.id}", *AUDIT, any_of=True):
            told.append({"storage": storage.id, **_status(call, storage)})
    return told


def show_status(call: Call) -> Any:
    return _status(call, storages.find(call["storage"], call.node))


def list_defined(call: Call) -> Any:
    allowed = [
        one for one in storages.every_storage().values() if may(call.user, f"/storage/{one.id}", *AUDIT, any_of=True)
    ]
    return [_definition(storage) for storage in allowed if call.get("type", storage.type) == storage.type]


def show_defined(call: Call) -> Any:
    return _definition(storages.find(call["storage"]))


def _definition(storage: Storage) -> dict[str, Any]:
    content = ",".join(sorted(storage.content))
    shared = {"shared": 1} if storage.is_shared else {}
    return {"storage": storage.id, "type": storage.type, **storage.options, "content": content, **shared}


def _status(call: Call, storage: Storage) -> dict[str, Any]:
    return {
        "type": storage.type, "content": ",".join(sorted(storage.content)), "shared": int(storage.is_shared),
        "enabled": int(storage.options.get("disable") != "1"), "active": 1, **usage(call, storage),
    }  # fmt: skip


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/storage"): list_defined,
    ("GET", "/storage/{storage}"): show_defined,
    ("GET", "/nodes/{node}/storage"): list_of_node,
    ("GET", "/nodes/{node}/storage/{storage}/status"): show_status,
}

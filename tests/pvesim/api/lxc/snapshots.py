"""Snapshots of containers: list, take, roll back to, remove (AbstractConfig.pm, API2/LXC/Snapshot.pm).

The request says nothing of what is wrong: a missing snapshot, a storage that cannot, a locked or running guest all
fail in the task. A running container is frozen while its volumes are copied, and killed by a rollback.
"""

import time
from typing import Any

from tests.pvesim.api import tasks, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig, Section
from tests.pvesim.api.failure import die
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.lxc import configuration, power, properties, runtime
from tests.pvesim.api.lxc.guest import store_of

_NOT_COPIED = ("snapstate", "snaptime", "vmstate", "lock", "digest", "description", "parent")


def list_snapshots(call: Call) -> Any:
    """The last one is `current`, which is none."""
    guest = store_of(call).load()
    told: list[dict[str, Any]] = []
    for name, values in guest.snapshots.items():
        shown: dict[str, Any] = {"name": name, "snaptime": int(values.get("snaptime", "0"))}
        shown["description"] = values.get("description", "")
        told.append(shown | {key: values[key] for key in ("parent", "snapstate") if key in values})
    now: dict[str, Any] = {"name": "current", "digest": guest.digest, "description": "You are here!"}
    now["running"] = int(runtime.is_running(call.vmid))
    return [*told, now | ({"parent": guest.get("parent")} if guest.get("parent") else {})]


def take(call: Call) -> Any:
    name = call["snapname"]
    if name in ("current", "vzdump"):
        die(f"unable to use snapshot name '{name}' (reserved name)")
    return tasks.fork_worker(
        call, "vzsnapshot", call.vmid, lambda: create(store_of(call), name, call.get("description"))
    )


def remove(call: Call) -> Any:
    return tasks.fork_worker(call, "vzdelsnapshot", call.vmid, lambda: delete(store_of(call), call["snapname"]))


def roll_back(call: Call) -> Any:
    def work() -> None:
        _carry_out_rollback(store_of(call), call["snapname"])
        if call.get("start"):
            power.start(Call(call.sim, call.user, call.node, {"vmid": call.vmid}, call.is_cli))

    return tasks.fork_worker(call, "vzrollback", call.vmid, work)


def show_config(call: Call) -> Any:
    return configuration.typed(_find(store_of(call).load(), call["snapname"]))


def change_config(call: Call) -> Any:
    """Its description; without one it loses it."""
    store = store_of(call)
    with store.locked():
        guest = store.load()
        snapshot = _find(guest, call["snapname"])
        if "description" in call.parameters:
            snapshot["description"] = call["description"]
        store.write(guest)


def create(store: Store, name: str, description: str | None = None) -> None:
    """snapshot_create; also what a backup in snapshot mode does, under the name `vzdump`."""
    with store.locked():
        guest = store.load()
        if guest.is_template:
            die("you can't take a snapshot if it's a template")
        if name != "vzdump":
            store.check_lock(guest)
        if name in guest.snapshots:
            die(f"snapshot name '{name}' already used")
        points = properties.volumes(guest.values)
        if not can_snapshot(guest, backup=name == "vzdump"):
            die("snapshot feature is not available")
        copied = {key: value for key, value in guest.values.items() if key not in _NOT_COPIED}
        parent = {"parent": guest.get("parent")} if guest.get("parent") else {}
        guest.snapshots[name] = {**copied, **parent, "snapstate": "prepare", "snaptime": str(int(time.time()))}
        if description:
            guest.snapshots[name]["description"] = description
        guest.values["lock"] = "snapshot" if name != "vzdump" else guest.lock
        store.write(guest)
    _copy_frozen(store, points, name)
    with store.locked():
        guest = store.load()
        guest.snapshots[name].pop("snapstate", None)
        if name != "vzdump":
            guest.values.pop("lock", None)
            guest.values["parent"] = name
        store.write(guest)


def can_snapshot(guest: GuestConfig, *, backup: bool = False) -> bool:
    """has_feature: a bind or device mount point prevents it, but not for a `backup` that leaves it out."""
    points = [
        point
        for point in properties.mount_points(guest.values)
        if not backup or point.key == "rootfs" or point.parts.get("backup") == "1"
    ]
    return all(point.type == "volume" and volumes.can_snapshot(point.volume) for point in points)


def delete(store: Store, name: str) -> None:
    """snapshot_delete: its parent becomes the parent of those that came after it."""
    with store.locked():
        guest = store.load()
        snapshot = _find(guest, name)
        if name != "vzdump":
            store.check_lock(guest)
        if guest.is_template:
            die("you can't delete a snapshot if vm is a template")
        for point in properties.volumes(snapshot):
            volumes.drop_snapshot(point.volume, name)
        del guest.snapshots[name]
        for values in (guest.values, *guest.snapshots.values()):
            if values.get("parent") == name:
                del values["parent"]
                values.update({"parent": snapshot["parent"]} if "parent" in snapshot else {})
        store.write(guest)


def _copy_frozen(store: Store, points: list[properties.MountPoint], name: str) -> None:
    running = runtime.is_running(store.vmid)
    if running:
        runtime.freeze(store.vmid)
    try:
        store.sim.faults.stall("copy")
        for point in points:
            volumes.snapshot(point.volume, name)
    finally:
        if running:
            runtime.thaw(store.vmid)


def _carry_out_rollback(store: Store, name: str) -> None:
    with store.locked():
        guest = store.load()
        if guest.is_template:
            die("you can't rollback if vm is a template")
        snapshot = _find(guest, name)
        if snapshot.get("snapstate"):
            die(f"unable to rollback to incomplete snapshot (snapstate = {snapshot['snapstate']})")
        store.check_lock(guest)
        runtime.stop(store.vmid, kill=True)
        guest.values["lock"] = "rollback"
        store.write(guest)
    for point in properties.volumes(snapshot):
        volumes.rollback(point.volume, name)
    with store.locked():
        guest = store.load()
        kept = {key: value for key, value in guest.values.items() if key.startswith("unused") or key == "description"}
        restored = {key: value for key, value in snapshot.items() if key not in _NOT_COPIED}
        lost = {point.volume for point in properties.volumes(guest.values)} - {
            point.volume for point in properties.volumes(snapshot)
        }
        for number, volume in enumerate(sorted(lost)):
            kept.setdefault(f"unused{number}", volume)
        guest.values = {**restored, **kept, "parent": name}
        guest.pending = {}
        store.write(guest)


def _find(guest: GuestConfig, name: str) -> Section:
    if name not in guest.snapshots:
        die(f"snapshot '{name}' does not exist")
    return guest.snapshots[name]

"""Snapshots and resize of machines (qemu-server, API2/Qemu.pm)."""

import time
from typing import Any

from tests.pvesim.api import tasks, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig, Section
from tests.pvesim.api.failure import die
from tests.pvesim.api.formats import parse_size, print_size
from tests.pvesim.api.qemu import configuration, pending, process
from tests.pvesim.api.qemu.guest import store_of

_NOT_COPIED = ("snapstate", "snaptime", "lock", "description", "parent", "vmstate")


def list_snapshots(call: Call) -> Any:
    guest = store_of(call).load()
    told: list[dict[str, Any]] = []
    for name, values in guest.snapshots.items():
        shown: dict[str, Any] = {"name": name, "snaptime": int(values["snaptime"]), "vmstate": int("vmstate" in values)}
        shown["description"] = values.get("description", "")
        told.append(shown | ({"parent": values["parent"]} if "parent" in values else {}))
    now: dict[str, Any] = {"name": "current", "digest": guest.digest, "description": "You are here!"}
    now["running"] = int(process.find_pid(store_of(call)) is not None)
    return [*told, now | ({"parent": guest.get("parent")} if guest.get("parent") else {})]


def take(call: Call) -> Any:
    name = call["snapname"]
    if name in ("current", "pending"):
        die(f"unable to use snapshot name '{name}' (reserved name)")

    def work() -> None:
        store = store_of(call)
        with store.locked():
            guest = store.load()
            if guest.is_template:
                die("you can't take a snapshot if it's a template")
            store.check_lock(guest)
            if name in guest.snapshots:
                die(f"snapshot name '{name}' already used")
            if not all(volumes.can_snapshot(volume) for volume in pending.disks(guest.values).values()):
                die("snapshot feature is not available")
            for volume in pending.disks(guest.values).values():
                volumes.snapshot(volume, name)
            copied = {key: value for key, value in guest.values.items() if key not in _NOT_COPIED}
            about = {"description": call["description"]} if call.get("description") else {}
            parent = {"parent": guest.get("parent")} if guest.get("parent") else {}
            guest.snapshots[name] = {**copied, **about, **parent, "snaptime": str(int(time.time()))}
            if call.get("vmstate") and process.find_pid(store):
                guest.snapshots[name]["vmstate"] = f"local-lvm:vm-{call.vmid}-state-{name}"
            guest.values["parent"] = name
            store.write(guest)

    return tasks.fork_worker(call, "qmsnapshot", call.vmid, work)


def remove(call: Call) -> Any:
    def work() -> None:
        store = store_of(call)
        with store.locked():
            guest = store.load()
            snapshot = _find(guest, call["snapname"])
            store.check_lock(guest)
            for volume in pending.disks(snapshot).values():
                volumes.drop_snapshot(volume, call["snapname"])
            del guest.snapshots[call["snapname"]]
            for values in (guest.values, *guest.snapshots.values()):
                if values.get("parent") == call["snapname"]:
                    del values["parent"]
                    values.update({"parent": snapshot["parent"]} if "parent" in snapshot else {})
            store.write(guest)

    return tasks.fork_worker(call, "qmdelsnapshot", call.vmid, work)


def roll_back(call: Call) -> Any:
    """Ends the machine; with memory in the snapshot, or `start`, it runs afterwards."""

    def work() -> None:
        store = store_of(call)
        with store.locked():
            guest = store.load()
            snapshot = _find(guest, call["snapname"])
            store.check_lock(guest)
            process.kill(store)
            for volume in pending.disks(snapshot).values():
                volumes.rollback(volume, call["snapname"])
            kept = {
                key: value for key, value in guest.values.items() if key.startswith("unused") or key == "description"
            }
            restored = {key: value for key, value in snapshot.items() if key not in _NOT_COPIED}
            guest.values, guest.pending = {**restored, **kept, "parent": call["snapname"]}, {}
            store.write(guest)
        if "vmstate" in snapshot or call.get("start"):
            process.start(store)

    return tasks.fork_worker(call, "qmrollback", call.vmid, work)


def show_config(call: Call) -> Any:
    return configuration.typed(_find(store_of(call).load(), call["snapname"]))


def change_config(call: Call) -> Any:
    store = store_of(call)
    with store.locked():
        guest = store.load()
        _find(guest, call["snapname"])["description"] = call.get("description", "")
        store.write(guest)


def resize(call: Call) -> Any:
    store = store_of(call)

    def work() -> None:
        with store.locked():
            guest = store.load()
            if call.get("digest") and call["digest"] != guest.digest:
                die("checksum mismatch (file change by other user?)")
            store.check_lock(guest)
            disk = call["disk"]
            if disk not in pending.disks(guest.values):
                die(f"disk '{disk}' does not exist")
            now, wanted = pending.size_of(guest.values[disk]), call["size"]
            size = parse_size(wanted.lstrip("+")) + (now if wanted.startswith("+") else 0)
            if size < now:
                die("shrinking disks is not supported")
            volumes.resize(pending.disks(guest.values)[disk], size)
            parts = [part for part in guest.values[disk].split(",") if not part.startswith("size=")]
            guest.values[disk] = ",".join([*parts, f"size={print_size(size)}"])
            store.write(guest)

    return tasks.fork_worker(call, "resize", call.vmid, work)


def _find(guest: GuestConfig, name: str) -> Section:
    if name not in guest.snapshots:
        die(f"snapshot '{name}' does not exist")
    return guest.snapshots[name]

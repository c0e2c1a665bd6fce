"""Clone a container, linked or in full, and make one a template (pve-container, API2/LXC.pm)."""

from dataclasses import dataclass, field
from typing import Any

from tests.pvesim.api import storages, tasks, users, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import Failure, die
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.lxc import permissions, properties, rootfs, runtime
from tests.pvesim.api.lxc.guest import store_of
from tests.pvesim.api.privileges import require

_NOT_COPIED = ("snapshots", "parent", "snaptime", "snapstate", "template", "lock")


@dataclass
class _Plan:
    """What a clone copies, found out before its task begins."""

    guest: GuestConfig
    points: list[properties.MountPoint] = field(default_factory=list)
    is_full: bool = False


def clone(call: Call) -> Any:
    """While it goes on the source is locked with `disk` and the new one with `create`: a second clone is refused."""
    source, target = store_of(call), store_of(call, call["newid"])
    if call.get("pool") and call["pool"] not in users.read().pools:
        die(f"pool '{call['pool']}' does not exist")
    node = call.get("target") if call.get("target") not in (call.node, "localhost") else None
    if node and node not in call.sim.nodes:
        die(f"no such cluster node '{node}'")
    if call.get("storage"):
        storage = storages.find(call["storage"], call.node)
        if node and not storage.is_shared:
            die(f"can't clone to non-shared storage '{storage.id}'")
    call.require_quorum()
    running = runtime.is_running(call.vmid)
    config = source.set_lock("disk")
    try:
        target.create_and_lock()
    except Failure:
        source.remove_lock("disk")
        raise
    try:
        plan = _plan(call, config, running=running, leaves_node=node)
        target.write(plan.guest)
    except BaseException:
        source.remove_lock("disk")
        target.remove()
        raise
    return tasks.fork_worker(call, "vzclone", call.vmid, lambda: _carry_out(call, plan, node))


def make_template(call: Call) -> Any:
    """Null, though a task does it: whoever wants to know has to look for `vztemplate` in the list of tasks."""
    store = store_of(call)
    with store.locked():
        guest = store.load()
        store.check_lock(guest)
        if guest.snapshots:
            die("unable to create template, because CT contains snapshots")
        if guest.is_template:
            die("you can't convert a template to a template")
        if runtime.is_running(call.vmid):
            die("you can't convert a CT to template if the CT is running")

        def work() -> None:
            for point in properties.volumes(guest.values):
                guest.values[point.key] = point.with_volume(volumes.make_base(point.volume))
            guest.values["template"] = "1"
            store.write(guest)

        tasks.fork_worker(call, "vztemplate", call.vmid, work)


def _plan(call: Call, config: GuestConfig, *, running: bool, leaves_node: str | None) -> _Plan:
    """Raises Failure for what cannot be cloned."""
    full, snapshot = call.get("full"), call.get("snapname")
    is_full = bool(full) if full is not None else not config.is_template
    if call.get("storage") and not is_full:
        die("parameter 'storage' not allowed for linked clones")
    if snapshot and snapshot not in config.snapshots:
        die(f"snapshot '{snapshot}' does not exist")
    values = config.snapshots[snapshot] if snapshot else config.values
    plan = _Plan(GuestConfig(), is_full=is_full)
    for key, value in values.items():
        if properties.is_mount_key(key):
            plan.points.append(
                _check_point(call, properties.MountPoint(key, properties.parse(key, value)), running, is_full)
            )
        elif key[:3] == "net" and key[3:].isdigit():
            plan.guest.values[key] = value
            if not call.is_root:
                permissions.check_bridge(call, value)
        elif key not in _NOT_COPIED and not key.startswith("unused"):
            plan.guest.values[key] = value
    shared = all(storages.parse(point.volume).storage.is_shared for point in plan.points)
    if leaves_node and not shared:
        die(f"can't clone CT to node '{leaves_node}' (CT uses local storage)")
    rootfs.give_new_addresses(plan.guest)
    plan.guest.values |= {key: call[key] for key in ("hostname", "description") if call.get(key)}
    plan.guest.values["lock"] = "create"
    return plan


def _check_point(call: Call, point: properties.MountPoint, running: bool, is_full: bool) -> properties.MountPoint:
    if point.type != "volume":
        die(f"unable to clone mountpoint '{point.key}' (type {point.type})")
    storage = call.get("storage") or point.volume.partition(":")[0]
    require(call.user, f"/storage/{storage}", "Datastore.AllocateSpace")
    if is_full and running and not call.get("snapname"):
        die("Full clone of a running container is only possible from a snapshot")
    if not is_full and not volumes.can_link(point.volume, call.get("snapname")):
        die(f"Linked clone feature for '{point.volume}' is not available")
    return point


def _carry_out(call: Call, plan: _Plan, node: str | None) -> None:
    source, target = store_of(call), store_of(call, call["newid"])
    made: list[str] = []
    print(f"creating a clone of container {source.vmid} with ID {target.vmid}")
    try:
        for point in plan.points:
            kind = "full clone of mountpoint" if plan.is_full else "linked clone of mount point"
            print(f"create {kind} {point.key} ({point.volume})")
            call.sim.faults.stall("copy")
            storage = storages.find(call.get("storage") or point.volume.partition(":")[0])
            if call.sim.faults.is_full(storage.id):
                die(f"unable to create image: no space left on storage '{storage.id}'")
            made.append(volumes.copy(point.volume, storage, target.vmid, call.get("snapname"), linked=not plan.is_full))
            _set(target, point.key, point.with_volume(made[-1]))
        if call.get("pool"):
            users.add_to_pool(target.vmid, call["pool"])
        rootfs.rename(target.load(), target.vmid)
    except BaseException as error:
        source.remove_lock("disk")
        for volume in made:
            volumes.free(volume)
        target.remove()
        raise (Failure(500, f"clone failed: {error}") if isinstance(error, Failure) else error) from None
    source.remove_lock("disk")
    target.remove_lock("create")
    if node:
        target.move(node)


def _set(store: Store, key: str, value: str) -> None:
    with store.locked():
        guest = store.load()
        if guest.lock != "create":
            die("Lost 'create' config lock, aborting.")
        guest.values[key] = value
        store.write(guest)

"""Make a volume of a container larger, and what features its storages have (API2/LXC.pm)."""

from typing import Any

from tests.pvesim.api import storages, tasks, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.failure import die
from tests.pvesim.api.formats import parse_size, print_size
from tests.pvesim.api.lxc import properties, runtime
from tests.pvesim.api.lxc.guest import store_of
from tests.pvesim.api.lxc.snapshots import can_snapshot
from tests.pvesim.api.privileges import require


def resize(call: Call) -> Any:
    """By a task. A plain number is bytes; `+2G` adds. Checked before the task, and again in it."""
    _check(call)

    def work() -> None:
        store = store_of(call)
        with store.locked():
            point, size = _check(call)
            guest = store.load()
            volumes.resize(point.volume, size)
            guest.values[point.key] = point.with_volume(point.volume, print_size(size))
            store.write(guest)

    return tasks.fork_worker(call, "resize", call.vmid, work)


def show_feature(call: Call) -> Any:
    """Whether all volumes can be snapshotted, cloned or copied."""
    guest = store_of(call).load()
    points = properties.volumes(guest.values)
    feature, snapshot = call["feature"], call.get("snapname")
    can = {
        "snapshot": can_snapshot(guest),
        "clone": all(volumes.can_link(point.volume, snapshot) for point in points),
        "copy": bool(snapshot) or not runtime.is_running(call.vmid),
    }
    return {"hasFeature": int(can[feature])}


def _check(call: Call) -> tuple[properties.MountPoint, int]:
    """The mount point and its new size in bytes. Raises Failure."""
    store = store_of(call)
    guest = store.load()
    store.check_lock(guest)
    disk = call["disk"]
    if not call.is_root:
        require(call.user, f"/vms/{call.vmid}", "VM.Config.Disk")
    if call.get("digest") and call["digest"] != guest.digest:
        die("detected modified configuration - file changed by other user? Try again.")
    if disk not in guest.values:
        die(f"Use of uninitialized value: no mount point '{disk}'")
    point = properties.MountPoint(disk, properties.parse(disk, guest.values[disk]))
    volume = storages.parse(point.volume)
    require(call.user, f"/storage/{volume.storage.id}", "Datastore.AllocateSpace")
    now, wanted = volumes.describe(volume)["size"], call["size"]
    size = parse_size(wanted.lstrip("+")) + (now if wanted.startswith("+") else 0)
    if size < now:
        die("unable to shrink disk size")
    if size == now:
        die("disk is already at specified size")
    return point, size

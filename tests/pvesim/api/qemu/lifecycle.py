"""Create, clone, destroy machines and make them templates (qemu-server, API2/Qemu.pm). Disks are on paper."""

import urllib.parse
from typing import Any

from tests.pvesim.api import archives, backup, config_text, ha, storages, tasks, users, volumes
from tests.pvesim.api.call import Call
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import Failure, die, forbid, refuse
from tests.pvesim.api.guest_store import Store, check_unused
from tests.pvesim.api.lxc.pending import random_mac
from tests.pvesim.api.lxc.permissions import check_volume_access
from tests.pvesim.api.lxc.rootfs import is_ssh_key
from tests.pvesim.api.privileges import may, require
from tests.pvesim.api.qemu import configuration, pending, power, process
from tests.pvesim.api.qemu.guest import store_of

_NOT_CONFIG = (
    *("node", "vmid", "archive", "storage", "force", "unique", "pool", "bwlimit", "start", "live-restore"),
    *("ha-managed", "import-working-storage"),
)


def create(call: Call) -> Any:
    """The task's UPID; from a backup with `archive`."""
    pool, store = call.get("pool"), store_of(call)
    if pool and pool not in users.read().pools:
        die(f"pool '{pool}' does not exist")
    if not (
        may(call.user, f"/vms/{call.vmid}", "VM.Allocate") or (pool and may(call.user, f"/pool/{pool}", "VM.Allocate"))
    ):
        forbid()
    values = {key: str(value) for key, value in call.parameters.items() if key not in _NOT_CONFIG}
    if call.get("storage"):
        require(call.user, f"/storage/{call['storage']}", "Datastore.AllocateSpace")
    if call.get("archive"):
        for key in sorted(key for key in values if pending.DRIVE.fullmatch(key)):
            refuse({key: "option conflicts with option 'archive'"})
        check_volume_access(call, call["archive"], "backup")
    configuration.check_keys(call, list(values), pool)
    configuration.check_values(call, values, pool)
    keys = urllib.parse.unquote(call.get("sshkeys", "")).splitlines()
    if not all(is_ssh_key(line) for line in keys if line.strip()):
        die("SSH public key validation error")
    call.require_quorum()
    if not call.get("force"):
        check_unused(call.vmid)
    title = f"unable to {'restore' if call.get('archive') else 'create'} VM {call.vmid} -"
    try:
        store.create_and_lock(allow_existing=bool(call.get("force")))
    except Failure as failure:
        raise Failure(500, f"{title} {failure.message}") from None
    kind = "qmrestore" if call.get("archive") else "qmcreate"
    return tasks.fork_worker(call, kind, call.vmid, lambda: _make(call, store, values, title))


def clone(call: Call) -> Any:
    source, target = store_of(call), store_of(call, call["newid"])
    call.require_quorum()
    if call.get("pool") and call["pool"] not in users.read().pools:
        die(f"pool '{call['pool']}' does not exist")
    guest = source.load()
    source.check_lock(guest)
    snapshot = call.get("snapname")
    if snapshot and snapshot not in guest.snapshots:
        die(f"snapshot '{snapshot}' does not exist")
    is_full = bool(call.get("full", int(not guest.is_template)))
    if call.get("storage") and not is_full:
        die("parameter 'storage' not allowed for linked clones")
    values = guest.snapshots[snapshot] if snapshot else guest.values
    node = call.get("target", "localhost")
    if node not in (call.node, "localhost"):
        if node not in call.sim.nodes:
            die(f"no such cluster node '{node}'")
        if call.get("storage") and not storages.find(call["storage"], node).is_shared:
            die(f"can't clone to non-shared storage '{call['storage']}'")
        if not all(storages.parse(volume).storage.is_shared for volume in pending.disks(values).values()):
            die(f"can't clone VM to node '{node}' (VM uses local storage)")
    for key, volume in pending.disks(values).items():
        require(call.user, f"/storage/{call.get('storage') or volume.partition(':')[0]}", "Datastore.AllocateSpace")
        if not is_full and not volumes.can_link(volume, snapshot):
            die(f"Linked clone feature is not supported for drive '{key}'")
    check_unused(target.vmid)
    target.create_and_lock(lock="clone")
    return tasks.fork_worker(call, "qmclone", call.vmid, lambda: _copy(call, dict(values), target, is_full=is_full))


def destroy(call: Call) -> Any:
    store = store_of(call)
    guest = store.load()
    store.check_protection(guest, f"can't remove VM {call.vmid}")
    managed = ha.state_of("qemu", call.vmid) is not None
    if managed and not call.get("purge"):
        die(f"unable to remove VM {call.vmid} - used in HA resources and purge parameter not set.")
    if process.find_pid(store):
        die(f"VM {call.vmid} is running - destroy failed")

    def work() -> None:
        with store.locked():
            guest = store.load()
            store.check_lock(guest)
            if process.find_pid(store):
                die(f"VM {call.vmid} is running - destroy failed")
            for volume in {*pending.disks(guest.values).values(), *_unused(guest)}:
                volumes.free(volume)
            users.forget_guest(call.vmid)
            if managed:
                ha.manage("qemu", call.vmid, None)
            store.remove()

    return tasks.fork_worker(call, "qmdestroy", call.vmid, work)


def make_template(call: Call) -> Any:
    """A UPID, unlike for a container."""
    store = store_of(call)
    guest = store.load()
    store.check_lock(guest)
    if guest.snapshots:
        die("unable to create template, because VM contains snapshots")
    if guest.is_template:
        die("you can't convert a template to a template")
    if process.find_pid(store):
        die("you can't convert a VM to template if VM is running")

    def work() -> None:
        with store.locked():
            guest = store.load()
            for key, volume in pending.disks(guest.values).items():
                guest.values[key] = guest.values[key].replace(volume, volumes.make_base(volume))
            guest.values["template"] = "1"
            store.write(guest)

    return tasks.fork_worker(call, "qmtemplate", call.vmid, work)


def _make(call: Call, store: Store, values: dict[str, str], title: str) -> None:
    guest = GuestConfig()
    try:
        for storage in {volume.partition(":")[0] for volume in pending.disks(values).values()}:
            if call.sim.faults.is_full(storage):
                die(f"lvcreate 'pve/vm-{call.vmid}-disk-0' error: insufficient free space on '{storage}'")
        if call.get("archive"):
            values = {**_recover(call), **values}
        pending.queue(guest, values, [], [])
        pending.apply(guest, call.vmid)
        with store.locked():
            store.write(guest)
    except Failure as failure:
        for volume in pending.disks(guest.values).values():
            volumes.free(volume)
        store.remove()
        raise Failure(500, f"{title} {failure}") from None
    if call.get("pool"):
        users.add_to_pool(call.vmid, call["pool"])
    if call.get("start"):
        power.start(Call(call.sim, call.user, call.node, {"vmid": call.vmid}, call.is_cli))


def _recover(call: Call) -> dict[str, str]:
    """The configuration out of a backup, its disks asked for anew on `storage`, or where they were."""
    volume = storages.parse(call["archive"])
    text = archives.read_member(volume.path, archives.CONFIG) if volume.path.exists() else None
    if text is None:
        die(f"volume '{volume.id}' does not exist")
    kept = "".join(f"{line}\n" for line in text.splitlines() if not backup.HINT.fullmatch(line))
    old = config_text.parse(kept).values
    for key, disk in pending.disks(old).items():
        place = call.get("storage") or disk.partition(":")[0]
        if "cloudinit" in disk:
            old[key] = f"{place}:cloudinit"
        elif key in backup.hints(text):  # what stands in the archive without its data is left as it is
            old[key] = f"{place}:{pending.size_of(old[key]) / (1 << 30):g}"
    return {key: value for key, value in old.items() if not key.startswith("unused") and key not in ("lock", "parent")}


def _copy(call: Call, values: dict[str, str], target: Store, *, is_full: bool) -> None:
    left = ("lock", "template", "parent", "snaptime", "snapstate")
    guest = GuestConfig(
        {key: value for key, value in values.items() if key not in left and not key.startswith("unused")}
    )
    made: list[str] = []
    try:
        for key, volume in pending.disks(guest.values).items():
            print(f"create {'full' if is_full else 'linked'} clone of drive {key} ({volume})")
            storage = storages.find(call.get("storage") or volume.partition(":")[0])
            if call.sim.faults.is_full(storage.id):
                die(f"no space left on storage '{storage.id}'")
            made.append(volumes.copy(volume, storage, target.vmid, call.get("snapname"), linked=not is_full))
            guest.values[key] = guest.values[key].replace(volume, made[-1])
        for key in [key for key in guest.values if key[:3] == "net"]:
            model, _, rest = guest.values[key].partition(",")
            guest.values[key] = f"{model.partition('=')[0]}={random_mac()},{rest}".rstrip(",")
        if call.get("name"):
            guest.values["name"] = call["name"]
        if call.get("description"):
            guest.values["description"] = call["description"]
        with target.locked():
            target.write(guest)
    except Failure as failure:
        for volume in made:
            volumes.free(volume)
        target.remove()
        raise Failure(500, f"clone failed: {failure}") from None
    if call.get("pool"):
        users.add_to_pool(target.vmid, call["pool"])
    if call.get("target") and call["target"] not in (call.node, "localhost"):
        target.move(call["target"])


def _unused(guest: GuestConfig) -> list[str]:
    return [value for key, value in guest.values.items() if key.startswith("unused")]

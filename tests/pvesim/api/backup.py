"""Backups: `POST /nodes/{node}/vzdump`, and the configuration out of one (pve-manager, VZDump.pm, API2/VZDump.pm).

One guest's failure is `job errors` for the task. A guest on another node is passed over: the answer is the text `OK`,
no UPID. One backup runs at a time on a node.
"""

import contextlib
import fcntl
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.pvesim.api import archives, config_text, storages, tasks, volumes
from tests.pvesim.api.call import Call, Handler, split_list
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import Failure, die, refuse
from tests.pvesim.api.guest_store import Store, every_guest
from tests.pvesim.api.lxc import properties, runtime, snapshots
from tests.pvesim.api.privileges import may, require
from tests.pvesim.api.qemu import pending as qemu
from tests.pvesim.api.users import read as read_users

HINT = re.compile(r"#qmdump#map:(\S+):\S+:\S*:\S*:")
_LOCK = Path("/run/pvesim/vzdump.lock")
_SUFFIX = {"zstd": ".zst", "gzip": ".gz", "1": ".gz"}
_ROOT_ONLY = ("tmpdir", "dumpdir", "script", "job-id")


def start(call: Call) -> Any:
    for name in _ROOT_ONLY:
        if call.get(name) and not call.is_root:
            refuse({name: "Only root may set this option."})
    if not (call.get("vmid") or call.get("all") or call.get("pool")):
        refuse({"vmid": "property is missing and it is not optional"})
    here = [vmid for vmid in _chosen(call) if every_guest().get(vmid, ("", call.node))[1] == call.node]
    if not here and not call.get("all"):
        return "OK"
    storage = storages.find(call.get("storage", "local"), call.node)
    if "backup" not in storage.content:
        die(f"storage '{storage.id}' does not support backups")
    require(call.user, f"/storage/{storage.id}", "Datastore.AllocateSpace")
    about = here[0] if len(here) == 1 else ""
    return tasks.fork_worker(call, "vzdump", about, lambda: _carry_out(call, here, storage))


def extract_config(call: Call) -> Any:
    """The configuration of a guest as a text, out of its backup."""
    volume = storages.parse(call["volume"])
    if volume.type != "backup":
        die("not a backup volume ID")
    if not may(call.user, f"/storage/{volume.storage.id}", "Datastore.Allocate"):
        require(call.user, f"/storage/{volume.storage.id}", "Datastore.AllocateSpace")
        require(call.user, f"/vms/{volume.owner}", "VM.Backup")
    text = archives.read_member(volume.path, archives.CONFIG) if volume.path.exists() else None
    if text is None:
        die(f"unable to extract configuration: volume '{volume.id}' does not exist")
    return text


def _chosen(call: Call) -> list[int]:
    if call.get("vmid"):
        return [int(word) for word in split_list(call["vmid"])]
    if call.get("pool"):
        pool = read_users().pools.get(call["pool"])
        return sorted(pool.vmids) if pool else []
    return sorted(set(every_guest()) - {int(word) for word in split_list(call.get("exclude"))})


def _carry_out(call: Call, vmids: list[int], storage: storages.Storage) -> None:
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        print(f"INFO: starting new backup job: vzdump {' '.join(map(str, vmids))} --storage {storage.id}")
        failed = 0
        for vmid in vmids:
            try:
                _backup(call, vmid, storage)
            except Failure as failure:
                failed += 1
                print(f"ERROR: Backup of VM {vmid} failed - {str(failure).strip()}")
        if failed:
            print("INFO: Backup job finished with errors")
            die("job errors")
        print("INFO: Backup job finished successfully")


def _backup(call: Call, vmid: int, storage: storages.Storage) -> None:
    kind, _ = every_guest().get(vmid, (None, None))
    if kind is None:
        die(f"unable to find VM '{vmid}'")
    require(call.user, f"/vms/{vmid}", "VM.Backup")
    store = Store(call.sim, kind, call.node, vmid)
    begun = time.strftime("%Y_%m_%d-%H_%M_%S")
    print(f"INFO: Starting Backup of VM {vmid} ({kind})")
    suffix = _SUFFIX.get(str(call.get("compress", "0")), "")
    archive = storage.place("backup") / f"vzdump-{kind}-{vmid}-{begun}.{'tar' if kind == 'lxc' else 'vma'}{suffix}"
    guest = store.set_lock("backup")
    try:
        if call.sim.faults.is_full(storage.id):
            die(f"command 'tar cpf - --directory={archive.parent}' failed: exit code 2 - No space left on device")
        if kind == "lxc":
            _pack_container(call, store, guest, archive)
        else:
            _pack(archive, guest, hints=_hints(guest))
    finally:
        store.remove_lock("backup")
    if call.get("notes-template"):
        notes = call["notes-template"].replace("{{vmid}}", str(vmid)).replace("{{guestname}}", guest.get("hostname"))
        archive.with_name(f"{archive.name}.notes").write_text(notes)
    if call.get("protected"):
        archive.with_name(f"{archive.name}.protected").touch()
    print(f"INFO: archive file size: {archive.stat().st_size >> 20}MB")
    print(f"INFO: Finished Backup of VM {vmid}")


def _pack_container(call: Call, store: Store, guest: GuestConfig, archive: Path) -> None:
    """Of the mode that the storages allow: snapshot, else suspend; `stop` starts the container again."""
    mode, running = call.get("mode", "snapshot"), runtime.is_running(store.vmid)
    print(f"INFO: status = {'running' if running else 'stopped'}")
    if mode == "snapshot" and running and not snapshots.can_snapshot(guest, backup=True):
        print("INFO: mode failure - some volumes do not support snapshots")
        print("INFO: trying 'suspend' mode instead")
        mode = "suspend"
    with _at_rest(call, store, guest, mode) if running else contextlib.nullcontext():
        _pack(archive, guest, is_snapshot=running and mode == "snapshot")


@contextlib.contextmanager
def _at_rest(call: Call, store: Store, guest: GuestConfig, mode: str) -> Iterator[None]:
    """Nothing of a running container changes meanwhile, or it does not matter."""
    if mode == "stop":
        print("INFO: stopping vm")
        runtime.stop(store.vmid, timeout=60)
        try:
            yield
        finally:
            print("INFO: restarting vm")
            runtime.start(store.vmid, guest, dhcp_delay=call.sim.dhcp_delay)
    elif mode == "suspend":
        print("INFO: suspend vm to make final copy")
        runtime.freeze(store.vmid)
        try:
            yield
        finally:
            runtime.thaw(store.vmid)
    else:
        print("INFO: create storage snapshot 'vzdump'")
        snapshots.create(store, "vzdump")
        try:
            yield
        finally:
            print("INFO: cleanup temporary 'vzdump' snapshot")
            snapshots.delete(store, "vzdump")


def hints(text: str) -> set[str]:
    """The drives whose data an archive of a machine has (parse_backup_hints)."""
    return {found[1] for line in text.splitlines() if (found := HINT.fullmatch(line))}


def _hints(guest: GuestConfig) -> str:
    disks = {key: volume for key, volume in qemu.disks(guest.values).items() if "cloudinit" not in volume}
    return "".join(f"#qmdump#map:{key}:drive-{key}:{disk.partition(':')[0]}:raw:\n" for key, disk in disks.items())


def _pack(archive: Path, guest: GuestConfig, *, is_snapshot: bool = False, hints: str = "") -> None:
    """The root, the volumes with `backup=1`, and the configuration without lock, pending changes and snapshots."""
    print(f"INFO: creating vzdump archive '{archive}'")
    values = {key: value for key, value in guest.values.items() if key not in ("lock", "parent")}
    trees = {
        point.parts.get("mp", "/"): volumes.snapshot_tree(point.volume, "vzdump")
        if is_snapshot
        else volumes.tree(point.volume)
        for point in properties.volumes(guest.values)
        if point.key == "rootfs" or point.parts.get("backup") == "1"
    }
    unprivileged = guest.get("unprivileged") == "1"
    with tempfile.TemporaryDirectory(prefix="vzdump-", dir=storages.ROOT) as place:
        extra = Path(place)
        extra.chmod(0o755)
        (extra / "etc/vzdump").mkdir(parents=True)
        (extra / archives.CONFIG).write_text(config_text.print_config(GuestConfig(values, raw=guest.raw)) + hints)
        (extra / "empty").mkdir()
        root = trees.pop("/", extra / "empty")  # a machine's disks are on paper
        archives.pack(root, archive, unprivileged=unprivileged, extra=extra, mounts=trees)


ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/nodes/{node}/vzdump"): start,
    ("GET", "/nodes/{node}/vzdump/extractconfig"): extract_config,
}

"""Create a container from a template, or restore one from a backup (pve-container, API2/LXC.pm, create_vm)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pvesim.api import ha, storages, tasks, users, volumes
from tests.pvesim.api.call import Call, Parameters
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import Failure, die, forbid, refuse
from tests.pvesim.api.guest_store import Store, check_unused
from tests.pvesim.api.lxc import pending, permissions, power, properties, rootfs, runtime
from tests.pvesim.api.lxc.guest import store_of
from tests.pvesim.api.privileges import may, require

_NOT_CONFIG = (
    *("node", "vmid", "ostemplate", "storage", "password", "ssh-public-keys", "force", "restore", "unique", "pool"),
    *("ignore-unpack-errors", "bwlimit", "start", "ha-managed", "unprivileged"),
)


@dataclass
class Wish:
    """One request for a container, checked."""

    call: Call
    store: Store
    guest: GuestConfig
    mounts: dict[str, str]
    storage: str
    template: storages.Volume

    @property
    def is_restore(self) -> bool:
        return bool(self.call.get("restore"))

    @property
    def title(self) -> str:
        return f"unable to {'restore' if self.is_restore else 'create'} CT {self.store.vmid} -"


def create(call: Call) -> Any:
    """The task's UPID. All that can be refused at once is: 403, 400, or a 500 whose text tells."""
    call.require_quorum()
    store, is_restore, unprivileged = store_of(call), bool(call.get("restore")), call.get("unprivileged")
    if not is_restore:
        unprivileged = 1 if unprivileged is None else unprivileged
        if not unprivileged:
            require(call.user, "/", "Sys.Modify")
    if call.get("ha-managed"):
        require(call.user, "/", "Sys.Console")
    overwrites = store.exists() and is_restore and bool(call.get("force"))
    if overwrites:
        if runtime.is_running(call.vmid):
            die("can't overwrite running container")
        store.check_protection(store.load(), f"unable to restore CT {call.vmid}")
    else:
        check_unused(call.vmid)
    keys = [line for line in call.get("ssh-public-keys", "").splitlines() if line.strip()]
    if not all(rootfs.is_ssh_key(line) for line in keys):
        die("SSH public key validation error")
    _check_may_allocate(call, overwrites=overwrites)
    config = {key: value for key, value in call.parameters.items() if key not in _NOT_CONFIG}
    permissions.check_changes(call, None, config, [], unprivileged=bool(unprivileged), pool=call.get("pool"))
    permissions.check_volume_access(call, call["ostemplate"], "backup" if is_restore else "vztmpl")
    wish = _plan(call, store, config)
    if unprivileged:
        wish.guest.values["unprivileged"] = "1"
    try:
        store.create_and_lock(allow_existing=overwrites)
    except Failure as failure:
        raise Failure(500, f"{wish.title} {failure.message}") from None
    return tasks.fork_worker(
        call, "vzrestore" if is_restore else "vzcreate", call.vmid, lambda: _carry_out(wish, overwrites)
    )


def _check_may_allocate(call: Call, *, overwrites: bool) -> None:
    pool = call.get("pool")
    if pool and pool not in users.read().pools:
        die(f"pool '{pool}' does not exist")
    by_guest = may(call.user, f"/vms/{call.vmid}", "VM.Allocate")
    by_pool = bool(pool) and may(call.user, f"/pool/{pool}", "VM.Allocate")
    if not (by_guest or by_pool or (overwrites and may(call.user, f"/vms/{call.vmid}", "VM.Backup"))):
        forbid()


def _plan(call: Call, store: Store, config: Parameters) -> Wish:
    """Sort the parameters out and check the storages that they name."""
    storage = call.get("storage", "local")
    mounts = {key: str(value) for key, value in config.items() if properties.is_mount_key(key)}
    for key, value in mounts.items():
        if value.replace(".", "", 1).isdigit():
            mounts[key] = f"{storage}:{value}"
    if mounts and "rootfs" not in mounts:
        die("mount points configured, but 'rootfs' not set - aborting")
    for point in properties.mount_points(mounts):
        if point.type == "volume":
            _check_storage(call, point.volume.partition(":")[0])
        elif not call.is_root:
            die("Only root can pass arbitrary filesystem paths.")
    if not mounts:
        _check_storage(call, storage)
    guest = GuestConfig()
    rest = {key: value for key, value in config.items() if key not in mounts and not key.startswith("unused")}
    pending.queue(store, guest, rest, [], [])
    pending.apply(guest)
    return Wish(call, store, guest, mounts, storage, _find_template(call["ostemplate"]))


def _find_template(name: str) -> storages.Volume:
    """A volume, or for root@pam any file (PVE::Storage, abs_filesystem_path)."""
    if name.startswith("/"):
        return storages.Volume(storages.Storage("", "dir", {}), name, "vztmpl", Path(name))
    return storages.parse(name)


def _check_storage(call: Call, name: str) -> None:
    if "rootdir" not in storages.find(name, call.node).content:
        refuse({"storage": f"storage '{name}' does not support container directories"})
    require(call.user, f"/storage/{name}", "Datastore.AllocateSpace")


def _carry_out(wish: Wish, overwrites: bool) -> None:
    call, store = wish.call, wish.store
    made: list[str] = []
    with store.locked():
        try:
            old = store.load()
            if wish.is_restore:
                rootfs.recover(wish.guest, wish.mounts, wish.template, storage=wish.storage, is_root=call.is_root)
            wish.mounts = wish.mounts or {"rootfs": f"{wish.storage}:4"}
            _make_volumes(wish, made)
            if overwrites:
                for point in properties.volumes(old.values):
                    volumes.free(point.volume)
            rootfs.fill(wish.guest, wish.template, call, is_restore=wish.is_restore)
            for key, default in (("hostname", f"CT{store.vmid}"), ("memory", "512"), ("swap", "512")):
                wish.guest.values.setdefault(key, default)
            store.write(wish.guest)
        except BaseException as error:
            _undo(made, store)
            raise (Failure(500, f"{wish.title} {error}") if isinstance(error, Failure) else error) from None
        if call.get("pool"):
            users.add_to_pool(store.vmid, call["pool"])
    if call.get("start"):  # by a task of its own, whose failure is not this one's
        power.start(Call(call.sim, call.user, call.node, {"vmid": store.vmid}, call.is_cli))
    if call.get("ha-managed"):
        print("Add as HA resource")
        ha.manage("lxc", store.vmid, "started" if call.get("start") else "stopped")


def _make_volumes(wish: Wish, made: list[str]) -> None:
    """create_disks: an image for each mount point that asks for one; `made` has them also after a failure."""
    for key, value in wish.mounts.items():
        point = properties.MountPoint(key, properties.parse(key, value))
        text = pending.make_volume(wish.store.vmid, wish.guest, key, value)
        wish.guest.values[key] = text
        if point.type == "volume" and text != value:
            made.append(properties.MountPoint(key, properties.parse(key, text)).volume)


def _undo(made: list[str], store: Store) -> None:
    for volume in made:
        volumes.free(volume)
    store.remove()

"""Storages, their content, and templates to download (pve-storage, API2/Storage; pve-manager, API2/Nodes.pm)."""

import time
from pathlib import Path
from typing import Any

from tests.pvesim.api import archives, storages, tasks, volumes
from tests.pvesim.api.call import Call, Handler, split_list
from tests.pvesim.api.failure import die, forbid, refuse
from tests.pvesim.api.privileges import may, require
from tests.pvesim.api.storages import Storage, Volume
from tests.pvesim.api.upid import decode, read_status

_AUDIT = ("Datastore.Audit", "Datastore.AllocateSpace")


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
        if may(call.user, f"/storage/{storage.id}", *_AUDIT, any_of=True):
            told.append({"storage": storage.id, **_status(call, storage)})
    return told


def show_status(call: Call) -> Any:
    return _status(call, storages.find(call["storage"], call.node))


def list_content(call: Call) -> Any:
    storage, told = storages.find(call["storage"], call.node), []
    for volume in _volumes(storage):
        shown = _describe(volume)
        fits = call.get("content", shown["content"]) == shown["content"]
        if fits and call.get("vmid", volume.owner) == volume.owner and _may_see(call, volume):
            told.append(shown)
    return told


def show_volume(call: Call) -> Any:
    volume = _find(call)
    if not _may_see(call, volume):
        forbid()
    return {"path": str(volume.path), **{k: v for k, v in _describe(volume).items() if k in ("size", "format", "used")}}


def change_volume(call: Call) -> Any:
    """Notes and protection of a backup."""
    volume = _find(call)
    require(call.user, f"/storage/{volume.storage.id}", "Datastore.Allocate", "Datastore.AllocateSpace", any_of=True)
    if "notes" in call.parameters:
        volume.path.with_name(f"{volume.path.name}.notes").write_text(call["notes"])
    if call.get("protected"):
        _protection(volume).touch()
    elif "protected" in call.parameters:
        _protection(volume).unlink(missing_ok=True)


def remove_volume(call: Call) -> Any:
    """By a task, whose UPID comes when it takes longer than `delay`; else null."""
    volume = _find(call)
    if volume.type == "backup":
        require(call.user, f"/storage/{volume.storage.id}", "Datastore.AllocateSpace")
        require(call.user, f"/vms/{volume.owner}", "VM.Backup")
    else:
        require(call.user, f"/storage/{volume.storage.id}", "Datastore.Allocate")

    def work() -> None:
        if volume.type == "images":
            volumes.free(volume.id)
        else:
            if _protection(volume).exists():
                die(f"cannot remove protected archive '{volume.path}'")
            volume.path.unlink()
            volume.path.with_name(f"{volume.path.name}.notes").unlink(missing_ok=True)
        print(f"Removed volume '{volume.id}'")

    about = f"{f'{volume.owner}@' if volume.owner else ''}{volume.storage.id}"
    upid = tasks.fork_worker(call, "imgdel", about, work)
    deadline = time.monotonic() + call.get("delay", 0)
    while call.get("delay") and time.monotonic() < deadline:
        task = decode(upid)
        if task and not tasks.is_running(task):
            status = read_status(task)
            return None if status == "OK" else die(status)
        time.sleep(0.05)
    return upid


def list_appliances(_: Call) -> Any:
    return [
        {"template": name, "package": name.partition("_")[0], "os": system, "section": section, "type": "lxc",
         "source": "https://templates.invalid", "version": name.split("_")[1], "headline": name.partition("_")[0]}
        for name, (system, section, _) in archives.APPLIANCES.items()
    ]  # fmt: skip


def download_appliance(call: Call) -> Any:
    name = call["template"]
    if name not in archives.APPLIANCES:
        refuse({"template": "no such template"})
    storage = storages.find(call["storage"], call.node)
    if "vztmpl" not in storage.content:
        die(f"storage '{storage.id}' does not support templates")

    def work() -> None:
        target = storage.place("vztmpl") / name
        print(f"downloading https://templates.invalid/{name} to {target}")
        if call.sim.faults.is_full(storage.id):
            die(f"download of 'https://templates.invalid/{name}' to '{target}' failed - No space left on device")
        archives.download(name, target)
        print("download finished")

    return tasks.fork_worker(call, "download", name, work)


def list_defined(call: Call) -> Any:
    allowed = [
        one for one in storages.every_storage().values() if may(call.user, f"/storage/{one.id}", *_AUDIT, any_of=True)
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


def _volumes(storage: Storage) -> list[Volume]:
    found = volumes.images(storage)
    for content in ("vztmpl", "backup", "iso"):
        if content in storage.content and not storage.is_thin:
            files = sorted(storage.place(content).glob("*"))
            suffixes = (".dat", ".new", ".tmp_dwnl", ".notes", ".protected", ".log")
            names = [file.name for file in files if not file.name.endswith(suffixes)]
            found += [storages.parse(f"{storage.id}:{content}/{name}") for name in names]
    return found


def _describe(volume: Volume) -> dict[str, Any]:
    if volume.type == "images":
        size, form = volumes.describe(volume)["size"], "raw"
        shown: dict[str, Any] = {"content": "rootdir", "used": size}
    else:
        size, form = volume.path.stat().st_size, volume.path.name.partition(".tar")[2].lstrip(".")
        shown = {"content": volume.type}
        form = f"t{'z' if form else 'ar'}{'st' if form == 'zst' else ''}"
    shown |= {"volid": volume.id, "size": size, "format": form, "ctime": int(volume.path.stat().st_ctime)}
    if volume.owner is not None:
        shown["vmid"] = volume.owner
    notes = volume.path.with_name(f"{volume.path.name}.notes")
    if notes.exists():
        shown["notes"] = notes.read_text()
    if _protection(volume).exists():
        shown["protected"] = 1
    return {**shown, "subtype": volume.path.name.split("-")[1]} if volume.type == "backup" else shown


def _protection(volume: Volume) -> Path:
    return volume.path.with_name(f"{volume.path.name}.protected")


def _find(call: Call) -> Volume:
    """The content's volume may come with or without its storage."""
    name = call["volume"]
    volume = storages.parse(name if ":" in name else f"{call['storage']}:{name}")
    if volume.storage.id != call["storage"]:
        die(f"storage ID mismatch ({volume.storage.id} != {call['storage']})")
    if not volume.path.exists():
        die(f"volume '{volume.id}' does not exist")
    return volume


def _may_see(call: Call, volume: Volume) -> bool:
    on = f"/storage/{volume.storage.id}"
    if may(call.user, on, "Datastore.Allocate"):
        return True
    if volume.type == "backup":
        return may(call.user, on, "Datastore.AllocateSpace") and may(call.user, f"/vms/{volume.owner}", "VM.Backup")
    if volume.type == "images":
        return may(call.user, on, "Datastore.Audit") and may(call.user, f"/vms/{volume.owner}", "VM.Config.Disk")
    return may(call.user, on, *_AUDIT, any_of=True)


_CONTENT = "/nodes/{node}/storage/{storage}/content"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/storage"): list_defined,
    ("GET", "/storage/{storage}"): show_defined,
    ("GET", "/nodes/{node}/storage"): list_of_node,
    ("GET", "/nodes/{node}/storage/{storage}/status"): show_status,
    ("GET", _CONTENT): list_content,
    ("GET", f"{_CONTENT}/{{volume}}"): show_volume,
    ("PUT", f"{_CONTENT}/{{volume}}"): change_volume,
    ("DELETE", f"{_CONTENT}/{{volume}}"): remove_volume,
    ("GET", "/nodes/{node}/aplinfo"): list_appliances,
    ("POST", "/nodes/{node}/aplinfo"): download_appliance,
}

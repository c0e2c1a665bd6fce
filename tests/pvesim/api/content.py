"""What is on a storage: templates, backups and images; a backup's notes and protection (pve-storage, API2/Storage)."""

import time
from pathlib import Path
from typing import Any

from tests.pvesim.api import storages, tasks, volumes
from tests.pvesim.api.call import Call, Handler
from tests.pvesim.api.failure import die, forbid
from tests.pvesim.api.privileges import may, require
from tests.pvesim.api.storages import AUDIT, Storage, Volume
from tests.pvesim.api.upid import decode, read_status


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
                die(f"cannot remove protected volume '{volume.name}' on '{volume.storage.id}'")
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


def _volumes(storage: Storage) -> list[Volume]:
    found = volumes.images(storage)
    for content in ("vztmpl", "backup", "iso", "import"):
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
    return may(call.user, on, *AUDIT, any_of=True)


_CONTENT = "/nodes/{node}/storage/{storage}/content"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", _CONTENT): list_content,
    ("GET", f"{_CONTENT}/{{volume}}"): show_volume,
    ("PUT", f"{_CONTENT}/{{volume}}"): change_volume,
    ("DELETE", f"{_CONTENT}/{{volume}}"): remove_volume,
}

"""Images: made, copied, linked, snapshotted, rolled back, resized and removed. Each is a directory tree.

A linked clone is a copy, too, which remembers what it was made from: PVE refuses to remove a base that others use.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.pvesim.api import storages
from tests.pvesim.api.call import split_list
from tests.pvesim.api.failure import die
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.storages import Storage, Volume

LXC = Path("/var/lib/lxc")


def tree(volume_id: str) -> Path:
    """Where a guest's files are; those of a guest that the test set made are in LXC's own directory."""
    volume = storages.parse(volume_id)
    plain = LXC / str(volume.owner) / "rootfs"
    return volume.path / "tree" if volume.path.exists() or not plain.is_dir() else plain


def allocate(storage: Storage, vmid: int, size: int, *, name: str | None = None, suffix: str = "raw") -> str:
    """A new empty image, called `name` or as the next disk; its id. `size` in bytes."""
    taken = {volume.name.rpartition("/")[2].partition(".")[0] for volume in images(storage) if volume.owner == vmid}
    number = next(n for n in range(1000) if not {f"vm-{vmid}-disk-{n}", f"base-{vmid}-disk-{n}"} & taken)
    name = name or f"vm-{vmid}-disk-{number}"
    volume = storages.parse(f"{storage.id}:{name if storage.is_thin else f'{vmid}/{name}.{suffix}'}")
    (volume.path / "tree").mkdir(parents=True)
    _describe(volume, {"size": size})
    return volume.id


def free(volume_id: str) -> None:
    """Remove an image; one that is gone is no error. Raises Failure for the base of a linked clone."""
    volume = storages.parse(volume_id)
    if volume.is_base and any(describe(one).get("base") == volume_id for one in images(volume.storage)):
        die(f"base volume '{volume.name}' is still in use by linked clones")
    if volume.path.exists():
        shutil.rmtree(volume.path)
    elif volume.owner is not None and (LXC / str(volume.owner) / "rootfs").is_dir():
        shutil.rmtree(LXC / str(volume.owner))


def images(storage: Storage) -> list[Volume]:
    places = storage.root.glob("images/*" if storage.is_thin else "images/*/*")
    names = [str(place.relative_to(storage.root / "images")) for place in places if (place / "tree").is_dir()]
    return [storages.parse(f"{storage.id}:{name}") for name in sorted(names)]


def describe(volume: Volume) -> dict[str, Any]:
    """`size` in bytes, and `base`, the volume it is a linked clone of."""
    file = volume.path / "volume.json"
    told: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"size": 4 << 30}
    return told


def resize(volume_id: str, size: int) -> None:
    volume = storages.parse(volume_id)
    if volume.path.exists():
        _describe(volume, {**describe(volume), "size": size})


def size_of_image(volume_id: str) -> int:
    """Bytes of the image that a disk is to be a copy of: an uploaded one, or a disk. Raises Failure."""
    volume = storages.parse(volume_id)
    if volume.type not in ("images", "import"):
        die(f"{volume_id} has wrong type '{volume.type}' - should be 'images' or 'import'")
    if not volume.path.exists():
        die(f"volume '{volume_id}' does not exist")
    return int(describe(volume)["size"]) if volume.type == "images" else volume.path.stat().st_size


def can_snapshot(volume_id: str) -> bool:
    return storages.parse(volume_id).storage.is_thin


def can_link(volume_id: str, snapshot: str | None) -> bool:
    volume = storages.parse(volume_id)
    return volume.storage.is_thin and (volume.is_base or snapshot is not None)


def snapshot(volume_id: str, name: str) -> None:
    copy_tree(tree(volume_id), snapshot_tree(volume_id, name))


def drop_snapshot(volume_id: str, name: str) -> None:
    shutil.rmtree(snapshot_tree(volume_id, name), ignore_errors=True)


def rollback(volume_id: str, name: str) -> None:
    kept, now = snapshot_tree(volume_id, name), tree(volume_id)
    if not kept.exists():
        die(f"can't rollback, snapshot '{name}' does not exist on '{storages.parse(volume_id).name}'")
    shutil.rmtree(now)
    copy_tree(kept, now)


def copy(volume_id: str, storage: Storage, vmid: int, snapshot: str | None, *, linked: bool = False) -> str:
    """An image for `vmid` with the content of another, or of a snapshot of it; its id."""
    source = storages.parse(volume_id)
    made = allocate(storage, vmid, describe(source)["size"])
    target = storages.parse(made)
    (target.path / "tree").rmdir()
    copy_tree(snapshot_tree(volume_id, snapshot) if snapshot else tree(volume_id), target.path / "tree")
    if linked:
        _describe(target, {**describe(target), "base": volume_id})
    return made


def take_along(store: Store, disks: Mapping[str, str], pairs: str | None) -> None:
    """What of a guest's volumes moves to another storage when the guest moves to another node: `local-lvm`, for all, or
    `local:local-lvm`. Of the same storage each node of the simulation has the same."""
    guest = store.load()
    for key, volume in disks.items():
        source = storages.parse(volume).storage
        places = [pair.rpartition(":")[2] for pair in split_list(pairs) if pair.partition(":")[0] in (source.id, pair)]
        if places and places[0] not in ("1", source.id) and not source.is_shared:
            print(f"copying volume '{volume}' to '{places[0]}'")
            guest.values[key] = guest.values[key].replace(
                volume, copy(volume, storages.find(places[0]), store.vmid, None)
            )
            free(volume)
    store.write(guest)


def make_base(volume_id: str) -> str:
    """vdisk_create_base: it gets another name and is never written again; the new id."""
    volume = storages.parse(volume_id)
    if not volume.path.exists():
        die(f"Template feature is not available for '{volume_id}'")
    base = storages.parse(re.sub(r"\bvm-", "base-", volume_id, count=1))
    volume.path.rename(base.path)
    return base.id


def copy_tree(source: Path, target: Path) -> None:
    """All of it, with owners, links and attributes; raises Failure."""
    command = ["cp", "-a", "--reflink=auto", str(source), str(target)]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        die(f"command 'cp -a' failed: {done.stderr.strip()}")


def used_by(storage: Storage, vmid: int) -> list[str]:
    """The images of a guest, also those that its configuration does not name."""
    return [volume.id for volume in images(storage) if volume.owner == vmid]


def snapshot_tree(volume_id: str, name: str) -> Path:
    """What an image was when a snapshot was taken of it."""
    return storages.parse(volume_id).path / f"snapshot-{name}"


def _describe(volume: Volume, what: dict[str, Any]) -> None:
    (volume.path / "volume.json").write_text(json.dumps(what))

"""The storages of `/etc/pve/storage.cfg`, and what a volume id such as `local-lvm:vm-101-disk-0` names.

| storage | what it can |
|---|---|
| `local` | a directory: templates, backups, raw images; no snapshot and no linked clone of a container |
| `local-lvm` | LVM-thin: images only; snapshots and linked clones |
| `shared` | a directory that every node has |

An image is a directory with the guest's files, whatever its id says. Sources: pve-storage, Storage.pm, Plugin.pm,
LvmThinPlugin.pm.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.pvesim import pmxcfs
from tests.pvesim.api.call import split_list
from tests.pvesim.api.failure import die

ROOT = Path("/run/pvesim/storage")
CAPACITY = 100 << 30
AUDIT = ("Datastore.Audit", "Datastore.AllocateSpace")
"""Who has one of these may look at a storage."""
_FILE = pmxcfs.ROOT / "storage.cfg"
_DEFAULT = """\
dir: local
\tpath /var/lib/vz
\tcontent backup,images,import,iso,rootdir,snippets,vztmpl

lvmthin: local-lvm
\tthinpool data
\tvgname pve
\tcontent images,rootdir

dir: shared
\tpath /mnt/pve/shared
\tcontent backup,images,rootdir,vztmpl
\tshared 1
"""
_PLACES = {
    "vztmpl": "template/cache", "backup": "dump", "iso": "template/iso", "snippets": "snippets", "import": "import"
}  # fmt: skip
BACKUP = re.compile(r"vzdump-(lxc|qemu)-(\d+)-(\d{4}_\d\d_\d\d-\d\d_\d\d_\d\d)\.(tar|vma)(\.(gz|lzo|zst))?")
_TEMPLATE = re.compile(r"[^/]+\.(tar(\.(gz|xz|zst|bz2))?)")


@dataclass(frozen=True)
class Storage:
    """One storage."""

    id: str
    type: str
    options: dict[str, str]

    @property
    def content(self) -> set[str]:
        return set(split_list(self.options.get("content")))

    @property
    def is_shared(self) -> bool:
        return self.options.get("shared") == "1"

    @property
    def is_thin(self) -> bool:
        return self.type == "lvmthin"

    @property
    def root(self) -> Path:
        return ROOT / self.id

    def is_on(self, node: str) -> bool:
        return node in (split_list(self.options.get("nodes")) or [node])

    def place(self, content: str) -> Path:
        """Where files of a kind are."""
        return self.root / _PLACES[content]


@dataclass(frozen=True)
class Volume:
    """What a volume id names; it need not exist."""

    storage: Storage
    name: str
    type: str
    """images, vztmpl, backup, iso, import or snippets."""
    path: Path
    owner: int | None = None
    is_base: bool = False

    @property
    def id(self) -> str:
        return f"{self.storage.id}:{self.name}"


def prepare() -> None:
    """A node's storages, if it has none yet."""
    if not _FILE.exists():
        pmxcfs.write(_FILE, _DEFAULT)


def every_storage() -> dict[str, Storage]:
    found: dict[str, Storage] = {}
    for block in re.split(r"\n\s*\n", _FILE.read_text().strip()):
        head, *lines = block.splitlines()
        kind, _, name = head.partition(": ")
        found[name] = Storage(name, kind, dict(line.strip().partition(" ")[::2] for line in lines))
    return found


def find(storage_id: str, node: str | None = None) -> Storage:
    """Raises Failure for one that is absent, disabled or not on `node`."""
    storage = every_storage().get(storage_id)
    if storage is None:
        die(f"storage '{storage_id}' does not exist")
    if storage.options.get("disable") == "1":
        die(f"storage '{storage_id}' is disabled")
    if node and not storage.is_on(node):
        die(f"storage '{storage_id}' is not available on node '{node}'")
    return storage


def parse(volume_id: str) -> Volume:
    """What a volume id names. Raises Failure."""
    found = re.fullmatch(r"([a-zA-Z][a-zA-Z0-9_.-]*[a-zA-Z0-9]):(\S+)", volume_id)
    if found is None:
        die(f"unable to parse volume ID '{volume_id}'")
    storage, name = find(found[1]), found[2]
    kind, slash, rest = name.partition("/")
    if storage.is_thin:
        image = re.fullmatch(r"(vm|base)-(\d+)-\S+", name)
        if image is None or slash:
            die(f"unable to parse lvm volume name '{name}'")
        return Volume(storage, name, "images", storage.root / "images" / name, int(image[2]), image[1] == "base")
    if kind in _PLACES and rest and ".." not in rest.split("/"):
        backup = BACKUP.fullmatch(rest) if kind == "backup" else None
        if (kind == "vztmpl" and not _TEMPLATE.fullmatch(rest)) or (kind == "backup" and not backup):
            die(f"unable to parse directory volume name '{name}'")
        return Volume(storage, name, kind, storage.place(kind) / rest, int(backup[2]) if backup else None)
    image = re.fullmatch(r"(\d+)/((vm|base)-\d+-[^/]+\.(raw|qcow2))", name)
    if image is None:
        die(f"unable to parse directory volume name '{name}'")
    return Volume(storage, name, "images", storage.root / "images" / name, int(image[1]), image[3] == "base")

"""Template and backup archives: made once for a node, listed to be downloaded, packed and unpacked.

As PVE does, archives of unprivileged containers are written and read in their user namespace, so that the owners in
an archive are always those that the guest sees.
"""

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.pvesim import config, debian, templates
from tests.pvesim.api import storages
from tests.pvesim.api.failure import Failure, die

BUSYBOX = "busybox-1.36-sim_1_amd64.tar.gz"
DEBIAN = "debian-13-standard_13.1-2_amd64.tar.zst"
CONFIG = "./etc/vzdump/pct.conf"
"""A guest's configuration in its backup; for a machine, too, where PVE has another place."""
_MAPPING = f"0:{config.UID_SHIFT}:65536"
_FLAGS = {".gz": "--gzip", ".zst": "--zstd", ".xz": "--xz"}

_BIND = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'

# What GET aplinfo lists: name, os, section, what it is made from.
APPLIANCES = {
    BUSYBOX: ("busybox-1.36", "system", BUSYBOX),
    DEBIAN: ("debian-13", "system", DEBIAN),
    "debian-12-standard_12.12-1_amd64.tar.zst": ("debian-12", "system", BUSYBOX),
    "alpine-3.22-default_20250617_amd64.tar.xz": ("alpine-3", "system", BUSYBOX),
}


def prepare() -> None:
    """Have `local` hold the busybox template, and the Debian one where this machine has it in its cache."""
    place = storages.find("local").place("vztmpl")
    place.mkdir(parents=True, exist_ok=True)
    with (storages.ROOT / "templates.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / BUSYBOX).exists():
            _pack_busybox(place / BUSYBOX)
        cached = debian.cached_archive()
        if cached.exists() and not (place / DEBIAN).is_symlink():
            (place / DEBIAN).symlink_to(cached)


def download(name: str, target: Path) -> None:
    """Bring an appliance to a storage, as a file that is whole once it is there."""
    source = storages.find("local").place("vztmpl") / APPLIANCES[name][2]
    if not source.exists():
        die(f"download of '{name}' failed: 404 Not Found")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.tmp_dwnl")
    shutil.copy(source, part)
    part.rename(target)


def unpack(archive: Path, rootfs: Path, *, unprivileged: bool, mounts: Mapping[str, Path]) -> None:
    """Fill an empty tree; raises Failure in the words of PVE and tar. `mounts`: what is mounted where in it."""
    if unprivileged:
        shutil.chown(rootfs, config.UID_SHIFT, config.UID_SHIFT)
    print(f"extracting archive '{archive}'", flush=True)
    before = [*_with_mounts(rootfs, mounts, unprivileged), *_as_guest(unprivileged)]
    command = [*before, "tar", "xpf", "-", *_compression(archive), "--numeric-owner", "--xattrs",
               "--totals", "-C", str(rootfs), "--skip-old-files", "--anchored", "--exclude", "./dev/*"]  # fmt: skip
    with archive.open("rb") as source:
        _run(command, source=source.fileno())


def pack(rootfs: Path, archive: Path, *, unprivileged: bool, extra: Path, mounts: Mapping[str, Path]) -> None:
    """Write a backup of a tree with its `mounts`, and `etc/vzdump` of `extra` over it; raises Failure."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.dat")
    before = [*_with_mounts(rootfs, mounts, unprivileged), *_as_guest(unprivileged)]
    command = [*before, "tar", "cpf", "-", *_compression(archive), "--numeric-owner", "--xattrs", "--sparse",
               f"--directory={extra}", "./etc/vzdump", f"--directory={rootfs}", "./"]  # fmt: skip
    with part.open("wb") as target:
        _run(command, target=target.fileno())
    part.rename(archive)


def read_member(archive: Path, name: str) -> str | None:
    """One file out of an archive; None when it is not there."""
    with archive.open("rb") as source:
        done = subprocess.run(
            ["tar", "xOf", "-", *_compression(archive), name], check=False, stdin=source, capture_output=True
        )
    return done.stdout.decode() if done.returncode == 0 else None


def _with_mounts(rootfs: Path, mounts: Mapping[str, Path], unprivileged: bool) -> list[str]:
    """Words before a command that let it see `mounts` below `rootfs`, in a mount namespace of its own."""
    pairs: list[str] = []
    for name, source in mounts.items():
        target = rootfs / name.lstrip("/")
        if not target.resolve().is_relative_to(rootfs.resolve()):
            die(f"mount point '{name}' leads out of the container")
        if not target.exists():
            target.mkdir(parents=True)
            if unprivileged:
                shutil.chown(target, config.UID_SHIFT, config.UID_SHIFT)
        pairs += [str(source), str(target)]
    return (
        ["unshare", "--mount", "--propagation", "private", "--", "sh", "-c", _BIND, "sh", *pairs, "--"] if pairs else []
    )


def _as_guest(unprivileged: bool) -> list[str]:
    return ["lxc-usernsexec", "-m", f"u:{_MAPPING}", "-m", f"g:{_MAPPING}", "--"] if unprivileged else []


def _compression(archive: Path) -> list[str]:
    """By the file's first bytes: what is called .tar.zst may be a plain tar from the cache."""
    magic = archive.open("rb").read(4) if archive.exists() else b""
    if archive.exists():
        known = {b"\x1f\x8b": "--gzip", b"\x28\xb5": "--zstd", b"\xfd7": "--xz"}
        return [known[magic[:2]]] if magic[:2] in known else []
    return [_FLAGS[archive.suffix]] if archive.suffix in _FLAGS else []


def _run(command: list[str], source: int = subprocess.DEVNULL, target: int = subprocess.DEVNULL) -> None:
    done = subprocess.run(command, check=False, stdin=source, stdout=target, stderr=subprocess.PIPE, text=True)
    print(done.stderr, end="", flush=True)
    if done.returncode:
        raise Failure(500, f"command '{' '.join(command)}' failed: exit code {done.returncode}\n")


def _pack_busybox(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=storages.ROOT) as place:
        templates.fill("busybox", Path(place), hostname="localhost")
        Path(place).chmod(0o755)
        part = archive.with_name(f"{archive.name}.new")
        with part.open("wb") as target:
            _run(["tar", "czpf", "-", "--numeric-owner", "-C", place, "."], target=target.fileno())
        part.rename(archive)

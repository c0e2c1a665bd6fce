"""The two Debian 13 root file systems of the proof, debootstrapped once and kept in the cache: build and node.

They are never written to: each use lies in an overlay of its own.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.pvesim import debian, linux

_LIBRARIES = (
    *("python3-click", "python3-flask", "python3-gunicorn", "python3-itsdangerous"),
    *("python3-prometheus-client", "python3-proxmoxer"),
    *("python3-pydantic", "python3-requests", "python3-wsproto", "python3-yaml"),
)
_ISOLATED = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
_INSTALL = ("apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io")
_INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Recipe:
    """What a root holds: `installed` packages, `fetched` ones whose files apt finds without a network, units masked."""

    name: str
    installed: tuple[str, ...]
    fetched: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()


BUILD = Recipe(
    "build", ("build-essential", "debhelper", "dh-python", "lintian", "lxc-dev", "musl-tools", "python3", *_LIBRARIES)
)
NODE = Recipe(
    "node",
    (
        *("dbus", "libpam-systemd", "procps", "systemd", "systemd-sysv", "uidmap", "ca-certificates"),
        *("busybox-static", "curl", "iproute2", "lxc", "openssl", "python3"),
    ),
    fetched=_LIBRARIES,
    masked=(*debian.MASKED, "lxc.service", "lxc-net.service", "lxc-monitord.service"),
)


@contextlib.contextmanager
def mounted(recipe: Recipe, state: Path) -> Iterator[Path]:
    """A root of one's own, made of the recipe's and a layer in `state`, with `state` gone afterwards.

    The mount is the caller's mount namespace's, which must be private.
    """
    lower, used = _use_cached(recipe)
    root = state / "root"
    for directory in (root, state / "upper", state / "work"):
        directory.mkdir(parents=True)
    layers = f"lowerdir={lower},upperdir={state / 'upper'},workdir={state / 'work'}"
    linux.mount("overlay", str(root), "overlay", options=layers)
    try:
        yield root
    finally:
        linux.unmount_tree(str(root))
        shutil.rmtree(state)
        os.close(used)


def _use_cached(recipe: Recipe) -> tuple[Path, int]:
    """Where the recipe's root is, made if it is not there, and a lock on it: nobody removes it meanwhile.

    Raises debian.TemplateError.
    """
    base = debian.cached_archive().parent.parent / "debian"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    cached = base / f"{recipe.name}-{hashlib.sha256(repr((debian.SUITE, recipe)).encode()).hexdigest()[:8]}"
    with (base / f"{recipe.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if cached.exists():
            return cached, _lock(cached, fcntl.LOCK_SH)
        print(f"debian: making the {recipe.name} root, once: two minutes or more", file=sys.stderr)
        for old in base.glob(f"{recipe.name}-*"):
            with contextlib.suppress(BlockingIOError):  # another working tree's, in use
                os.close(_lock(old, fcntl.LOCK_EX | fcntl.LOCK_NB))
                shutil.rmtree(old)
        with tempfile.TemporaryDirectory(prefix=f"{recipe.name}-part-", dir=base) as part:
            rootfs = Path(part, "rootfs")
            _make(recipe, rootfs)
            rootfs.rename(cached)
        return cached, _lock(cached, fcntl.LOCK_SH)


def _lock(directory: Path, kind: int) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
    except OSError:
        os.close(fd)
        raise
    return fd


def _make(recipe: Recipe, rootfs: Path) -> None:
    debian.debootstrap(rootfs, ())
    shutil.copyfile("/etc/resolv.conf", rootfs / "etc/resolv.conf")
    environment = {**debian.with_apt_proxy(debian.apt_source()[0]), "DEBIAN_FRONTEND": "noninteractive"}
    chroot = (*_ISOLATED, "chroot", str(rootfs))
    debian.run(*chroot, *_INSTALL, "install", *recipe.installed, timeout=_INSTALL_SECONDS, env=environment)
    debian.run(*chroot, "apt-get", "clean")
    if recipe.fetched:
        # Where the mirror is out of reach later, apt still finds these files here.
        fetch = (*_INSTALL, "--download-only", "install", *recipe.fetched)
        debian.run(*chroot, *fetch, timeout=_INSTALL_SECONDS, env=environment)
    for unit in recipe.masked:
        (rootfs / "etc/systemd/system" / unit).symlink_to("/dev/null")

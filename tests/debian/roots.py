"""The Debian 13 root file systems of the proof, made once and kept in the cache: the node, and on it the build.

The node is made of the test guests' archive (tests.pvesim.debian), so that one debootstrap serves all. What is cached
is never written to: each use lies in an overlay of its own.
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
_INSTALL = ("apt-get", "-q", "-y", "--no-install-recommends")
_INSTALL_SECONDS = 900


@dataclass(frozen=True)
class Recipe:
    """What a root holds: `installed` packages, `fetched` ones whose files apt finds without a network, units masked.

    It is a layer on top of the recipe `on`, else of the guests' archive.
    """

    name: str
    installed: tuple[str, ...]
    fetched: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    on: "Recipe | None" = None


NODE = Recipe(
    "node",
    (
        *("uidmap", "ca-certificates", "autopkgtest", "dpkg-dev"),
        *("busybox-static", "curl", "iproute2", "lxc", "openssl", "python3"),
    ),
    fetched=_LIBRARIES,
    masked=("lxc.service", "lxc-net.service", "lxc-monitord.service"),
)
BUILD = Recipe(
    "build", ("build-essential", "debhelper", "dh-python", "lintian", "lxc-dev", "musl-tools", *_LIBRARIES), on=NODE
)


@contextlib.contextmanager
def mounted(recipe: Recipe, state: Path) -> Iterator[Path]:
    """A root of one's own, made of the recipe's and a layer in `state`, with `state` gone afterwards.

    The mount is the caller's mount namespace's, which must be private. Raises debian.TemplateError.
    """
    with contextlib.ExitStack() as held:
        yield held.enter_context(_overlay(_use_cached(recipe, held), state))


@contextlib.contextmanager
def _overlay(lower: list[Path], state: Path) -> Iterator[Path]:
    root = state / "root"
    for directory in (root, state / "upper", state / "work"):
        directory.mkdir(parents=True)
    below = ":".join(map(str, lower))
    linux.mount(
        "overlay", str(root), "overlay", options=f"lowerdir={below},upperdir={state / 'upper'},workdir={state / 'work'}"
    )
    try:
        yield root
    finally:
        linux.unmount_tree(str(root))
        shutil.rmtree(state)


def _use_cached(recipe: Recipe, held: contextlib.ExitStack) -> list[Path]:
    """Where the recipe's layers are, its own first, made if they are not there; nobody removes them while `held`.

    Raises debian.TemplateError.
    """
    below = _use_cached(recipe.on, held) if recipe.on else []
    base = debian.cached_archive().parent.parent / "debian"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    made_of = repr((debian.cached_archive().name, recipe))
    cached = base / f"{recipe.name}-{hashlib.sha256(made_of.encode()).hexdigest()[:8]}"
    with (base / f"{recipe.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cached.exists():
            print(f"debian: making the {recipe.name} root, once: a minute or more", file=sys.stderr)
            for old in base.glob(f"{recipe.name}-*"):
                with contextlib.suppress(BlockingIOError):  # another working tree's, in use
                    os.close(_lock(old, fcntl.LOCK_EX | fcntl.LOCK_NB))
                    shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix=f"{recipe.name}-part-", dir=base) as part:
                _make(recipe, below, Path(part), cached)
        held.callback(os.close, _lock(cached, fcntl.LOCK_SH))
        return [cached, *below]


def _lock(directory: Path, kind: int) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, kind)
    except OSError:
        os.close(fd)
        raise
    return fd


def _make(recipe: Recipe, below: list[Path], part: Path, cached: Path) -> None:
    if below:
        state = part / "state"
        with _overlay(below, state) as root:
            _fill(root, recipe)
            (state / "upper").rename(part / "made")
    else:
        debian.ensure_cached()
        (part / "made").mkdir()
        debian.unpack(part / "made")
        _renew(part / "made")
        _fill(part / "made", recipe)
    (part / "made").rename(cached)


def _renew(root: Path) -> None:
    """What the guests' archive has no use for: apt's lists, and its way to them. Its dpkg syncs nothing."""
    shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
    (root / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    _run_in(root, "apt-get", "-q", "update")


def _fill(root: Path, recipe: Recipe) -> None:
    _run_in(root, *_INSTALL, "install", *recipe.installed)
    if recipe.fetched:
        # Where the mirror is out of reach later, apt still finds these files here.
        _run_in(root, *_INSTALL, "--download-only", "install", *recipe.fetched)
    else:
        _run_in(root, "apt-get", "clean")
    for unit in recipe.masked:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


def _run_in(root: Path, *command: str) -> None:
    environment = {**debian.with_apt_proxy(debian.apt_source()[0]), "DEBIAN_FRONTEND": "noninteractive"}
    debian.run(*_ISOLATED, "chroot", str(root), *command, timeout=_INSTALL_SECONDS, env=environment)

"""Debian 13 with systemd as a guest's root: debootstrapped once on the host, kept as a tar in the cache.

Mirror, proxy and keyring are those of this machine's apt.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

SUITE = "trixie"
PACKAGES = ("dbus", "libpam-systemd", "passwd", "procps", "python3", "sudo", "systemd", "systemd-sysv")
# What a container without a console, devices or a network of its own to set up has no use for.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer"),
    *("console-getty.service", "container-getty@.service", "getty@.service", "systemd-firstboot.service"),
    *("systemd-modules-load.service", "systemd-networkd-wait-online.service", "systemd-timesyncd.service"),
    *("systemd-udevd.service", "sys-kernel-debug.mount"),
)
REMOVED = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man", "var/lib/apt/lists")
WWW_DATA_GROUPS = "video,render"

_KEPT_SECONDS = 7 * 86400
_BUILD_SECONDS = 900  # a slow mirror; half a minute from a near one


class TemplateError(Exception):
    """The template cannot be built or is not in the cache."""


def ensure_cached() -> None:
    """Build the tar if it is not in the cache; several callers at once build it once.

    Needs a mirror in reach, so it runs on the host: a node has no way out. Raises TemplateError.
    """
    cache = cached_archive().parent
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(cache):
        if cached_archive().exists():
            os.utime(cached_archive())
            return
        print("pvesim: building debian13 with debootstrap, once: half a minute or more", file=sys.stderr)
        for leftover in cache.glob("build-*"):
            shutil.rmtree(leftover)
        for archive in cache.glob("debian13-*.tar"):  # of other recipes, which another working tree may still use
            if archive.stat().st_mtime < time.time() - _KEPT_SECONDS:
                archive.unlink()
        with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as build:
            rootfs, tar = Path(build, "rootfs"), Path(build, "rootfs.tar")
            debootstrap(rootfs, PACKAGES)
            _trim(rootfs)
            run("tar", "--create", "--numeric-owner", "--xattrs", "-C", str(rootfs), "-f", str(tar), ".")
            tar.rename(cached_archive())


def unpack(rootfs: Path) -> None:
    """Fill `rootfs` from the cache; raises TemplateError if it is not there."""
    if not cached_archive().exists():
        raise TemplateError("debian13 is not in the cache: start a node with --guests test once")
    run("tar", "--extract", "--numeric-owner", "--xattrs", "-p", "-C", str(rootfs), "-f", str(cached_archive()))


def cached_archive() -> Path:
    """Where the tar is, once it is built; its name changes with the recipe above."""
    recipe = repr((SUITE, PACKAGES, MASKED, REMOVED, WWW_DATA_GROUPS))
    version = hashlib.sha256(recipe.encode()).hexdigest()[:8]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "pve-exec-gateway/pvesim" / f"debian13-{version}.tar"


def debootstrap(rootfs: Path, packages: tuple[str, ...]) -> None:
    """Fill the directory `rootfs` with Debian's smallest system and `packages`. Raises TemplateError."""
    mirror, keyring = apt_source()
    command = ["debootstrap", "--variant=minbase"]
    if packages:
        command.append(f"--include={','.join(packages)}")
    if keyring:
        command.append(f"--keyring={keyring}")
    # In namespaces of its own: an interrupted build leaves no mount and no process behind.
    isolated = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
    run(*isolated, *command, SUITE, str(rootfs), mirror, timeout=_BUILD_SECONDS, env=with_apt_proxy(mirror))


def _trim(rootfs: Path) -> None:
    run("chroot", str(rootfs), "groupadd", "--system", "--force", "render")  # else udev makes it
    run("chroot", str(rootfs), "usermod", "-a", "-G", WWW_DATA_GROUPS, "www-data")
    for unit in MASKED:
        (rootfs / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (rootfs / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    for directory in REMOVED:
        shutil.rmtree(rootfs / directory)
    for archive in (rootfs / "var/cache/apt").glob("**/*.*"):
        archive.unlink()


def apt_source() -> tuple[str, Path | None]:
    """The mirror of apt's main Debian archive, and the keyring that its entry names, if any."""
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(SOURCESENTRY)"
    listed = run("apt-get", "indextargets", "--format", fields, "Created-By: Packages").splitlines()
    for line in listed:
        uri, release, component, origin, entry = line.split("|")
        ours = origin in ("Debian", "$(ORIGIN)")  # the latter before the first `apt-get update`
        if ours and component == "main" and "-" not in release:  # not bookworm-updates, not bookworm-security
            return _follow_mirror_list(uri), _keyring(Path(entry.rpartition(":")[0]))
    raise TemplateError("apt has no source for Debian's main archive")


def _follow_mirror_list(uri: str) -> str:
    """Debian's cloud images name a local list of mirrors (apt-transport-mirror(1)): its first line counts."""
    if uri.startswith("mirror+file:"):
        return Path(urlsplit(uri).path.rstrip("/")).read_text().split()[0]
    return uri


def _keyring(entry: Path) -> Path | None:
    named = re.search(r"signed-by\s*[:=]\s*(/\S+\.(?:gpg|pgp))\b", entry.read_text(), re.IGNORECASE)
    return Path(named[1]) if named else None


def with_apt_proxy(mirror: str) -> dict[str, str]:
    """This process's environment, and the proxy that apt uses for `mirror`, if any."""
    scheme = urlsplit(mirror).scheme
    proxy = run("apt-config", "dump", "--format", "%v%n", f"Acquire::{scheme}::Proxy").strip()
    return {f"{scheme}_proxy": proxy, **os.environ} if proxy and proxy != "DIRECT" else dict(os.environ)


def run(*command: str, timeout: float = 300, env: dict[str, str] | None = None) -> str:
    """What the command printed; `timeout` in seconds. Raises TemplateError with its last words if it fails."""
    try:
        done = subprocess.run(
            command,
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TemplateError(f"cannot run {command[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
        raise TemplateError(f"{command[0]} failed: {' / '.join(said)}")
    return done.stdout


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    with (cache / "debian13.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

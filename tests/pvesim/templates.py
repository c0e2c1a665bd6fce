"""What guests are made from: `busybox`, one static program and a few files, and `debian13` from the cache."""

import os
import secrets
import shutil
import stat
import subprocess
from pathlib import Path

from tests.pvesim import debian

OSTYPE = {"busybox": "unmanaged", "debian13": "debian"}  # the `ostype` of PVE's configuration

_WWW_DATA = 33
_MODES = {"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}
_DIRECTORIES = (
    *("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "etc", "root", "home", "srv", "mnt", "tmp"),
    *("dev", "proc", "sys", "run", "var/tmp", "var/www", "var/log", "var/lib"),
)
_FILES = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
        "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": (
        "root:x:0:\n"
        "daemon:x:1:\n"
        "tty:x:5:\n"
        "www-data:x:33:\n"
        "video:x:44:www-data\n"
        "render:x:993:www-data\n"
        "nogroup:x:65534:\n"
    ),
    "etc/inittab": "::sysinit:/bin/true\n::restart:/sbin/init\n",
    "etc/os-release": 'ID=busybox\nNAME="busybox"\n',
}


def fill(template: str, rootfs: Path, *, hostname: str) -> None:
    """Fill the empty directory `rootfs` from `template`; owners are as the guest shall see them."""
    if template == "busybox":
        _fill_busybox(rootfs)
    else:
        debian.unpack(rootfs)
        (rootfs / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n")
    (rootfs / "etc/hostname").write_text(f"{hostname}\n")
    (rootfs / "etc/hosts").write_text(f"127.0.0.1 localhost {hostname}\n::1 localhost\n")


def shift_owners(rootfs: Path, shift: int) -> None:
    """Move every owner below `rootfs` up by `shift`, links themselves and not what they name.

    The kernel takes set-uid and set-gid bits off a file that is given away; they are put back.
    """
    for directory, names, files in os.walk(rootfs):
        for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
            status = os.lstat(path)
            if status.st_uid < shift:
                os.lchown(path, status.st_uid + shift, status.st_gid + shift)
                if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
                    Path(path).chmod(stat.S_IMODE(status.st_mode))


def _fill_busybox(rootfs: Path) -> None:
    for directory in _DIRECTORIES:
        (rootfs / directory).mkdir(parents=True, exist_ok=True)
    for directory, mode in _MODES.items():
        (rootfs / directory).chmod(mode)
    os.chown(rootfs / "var/www", _WWW_DATA, _WWW_DATA)
    for name, text in _FILES.items():
        (rootfs / name).write_text(text)
    program = shutil.which("busybox") or "/bin/busybox"
    shutil.copy(program, rootfs / "bin/busybox")
    listed = subprocess.run([program, "--list-full"], check=True, stdout=subprocess.PIPE, text=True)
    for applet in listed.stdout.split():
        link = rootfs / applet.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to("/bin/busybox")

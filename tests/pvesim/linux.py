"""The Linux system calls that the node needs and Python 3.11 does not offer."""

import ctypes
import os
import signal
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NODE_NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000

_MNT_DETACH = 0x2
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429  # the same number on every architecture since Linux 5.1
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_MOUNT_ATTR_RDONLY = 1
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
_PR_SET_PDEATHSIG = 1
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}  # glibc has no function for it

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave the given namespaces; a new pid namespace holds the next child, not the caller (unshare(2))."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces of the process behind a pidfd (setns(2), Linux 5.8 and later)."""
    _check(_libc.setns(fd, flags), "setns")


def mount(source: str, target: str, kind: str, *, flags: int = 0, options: str = "") -> None:
    """Mount `source` of file system type `kind` on `target` (mount(2)); raises OSError."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, f"mount {kind or source} on {target}")


def clone_mount(source: str) -> int:
    """A copy of the mount at `source`, or of what is there, attached nowhere (open_tree(2), Linux 5.2 and later)."""
    fd = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, source.encode(), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    _check(fd, f"open_tree {source}")
    return int(fd)


def attach_mount(fd: int, target: int) -> None:
    """Attaches such a copy on top of the open file or directory `target` (move_mount(2))."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_libc.syscall(_SYS_MOVE_MOUNT, fd, b"", target, b"", flags), "move_mount")


def make_read_only(fd: int) -> None:
    """Of a mount that is attached nowhere yet (mount_setattr(2), Linux 5.12 and later)."""
    attributes = struct.pack("4Q", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, attributes, len(attributes)), "mount_setattr")


def unmount_tree(target: str) -> None:
    """Take the mount at `target`, and all mounts below it, out of this mount namespace (MNT_DETACH)."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make the mount at `new` the root, with the old one at `old`; both may be `.` (pivot_root(2))."""
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], new.encode(), old.encode()), "pivot_root")


def die_with_parent() -> None:
    """Have the kernel SIGKILL the calling process when its parent ends (PR_SET_PDEATHSIG)."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")

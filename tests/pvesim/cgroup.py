"""The node's cgroup as the host sees it: made, entered, killed, removed.

`cgroup.kill` is how every node ends: it reaches each of its processes, also when the starter died half way
and left no record of them, and no process can leave, because the node's cgroup namespace is a delegation
boundary (`nsdelegate`).
"""

import contextlib
import os
import select
import time
from pathlib import Path

from tests.pvesim import linux

LEAF = "init.scope"  # a cgroup that hands controllers on may hold no process itself (cgroup-v2.rst)


class CgroupError(Exception):
    """This machine's cgroups cannot carry a node."""


def find_root() -> Path:
    """The mount point of the host's cgroup v2 hierarchy, on a pure or a hybrid layout."""
    return _cgroup2_mount()[0]


def require_nsdelegate() -> None:
    """Turn `nsdelegate` on if it is off.

    The option belongs to the one hierarchy of the machine; PVE and systemd set it by default, and another
    node may rely on it, so it stays on. A remount sets **all** options anew: those that are on are repeated.
    Only the initial cgroup namespace may do this; raises CgroupError elsewhere.
    """
    root, options = _cgroup2_mount()
    if "nsdelegate" not in options:
        wanted = [option for option in options if option not in ("rw", "ro")]
        linux.mount("none", str(root), "", flags=linux.MS_REMOUNT, options=",".join([*wanted, "nsdelegate"]))
        root, options = _cgroup2_mount()
    if "nsdelegate" not in options:
        raise CgroupError("cannot set nsdelegate: not in the initial cgroup namespace (a container?)")


def make(name: str) -> Path:
    """Create the node's top-level cgroup and its leaf; returns the top-level one."""
    path = find_root() / name
    (path / LEAF).mkdir(parents=True, exist_ok=True)
    return path


def enter(cgroup: Path) -> None:
    """Move the calling process into `cgroup`."""
    (cgroup / "cgroup.procs").write_text("0")


def hand_on_controllers(cgroup: Path) -> None:
    """Enable for the children of `cgroup` each controller it was given: none on a hybrid layout."""
    for controller in (cgroup / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):  # a controller may refuse, as cpu does while realtime tasks run
            (cgroup / "cgroup.subtree_control").write_text(f"+{controller}")


def kill(cgroup: Path) -> None:
    """SIGKILL all in `cgroup` and wait until it is empty; raises CgroupError after 20 seconds."""
    (cgroup / "cgroup.kill").write_text("1")
    wait_for(cgroup, "populated 0", seconds=20)


def wait_for(cgroup: Path, event: str, *, seconds: float) -> None:
    """Return once `event` stands in cgroup.events, which the kernel reports (POLLPRI); else raises CgroupError."""
    deadline = time.monotonic() + seconds
    with (cgroup / "cgroup.events").open("rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while event.encode() not in os.pread(events.fileno(), 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                raise CgroupError(f"{cgroup} is not `{event}` after {seconds} s")
            poll.poll(left * 1000)


def remove(cgroup: Path) -> None:
    """Remove `cgroup` and all below it; they must hold no process."""
    for directory, _, _ in os.walk(cgroup, topdown=False):
        Path(directory).rmdir()


def _cgroup2_mount() -> tuple[Path, list[str]]:
    """The first mount of the whole cgroup2 hierarchy, with its super options (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, source = line.partition(" - ")
        kind, _, options = source.split(" ", 2)
        root, target = place.split(" ")[3:5]
        if kind == "cgroup2" and root == "/":
            return Path(target), options.split(",")
    raise CgroupError("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")

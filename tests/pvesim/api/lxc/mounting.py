"""`pct mount` and `pct unmount`: a stopped container's volumes, mounted on the node (pct.pm; PVE::LXC, mount_all).

PVE's traps: nobody looks whether the container runs; a mount that fails leaves the lock `mounted`; that stops no start.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.pvesim import config, pmxcfs
from tests.pvesim.api import volumes
from tests.pvesim.api.call import Simulation
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import Failure, die
from tests.pvesim.api.guest_store import Store
from tests.pvesim.api.lxc import properties

_HOME = Path("/run/pvesim/pct")  # has no faults


def mount(vmid: int) -> None:
    """Raises Failure: `CT is locked (...)`, and what cannot be mounted."""
    store = _store(vmid)
    with store.locked():
        guest = store.load()
        store.check_lock(guest)
        guest.values["lock"] = "mounted"
        store.write(guest)
        try:
            for point in properties.mount_points(guest.values):
                _mount(vmid, guest, point)
        except Failure:
            print("mounting container failed", file=sys.stderr)
            _unmount_all(vmid, guest)
            raise


def unmount(vmid: int) -> None:
    """Raises Failure: a mount is in use, or there is no lock `mounted`."""
    store = _store(vmid)
    with store.locked():
        guest = store.load()
        _unmount_all(vmid, guest)
        if guest.lock != "mounted":
            die("no lock found trying to remove 'mounted'  lock")
        del guest.values["lock"]
        store.write(guest)


def _store(vmid: int) -> Store:
    sim = Simulation(_HOME)
    return Store(sim, "lxc", sim.node, vmid)


def _root(vmid: int) -> Path:
    return volumes.LXC / str(vmid) / "rootfs"


def _mount(vmid: int, guest: GuestConfig, point: properties.MountPoint) -> None:
    is_bind = point.type == "bind"
    source = Path(point.volume) if is_bind else _tree(vmid, point)
    if not source.is_dir():
        die(f"directory '{point.volume}' does not exist" if is_bind else f"no such volume '{point.volume}'")
    if point.key == "rootfs":
        _root(vmid).mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(source), str(_root(vmid)))
        return
    place = _walk(_root(vmid), point.parts["mp"], config.UID_SHIFT if guest.get("unprivileged") == "1" else 0)
    _run("mount", "--bind", str(source), str(place))
    if point.parts.get("ro") == "1":
        _run("mount", "-o", "remount,bind,ro", str(place))


def _tree(vmid: int, point: properties.MountPoint) -> Path:
    """Without a simulated API there are no storages, and no other guests than those of the test set."""
    return volumes.tree(point.volume) if (pmxcfs.ROOT / "storage.cfg").exists() else _root(vmid)


def _walk(root: Path, path: str, owner: int) -> Path:
    """walk_tree_nofollow: makes what is missing, and follows no link. Raises Failure."""
    place = root
    for part in filter(None, path.split("/")):
        place /= part
        if place.is_symlink():
            die(f"symlink encountered at: {place}")
        if not place.is_dir():
            place.mkdir(mode=0o755)
            os.chown(place, owner, owner)
    return place


def _unmount_all(vmid: int, guest: GuestConfig) -> None:
    for point in reversed(list(properties.mount_points(guest.values))):
        place = _root(vmid) / point.parts.get("mp", "").lstrip("/")
        if os.path.realpath(place) in _mounted():
            _run("umount", "-d", str(place))
    with contextlib.suppress(OSError):
        _root(vmid).rmdir()  # made here: the simulated containers have their trees elsewhere


def _mounted() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield line.split()[4]


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        die(f"command '{' '.join(command)}' failed: exit code {done.returncode}")

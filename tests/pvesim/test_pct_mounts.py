"""The stand-in's `pct mount` and `pct unmount` do what pve-container's do, its traps included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pvesim import config, guests, pct, pmxcfs
from tests.pvesim.guests import Guest

VMID = 948


@pytest.fixture
def guest(node: None) -> Iterator[Guest]:
    made = guests.create(VMID, unprivileged=True, start=False)
    try:
        yield made
    finally:
        run("unmount")
        made.destroy()


def run(verb: str) -> tuple[int, str]:
    """Its exit code and all that it says."""
    command = [sys.executable, "-I", pct.__file__, verb, str(VMID)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def lock() -> str | None:
    return config.parse_pve(config.pve_path(VMID).read_text()).get("lock")


def test_it_locks_and_mounts(guest: Guest) -> None:
    """A mounted container is locked, so that it is mounted once; to unmount takes the lock off, where there is one."""
    assert run("mount") == (0, f"mounted CT {VMID} in '/var/lib/lxc/{VMID}/rootfs'\n")
    assert lock() == "mounted" and str(guest.rootfs) in mounted()
    assert run("mount") == (255, "CT is locked (mounted)\n")
    assert run("unmount") == (0, "")
    assert lock() is None and str(guest.rootfs) not in mounted()
    assert run("unmount") == (255, "no lock found trying to remove 'mounted'  lock\n")


def test_a_mount_that_fails_leaves_the_lock(guest: Guest) -> None:
    """What was mounted is unmounted, but the lock stays."""
    path = config.pve_path(VMID)
    pmxcfs.write(path, path.read_text() + "mp0: /no/such/directory,mp=/srv\n")
    code, said = run("mount")
    assert code == 255 and "directory '/no/such/directory' does not exist" in said
    assert lock() == "mounted" and str(guest.rootfs) not in mounted()


def test_the_lock_stops_no_start(guest: Guest) -> None:
    """A mounted container starts, and is locked still."""
    assert run("mount")[0] == 0
    guest.start()
    assert guest.state() == "RUNNING" and lock() == "mounted"
    guest.stop(kill=True)


def mounted() -> str:
    return Path("/proc/self/mountinfo").read_text()

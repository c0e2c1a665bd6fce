"""A machine's process as PVE sees it: started, asked to end, paused, killed, by its pid file alone."""

import json
import os
import signal
import time
from pathlib import Path

from tests.pvesim.api import machines
from tests.pvesim.api.call import read_start_time
from tests.pvesim.api.failure import die
from tests.pvesim.api.guest_store import Store


def find_pid(store: Store) -> int | None:
    return store.sim.agent(store.node, store.vmid).pid()


def start(store: Store) -> None:
    """Raises Failure when it runs, or does not come up."""
    if find_pid(store):
        die(f"VM {store.vmid} already running")
    try:
        machines.launch(store.vmid)
    except machines.MachineError:
        die(f"start failed: QEMU exited with code 1 (machine {store.vmid})")


def kill(store: Store) -> None:
    """Pulls the plug; one that does not run is no error."""
    pid = find_pid(store)
    if pid is not None:
        os.killpg(pid, signal.SIGKILL)
        _wait(pid, 10)
        machines.pidfile(store.vmid).unlink(missing_ok=True)


def power_down(store: Store, timeout: float) -> bool:
    """As by its power button; whether it has ended. One whose quirk is `deaf` does not hear of it."""
    pid = find_pid(store)
    if pid is None:
        return True
    file = machines.pidfile(store.vmid).with_suffix(".quirks.json")
    if file.exists() and json.loads(file.read_text()).get("deaf"):
        time.sleep(timeout)
        return False
    kill(store)
    return True


def pause(store: Store, paused: bool) -> None:
    pid = find_pid(store)
    if pid is not None:
        os.killpg(pid, signal.SIGSTOP if paused else signal.SIGCONT)


def is_paused(store: Store) -> bool:
    pid = find_pid(store)
    try:
        return pid is not None and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:  # it has ended meanwhile
        return False


def _wait(pid: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while read_start_time(pid) and time.monotonic() < deadline:
        time.sleep(0.01)

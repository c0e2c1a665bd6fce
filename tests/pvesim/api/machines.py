"""The QEMU machines of a node, for code that runs inside it: create, start, stop, set quirks, destroy.

machine = machines.create(301)
machine.set_quirks(away=True)
machine.destroy()
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.services import REPOSITORY

RUN = Path("/var/run/qemu-server")  # PVE::QemuServer::Helpers, $var_run_tmpdir
_START_SECONDS = 30.0
_POLL = 0.005


class MachineError(Exception):
    """A machine did not do what was asked."""


@dataclass
class Machine:
    """One simulated VM of this node."""

    vmid: int
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def config(self) -> Path:
        return pmxcfs.ROOT / "local/qemu-server" / f"{self.vmid}.conf"

    @property
    def pidfile(self) -> Path:
        return pidfile(self.vmid)

    @property
    def pid(self) -> int:
        """The machine's process; raises MachineError when it does not run."""
        if self._process is None:
            raise MachineError(f"machine {self.vmid} does not run")
        return self._process.pid

    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it; returns when its guest agent listens."""
        self._process = launch(self.vmid)

    def stop(self) -> None:
        """Pulls the plug: all that runs in it ends. PVE leaves the pid file behind."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pull_the_plug(self) -> None:
        """The same of one that whoever else started."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.killpg(int(self.pidfile.read_text()), signal.SIGKILL)
        for file in RUN.glob(f"{self.vmid}.*"):
            file.unlink()

    def restart_agent(self) -> None:
        """A new guest agent, which knows nothing of the commands of the old one."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def set_quirks(self, **quirks: Any) -> None:
        """What its agent does wrong from now on; none given: nothing.

        `away`: it answers nothing. `mute`: the names of agent commands that it carries out and never answers;
        `where`: only those that have this in them. `slow`:
        seconds that it takes for each. `says`: members that it tells of every command's end instead of the true ones.
        """
        new = self.pidfile.with_suffix(".quirks.new")
        new.write_text(json.dumps(quirks))
        new.rename(self.pidfile.with_suffix(".quirks.json"))

    def destroy(self) -> None:
        """Stops it and removes all that is its own."""
        self.stop()
        for file in RUN.glob(f"{self.vmid}.*"):
            file.unlink()
        self.config.unlink(missing_ok=True)
        pmxcfs.unregister(self.vmid)


def pidfile(vmid: int) -> Path:
    return RUN / f"{vmid}.pid"


def launch(vmid: int) -> subprocess.Popen[bytes]:
    """A machine's process, in a session of its own, once its guest agent listens. Raises MachineError."""
    RUN.mkdir(exist_ok=True)
    file = pidfile(vmid)
    file.unlink(missing_ok=True)
    process = subprocess.Popen(
        ["/usr/bin/kvm", "-m", "tests.pvesim.api.vm", "-id", str(vmid), "-pidfile", str(file)],
        executable=sys.executable,
        stdin=subprocess.DEVNULL,
        cwd=REPOSITORY,
        env={"PYTHONHOME": sys.base_prefix, "PATH": "/usr/bin:/bin"},
        start_new_session=True,
    )
    deadline = time.monotonic() + _START_SECONDS
    while not file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise MachineError(f"machine {vmid} does not start")
        time.sleep(_POLL)
    return process


def create(vmid: int, *, agent: bool = True, start: bool = True) -> Machine:
    """Makes a VM, lists it in /etc/pve, starts it unless told not to. `agent`: whether PVE is told that it has one."""
    machine = Machine(vmid)
    if machine.config.exists():
        raise MachineError(f"machine {vmid} exists")
    options = {"name": f"vm{vmid}", "memory": "512", "ostype": "l26", **({"agent": "1"} if agent else {})}
    pmxcfs.write(machine.config, "".join(f"{key}: {value}\n" for key, value in options.items()))
    pmxcfs.register(vmid, kind="qemu")
    if start:
        machine.start()
    return machine


@contextlib.contextmanager
def at_its_best(machine: Machine) -> Iterator[Machine]:
    """It runs, and its agent does nothing wrong, until it is told to; after that neither."""
    machine.set_quirks()
    if not machine.runs():
        machine.start()
    yield machine
    machine.set_quirks()

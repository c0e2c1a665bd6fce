"""Running virtual machines as the kernel shows them: one run per QEMU process, held by a pidfd.

Nothing here talks to QEMU. A machine runs when the process of its pid file has that file in its command line (what PVE
checks: PVE::QemuServer::Helpers::vm_running_locally).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from gateway.supervisor.guests.current import CurrentRuns, Run
from gateway.supervisor.kernel.procfs import read_stat


class Machine(Run):
    """One run of a virtual machine, from its QEMU's birth to its death."""

    def to_state(self) -> dict[str, Any]:
        """What `from_state` needs; the descriptor by number."""
        return {"vmid": self.vmid, "pid": self.pid, "start": self.start, "fds": {"pidfd": self.pidfd}}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Machine:
        """The run as an earlier image of this program held it; it may have ended since."""
        return cls(state["vmid"], state["pid"], state["start"], state["fds"]["pidfd"])


class Machines(CurrentRuns[Machine]):
    """Finds the run of a virtual machine that is now. `run`: the directory of the pid files."""

    def __init__(self, run: Path, proc: Path, on_found: Callable[[Machine], None] = lambda _: None) -> None:
        super().__init__(on_found)
        self._run = run
        self._proc = proc

    def _discover(self, vmid: int) -> Machine | None:
        pidfile = self._run / f"{vmid}.pid"
        try:
            pid = int(pidfile.read_text())
            pidfd = os.pidfd_open(pid)
        except (OSError, ValueError):
            return None
        try:
            if self._names_itself(pid, pidfile):
                machine = Machine(vmid, pid, read_stat(self._proc / str(pid)).start, pidfd)
                if machine.alive():
                    return machine
        except (OSError, ValueError):
            pass
        os.close(pidfd)
        return None

    def _names_itself(self, pid: int, pidfile: Path) -> bool:
        """Whether `-pidfile` of its command line is that file; PVE writes it below /var/run, a link to /run."""
        words = (self._proc / str(pid) / "cmdline").read_bytes().split(b"\0")
        named = [after for word, after in pairwise(words) if word == b"-pidfile"]
        return any(Path(os.fsdecode(name)).resolve() == pidfile.resolve() for name in named)

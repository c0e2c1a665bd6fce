"""The guests of a node, for code that runs inside it: create, start, stop, look into, destroy.

    guest = guests.create(901, prepare=lambda rootfs: (rootfs / "etc/passwd").unlink())
    assert guest.attach(["id", "-u"]).stdout == b"0\\n"
    guest.destroy()

Commands go through LXC's own tools; every wait has a deadline.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.pvesim import cgroup, config, pmxcfs, templates

LXC = Path("/var/lib/lxc")
_CGROUPS = Path("/sys/fs/cgroup")
_READY_SECONDS = 120  # a systemd guest on a busy two-core CI machine; two on an idle one


class GuestError(Exception):
    """A guest did not do what was asked; the message ends with what LXC said."""


@dataclass(frozen=True)
class Guest:
    """One LXC container of this node."""

    vmid: int
    template: str
    unprivileged: bool

    @property
    def rootfs(self) -> Path:
        """The guest's root as the node sees it."""
        return LXC / str(self.vmid) / "rootfs"

    @property
    def cgroup(self) -> Path:
        """`lxc/<vmid>`: the guest's limits and device filter; its processes live in `ns` below."""
        return _CGROUPS / "lxc" / str(self.vmid)

    def state(self) -> str:
        """STOPPED, STARTING, RUNNING, STOPPING, ABORTING, FREEZING, FROZEN or THAWED, as lxc-info says."""
        return self._lxc("lxc-info", "-sH").strip()

    def init_pid(self) -> int:
        """The guest's pid 1 as the node numbers it; raises GuestError for a stopped guest."""
        pid = self._lxc("lxc-info", "-pH").strip()
        if not pid:
            raise GuestError(f"guest {self.vmid} has no init: it does not run")
        return int(pid)

    def start(self) -> None:
        """Start the guest and wait until it has booted.

        Empty cgroups of an earlier run are removed first, as `pct start` does: lxc-start aborts on them.
        """
        self._sweep_cgroups()
        log = LXC / str(self.vmid) / "start.log"
        log.unlink(missing_ok=True)
        try:
            self._lxc("lxc-start", "-d", "-o", str(log), "-l", "ERROR")
        except GuestError as error:
            said = log.read_text() if log.exists() else ""
            raise GuestError(f"{error}\n{said}") from None
        if self.template == "debian13":
            self._wait_for_systemd()

    def stop(self, *, kill: bool = False, timeout: int = 30) -> None:
        """Shut the guest down, or with `kill` SIGKILL it; raises GuestError after `timeout` seconds."""
        self._lxc("lxc-stop", *(["-k"] if kill else ["--nokill", "-t", str(timeout)]))
        self._lxc("lxc-wait", "-s", "STOPPED", "-t", "40")  # the monitor has removed the cgroups

    def freeze(self, *, by: Literal["pve", "lxc"] = "pve") -> None:
        """Freeze the guest and return when the kernel has.

        PVE freezes `lxc/<vmid>/ns` and nothing beside it, and says the guest runs (PVE.md). LXC's own tool freezes
        `lxc/<vmid>`, with all beside `ns`, and the state becomes FROZEN (tried with LXC 5.0.2 and 6.0.4).
        """
        self._set_frozen(True, by)

    def thaw(self, *, by: Literal["pve", "lxc"] = "pve") -> None:
        """Undo a `freeze` by the same hand."""
        self._set_frozen(False, by)

    def attach(
        self, argv: Sequence[str], *, input: bytes | None = None, timeout: float = 30
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `argv` in the guest by a bare lxc-attach, for looking at it; raises subprocess.TimeoutExpired.

        Without `input` standard input is empty.
        """
        command = ["lxc-attach", "-n", str(self.vmid), "--clear-env", "--", *argv]
        return subprocess.run(command, check=False, input=input or b"", capture_output=True, timeout=timeout)

    def destroy(self) -> None:
        """Kill the guest if it runs, remove its cgroups, files and entries in /etc/pve; again is no error."""
        with contextlib.suppress(GuestError):
            self.stop(kill=True)
        self._sweep_cgroups()
        config.pve_path(self.vmid).unlink(missing_ok=True)
        pmxcfs.unregister(self.vmid)
        if self.rootfs.exists():
            shutil.rmtree(self.rootfs.parent)

    def _lxc(self, tool: str, *arguments: str) -> str:
        command = [tool, "-n", str(self.vmid), *arguments]
        done = subprocess.run(command, check=False, input="", capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise GuestError(f"{tool} of guest {self.vmid} failed: {done.stderr.strip()}")
        return done.stdout

    def _set_frozen(self, frozen: bool, by: Literal["pve", "lxc"]) -> None:
        if by == "lxc":
            self._lxc("lxc-freeze" if frozen else "lxc-unfreeze")
        else:
            (self.cgroup / "ns/cgroup.freeze").write_text(f"{frozen:d}")
        cgroup.wait_for(self.cgroup / "ns", f"frozen {frozen:d}", seconds=40)

    def _wait_for_systemd(self) -> None:
        """Return when the boot is over, `running` or `degraded`; `--wait` fails before systemd listens."""
        deadline = time.monotonic() + _READY_SECONDS
        answer = b""
        while time.monotonic() < deadline:
            answer = self.attach(["systemctl", "is-system-running", "--wait"], timeout=_READY_SECONDS).stdout
            if answer.strip() in (b"running", b"degraded"):
                return
            time.sleep(0.05)
        raise GuestError(f"guest {self.vmid} has not booted in {_READY_SECONDS} s: {answer.decode()}")

    def _sweep_cgroups(self) -> None:
        for top in (self.cgroup, _CGROUPS / "lxc.monitor" / str(self.vmid)):
            for directory, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(directory).rmdir()


def create(
    vmid: int,
    template: str = "busybox",
    *,
    unprivileged: bool = False,
    start: bool = True,
    hostname: str | None = None,
    memory: int = 256,
    prepare: Callable[[Path], None] | None = None,
) -> Guest:
    """Make a guest, list it in /etc/pve, and start it unless told not to.

    `memory` is in MiB and becomes a limit where the node has a memory controller. `prepare` gets the finished
    root file system before anything starts, to make it hostile; what it makes as root belongs to the guest's
    root, in an unprivileged guest too. Raises GuestError for a vmid that is taken.
    """
    guest = Guest(vmid, template, unprivileged)
    if guest.rootfs.exists():
        raise GuestError(f"guest {vmid} exists")
    guest.rootfs.mkdir(parents=True)
    settings = config.Settings(
        vmid=vmid,
        hostname=hostname or f"ct{vmid}",
        ostype=templates.OSTYPE[template],
        unprivileged=unprivileged,
        memory=memory,
        mac=":".join(["bc", "24", "11", *(f"{byte:02x}" for byte in secrets.token_bytes(3))]),
    )
    templates.fill(template, guest.rootfs, hostname=settings.hostname)
    if prepare:
        prepare(guest.rootfs)
    if unprivileged:
        templates.shift_owners(guest.rootfs, config.UID_SHIFT)
    (LXC / str(vmid) / "config").write_text(config.lxc_text(settings, guest.rootfs))
    pmxcfs.write(config.pve_path(vmid), config.pve_text(settings))
    pmxcfs.register(vmid)
    if start:
        guest.start()
    return guest


def get(vmid: int) -> Guest:
    """The guest that exists under `vmid`; raises GuestError if there is none."""
    try:
        settings = config.parse_pve(config.pve_path(vmid).read_text())
    except FileNotFoundError:
        raise GuestError(f"guest {vmid} does not exist") from None
    template = next(name for name, ostype in templates.OSTYPE.items() if ostype == settings["ostype"])
    return Guest(vmid, template, settings.get("unprivileged") == "1")

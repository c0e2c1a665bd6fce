"""A Debian 13 that systemd runs: a root file system booted as a container, and commands run in it.

Its cgroup namespace has a pure v2 hierarchy with nsdelegate, as a node has, and is a delegation boundary: LXC guests
run inside. Whatever happens to who booted it, nothing of it stays: its pid 1 dies with that process.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.pvesim import cgroup, linux

SOURCE = "/srv/pve-exec-gateway"
"""Where the machine has this repository, read-only in use."""
PRODUCTS = "/srv/packages"

_NODES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
    "fuse": (10, 229),
}
_BOOT_SECONDS = 120.0
_LEAF = "from-outside"
# They would set up the kernel, which is not this machine's. /proc and /sys cannot be made read-only instead: an
# unprivileged guest inside may then mount none of its own (mount_namespaces(7)).
_MASKED = (
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-pstore.service",
    "systemd-sysctl.service",
)


class MachineError(Exception):
    """The machine did not boot, or what ran in it failed; the message ends with what was said."""


@dataclass(frozen=True)
class Machine:
    """A booted machine: its pid 1 as the host numbers it, and its cgroup."""

    pid: int
    home: Path

    def run(self, *command: str, timeout: float) -> str:
        """What the command prints, run in SOURCE as root; MachineError where it fails. `timeout` in seconds."""
        inside = ["nsenter", f"--target={self.pid}", *_NAMESPACES, "env", "-C", SOURCE, "-i", *_ENVIRONMENT, *command]
        done = subprocess.run(
            inside,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            preexec_fn=lambda: _enter(self.home / _LEAF),
        )
        if done.returncode:
            raise MachineError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}")
        return done.stdout


_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
_ENVIRONMENT = (
    *("HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"),
    *("DEBIAN_FRONTEND=noninteractive", "PYTHONDONTWRITEBYTECODE=1", "TERM=dumb"),
)


@contextlib.contextmanager
def booted(root: Path, name: str, binds: dict[str, Path]) -> Iterator[Machine]:
    """The machine whose root is mounted at `root`, until the end of the context. `binds`: its paths -> ours.

    `name` names its cgroup; one that an earlier run left under it is ended first. Raises MachineError, CgroupError.
    """
    cgroup.require_nsdelegate()
    _clear(name)
    for unit in _MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    (root / "etc/resolv.conf").write_text("")  # it has no network: apt need not wait for one
    (root / "etc/apt/apt.conf.d/no-network").write_text('Acquire::Retries "0";\n')
    home = cgroup.make(name)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _in_child(home, root, binds, writer)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        pid = pipe.readline()
    try:
        if not pid:
            raise MachineError("its pid 1 did not start")
        machine = Machine(int(pid), home)
        _await_boot(machine)
        yield machine
    finally:
        _clear(name)
        os.waitpid(child, 0)


def _enter(leaf: Path) -> None:
    leaf.mkdir(exist_ok=True)  # systemd removes what is empty when it starts
    cgroup.enter(leaf)


def _clear(name: str) -> None:
    home = cgroup.find_root() / name
    if home.is_dir():
        cgroup.kill(home)
        cgroup.remove(home)


def _await_boot(machine: Machine) -> None:
    deadline = time.monotonic() + _BOOT_SECONDS
    said = ""
    while time.monotonic() < deadline and Path(f"/proc/{machine.pid}/exe").exists():
        with contextlib.suppress(MachineError, subprocess.SubprocessError):  # before systemd listens
            said = machine.run("sh", "-c", "systemctl is-system-running --wait || true", timeout=_BOOT_SECONDS).strip()
        if said in ("running", "degraded"):
            return
        time.sleep(0.1)
    raise MachineError(f"not booted: {said}")


def _in_child(home: Path, root: Path, binds: dict[str, Path], told: int) -> NoReturn:
    """Fork pid 1 out of fresh namespaces, tell its number, end with it: nothing unwinds into the parent's code."""
    try:
        linux.die_with_parent()
        os.setsid()
        back = os.open(_own_cgroup() / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        cgroup.enter(home)
        linux.unshare(linux.NODE_NAMESPACES)
        pid = os.fork()
        if pid == 0:
            linux.die_with_parent()
            _become_init(root, binds)
        os.write(told, f"{pid}\n".encode())
        os.close(told)
        os.write(back, b"0")
        os.waitpid(pid, 0)
    except Exception as error:
        os.write(2, f"machine: {error}\n".encode())
    finally:
        os._exit(1)


def _own_cgroup() -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return cgroup.find_root() / next(line for line in lines if line.startswith("0::"))[4:]


def _become_init(root: Path, binds: dict[str, Path]) -> NoReturn:
    plain = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", "/", "", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(str(root), str(root), "", flags=linux.MS_BIND | linux.MS_REC)
    for place, ours in binds.items():
        inside = root / place.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        linux.mount(str(ours), str(inside), "", flags=linux.MS_BIND)
    os.chdir(root)
    linux.mount("proc", "proc", "proc", flags=plain | linux.MS_NOEXEC)
    linux.mount("sysfs", "sys", "sysfs", flags=plain | linux.MS_NOEXEC)
    linux.mount("cgroup2", "sys/fs/cgroup", "cgroup2", flags=plain | linux.MS_NOEXEC)
    linux.mount("tmpfs", "dev", "tmpfs", flags=linux.MS_NOSUID, options="mode=755")
    os.umask(0)
    for name, (major, minor) in _NODES.items():
        os.mknod(f"dev/{name}", 0o020666, os.makedev(major, minor))
    os.umask(0o022)
    for directory in ("dev/pts", "dev/shm"):
        Path(directory).mkdir()
    linux.mount(
        "devpts", "dev/pts", "devpts", flags=linux.MS_NOSUID, options="newinstance,ptmxmode=0666,mode=620,gid=5"
    )
    linux.mount("tmpfs", "dev/shm", "tmpfs", flags=plain, options="mode=1777")
    Path("dev/ptmx").symlink_to("pts/ptmx")
    linux.mount("tmpfs", "run", "tmpfs", flags=plain, options="mode=755")
    linux.pivot_root(".", ".")
    linux.unmount_tree(".")
    os.chdir("/")
    linux.mount("none", "/", "", flags=linux.MS_REC | linux.MS_SHARED)  # as systemd itself does, but in containers
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, 65536)
    os.execve("/sbin/init", ["/sbin/init"], {"container": "pvesim", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})

"""Pid 1 of a node: makes PVE's paths out of fresh namespaces, then reaps orphans until its end."""

import contextlib
import os
import select
import signal
import socket
import subprocess
from pathlib import Path

from tests.pvesim import cgroup, linux, pmxcfs

BRIDGE = "vmbr0"
ADDRESS = "10.255.255.254"
"""The node's own, on the bridge."""
KEEP = b"k"  # what the starter says when the node shall outlive it

_REPLACED = ("/proc", "/sys", "/run", "/etc", "/var/lib/lxc")


class BootError(Exception):
    """The node cannot be set up."""


def refuse_hidden(state: Path) -> None:
    """Raise BootError for a state directory under a path that the node replaces with its own."""
    for replaced in _REPLACED:
        if state.is_relative_to(replaced):
            raise BootError(f"the state directory cannot lie under {replaced}: a node has its own")


def run_init(name: str, state: Path, starter: socket.socket) -> int:
    """Set the node up, report `ready` (or why not) to `starter`, and return its exit code when it shall end.

    The caller is pid 1 of the new namespaces. Until it has received KEEP the node ends with its starter.
    """
    try:
        _redirect_streams(state)
        _mount(state)
        _enter_leaf()
        name_node(name)
        make_network()
        pmxcfs.create(name)
    except (OSError, subprocess.SubprocessError, BootError) as error:
        starter.send(str(error).encode())
        return 1
    starter.send(b"ready")
    _reap_until_end(starter)
    return 0


def _redirect_streams(state: Path) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    log = os.open(state / "node.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _mount(state: Path) -> None:
    plain = linux.MS_NOSUID | linux.MS_NODEV
    hardened = plain | linux.MS_NOEXEC
    linux.mount("none", "/", "", flags=linux.MS_REC | linux.MS_PRIVATE)

    for path in ("/sys", "/run"):  # detached, not covered: mountinfo shall show no cgroup v1 of the host
        with contextlib.suppress(OSError):
            linux.unmount_tree(path)
    linux.mount("proc", "/proc", "proc", flags=hardened)
    linux.mount("sysfs", "/sys", "sysfs", flags=hardened)
    linux.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", flags=hardened)
    if "securityfs" in Path("/proc/filesystems").read_text():
        linux.mount("securityfs", "/sys/kernel/security", "securityfs", flags=hardened)

    linux.mount("tmpfs", "/run", "tmpfs", flags=plain, options="mode=755")
    for directory in ("lock", "lxc", "pvesim/etc", "pvesim/etc.work", "pvesim/storage", "pvesim/devices"):
        Path("/run", directory).mkdir(parents=True)
    linux.mount("tmpfs", "/run/pvesim/devices", "tmpfs", flags=linux.MS_NOSUID, options="size=1m,mode=755")

    # /etc/pve needs a directory to be mounted on. The host has none, and an overlay leaves none there.
    layers = "lowerdir=/etc,upperdir=/run/pvesim/etc,workdir=/run/pvesim/etc.work"
    linux.mount("overlay", "/etc", "overlay", options=layers)
    Path("/etc/pve").mkdir(exist_ok=True)
    linux.mount("pmxcfs", "/etc/pve", "tmpfs", flags=plain, options="size=128m,mode=755")
    linux.mount(str(state / "lxc"), "/var/lib/lxc", "", flags=linux.MS_BIND)
    linux.mount(str(state / "storage"), "/run/pvesim/storage", "", flags=linux.MS_BIND)


def _enter_leaf() -> None:
    root, options = Path("/sys/fs/cgroup"), Path("/proc/self/mountinfo").read_text()
    if "nsdelegate" not in options:
        raise BootError("the node's cgroup2 mount does not have nsdelegate")
    if " - cgroup " in options:
        raise BootError("a cgroup v1 mount is visible in the node")
    cgroup.enter(root / cgroup.LEAF)
    cgroup.hand_on_controllers(root)


def name_node(name: str) -> None:
    """The host name, in its files too, and the ids that LXC may map guests to."""
    socket.sethostname(name)
    Path("/etc/hostname").write_text(f"{name}\n")
    Path("/etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n{ADDRESS} {name}\n")
    for file in ("/etc/subuid", "/etc/subgid"):
        Path(file).write_text("root:100000:65536\n")  # as PVE installs them; LXC asks newuidmap even as root


def make_network() -> None:
    """The bridge that guests hang on, with ADDRESS, and a loopback. Raises BootError."""
    commands = (
        "link set lo up",
        f"link add {BRIDGE} type bridge",
        f"addr add {ADDRESS}/8 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    )
    try:
        subprocess.run(
            ["ip", "-batch", "-"],
            input="\n".join(commands),
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.CalledProcessError as error:
        raise BootError(f"cannot make the node's network: {error.stderr.strip()}") from error


def _reap_until_end(starter: socket.socket) -> None:
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    poll.register(starter, select.POLLIN)
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        for fd, _ in poll.poll():
            if fd == read_end:
                os.read(read_end, 512)
            elif starter.recv(1) == KEEP:
                poll.unregister(starter)
            else:
                return

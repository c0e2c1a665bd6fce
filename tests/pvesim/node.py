"""A node's life as the host sees it: start, enter, stop, and what a killed one left behind."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tests.pvesim import boot, cgroup, linux

_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}

_DIRECTORIES = ("lxc", "storage")  # what guests are made of


class NodeError(Exception):
    """The node cannot be started, entered or stopped."""


@dataclass(frozen=True)
class Node:
    """A running node: its name, its pid 1 as the host numbers it, that process's start time in ticks."""

    state: Path
    name: str
    pid: int
    started: int


def find(state: Path) -> Node | None:
    """The node that runs in `state`, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        record = json.loads((state / "node.json").read_text())
        node = Node(state, record["name"], record["pid"], record["started"])
        Path(f"/proc/{node.pid}/ns/mnt").readlink()  # a dying process loses its namespaces before its pid
        if _start_time(node.pid) == node.started:
            return node
    return None


@contextlib.contextmanager
def locked(state: Path) -> Iterator[None]:
    """Hold the state directory against other starts and stops: made if need be, removed if left empty."""
    while True:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(state.stat(), os.fstat(fd)):
                break
        os.close(fd)  # removed while we waited
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            state.rmdir()
        os.close(fd)


def start(state: Path, name: str) -> tuple[Node, socket.socket]:
    """Boot an empty node in `state`, after clearing what an earlier one left there.

    Returns the node and its lifeline: closing that ends the node, also when the kernel closes it because the
    starter was killed, until `detach` is called. Raises NodeError.
    """
    boot.refuse_hidden(state)
    clear(state)
    for directory in _DIRECTORIES:
        (state / directory).mkdir()
    cgroup.require_nsdelegate()
    home = cgroup.make(_cgroup_name(state))

    lifeline, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid_reader, pid_writer = os.pipe()
    child = os.fork()
    if child == 0:
        _in_child(lambda: _fork_init(home, state, name, far_end, pid_writer))
    far_end.close()
    os.close(pid_writer)
    os.waitpid(child, 0)
    answer = lifeline.recv(4096).decode() or "its pid 1 died"
    if answer != "ready":
        lifeline.close()
        clear(state)
        raise NodeError(f"cannot boot the node: {answer}")
    pid = int(os.read(pid_reader, 32))
    os.close(pid_reader)
    node = Node(state, name, pid, _start_time(pid))
    record = {"name": name, "pid": node.pid, "started": node.started, "cgroup": str(home)}
    (state / "node.json").write_text(json.dumps(record) + "\n")
    return node, lifeline


def detach(lifeline: socket.socket) -> None:
    """Let the node outlive its starter."""
    lifeline.send(boot.KEEP)
    lifeline.close()


def clear(state: Path) -> None:
    """End whatever runs in the node of `state` and remove all that is its own: cgroups, guests, records."""
    home = cgroup.find_root() / _cgroup_name(state)
    if home.is_dir():
        cgroup.kill(home)
        cgroup.remove(home)
    for directory in _DIRECTORIES:
        if (state / directory).exists():
            shutil.rmtree(state / directory)
    for file in ("node.json", "node.log"):
        (state / file).unlink(missing_ok=True)


def run_inside(node: Node, work: Callable[[], int]) -> int:
    """Run `work` in a forked process inside the node, pass signals on to it, return its exit code.

    128 + n stands for an end by signal n. Open files, environment and working directory are kept. The process
    dies with the caller.
    """
    return _relay(lambda: _enter_and_run(node, work))


def replace_process(command: Sequence[str]) -> NoReturn:
    """Become `command`, with a shell's signal settings and LISTEN_PID naming it (sd_listen_fds(3))."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would hand that on
        signal.signal(number, signal.SIG_DFL)
    if "LISTEN_FDS" in os.environ:
        os.environ["LISTEN_PID"] = str(os.getpid())
    try:
        os.execvp(command[0], list(command))
    except OSError as error:
        os.write(2, f"pvesim: cannot run {command[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _cgroup_name(state: Path) -> str:
    return f"pvesim-{hashlib.sha256(os.fsencode(state)).hexdigest()[:8]}"


def _start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat: with the pid it names one process for ever."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _fork_init(home: Path, state: Path, name: str, starter: socket.socket, pid_writer: int) -> int:
    """Fork the node's pid 1 out of fresh namespaces and tell its pid; its root cgroup is the one entered."""
    try:
        os.setsid()
        cgroup.enter(home)
        linux.unshare(linux.NODE_NAMESPACES)
    except OSError as error:
        starter.send(str(error).encode())
        return 1
    pid = os.fork()
    if pid == 0:
        os.closerange(3, starter.fileno())
        os.closerange(starter.fileno() + 1, 65536)
        os.chdir("/")
        os.umask(0o022)
        _in_child(lambda: boot.run_init(name, state, starter))
    os.write(pid_writer, str(pid).encode())
    return 0


def _enter_and_run(node: Node, work: Callable[[], int]) -> int:
    here = Path.cwd()
    cgroup.enter(cgroup.find_root() / _cgroup_name(node.state) / cgroup.LEAF)
    pidfd = os.pidfd_open(node.pid)
    linux.setns(pidfd, linux.NODE_NAMESPACES)
    os.close(pidfd)
    os.chdir(here)
    return _relay(work)  # only a child is in the pid namespace


def _relay(work: Callable[[], int]) -> int:
    """Fork, run `work` in the child, pass it the signals that were sent to us, return how it ended.

    A signal from the terminal is not passed on: it reached the whole process group, and so the child.
    """
    watched = _PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    child = os.fork()
    if child == 0:
        linux.die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _in_child(work)
    try:
        while True:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            info = signal.sigwaitinfo(watched)
            if info.si_signo != signal.SIGCHLD and info.si_code <= 0:  # SI_USER and friends, not SI_KERNEL
                os.kill(child, info.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child(work: Callable[[], int]) -> NoReturn:
    """End a forked process with what `work` returns, never unwinding into its parent's code."""
    code = 1
    try:
        code = work()
    except Exception as error:
        os.write(2, f"pvesim: {error}\n".encode())
    finally:
        os._exit(code)

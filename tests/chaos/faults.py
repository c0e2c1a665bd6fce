"""The faults: each a context inside of which something is broken, and behind which nothing is restarted by hand."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.exec import faults as of_audit
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim.services import REPOSITORY
from tests.soak import killing, processes


@dataclass(frozen=True)
class Scene:
    """A gateway whose audit log and spool are each on a small disk of their own, and whose clock can be set."""

    gateway: Gateway
    audit: Path
    spool: Path
    clock: Path


class Fault(Protocol):
    def __call__(self, scene: Scene) -> contextlib.AbstractContextManager[None]: ...


def build_clock(directory: Path) -> dict[str, str]:
    """What to start services with, so that their wall clock is shifted by what `directory`/shift says."""
    library = directory / "clock.so"
    source = REPOSITORY / "tests/chaos/clock.c"
    subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    (directory / "shift").write_text("0")
    return {"LD_PRELOAD": str(library), "CLOCK_SHIFT": str(directory / "shift")}


def of_audit_log(name: str) -> Fault:
    """One of the faults of tests/exec/faults.py, which have all to do with the audit log."""

    def fault(scene: Scene) -> contextlib.AbstractContextManager[None]:
        return of_audit.FAULTS[name](scene.gateway, scene.audit)

    return fault


@contextlib.contextmanager
def spool_full(scene: Scene) -> Iterator[None]:
    """No byte is free where the spool is."""
    filler = scene.spool / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def spool_frozen(scene: Scene) -> Iterator[None]:
    """Whoever writes to the spool hangs."""
    with of_audit.frozen(scene.gateway, scene.spool):
        yield


def killed(victim: str) -> Fault:
    """SIGKILL, and started again at once, as systemd or the web's master does it."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        killing.VICTIMS[victim](scene.gateway)
        yield

    return fault


def stopped(service: str) -> Fault:
    """SIGSTOP, then SIGCONT. `worker`: the web's."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        pid = pid_of(scene.gateway, service)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):  # its master has killed a worker that was silent for long
                os.kill(pid, signal.SIGCONT)

    return fault


def no_descriptors(service: str) -> Fault:
    """The process gets no descriptor more than it has."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        pid = pid_of(scene.gateway, service)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        first_free = next(number for number in itertools.count() if number not in used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (first_free, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)

    return fault


@contextlib.contextmanager
def no_processes(scene: Scene) -> Iterator[None]:
    """No process of the gateway can make a process or a thread: pids.max (RLIMIT_NPROC does not bind root)."""
    with _pids_hierarchy() as hierarchy:
        group = hierarchy / f"chaos-{os.getpid()}"
        group.mkdir()
        pids = [pid for service in processes.of_gateway(scene.gateway) for pid in _family(service)]
        try:
            for pid in pids:
                _move(pid, group)
            (group / "pids.max").write_text((group / "pids.current").read_text())
            yield
        finally:
            (group / "pids.max").write_text("max")
            until(lambda: _is_emptied(group, hierarchy), why="all have left the cgroup")


def clock_set(seconds: int) -> Fault:
    """The wall clock jumps, and is set right afterwards: two jumps."""

    @contextlib.contextmanager
    def fault(scene: Scene) -> Iterator[None]:
        _write_whole(scene.clock, str(seconds))
        try:
            yield
        finally:
            _write_whole(scene.clock, "0")

    return fault


def pid_of(gateway: Gateway, service: str) -> int:
    """A service's main process; `worker`: the web's worker."""
    return processes.the_worker(gateway) if service == "worker" else gateway.services.pid(service)


def _family(pid: int) -> list[int]:
    return [pid, *(below for child in processes.children(pid) for below in _family(child))]


def _move(pid: int, group: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        (group / "cgroup.procs").write_text(str(pid))


def _is_emptied(group: Path, into: Path) -> bool:
    for pid in (group / "cgroup.procs").read_text().split():
        _move(int(pid), into)
    with contextlib.suppress(OSError):
        group.rmdir()
    return not group.exists()


@contextlib.contextmanager
def _pids_hierarchy() -> Iterator[Path]:
    """The hierarchy with the pids controller, mounted for the while: cgroup v1 where the machine is a hybrid."""
    if "pids" in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split():
        yield Path("/sys/fs/cgroup")
        return
    place = Path(tempfile.mkdtemp(prefix="pveg-pids-"))
    subprocess.run(["mount", "-t", "cgroup", "-o", "pids", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()  # never more than this: below a mounted hierarchy are the machine's own cgroups


def _write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


FAULTS: dict[str, Fault] = {
    **{f"audit {name}": of_audit_log(name) for name in of_audit.FAULTS if name != "log full"},
    "spool full": spool_full,
    "spool frozen": spool_frozen,
    **{f"SIGKILL of the {victim}": killed(victim) for victim in killing.VICTIMS},
    **{f"SIGSTOP of the {name}": stopped(name) for name in ("supervisor", "web", "worker")},
    "clock an hour on": clock_set(3600),
    "clock a day back": clock_set(-86400),
    **{f"no descriptors for {name}": no_descriptors(name) for name in ("supervisor", "audit", "worker")},
    "no processes": no_processes,
}

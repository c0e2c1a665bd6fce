"""What the gateway's processes have: memory, descriptors, threads, children; read from /proc."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim.services import COMMANDS


def of_gateway(gateway: Gateway) -> list[int]:
    """The three services and the web's workers; commands that run are not among them."""
    services = [gateway.services.pid(name) for name in COMMANDS]
    return [*services, *workers(gateway)]


def workers(gateway: Gateway) -> list[int]:
    """The web's worker processes."""
    return children(gateway.services.pid("web"))


def the_worker(gateway: Gateway) -> int:
    """The web's only worker, once there is one."""
    return until(lambda: workers(gateway), why="a web worker")[0]


def children(pid: int) -> list[int]:
    return [child for child, parent, _ in _all() if parent == pid]


def zombies(pid: int) -> int:
    """How many children of a process have ended and were not waited for."""
    return sum(parent == pid and state == "Z" for _, parent, state in _all())


def resident(pid: int) -> int:
    """Bytes of memory that a process has of its own, shared pages of files apart."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _all() -> Iterator[tuple[int, int, str]]:
    """(pid, parent, state) of every process."""
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(entry), int(fields[1]), fields[0]

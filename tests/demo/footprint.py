"""What a node occupies on its machine, taken while it runs, to look for it when it has ended."""

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.pvesim import node

_REAP_SECONDS = 5.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Footprint:
    """The node's namespaces, as /proc/PID/ns names them, and its cgroup; both empty if no node was found."""

    namespaces: frozenset[str]
    cgroup: Path | None


def take(state: Path) -> Footprint:
    """The footprint of the node that runs in `state`."""
    running = node.find(state)
    if running is None:
        return Footprint(frozenset(), None)
    own = frozenset(_namespaces("self"))
    record = json.loads((state / "node.json").read_text())
    return Footprint(frozenset(_namespaces(str(running.pid))) - own, Path(record["cgroup"]))


def find_left(footprint: Footprint, home: Path) -> list[str]:
    """A line for each process in those namespaces, for the cgroup, and for each mount of something below `home`.

    A network namespace without a process is gone, and its bridge and guests' interfaces with it. Killed processes
    have _REAP_SECONDS to be reaped: until then they count.
    """
    deadline = time.monotonic() + _REAP_SECONDS
    while (left := _look(footprint, home)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return left


def _look(footprint: Footprint, home: Path) -> list[str]:
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        if footprint.namespaces.intersection(_namespaces(process.name)):
            left.append(f"process {process.name} in a namespace of the node")
    if footprint.cgroup and footprint.cgroup.exists():
        left.append(f"cgroup {footprint.cgroup}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return left + [f"mount {line}" for line in mounts if f"{home}/" in line]


def _namespaces(pid: str) -> Iterator[str]:
    with contextlib.suppress(OSError):  # it ended meanwhile
        for link in Path("/proc", pid, "ns").iterdir():
            yield str(link.readlink())

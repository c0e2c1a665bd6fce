"""What the gateway's processes take of the machine's memory."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def proportional_memory(pids: Iterable[int]) -> float:
    """MB (10^6 bytes) of PSS of these processes and all their descendants (/proc/PID/smaps_rollup, proc(5)).

    PSS counts a page that n processes share 1/n times, so the sum counts each page once.
    """
    total = 0
    for pid in _with_descendants(pids):
        match = re.search(r"^Pss:\s+(\d+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        if match is not None:
            total += int(match[1]) * 1024
    return total / 1e6


def _with_descendants(pids: Iterable[int]) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        parent = int(stat.read_text().rpartition(")")[2].split()[1])
        children.setdefault(parent, []).append(int(stat.parent.name))
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children.get(pid, [])

"""What /proc says of a process, read as bytes: a name in it may hold whatever its owner likes, and lines of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessStat:
    """Some of /proc/PID/stat (proc_pid_stat(5))."""

    comm: bytes
    state: bytes
    parent: int
    flags: int
    start: int
    """Clock ticks since boot: with its pid, this names a process for good."""


def read_stat(process: Path) -> ProcessStat:
    """Raises OSError when there is no such process any more."""
    return parse_stat((process / "stat").read_bytes())


def parse_stat(text: bytes) -> ProcessStat:
    """What that file says."""
    head, _, tail = text.rpartition(b")")
    fields = tail.split()
    return ProcessStat(head.partition(b"(")[2], fields[0], int(fields[1]), int(fields[6]), int(fields[19]))


def read_status(process: Path, *names: bytes) -> dict[bytes, list[bytes]]:
    """Fields of /proc/PID/status, which comes after `Name` and has each once; empty when the process is gone."""
    try:
        lines = (process / "status").read_bytes().split(b"\n")
    except OSError:
        return {}
    pairs = (line.partition(b":") for line in lines[1:])
    return {name: value.split() for name, _, value in pairs if name in names}


def is_privileged(process: Path) -> bool:
    """Whether root in its user namespace is root here (user_namespaces(7)); when in doubt, yes."""
    for line in (process / "uid_map").read_bytes().splitlines():
        inside, outside, _ = line.split()
        if inside == b"0":
            return outside == b"0"
    return True

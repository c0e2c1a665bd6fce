"""Looking at what runs in guests from the node, where every process of every guest is seen."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

from tests.exec.api import Api
from tests.exec.waiting import until

_marks = itertools.count(random.randrange(10_000_000, 90_000_000))


def new_mark() -> str:
    """A number that no other process has in its command line; as seconds of sleep it is for ever."""
    return str(next(_marks))


def living(mark: str, *, alone: bool = False) -> list[int]:
    """The processes that have `mark` in their command line, or with `alone` as its last word; zombies have none."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            if mark.encode() == words[-2:][0] or (not alone and any(mark.encode() in word for word in words)):
                found.append(int(entry))
    return found


def kill_all(mark: str) -> None:
    """SIGKILL to all processes that have `mark` in their command line."""
    for pid in living(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def labelled(api: Api, label: str) -> dict[str, Any] | None:
    """The newest exec with the label `test`=`label`; None while there is none."""
    execs = api.get(f"/execs?label=test={label}").json()["execs"]
    return execs[0] if execs else None


def begun(api: Api, label: str, mark: str | None = None) -> str:
    """The id of the exec with this label, once it runs, and once a process of it carries `mark`."""
    view = until(lambda: labelled(api, label), why=f"exec {label} begins")
    assert view is not None
    exec_id: str = view["id"]
    if mark is not None:
        until(lambda: living(mark), why=f"a process with {mark}")
    return exec_id


def ended(api: Api, exec_id: str, within: float = 25) -> dict[str, Any]:
    """The exec once it has ended."""
    view: dict[str, Any] = api.get(f"/execs/{exec_id}?wait={within}").json()
    assert view.get("state") == "ended", view
    return view


def exec_cgroups(vmid: int) -> list[Path]:
    """The cgroups of execs in a guest, of every gateway."""
    return list(Path("/sys/fs/cgroup/lxc", str(vmid)).glob("pveg-*/*/"))

"""A25: a day's worth of execs in a loop; what the gateway has when it rests is the same at the end as early on."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.figures import percentile
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import exec_cgroups
from tests.exec.streams import NDJSON, SSE, detach, stream
from tests.exec.waiting import until
from tests.exec.websocket import Session
from tests.soak import processes

SAMPLES = 20
"""Times that the loop rests and is looked at."""
_SIDE_BY_SIDE = 8
_MEMORY = 4 << 20
"""Bytes that a process may have more at the end: what allocators keep differs from moment to moment."""
_LOOSE = 4
"""Descriptors and threads that may be more: one of each worker's connections may be kept or not."""


@dataclass(frozen=True)
class Sample:
    """What there is at one moment of rest."""

    memory: dict[str, int]
    descriptors: dict[str, int]
    threads: dict[str, int]
    zombies: int
    cgroups: int
    files: int
    spooled: int
    """Bytes in the spool."""


def loop(
    gateway: Gateway, vmid: int, *, execs: int, show: Callable[[str], object] = lambda text: None
) -> dict[str, float]:
    """`execs` of every kind; the gateway keeps at most a tenth as many ended ones (spool.max_ended).

    Flat: the last quarter of the samples against the second one; in the first caches, threads and spool fill up.
    """
    api = gateway.api(gateway.token("loop", actions="exec:run,exec:terminal"))
    kinds = itertools.cycle(_kinds(api, vmid))
    samples, waits, began = [], list[float](), time.monotonic()
    with contextlib.closing(api), ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for number in range(SAMPLES):
            waits += pool.map(_time, itertools.islice(kinds, execs // SAMPLES))
            samples.append(_take_sample(gateway, vmid))
            show(f"  {(number + 1) * (execs // SAMPLES)} execs, {time.monotonic() - began:.0f} s: {samples[-1]}")
    took = time.monotonic() - began
    early, late = samples[SAMPLES // 4 : SAMPLES // 2], samples[-SAMPLES // 4 :]
    figures = dict(_judge(early, late))
    return {"execs": execs, "per s": execs / took, "p99 ms": percentile(waits, 99), "longest ms": max(waits), **figures}


def _time(run: Callable[[], object]) -> float:
    began = time.monotonic()
    run()
    return (time.monotonic() - began) * 1000


def _judge(early: list[Sample], late: list[Sample]) -> Iterator[tuple[str, float]]:
    for sample in (*early, *late):
        assert (sample.zombies, sample.cgroups) == (0, 0), sample
    for name in early[0].memory:
        grown = _median(late, "memory", name) - _median(early, "memory", name)
        assert grown < _MEMORY, f"{name} has {grown} bytes more"
        yield f"{name} MiB", _median(late, "memory", name) / (1 << 20)
        yield f"{name} grown MiB", grown / (1 << 20)
        for what in ("descriptors", "threads"):
            more = _median(late, what, name) - _median(early, what, name)
            assert more <= _LOOSE, f"{name} has {more} {what} more"
            yield f"{name} {what}", _median(late, what, name)
    for what in ("files", "spooled"):
        before, after = (statistics.median(getattr(one, what) for one in part) for part in (early, late))
        assert after <= before * 1.05 + 4096, f"{what} in the spool: {before}, then {after}"
    yield "spool files", late[-1].files
    yield "spool MiB", late[-1].spooled / (1 << 20)
    yield "zombies", late[-1].zombies
    yield "cgroups", late[-1].cgroups


def _median(samples: list[Sample], what: str, name: str) -> float:
    values: list[int] = [getattr(sample, what)[name] for sample in samples]
    return statistics.median(values)


def _take_sample(gateway: Gateway, vmid: int) -> Sample:
    """Once nothing runs."""
    until(lambda: not _own_cgroups(gateway, vmid), why="no cgroup is left")
    services = {name: gateway.services.pid(name) for name in ("audit", "supervisor", "web")}
    pids = {**services, "worker": processes.the_worker(gateway)}
    spool = list(_sizes(gateway.spool))
    return Sample(
        memory={name: processes.resident(pid) for name, pid in pids.items()},
        descriptors={name: processes.descriptors(pid) for name, pid in pids.items()},
        threads={name: processes.threads(pid) for name, pid in pids.items()},
        zombies=sum(processes.zombies(pid) for pid in pids.values()),
        cgroups=len(_own_cgroups(gateway, vmid)),
        files=len(spool),
        spooled=sum(spool),
    )


def _own_cgroups(gateway: Gateway, vmid: int) -> list[Path]:
    return [path for path in exec_cgroups(vmid) if gateway.instance in path.parent.name]


def _sizes(directory: Path) -> Iterator[int]:
    """Bytes of each file below; what is forgotten meanwhile is passed over."""
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path))
            else:
                with contextlib.suppress(FileNotFoundError):
                    yield entry.stat(follow_symlinks=False).st_size


def _kinds(api: Api, vmid: int) -> list[Callable[[], object]]:
    """An exec of each kind, most of them the commonest."""
    keys = itertools.count()

    def reply() -> None:
        assert api.run(vmid, ["true"])["exit_code"] == 0

    def fails() -> None:
        assert api.run(vmid, ["/no/such"])["reason"] == "spawn_failed"

    def with_key() -> None:
        headers = {"Idempotency-Key": f"loop-{next(keys)}"}
        assert api.post(vmid, {"command": "echo key"}, headers=headers).json()["stdout"] == "key\n"

    def with_input() -> None:
        assert api.run(vmid, ["cat"], stdin="x" * 20_000)["output"]["stdout"]["bytes"] == 20_000

    def times_out() -> None:
        assert api.run(vmid, ["sleep", "60"], timeout=0.05, kill_grace=0)["reason"] == "timeout"

    def detached() -> None:
        exec_id = detach(api, vmid, "echo out; echo err >&2")
        assert api.get(f"/execs/{exec_id}?wait=20").json()["exit_code"] == 0
        assert api.get(f"/execs/{exec_id}/stdout").body == b"out\n"

    def streamed(accept: str) -> None:
        with stream(api, vmid, {"command": "echo one; echo two"}, accept) as reply:
            assert reply.next_event("end")["exit_code"] == 0

    def left() -> None:
        with stream(api, vmid, {"command": ["sleep", "60"], "kill_grace": 0}) as reply:
            exec_id = reply.next_event("start")["exec"]["id"]
        assert api.get(f"/execs/{exec_id}?wait=20").json()["reason"] == "client_gone"

    def terminal() -> None:
        with Session(api, f"/exec/{vmid}/terminal") as session:
            session.start(["cat"], tty={"rows": 24, "cols": 80})
            session.type("hello\r")
            session.until_shown("hello")
            session.say("stdin_eof")
            assert session.message("end")["exit_code"] == 0

    others: list[Callable[[], Any]] = [
        fails,
        with_key,
        with_input,
        times_out,
        detached,
        lambda: streamed(NDJSON),
        lambda: streamed(SSE),
        left,
        terminal,
    ]
    return [kind for other in others for kind in (reply, reply, other)]

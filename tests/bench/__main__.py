"""Runs the benchmark in a simulated node of its own, prints the table and writes .demo/bench.json."""

from __future__ import annotations

import contextlib
import json
import sys
import time

from tests.bench.bare import BareAttach, DiskAppend
from tests.bench.client import ExecClient
from tests.bench.figures import Figures, median, percentile, targets
from tests.bench.machine import run_alone
from tests.bench.memory import proportional_memory
from tests.bench.rounds import alternate_loads, take_turns
from tests.bench.streaming import SETTINGS, Bench
from tests.pvesim.services import COMMANDS, REPOSITORY, Services

VMID = 101
STARTS = 5
WARM_UP_TURNS = 20
TURNS = 400
SIDE_BY_SIDE = 8
LOAD_SECONDS = 3.0
LOAD_ROUNDS = 4
IDLE_AFTER_SECONDS = 2.0

_STATE = REPOSITORY / ".demo/bench"
_REPORT = REPOSITORY / ".demo/bench.json"
_PROGRAMS = [REPOSITORY / "build/launcher", REPOSITORY / "build/nursery"]


def main() -> int:
    if not all(path.exists() for path in _PROGRAMS):
        print("bench: there is no build/launcher or build/nursery: run `make launcher` first", file=sys.stderr)
        return 2
    return run_alone(_STATE, run)


def run() -> int:
    """Measures; runs in the node. 0 also when a target is missed: a benchmark tells, it does not judge."""
    with contextlib.closing(Services(_STATE / "gateway", settings=SETTINGS)) as services:
        figures = measure(services)
    _REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print_table(figures)
    return 0


def measure(services: Services) -> dict[str, float]:
    """All figures, in the units that their names end with."""
    services.start()
    token = services.create_token(actions="exec:run,exec:terminal")
    starts = [restart(services) for _ in range(STARTS)]
    time.sleep(IDLE_AFTER_SECONDS)
    idle = proportional_memory(services.pid(name) for name in COMMANDS)

    def connect() -> ExecClient:
        return ExecClient(("127.0.0.1", services.port), services.ca, token, VMID)

    def attach() -> BareAttach:
        return BareAttach(VMID)

    one, bare = connect(), attach()
    take_turns({"exec": one, "bare": bare}, WARM_UP_TURNS)
    append = DiskAppend(services.audit / "audit.log")
    turns = take_turns({"exec": one, "bare": bare, "fdatasync": append}, TURNS)
    loads = alternate_loads(
        {"exec": connect, "bare": attach}, side_by_side=SIDE_BY_SIDE, seconds=LOAD_SECONDS, rounds=LOAD_ROUNDS
    )
    with contextlib.closing(Bench(services, token, VMID)) as bench:
        streaming = bench.figures()
    figures = {
        "exec_p50_ms": median(turns["exec"]),
        "exec_p99_ms": percentile(turns["exec"], 99),
        "bare_p50_ms": median(turns["bare"]),
        "bare_p99_ms": percentile(turns["bare"], 99),
        "fdatasync_p50_ms": median(turns["fdatasync"]),
        "fdatasync_p99_ms": percentile(turns["fdatasync"], 99),
        "exec_per_s_8": loads["exec"],
        "bare_per_s_8": loads["bare"],
        "ready_s": median(starts),
        "idle_mb": idle,
        **streaming,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def restart(services: Services) -> float:
    """Seconds from starting the three services to the first 200 of /health/ready."""
    services.stop()
    began = time.perf_counter()
    services.start()
    services.wait_ready()
    return time.perf_counter() - began


def print_table(figures: Figures) -> None:
    print(f"/bin/true in guest {VMID}: {TURNS} turns, then {SIDE_BY_SIDE} at a time")
    print(f"{'':<22}{'p50 ms':>9}{'p99 ms':>9}{f'{SIDE_BY_SIDE} at a time, per s':>20}")
    for name, shown in (
        ("exec", "exec over HTTPS"),
        ("bare", "bare lxc-attach"),
        ("fdatasync", "fdatasync of a record"),
    ):
        row = f"{shown:<22}{figures[f'{name}_p50_ms']:9.2f}{figures[f'{name}_p99_ms']:9.2f}"
        rate = figures.get(f"{name}_per_s_8")
        print(row if rate is None else f"{row}{rate:20.1f}")
    print(f"start to ready {figures['ready_s']:.2f} s, idle {figures['idle_mb']:.1f} MB")
    print(f"first byte of `echo`: streamed {figures['first_byte_p50_ms']:.2f} ms, bare", end=" ")
    print(f"{figures['bare_first_byte_p50_ms']:.2f} ms\n")
    for target in targets(figures):
        print(target)


if __name__ == "__main__":
    sys.exit(main())

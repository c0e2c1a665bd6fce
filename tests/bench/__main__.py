"""Runs the benchmark in a simulated node of its own, prints the table and writes .demo/bench.json."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

from tests.bench.bare import BareAttach, DiskAppend
from tests.bench.client import ExecClient
from tests.bench.figures import Figures, median, percentile, targets
from tests.bench.gateway import Gateway, mean_record_size, proportional_memory
from tests.bench.rounds import alternate_loads, take_turns
from tests.pvesim import node, sets

VMID = 101
STARTS = 5
WARM_UP_TURNS = 20
TURNS = 400
SIDE_BY_SIDE = 8
LOAD_SECONDS = 3.0
LOAD_ROUNDS = 4
IDLE_AFTER_SECONDS = 2.0

_STATE = Path(".demo/bench")
_REPORT = Path(".demo/bench.json")
_LAUNCHER = Path("build/launcher")


def main() -> int:
    if os.geteuid() != 0:
        print("bench: must run as root: it makes a node of namespaces and containers", file=sys.stderr)
        return 2
    if not _LAUNCHER.exists():
        print("bench: there is no build/launcher: run `make launcher` first", file=sys.stderr)
        return 2
    state = _STATE.resolve()
    with node.locked(state):
        started, lifeline = node.start(state, "pve1")
        try:
            return node.run_inside(started, lambda: sets.create("demo")) or node.run_inside(started, run)
        finally:
            lifeline.close()
            node.clear(state)
            shutil.rmtree(state / "gateway", ignore_errors=True)


def run() -> int:
    """Measures; runs in the node. 0 also when a target is missed: a benchmark tells, it does not judge."""
    gateway = Gateway(_STATE.resolve() / "gateway", _LAUNCHER.resolve())
    figures = measure(gateway)
    _REPORT.write_text(json.dumps(figures, indent=2) + "\n")
    print_table(figures)
    return 0


def measure(gateway: Gateway) -> dict[str, float]:
    """All figures, in the units that their names end with."""
    token = gateway.create_token()
    starts = []
    for _ in range(STARTS - 1):
        with gateway.running() as (seconds, _pids):
            starts.append(seconds)
    with gateway.running() as (seconds, pids):
        starts.append(seconds)
        time.sleep(IDLE_AFTER_SECONDS)
        idle = proportional_memory(pids)
        run_exec, attach = ExecClient(gateway.address, gateway.ca, token, VMID), BareAttach(VMID)
        take_turns({"exec": run_exec, "bare": attach}, WARM_UP_TURNS)
        append = DiskAppend(gateway.audit_directory.parent, mean_record_size(gateway.audit_directory))
        turns = take_turns({"exec": run_exec, "bare": attach, "fdatasync": append}, TURNS)
        loads = alternate_loads(
            {
                "exec": lambda: ExecClient(gateway.address, gateway.ca, token, VMID),
                "bare": lambda: BareAttach(VMID),
            },
            side_by_side=SIDE_BY_SIDE,
            seconds=LOAD_SECONDS,
            rounds=LOAD_ROUNDS,
        )
    figures = {
        "exec_p50_ms": median(turns["exec"]),
        "exec_p99_ms": percentile(turns["exec"], 99),
        "bare_p50_ms": median(turns["bare"]),
        "bare_p99_ms": percentile(turns["bare"], 99),
        "fdatasync_p50_ms": median(turns["fdatasync"]),
        "exec_per_s_8": loads["exec"],
        "bare_per_s_8": loads["bare"],
        "ready_s": median(starts),
        "idle_mb": idle,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def print_table(figures: Figures) -> None:
    print(f"/bin/true in guest {VMID}, {TURNS} turns, then 8 at a time")
    print(f"{'':<22}{'p50 ms':>9}{'p99 ms':>9}{'8 at a time, per s':>20}")
    for name, shown in (("exec", "exec over HTTPS"), ("bare", "bare lxc-attach")):
        latency = f"{figures[name + '_p50_ms']:9.2f}{figures[name + '_p99_ms']:9.2f}"
        print(f"{shown:<22}{latency}{figures[name + '_per_s_8']:20.1f}")
    print(f"{'fdatasync of a record':<22}{figures['fdatasync_p50_ms']:9.2f}")
    print(f"start to ready {figures['ready_s']:.2f} s, idle {figures['idle_mb']:.1f} MB\n")
    for target in targets(figures):
        print(target)


if __name__ == "__main__":
    sys.exit(main())

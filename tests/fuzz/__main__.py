"""`make fuzz`: 100,000 requests over the whole spec, in a node of its own; a table of what was seen.

One in fifty is a WebSocket that is opened and played on with good and broken frames.

    python -m tests.fuzz [--requests 100000] [--minutes 20] [--seed 1] [--jobs 2]

The exit code is 1 when something did not hold: the table says what, with the first request of each kind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.fuzz.judging import Footprint, footprints, judge_growth, judge_logs, judge_trail
from tests.fuzz.running import SETTINGS, Tally, Target, fuzz
from tests.fuzz.sockets import fuzz_sockets
from tests.fuzz.stock import stocked, token_of
from tests.pvesim import alone
from tests.pvesim.services import REPOSITORY

_STATE = REPOSITORY / ".demo/fuzz"
_REPORT = REPOSITORY / ".demo/fuzz.json"
_ROUND = 1250
"""Requests between two looks at the gateway, of each job."""
_SOCKETS = 25
"""Of these, WebSockets."""
_THREADS = 4


def main() -> int:
    options = _parse()
    return alone.run_program("fuzz", _STATE, lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Fuzzes in rounds until the number of requests is reached; runs in the node. 1 when something does not hold."""
    print(f"{platform.node()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, seed {options.seed}")
    total, seen, began, broken = Tally(), list[dict[str, Footprint]](), time.monotonic(), list[str]()
    context = get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="fuzz-") as home,
        stocked(Path(home)) as (stock, pve),
        contextlib.closing(Gateway(**SETTINGS, pve=pve)) as gateway,
        ProcessPoolExecutor(options.jobs, mp_context=context) as pool,
    ):
        target = Target.of(gateway, token_of(gateway))
        seed = options.seed * 1_000_000
        while total.requests < options.requests and time.monotonic() - began < 60 * options.minutes:
            share = min(_ROUND, 1 + _SOCKETS + (options.requests - total.requests) // options.jobs)
            jobs = [
                pool.submit(what, target, count=count, seed=seed + 1000 * job, threads=_THREADS)
                for job in range(options.jobs)
                for what, count in ((fuzz, share - _SOCKETS), (fuzz_sockets, _SOCKETS))
            ]
            seed += 1000 * options.jobs
            for job in jobs:
                _tell_new(total, job.result())
            seen.append(footprints(gateway))
            memory = {name: f"{one.memory / (1 << 20):.1f} MiB" for name, one in seen[-1].items()}
            print(
                f"  {total.requests}, {time.monotonic() - began:.0f} s, {len(total.wrong)} wrong: {memory}", flush=True
            )
            stock.renew()
            ran = gateway.api().run(101, ["true"])
            assert ran["exit_code"] == 0, ran
        broken += judge_logs(gateway, total.secrets)
        with contextlib.suppress(AssertionError):
            until(lambda: not list(judge_trail(gateway)), within=30)
        broken += judge_trail(gateway)
        broken += judge_growth(seen[len(seen) // 2], seen[-1])
    broken += [f"{count} x {what}\n      {total.example[what]}" for what, count in total.wrong.items()]
    _show(total, seen, time.monotonic() - began)
    print("\n".join(f"BROKEN: {what}" for what in broken) or "all of it holds")
    return 1 if broken else 0


def _tell_new(total: Tally, part: Tally) -> None:
    """Adds `part`, and prints at once what was not seen wrong before."""
    for what in part.wrong.keys() - total.wrong.keys():
        print(f"  NEW: {what}\n      {part.example[what]}", flush=True)
    total.add(part)


def _show(total: Tally, seen: list[dict[str, Footprint]], seconds: float) -> None:
    figures = {
        "requests": total.requests,
        "per s": round(total.requests / seconds, 1),
        "slowest s": round(total.slowest, 2),
        **{f"answered {status}": count for status, count in sorted(total.statuses.items())},
    }
    idle = [label for label, count in total.worked.items() if not count]
    figures["operations that answered 2xx"] = len(total.worked) - len(idle)
    for name, print_ in seen[-1].items():
        figures[f"{name} MiB, middle"] = round(seen[len(seen) // 2][name].memory / (1 << 20), 1)
        figures[f"{name} MiB, end"] = round(print_.memory / (1 << 20), 1)
        figures[f"{name} descriptors"] = print_.descriptors
    for label, figure in figures.items():
        print(f"    {label:<28}{figure:>14,}")
    print("\n".join(f"never answered 2xx: {label}" for label in sorted(idle)))
    _REPORT.write_text(json.dumps(figures, indent=2) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000, help="how many (default: 100000)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no round after these (default: none)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="repeats what was random")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that make and send them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

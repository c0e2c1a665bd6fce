"""`make chaos`: each fault against a gateway under load, in a node of its own; a table of what was seen.

    python -m tests.chaos [--only "spool frozen,clock"] [--seconds 6] [--rounds 1]

The exit code is 1 when an answer was not true, when nothing recovered in time, or when a bound was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import traceback

from tests.chaos.faults import FAULTS
from tests.chaos.suffering import open_scene, suffer
from tests.pvesim import alone
from tests.pvesim.services import REPOSITORY

_STATE = REPOSITORY / ".demo/chaos"
_REPORT = REPOSITORY / ".demo/chaos.json"


def main() -> int:
    options = _parse()
    return alone.run_program("chaos", _STATE, lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Runs what is asked for, one after the other; runs in the node. 1 when something does not hold."""
    print(f"{platform.node()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}", flush=True)
    results: dict[str, dict[str, float] | str] = {}
    for name in FAULTS:
        if options.only and not any(part in name for part in options.only.split(",")):
            continue
        try:
            with open_scene() as scene:
                results[name] = suffer(scene, name, options.seconds, options.rounds)
        except Exception as error:
            traceback.print_exc()
            results[name] = f"BROKEN: {error!r:.500}"
        _show(name, results[name])
        _REPORT.write_text(json.dumps(results, indent=2) + "\n")
    broken = [name for name, result in results.items() if isinstance(result, str)]
    print(f"{len(results) - len(broken)} of {len(results)} hold" + "".join(f"\nBROKEN: {name}" for name in broken))
    return 1 if broken else 0


def _show(name: str, result: dict[str, float] | str) -> None:
    if isinstance(result, str):
        print(f"{name:<30}{result}", flush=True)
        return
    print(f"{name:<30}" + "  ".join(f"{label} {figure:.4g}" for label, figure in result.items()), flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="parts of names of faults, with commas (default: all)")
    parser.add_argument("--seconds", type=float, default=6.0, help="that each fault lasts (default: 6)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    began = time.monotonic()
    code = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(code)

"""`make soak`: the scenarios at the size that ACCEPTANCE.md asks for, in a node of their own; a table of what was seen.

    python -m tests.soak [--only A12,A25] [--scale 0.1] [--loop 20000] [--python PATH ...]

The exit code is 1 when something did not hold: the table says what.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.exec.gateways import Gateway
from tests.exec.streams import NDJSON, SSE
from tests.pvesim import alone
from tests.pvesim.services import REPOSITORY
from tests.soak import cutting, killing, leaving, looping, mixing, slow_reader, upgrading
from tests.soak.installing import Installation

Figures = dict[str, float]
Run = Callable[[], Figures]

_STATE = REPOSITORY / ".demo/soak"
_REPORT = REPOSITORY / ".demo/soak.json"
_BUSYBOX, _UNPRIVILEGED = 101, 104
_MOST_LOOPED = 20_000
"""The default of spool.max_ended."""


def main() -> int:
    options = _parse()
    return alone.run_program("soak", _STATE, lambda: run(options))


def run(options: argparse.Namespace) -> int:
    """Runs what is asked for, one after the other; runs in the node. 1 when something does not hold."""
    print(
        f"{platform.node()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}, seed {options.seed}",
        flush=True,
    )
    results: dict[str, Figures | str] = {}
    for name, part in _parts(options):
        if options.only and name.split()[0] not in options.only.split(","):
            continue
        began = time.monotonic()
        try:
            results[name] = part()
        except Exception as error:
            traceback.print_exc()
            results[name] = f"{error!r:.300}"
        _show(name, results[name], time.monotonic() - began)
        _REPORT.write_text(json.dumps(results, indent=2) + "\n")
    broken = [name for name, result in results.items() if isinstance(result, str)]
    print(f"{len(results) - len(broken)} of {len(results)} hold" + "".join(f"\nBROKEN: {name}" for name in broken))
    return 1 if broken else 0


def _show(name: str, result: Figures | str, seconds: float) -> None:
    print(f"\n{name}  ({seconds:.0f} s)  {'holds' if isinstance(result, dict) else 'BROKEN: ' + result}")
    for label, figure in result.items() if isinstance(result, dict) else ():
        print(f"    {label:<28}{figure:>14,.2f}".rstrip("0").rstrip("."))
    sys.stdout.flush()


def _parts(options: argparse.Namespace) -> Iterator[tuple[str, Run]]:
    """Each part by its name in ACCEPTANCE.md, with a gateway of its own."""

    scale: float = options.scale

    def size(full: int) -> int:
        return max(1, round(full * scale))

    chance = random.Random(options.seed)

    def seed() -> int:
        return chance.randrange(1 << 30)

    def slow(accept: str) -> Run:
        def part(gateway: Gateway) -> Figures:
            figures = slow_reader.read_slowly(
                gateway, _BUSYBOX, seconds=size(15), others=size(500), rounds=4, accept=accept
            )
            allowed = 2 * figures["p99 ms alone"]
            assert figures["p99 ms beside"] < allowed, f"p99 beside {figures['p99 ms beside']:.1f} of {allowed:.1f} ms"
            return figures

        return _with_gateway(part)

    yield (
        "A11 large streams",
        _with_gateway(lambda g: cutting.cut_events(g.api(), _BUSYBOX, cuts=0, mib=size(64), seed=0, accept=NDJSON)),
    )
    yield "A12 slow reader of NDJSON", slow(NDJSON)
    yield "A12 slow reader of SSE", slow(SSE)
    yield (
        "A13 execs side by side under load",
        _with_gateway(lambda g: mixing.mix_outputs(g.api(), [_BUSYBOX, _UNPRIVILEGED], execs=size(10_000))),
    )
    yield "A14 clients whose network is lost", _with_gateway(_lose_network, listen={"address": "0.0.0.0"})
    for victim in killing.VICTIMS:
        yield (
            f"A15 SIGKILL of the {victim}",
            _with_gateway(
                lambda g, victim=victim: killing.kill_at_random(  # type: ignore[misc]
                    g, _UNPRIVILEGED, victim, moments=size(50), seed=seed()
                )
            ),
        )
    yield "A16 upgrades under load", lambda: _upgrade(size(50), 200 * min(1.0, scale))
    yield (
        "A16 restart of the supervisor",
        _with_gateway(lambda g: upgrading.restart_supervisor(g, _BUSYBOX, execs=size(50))),
    )
    for accept in (NDJSON, SSE):
        yield (
            f"A23 cuts of {accept}",
            _with_gateway(
                lambda g, accept=accept: cutting.cut_events(  # type: ignore[misc]
                    g.api(), _BUSYBOX, cuts=size(200), mib=16, seed=seed(), accept=accept
                )
            ),
        )
    yield (
        "A23 cuts of raw output",
        _with_gateway(lambda g: cutting.cut_output(g.api(), _BUSYBOX, cuts=size(200), mib=16, seed=seed())),
    )
    yield (
        "A23 cuts of WebSockets",
        _with_gateway(
            lambda g: cutting.cut_attached(
                g.api(g.token("attach", actions=leaving.ACTIONS)),
                _BUSYBOX,
                cuts=size(200),
                mib=16,
                seed=seed(),
            )
        ),
    )
    yield (
        "A25 execs in a loop",
        _with_gateway(
            lambda g: looping.loop(g, _BUSYBOX, execs=options.loop, show=lambda text: print(text, flush=True)),
            spool={"max_ended": min(_MOST_LOOPED, max(1, options.loop // 10))},
        ),
    )
    for python in options.python or [sys.executable]:
        yield f"TLS WebSockets on {_version(python)}", _web_sockets(python, size(60), size(2048))


def _with_gateway(part: Callable[[Gateway], Figures], **settings: dict[str, Any]) -> Run:
    def run_part() -> Figures:
        with contextlib.closing(Gateway(**settings)) as gateway:
            return part(gateway)

    return run_part


def _lose_network(gateway: Gateway) -> Figures:
    figures: Figures = {}
    with leaving.lost_network(gateway, _UNPRIVILEGED) as execs:
        cut = time.monotonic()
        for way in leaving.WAYS:
            execs[way, "kill"].check(max(1.0, cut + leaving.LOST_SECONDS - time.monotonic()))
            figures[f"{way} s"] = time.monotonic() - cut
        for way in leaving.WAYS:
            execs[way, "continue"].check(1)
    return figures


def _upgrade(execs: int, rate: float) -> Figures:
    directory = _STATE / "installed"
    try:
        installation = Installation(directory)
        with contextlib.closing(Gateway(environment=installation.environment)) as gateway:
            return upgrading.upgrade_under_load(
                gateway, installation, _BUSYBOX, execs=execs, rate=rate, pause=2.0, rounds=3
            )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _web_sockets(python: str, seconds: int, mebibytes: int) -> Run:
    """tests/web/soak_websocket.py, which needs no node, under another Python with the gateway's dependencies."""

    def run_part() -> Figures:
        arguments = ["--seconds", str(seconds), "--mebibytes", str(mebibytes), "--json"]
        done = subprocess.run(
            [python, "-m", "tests.web.soak_websocket", *arguments],
            check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=REPOSITORY,
            timeout=seconds + 120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-1000:]
        figures: Figures = json.loads(done.stdout)
        return figures

    return run_part


def _version(python: str) -> str:
    done = subprocess.run([python, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="names of parts, as A12,A25 or TLS (default: all)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes but --loop's (default: 1)")
    parser.add_argument("--loop", type=int, default=200_000, help="execs of A25 (default: 200000)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of what is random")
    parser.add_argument("--python", type=Path, action="append", help="for the TLS soak; given again: each of them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

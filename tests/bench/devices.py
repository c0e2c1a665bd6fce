"""What a lookup costs: of a device of the node, and with a guest, whose group file is read from inside it.

`python -m tests.bench.devices` makes a node of its own, takes about twenty seconds, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.figures import median, percentile
from tests.bench.machine import run_alone
from tests.devices.made import make_dev, make_sys
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.pvesim.services import REPOSITORY

PRIVILEGED, UNPRIVILEGED = 101, 104
WARM_UP, TURNS = 20, 400
_STATE = REPOSITORY / ".demo/bench-devices"
_RENDER = "/devices/lookup?path=/dev/dri/renderD128"


def main() -> int:
    return run_alone(_STATE, run)


def run() -> int:
    """Measures over HTTPS on a kept connection, the four in turns; runs in the node."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_dev(place / "dev")
        make_sys(place / "sys")
        gateway = Gateway(devices={"dev": str(place / "dev"), "sys": str(place / "sys")})
        stack.callback(gateway.close)
        api = gateway.api(gateway.token("bench", actions="device:read", guests="100-999"))
        stack.callback(api.close)
        paths = {
            "all devices": "/devices",
            "lookup of a device": _RENDER,
            "lookup, privileged guest": f"{_RENDER}&vmid={PRIVILEGED}",
            "lookup, unprivileged guest": f"{_RENDER}&vmid={UNPRIVILEGED}",
        }
        took: dict[str, list[float]] = {name: [] for name in paths}
        for turn in range(WARM_UP + TURNS):
            for name, path in paths.items():
                seconds = _time(api, path)
                if turn >= WARM_UP:
                    took[name].append(seconds * 1000)
        for name, figures in took.items():
            print(f"{name:<30} p50 {median(figures):6.2f} ms   p99 {percentile(figures, 99):6.2f} ms")
    return 0


def _time(api: Api, path: str) -> float:
    began = time.perf_counter()
    answer = api.get(path)
    seconds = time.perf_counter() - began
    assert answer.status == 200, answer.body
    return seconds


if __name__ == "__main__":
    sys.exit(main())

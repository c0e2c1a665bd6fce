"""A13: many execs side by side under load: no byte lost, none in another's output, no exit code another's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.exec.api import Api
from tests.exec.inside import new_mark

LINES = 320
"""Of 64 bytes on each stream: 20 KiB."""
_SIDE_BY_SIDE = 8
_BUSY_LOOPS = 4


def mix_outputs(api: Api, vmids: Sequence[int], *, execs: int) -> dict[str, float]:
    """`execs` in turn over the guests, beside four loops that take all the processors there are."""
    busy = f"for i in $(seq {_BUSY_LOOPS}); do while :; do :; done & done; sleep {new_mark()}"
    began = time.monotonic()
    with contextlib.closing(api.begin(vmids[0], {"command": busy})), ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for _ in pool.map(lambda number: _run_one(api, vmids[number % len(vmids)], number), range(execs)):
            pass
    return {"execs": execs, "per s": execs / (time.monotonic() - began), "lost or mixed": 0}


def _run_one(api: Api, vmid: int, number: int) -> None:
    line = f"{number:08d}" + "o" * 55
    loop = f"while [ $i -lt {LINES} ]; do echo {line}; echo e{line[1:]} >&2; i=$((i+1)); done"
    result = api.run(vmid, f"i=0; {loop}; exit {number % 256}")
    assert (result["reason"], result["exit_code"]) == ("exited", number % 256), result["spawn_error"]
    assert result["stdout"] == f"{line}\n" * LINES
    assert result["stderr"] == f"e{line[1:]}\n" * LINES

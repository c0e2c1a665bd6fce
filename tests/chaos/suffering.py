"""One fault on one gateway under load: while it lasts, behind it, and what must hold of it all."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.faults import FAULTS, Scene, build_clock
from tests.chaos.load import CLIENTS, Load, recover
from tests.exec.faults import loop_disk
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.fuzz.judging import judge_logs

_GUEST = 104
_RECOVERY = 30.0
"""Seconds from the fault's end until commands run again."""
_UNVERIFIABLE = {"audit disk full"}
"""Whose way to fill a disk leaves bytes of its own in the log."""


def suffer(scene: Scene, name: str, seconds: float, rounds: int = 1) -> dict[str, float]:
    """`rounds` times: the fault for `seconds`, under load, then recovery. The figures of it all."""
    gateway, recovered = scene.gateway, list[float]()
    with Load(gateway, _GUEST) as load:
        for _ in range(rounds):
            before = load.good()
            until(lambda before=before: load.good() >= before + CLIENTS, within=40, why="commands run")  # type: ignore[misc]
            with FAULTS[name](scene):
                threading.Event().wait(seconds)
            recovered.append(recover(gateway, load, _RECOVERY))
    figures = load.judge()
    if name not in _UNVERIFIABLE:
        gateway.services.command("audit", "verify")
        wrong = [
            line for line in judge_logs(gateway, [gateway.token_for_all]) if "Traceback" in line or "secret" in line
        ]
        assert not wrong, wrong
    if name.startswith("clock"):
        assert gateway.records(event="audit:clock"), "the log does not tell that the clock was set"
    return {**figures, "recovered s": max(recovered)}


@contextlib.contextmanager
def open_scene() -> Iterator[Scene]:
    """A gateway of its own with two small disks, gone with the context."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pveg-chaos-")))
        audit, spool = directory / "audit", directory / "spool"
        for place in (audit, spool):
            place.mkdir()
            stack.enter_context(loop_disk(directory / f"{place.name}.image", place))
        gateway = Gateway(
            environment=build_clock(directory),
            audit={"directory": str(audit / "log")},
            spool={"directory": str(spool / "s"), "min_free": 0},
        )
        stack.callback(gateway.close)
        gateway.audit_log = audit / "log/audit.log"
        yield Scene(gateway, audit, spool, directory / "shift")

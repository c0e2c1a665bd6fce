"""How a benchmark runs: in a node of its own, after a word on how busy this machine is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.pvesim import alone


def run_alone(state: Path, run: Callable[[], int], *, guests: str = "demo") -> int:
    """The exit code of `run` in a new node with these guests. Nothing is left of it, nor of what is in `state`."""
    show_load()
    try:
        return alone.run_program("bench", state, run, guests=guests)
    finally:
        shutil.rmtree(state, ignore_errors=True)


def show_load() -> None:
    """Figures of a busy machine say little."""
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)

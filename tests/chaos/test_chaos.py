"""A second of some faults of `make chaos`; those of the audit log are in tests/exec/test_fail_closed.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.faults import Scene
from tests.chaos.suffering import open_scene, suffer


@pytest.fixture(scope="module")
def scene(node: None) -> Iterator[Scene]:
    with open_scene() as made:
        yield made


@pytest.mark.parametrize(
    "fault",
    ["spool full", "spool frozen", "SIGSTOP of the supervisor", "no processes", "clock an hour on", "clock a day back"],
)
def test_answers_are_true_and_it_recovers(scene: Scene, fault: str) -> None:
    """Under load: nothing ran unrecorded, twice, or other than it was told; then commands run again by themselves."""
    suffer(scene, fault, seconds=1)

"""Fixtures of the tests that break an audit log: it stands on a small disk of its own, which harms nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exec.faults import loop_disk
from tests.exec.gateways import Gateway


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system for an audit log, on a loop device."""
    with loop_disk(tmp_path_factory.mktemp("disk") / "image", tmp_path_factory.mktemp("audit")) as place:
        yield place


@pytest.fixture(scope="module")
def gateway_on_disk(make_gateway: Callable[..., Gateway], disk: Path) -> Gateway:
    """A gateway whose audit log is on that disk."""
    made = make_gateway(audit={"directory": str(disk / "log")})
    made.audit_log = disk / "log/audit.log"
    return made

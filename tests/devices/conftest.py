"""Fixtures: the simulated PVE API, for what guests are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.api.process import running_api


@pytest.fixture(scope="module")
def pve(node: None) -> Iterator[PveProcess]:
    with running_api() as running:
        yield running

"""The guests of the drivers, each opened once, and the cases made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.cases import Case, Pair
from tests.conformance.drivers import Driver, Guest


@pytest.fixture(scope="session")
def open_guest(node: None) -> Iterator[Callable[[Driver], Guest]]:
    """The guest of a driver, for as long as the tests last."""
    opened: dict[str, Guest] = {}
    with ExitStack() as stack:

        def open_once(driver: Driver) -> Guest:
            if driver.name not in opened:
                opened[driver.name] = driver.open(stack)
            return opened[driver.name]

        yield open_once


@pytest.fixture
def case(request: pytest.FixtureRequest, open_guest: Callable[[Driver], Guest]) -> Case:
    """The driver and the way that the test is run for."""
    pair: Pair = request.param
    driver, way = pair
    return Case(driver, open_guest(driver), way)

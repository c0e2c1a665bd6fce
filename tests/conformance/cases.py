"""Which driver is tested over which way: the pairs that have what a test needs, and those that do not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.conformance.drivers import DRIVERS, Ability, Driver, Guest
from tests.conformance.ways import JSON_WAY, WAYS, Outcome, Way

Pair = tuple[Driver, Way]


@dataclass(frozen=True)
class Case:
    """One guest, and one way to run commands in it."""

    driver: Driver
    guest: Guest
    way: Way

    def run(self, command: str | list[str], **spec: Any) -> Outcome:
        """Runs it to its end, checks what holds for every exec, and gives the outcome. Raises Refused."""
        outcome = self.way.run(self.guest, {"command": command, **spec})
        view = outcome.view
        assert (view["state"], view["vmid"]) == ("ended", self.guest.vmid)
        assert view["timing"].keys() == {"queued_ms", "spawn_ms", "run_ms"}
        assert view == self.guest.api.get(f"/execs/{view['id']}").json(), "told otherwise afterwards"
        return outcome

    def run_anyhow(self, command: str | list[str]) -> Outcome:
        """Runs a command by the way that every driver has."""
        return JSON_WAY.run(self.guest, {"command": command})

    def in_guest(self, vmid: int) -> Case:
        """The same for another guest."""
        return replace(self, guest=replace(self.guest, vmid=vmid))


def over_every_way(*needs: Ability) -> pytest.MarkDecorator:
    """Runs a test of a `case` for each pair of driver and way that has these abilities."""
    return _parametrize(pair for pair in _pairs() if _lacks(pair, set(needs)) is None)


def for_every_driver(*needs: Ability) -> pytest.MarkDecorator:
    """Runs a test of a `case` once for each driver that has these abilities; its way is JSON."""
    return _parametrize((driver, JSON_WAY) for driver in DRIVERS if driver.can(set(needs)))


def _pairs() -> list[Pair]:
    return [(driver, way) for driver in DRIVERS for way in WAYS]


def _lacks(pair: Pair, needs: set[Ability]) -> Ability | None:
    """The first ability that is missing."""
    driver, way = pair
    wanted = needs | ({Ability.STREAMS} if way.streams else set())
    return next(iter(sorted(wanted & driver.cannot)), None)


def _parametrize(pairs: Any) -> pytest.MarkDecorator:
    params = [pytest.param(pair, id=f"{pair[0].name}-{pair[1].name}") for pair in pairs]
    return pytest.mark.parametrize("case", params, indirect=True)


ASKED: dict[Ability, dict[str, Any]] = {
    Ability.STDIN_OPEN: {"stdin_open": True},
    Ability.LARGE_INPUT: {"stdin": "x" * 65537},
    Ability.ANY_ARGUMENT: {"command": ["\u00e9"]},
    Ability.TTY: {"tty": {}},
    Ability.ENV: {"env": {"A": "b"}},
    Ability.CWD: {"cwd": "/"},
    Ability.USER: {"user": "root"},
    Ability.BACKGROUND: {"background": "kill"},
    Ability.PLACEMENT: {"placement": "guest"},
    Ability.KILL_GRACE: {"kill_grace": 1},
    Ability.ON_DISCONNECT: {"on_disconnect": "kill"},
    Ability.ON_LIMIT: {"output": {"on_limit": "kill"}},
}
"""What asks for an ability; of those that are not here, the way asks, or another request than the one that runs."""

_NOT_IN_JSON = {Ability.STDIN_OPEN, Ability.TTY}
"""A result all at once cannot have these, whatever the driver."""


def over_every_refusal() -> pytest.MarkDecorator:
    """Runs a test of a `case` and an `ability` that its driver lacks, for each way that can ask for it."""
    params = []
    for driver, way in _pairs():
        lacking = sorted(driver.cannot & ASKED.keys() - (_NOT_IN_JSON if way is JSON_WAY else set()))
        if way.streams:
            lacking = sorted(driver.cannot & {Ability.STREAMS})
        params += [
            pytest.param((driver, way), ability, id=f"{driver.name}-{way.name}-{ability}") for ability in lacking
        ]
    return pytest.mark.parametrize(("case", "ability"), params, indirect=["case"])


def over_what_cannot_be_done(*operations: Ability) -> pytest.MarkDecorator:
    """Runs a test of a `case` and an `ability`, for each driver that cannot do one of these to a running exec."""
    params = [
        pytest.param((driver, JSON_WAY), ability, id=f"{driver.name}-{ability}")
        for driver in DRIVERS
        for ability in sorted(driver.cannot & set(operations))
    ]
    return pytest.mark.parametrize(("case", "ability"), params, indirect=["case"])

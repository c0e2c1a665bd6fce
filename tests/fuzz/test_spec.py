"""A small, seeded slice of `make fuzz`: whatever is sent, the gateway answers as its description says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.fuzz.judging import footprints, judge_growth, judge_logs, judge_trail
from tests.fuzz.running import SETTINGS, Target, fuzz
from tests.fuzz.stock import stocked, token_of


@pytest.fixture(scope="module")
def pve(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The guests of the fuzz, and a gateway's settings for them."""
    with stocked(tmp_path_factory.mktemp("fuzz")) as (_, settings):
        yield settings


def test_every_answer_is_one_of_those_described(make_gateway: Callable[..., Gateway], pve: dict[str, Any]) -> None:
    """Good and bad requests to every operation: declared statuses, types and bodies, in time; the logs stay clean."""
    gateway = make_gateway(**SETTINGS, pve=pve)
    token = token_of(gateway)
    api = gateway.api()
    for vmid in (101, 104):
        api.run(vmid, ["true"])  # what is kept open of a guest is kept from its first exec on
    before = footprints(gateway)
    tally = fuzz(Target.of(gateway, token), count=800, seed=4)
    shown = "\n".join(f"{count} x {what}\n      {tally.example[what]}" for what, count in tally.wrong.items())
    assert not tally.wrong, shown
    assert tally.requests > 500 and {200, 202, 400, 401, 404, 409, 422} <= tally.statuses.keys(), tally.statuses
    assert list(judge_logs(gateway, tally.secrets)) == []
    until(lambda: not list(judge_trail(gateway)), within=30, why="one end of every change in the audit log")
    assert [line for line in judge_growth(before, footprints(gateway)) if "descriptors" in line] == []
    assert api.run(101, ["true"])["exit_code"] == 0
    api.close()

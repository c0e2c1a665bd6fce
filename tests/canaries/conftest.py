"""Fixtures: the simulated PVE API, and one gateway to which all canaries are sent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from gateway.auth.actions import GRANTABLE
from tests.canaries.acting import FIRST, LAST, MACHINE
from tests.canaries.words import Canaries
from tests.exec.gateways import Gateway
from tests.guests.made import sweep
from tests.pvesim.api import access, machines
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.api.process import running_api
from tests.pvesim.api.roles import EVERY_PRIVILEGE

_TOKEN, _SECRET = "gateway@pve!canaries", "3b1d7c52-7e0f-4b5a-8d3c-9a5f1d2a6c11"


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    """All that are sent."""
    made = Canaries()
    made.watch(_SECRET, "the secret of PVE's API token")
    return made


@pytest.fixture(scope="module")
def pve(node: None) -> Iterator[PveProcess]:
    """The simulated PVE API, with the acts' machine; what they make is gone afterwards."""
    with running_api(peers=["pve2"]) as running, contextlib.ExitStack() as ending:
        ending.callback(sweep, FIRST, LAST)
        ending.callback(machines.create(MACHINE).destroy)
        yield running


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], pve: PveProcess, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway without limits on the rate, which reaches guests of every kind."""
    path = tmp_path_factory.mktemp("token") / "pve.token"
    access.store_token(path, _TOKEN, _SECRET, privileges=sorted(EVERY_PRIVILEGE))
    return make_gateway(
        web={"rate_per_address": None, "rate_per_token": None, "allowed_origins": ["https://pages.example"]},
        pve={"api": pve.url, "token_file": str(path), "agent_token_file": str(path), "pvesh": str(pve.pvesh)},
    )


@pytest.fixture(scope="module")
def token(gateway: Gateway, canaries: Canaries) -> str:
    """One that may all: to the tests' small guests, and to those of the acts."""
    made = gateway.token_for({"actions": sorted(GRANTABLE), "guests": f"101,104,{FIRST}-{LAST}"}, name="canaries")
    canaries.watch(made, "the caller's token")
    canaries.watch(made.rpartition(".")[2], "the signature of the caller's token")
    return made

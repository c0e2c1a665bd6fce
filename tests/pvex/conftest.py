"""Fixtures of pvex: the command as a token that may do everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.exec.gateways import Gateway
from tests.guests.conftest import PRIVILEGES
from tests.guests.made import sweep
from tests.pvesim.api import access
from tests.pvesim.api.process import Api, running_api
from tests.pvex.client import Pvex

LAB = (7700, 7709)
"""The vmids of guests that are made by pvex."""


@pytest.fixture(scope="session")
def pvex(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Pvex:
    """pvex with a token that may run commands and open terminals in every guest."""
    return Pvex(gateway, tmp_path_factory.mktemp("pvex"), gateway.token("pvex", actions="exec:run,exec:terminal"))


@pytest.fixture(scope="module")
def lab_pve() -> Iterator[Api]:
    """The simulated PVE API that makes the guests of LAB."""
    with running_api() as pve:
        yield pve


@pytest.fixture(scope="module")
def lab(lab_pve: Api, make_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pvex]:
    """pvex with a token that may do everything to the guests of LAB."""
    home = tmp_path_factory.mktemp("lab")
    token = home / "pve.token"
    access.store_token(token, "gateway@pve!pvex", SECRET, privileges=PRIVILEGES)
    here = {"api": lab_pve.url, "pvesh": str(lab_pve.pvesh)}
    gateway = make_gateway(
        pve={**here, "token_file": str(token), "agent_token_file": str(token)}, policy={"devices": ["/dev/null"]}
    )
    yield Pvex(gateway, home, gateway.token("lab", actions="all", guests="{}-{}".format(*LAB)))
    sweep(*LAB)


SECRET = "5d1c7a0e-8f4b-4f9a-9c59-1c7b7f1f0a51"

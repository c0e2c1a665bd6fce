"""Fixtures: the simulated API, a virtual machine for each test that changes one, and a gateway that reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.pvesim.api import machines
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.api.process import running_api, write_token

VMID = 301


@pytest.fixture(scope="module")
def pve(node: None) -> Iterator[PveProcess]:
    """The simulated PVE API."""
    with running_api() as running:
        yield running


@pytest.fixture(scope="module")
def token_file(node: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gateway's API token."""
    path = tmp_path_factory.mktemp("token") / "pve.token"
    write_token(path)
    return path


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], pve: PveProcess, token_file: Path) -> Gateway:
    """A gateway that asks the simulated API."""
    return make_gateway(pve={"api": pve.url, "agent_token_file": str(token_file)})


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def patient(make_gateway: Callable[..., Gateway], token_file: Path) -> Iterator[Api]:
    """The API of a gateway whose PVE waits for an agent for long: 16 MiB take it seconds on a busy machine, and what it
    told in vain nobody can know."""
    with running_api(agent_timeout=30.0) as pve:
        opened = make_gateway(pve={"api": pve.url, "agent_token_file": str(token_file)}).api()
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def shared_machine(node: None) -> Iterator[Machine]:
    made = machines.create(VMID)
    yield made
    made.destroy()


@pytest.fixture
def machine(shared_machine: Machine) -> Iterator[Machine]:
    """vmid 301."""
    with machines.at_its_best(shared_machine):
        yield shared_machine

"""Fixtures: the simulated PVE API, a gateway whose PVE token may do all that guests need, and clients of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests import made
from tests.pvesim.api import access
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.api.process import running_api

TOKEN_ID, SECRET = "gateway@pve!guests", "0e7c2a52-0f6c-4d0e-9a53-2f9f3f0c1b7d"
PRIVILEGES = (
    *("VM.Audit", "VM.Allocate", "VM.Clone", "VM.PowerMgmt", "VM.Migrate", "VM.Backup", "VM.Snapshot"),
    *("VM.Snapshot.Rollback", "VM.GuestAgent.Unrestricted", "VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory"),
    *("VM.Config.Network", "VM.Config.Options", "VM.Config.HWType", "VM.Config.Cloudinit", "VM.Config.CDROM"),
    *("Datastore.Audit", "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Pool.Audit", "Pool.Allocate"),
    *("Sys.Audit", "SDN.Use", "VM.Console", "Datastore.Allocate"),
)
"""More than a real one's, so that what a test sees is the gateway's own decision."""

GUESTS = "7100-7199"
PROTECTED = 7150


@pytest.fixture(scope="module")
def pve(node: None) -> Iterator[PveProcess]:
    """The simulated PVE API; nothing is wrong with it, or a second node of it, when a test begins."""
    with running_api(peers=["pve2"]) as running:
        yield running


@pytest.fixture(autouse=True)
def clear_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a fault behind."""
    yield
    if "pve" in request.fixturenames:
        request.getfixturevalue("pve").faults.clear()


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], pve: PveProcess, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway that changes guests by the simulated API; guest 7150 is protected."""
    path = tmp_path_factory.mktemp("token") / "pve.token"
    access.store_token(path, TOKEN_ID, SECRET, privileges=PRIVILEGES)
    return make_gateway(
        pve={
            "api": pve.url,
            "token_file": str(path),
            "agent_token_file": str(path),
            "pvesh": str(pve.pvesh),
        },
        guests={"protected": [PROTECTED]},
        policy={"devices": ["/dev/null"], "features": ["nesting"], "images": ["*:iso/*", "local:import/cloud-*"]},
    )


@pytest.fixture(scope="module")
def api(gateway: Gateway, request: pytest.FixtureRequest) -> Iterator[Api]:
    """The API as a token that may do all to guests 7100 to 7199, or to those that the module makes: FIRST to LAST. It
    may make them in the pool `nobody`, too, which does not exist."""
    module = request.module
    guests = f"{module.FIRST}-{module.LAST}" if hasattr(module, "FIRST") else GUESTS
    grant = {"actions": ["all"], "guests": guests, "pools": ["nobody"]}
    opened = gateway.api(gateway.token_for(grant, name="guests"))
    yield opened
    opened.close()


@pytest.fixture
def swept(node: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves one of the guests behind that its module makes: FIRST to LAST."""
    yield
    made.sweep(request.module.FIRST, request.module.LAST)


@pytest.fixture
def records(gateway: Gateway) -> Callable[[str], list[dict[str, Any]]]:
    """The records of an operation, when its end is one of them."""

    def find(audit_id: str) -> list[dict[str, Any]]:
        def ended() -> list[dict[str, Any]]:
            found = gateway.records(audit_id=audit_id)
            return found if any(":" in r["event"] and r["event"].split(":")[1] in ENDS for r in found) else []

        return until(ended, within=20, why="the outcome's record")

    return find


ENDS = ("outcome", "aborted")


@pytest.fixture
def as_token(gateway: Gateway) -> Iterator[Callable[[str, str], Api]]:
    """Clients with other grants: `as_token("guest:read", "7101")`."""
    opened: list[Api] = []

    def make(actions: str, guests: str = GUESTS) -> Api:
        opened.append(gateway.api(gateway.token("other", actions=actions, guests=guests)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()

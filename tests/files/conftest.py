"""What the tests of files share: a token that may, and a guest to spoil."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.files.paths import ACTIONS
from tests.pvesim import guests
from tests.pvesim.guests import Guest

SPOILT = 941
STOPPED = {"stopped, privileged": 946, "stopped, unprivileged": 947}
RUNNING = {"running, privileged": 101, "running, unprivileged": 104}


@pytest.fixture(scope="module")
def files(gateway: Gateway) -> Iterator[Api]:
    """The API as a token that may read and write files, and run commands."""
    opened = gateway.api(gateway.token("files", actions=ACTIONS))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def spoilt(node: None) -> Iterator[Guest]:
    """A privileged busybox guest of the module's own, running."""
    guest = guests.create(SPOILT)
    try:
        guest.start()
        yield guest
    finally:
        guest.destroy()


@pytest.fixture(scope="session")
def stopped_guests(node: None) -> Iterator[dict[int, Guest]]:
    """Two busybox guests that have never been started, by their vmids."""
    with ExitStack() as undo:
        made = {}
        for name, vmid in STOPPED.items():
            made[vmid] = guests.create(vmid, unprivileged="unprivileged" in name, start=False)
            undo.callback(made[vmid].destroy)
        yield made


@pytest.fixture(params=[*STOPPED.values()], ids=[*STOPPED])
def stopped(request: pytest.FixtureRequest, stopped_guests: dict[int, Guest]) -> Guest:
    """The stopped guests in turn."""
    guest: Guest = stopped_guests[request.param]
    return guest


@pytest.fixture(params=[*RUNNING.values(), *STOPPED.values()], ids=[*RUNNING, *STOPPED])
def any_vmid(request: pytest.FixtureRequest, stopped_guests: dict[int, Guest]) -> int:
    """Running and stopped guests in turn, for what is the same in both."""
    vmid: int = request.param
    return vmid

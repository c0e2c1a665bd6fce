"""Fixtures of the tests that need a node: one gateway for all of them, its guests, and what runs in those."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from tests.exec.api import Api
from tests.exec.full import in_full
from tests.exec.gateways import Gateway
from tests.opened import closing_all
from tests.pvesim import guests
from tests.pvesim.guests import Guest

settings.register_profile(
    "suite", derandomize=not in_full(1, else_=0), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")
"""The same examples each time, however long each takes on a busy machine: what is new is looked for at the full size,
and by `make fuzz`, where a find stops nobody's work."""

# What a shell starts in the background ignores these, and so does what that starts: machines, and who is interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


class Run(Protocol):
    """Runs a command in a guest through the gateway, to its end: the result of POST /exec/{vmid}."""

    def __call__(self, vmid: int, command: str | list[str], **spec: Any) -> dict[str, Any]: ...


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A test that fails has its connections closed, so that it alone fails."""
    with closing_all():
        yield


@pytest.fixture(scope="session")
def node() -> None:
    """Skips what cannot run outside of a node."""
    if not Path("/run/pvesim").exists():
        pytest.skip("runs in a node: python3 -m tests.pvesim run ... -- pytest")


@pytest.fixture(scope="session")
def gateway(node: None) -> Iterator[Gateway]:
    """The whole gateway with its defaults. Who ends one of its services starts it again."""
    running = Gateway()
    yield running
    running.close()


@pytest.fixture(scope="module")
def make_gateway(node: None) -> Iterator[Callable[..., Gateway]]:
    """Further gateways on the same node, for as long as the module: `make_gateway(exec={"max_running": 2})`."""
    made: list[Gateway] = []

    def make(**settings: Any) -> Gateway:
        made.append(Gateway(**settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def api(gateway: Gateway) -> Iterator[Api]:
    """The API as a token that may run commands in all guests, and no more."""
    opened = gateway.api()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def run(api: Api) -> Run:
    return api.run


@pytest.fixture
def make_guest(node: None) -> Iterator[Callable[..., Guest]]:
    """Makes guests that live as long as the test: `make_guest(901, unprivileged=True, prepare=…)`."""
    made: list[Guest] = []

    def make(vmid: int, *arguments: Any, **options: Any) -> Guest:
        try:
            made.append(guests.create(vmid, *arguments, **options))
        except BaseException:
            with contextlib.suppress(guests.GuestError):
                guests.get(vmid).destroy()
            raise
        return made[-1]

    yield make
    for guest in made:
        if guest.rootfs.exists():
            guest.destroy()


def every_guest() -> list[Any]:
    """The parameters of a test that holds in each kind of guest."""
    return [
        pytest.param(101, id="busybox-privileged"),
        pytest.param(104, id="busybox-unprivileged"),
        pytest.param(201, id="debian-unprivileged", marks=needs_debian),
        pytest.param(202, id="debian-privileged", marks=needs_debian),
    ]


needs_debian = pytest.mark.skipif(
    not Path("/etc/pve/lxc/201.conf").exists(), reason="the node has no Debian guests: start it with --guests test"
)


@pytest.fixture(params=every_guest())
def vmid(request: pytest.FixtureRequest) -> int:
    """Each kind of guest in turn: busybox and Debian with systemd, privileged and not."""
    number: int = request.param
    return number


@pytest.fixture(params=every_guest()[:2])
def small_vmid(request: pytest.FixtureRequest) -> int:
    """The busybox guests in turn, where a guest's distribution makes no difference."""
    number: int = request.param
    return number

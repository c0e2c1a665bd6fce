"""What the tests of files share: a token that may, and a guest to spoil."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.files.paths import ACTIONS
from tests.pvesim import guests
from tests.pvesim.guests import Guest

SPOILT = 941


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

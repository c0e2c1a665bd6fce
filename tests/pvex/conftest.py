"""Fixtures of pvex: the command as a token that may do everything."""

from __future__ import annotations

import pytest

from tests.exec.gateways import Gateway
from tests.pvex.client import Pvex


@pytest.fixture(scope="session")
def pvex(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Pvex:
    """pvex with a token that may run commands and open terminals in every guest."""
    return Pvex(gateway, tmp_path_factory.mktemp("pvex"), gateway.token("pvex", actions="exec:run,exec:terminal"))

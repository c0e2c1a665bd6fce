"""What the tests of the audit log share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.audit.client import AuditClient
from gateway.audit.settings import AuditSettings

from .live import Writer, make_settings


@pytest.fixture
def settings(tmp_path: Path) -> AuditSettings:
    return make_settings(tmp_path)


@pytest.fixture
def writer(settings: AuditSettings) -> Iterator[Writer]:
    with Writer(settings) as running:
        yield running


@pytest.fixture
def client(settings: AuditSettings) -> Iterator[AuditClient]:
    opened = AuditClient(settings.socket)
    yield opened
    opened.close()

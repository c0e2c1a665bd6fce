"""Fixtures of the API's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import create_app
from gateway.auth.tokens import TokenStore
from gateway.config import Config

from .fakes import Api, FakeAudit, FakeSupervisor

PROTECTED = 150


@pytest.fixture
def api(tmp_path: Path) -> Api:
    """The application over fakes, with a token store on disk; guest 150 is protected."""
    config = Config.model_validate(
        {"node": "pve1", "guests": {"protected": [PROTECTED]}, "web": {"max_body": 65536, "max_streams": 4}}
    )
    tokens = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys", protected=[PROTECTED])
    tokens.create()
    supervisor, audit = FakeSupervisor(), FakeAudit()
    app = create_app(config, supervisor=supervisor, audit=audit, tokens=tokens)
    return Api(app.test_client(), supervisor, audit, tokens)

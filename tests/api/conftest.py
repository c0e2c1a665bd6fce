"""Fixtures of the API's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app import create_app, make_figures
from gateway.auth.tokens import TokenStore
from gateway.config import Config

from .fake_pve import make_etc, make_pve
from .fakes import Api, FakeAudit, FakeSupervisor

PROTECTED = 150
KNOWN = 101, 102, PROTECTED


@pytest.fixture
def api(tmp_path: Path) -> Api:
    """The application over fakes, with a token store on disk; guest 150 is protected."""
    make_etc(tmp_path / "etc", KNOWN)
    config = Config.model_validate(
        {
            "node": "pve1",
            "pve": {"etc": str(tmp_path / "etc")},
            "guests": {"protected": [PROTECTED]},
            "policy": {"devices": ["/dev/zero", "/dev/null"]},
            "web": {"max_body": 65536, "max_streams": 4},
        }
    )
    tokens = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys", protected=[PROTECTED])
    tokens.create()
    supervisor, audit = FakeSupervisor(), FakeAudit()
    pve, asked = make_pve(KNOWN)
    figures = make_figures()
    app = create_app(config, supervisor=supervisor, audit=audit, tokens=tokens, pve=pve, figures=figures)
    return Api(app.test_client(), supervisor, audit, tokens, asked, figures)

"""Browsers: the safe headers of every reply, and cross-origin requests, which only named origins may make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.api.openapi.text import write_json
from gateway.app import create_app
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.web.refusal import malformed
from gateway.web.safe import SAFE_HEADERS

from .fakes import Api, FakeAudit, FakeSupervisor

PAGE = "https://panel.example.org"


@pytest.fixture
def open_api(tmp_path: Path) -> Api:
    """An application that pages of one other site may use."""
    config = Config.model_validate({"node": "pve1", "web": {"allowed_origins": [PAGE]}})
    tokens = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys")
    tokens.create()
    supervisor, audit = FakeSupervisor(), FakeAudit()
    app = create_app(config, supervisor=supervisor, audit=audit, tokens=tokens)
    return Api(app.test_client(), supervisor, audit, tokens)


def cors(response: Any) -> dict[str, str]:
    return {name: value for name, value in response.headers if name.startswith("Access-Control-") or name == "Vary"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/execs", 401),
        ("GET", "/health/live", 200),
        ("GET", "/nowhere", 404),
        ("POST", "/health/live", 405),
        ("PATCH", "/execs", 405),
        ("OPTIONS", "/execs", 204),
        ("POST", "/openapi.json", 405),
    ],
)
def test_every_reply_is_safe_for_browsers(api: Api, method: str, path: str, status: int) -> None:
    """Nothing is sniffed, stored, framed, embedded or told as a referrer, whatever the reply is; and no CORS."""
    response = api.request(method, path, headers={"Origin": PAGE})
    assert response.status_code == status
    assert all(response.headers[name] == value for name, value in SAFE_HEADERS)
    assert cors(response) == {}
    assert "Set-Cookie" not in response.headers


def test_the_edges_own_replies_are_safe_too() -> None:
    """Also where no application has seen the request."""
    head = malformed().encode().partition(b"\r\n\r\n")[0].decode()
    assert all(f"\r\n{name}: {value}\r\n" in f"{head}\r\n" for name, value in SAFE_HEADERS)


def test_named_origin_may_ask(open_api: Api) -> None:
    """Its preflight is answered with what the path takes, its request with its name; never with credentials."""
    response = open_api.request("OPTIONS", "/execs", headers={"Origin": PAGE})
    assert response.status_code == 204
    told = cors(response)
    assert told["Access-Control-Allow-Origin"] == PAGE
    assert "GET" in told["Access-Control-Allow-Methods"]
    assert "Authorization" in told["Access-Control-Allow-Headers"]
    told = cors(open_api.request("GET", "/execs", open_api.token(), headers={"Origin": PAGE}))
    assert (told["Access-Control-Allow-Origin"], told["Vary"]) == (PAGE, "Origin")
    assert "Access-Control-Allow-Credentials" not in told
    assert cors(open_api.request("GET", "/execs", headers={"Origin": PAGE}))["Access-Control-Allow-Origin"] == PAGE


def test_a_page_may_send_and_read_all_fields(open_api: Api) -> None:
    """Every header field of the API's description, but those that browsers send and keep for themselves."""
    document = json.loads(write_json())
    may_send = cors(open_api.request("OPTIONS", "/execs", headers={"Origin": PAGE}))["Access-Control-Allow-Headers"]
    may_read = cors(open_api.request("GET", "/health/live", headers={"Origin": PAGE}))["Access-Control-Expose-Headers"]
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    common = document["components"]["parameters"]
    taken = [
        common[at["$ref"].rpartition("/")[2]] if "$ref" in at else at
        for o in operations
        for at in o.get("parameters", ())
    ]
    send = {at["name"] for at in taken if at["in"] == "header"}
    assert send - {"Origin", "Sec-WebSocket-Protocol"} <= set(may_send.split(", "))
    of_the_browser = {"Last-Modified", "Sec-WebSocket-Protocol", "Sec-WebSocket-Version", "Upgrade", "WWW-Authenticate"}
    assert set(document["components"]["headers"]) - of_the_browser <= set(may_read.split(", "))


@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", f"{PAGE}.evil.org", f"{PAGE}:8443", "*", ""])
def test_other_origins_get_nothing(open_api: Api, origin: str) -> None:
    """Only what tells caches that the reply depends on it."""
    for method in ("GET", "OPTIONS"):
        assert cors(open_api.request(method, "/execs", headers={"Origin": origin})) == {"Vary": "Origin"}

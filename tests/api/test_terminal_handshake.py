"""From an HTTP request to a WebSocket: what is accepted, and every refusal before the upgrade."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.api.terminal_handshake import accept_upgrade, find_ticket
from gateway.errors import GatewayError, MalformedRequest, OriginRefused, UpgradeRequired

UPGRADE = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "pve1:39377",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "keep-alive, Upgrade",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_SEC_WEBSOCKET_PROTOCOL": "pvex.v1",
}


def accept(**changed: str | None) -> list[str]:
    """The lines of the 101 for a good request with these changes; None takes a field out."""
    environ = {name: value for name, value in (UPGRADE | changed).items() if value is not None}
    head = accept_upgrade(environ, tls=True, allowed_origins=("https://Panel.example",), request_id="req_1")
    return head.decode().split("\r\n")


def test_good_request_is_accepted() -> None:
    """The answer of RFC 6455, 1.3, with our subprotocol and the request's id; the head ends there."""
    lines = accept()
    assert lines[0] == "HTTP/1.1 101 Switching Protocols"
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert "Sec-WebSocket-Protocol: pvex.v1" in lines
    assert "X-Request-Id: req_1" in lines
    assert lines[-2:] == ["", ""] and "" not in lines[:-2]


@pytest.mark.parametrize(
    "changed",
    [
        {"HTTP_SEC_WEBSOCKET_PROTOCOL": "chat, pvex.v1 ,pvex.ticket.abc"},
        {"HTTP_UPGRADE": "WebSocket", "HTTP_CONNECTION": "UPGRADE"},
        {"HTTP_ORIGIN": "https://pve1:39377"},
        {"HTTP_ORIGIN": "https://PVE1:39377"},
        {"HTTP_ORIGIN": "https://panel.example"},
    ],
)
def test_variants_that_are_accepted(changed: dict[str, str]) -> None:
    """Among other subprotocols, in any case, from the request's own origin or a configured one."""
    assert accept(**changed)[0].endswith("101 Switching Protocols")


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"HTTP_UPGRADE": None}, UpgradeRequired),
        ({"HTTP_UPGRADE": "h2c"}, UpgradeRequired),
        ({"HTTP_CONNECTION": "keep-alive"}, UpgradeRequired),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, UpgradeRequired),
        ({"REQUEST_METHOD": "HEAD"}, UpgradeRequired),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, UpgradeRequired),
        ({"HTTP_SEC_WEBSOCKET_VERSION": None}, UpgradeRequired),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": None}, MalformedRequest),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "pvex.v2, pvex"}, MalformedRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": None}, MalformedRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": "c2hvcnQ="}, MalformedRequest),
        ({"HTTP_SEC_WEBSOCKET_KEY": "\xff\xfe"}, MalformedRequest),
        ({"HTTP_ORIGIN": "https://evil.example"}, OriginRefused),
        ({"HTTP_ORIGIN": "http://pve1:39377"}, OriginRefused),
        ({"HTTP_ORIGIN": "https://pve1"}, OriginRefused),
        ({"HTTP_ORIGIN": "https://pve1:39377.evil.example"}, OriginRefused),
        ({"HTTP_ORIGIN": "null"}, OriginRefused),
        ({"HTTP_ORIGIN": ""}, OriginRefused),
    ],
)
def test_refusals(changed: dict[str, str | None], error: type[GatewayError]) -> None:
    """No upgrade, another version, another subprotocol, no key, a page of another site: each its own problem."""
    with pytest.raises(error) as caught:
        accept(**changed)
    if error is not OriginRefused and "HTTP_SEC_WEBSOCKET_KEY" not in changed:
        assert "pvex.v1" in caught.value.detail


def test_plain_http_has_an_origin_of_its_own() -> None:
    """On loopback without TLS the own origin is http."""
    environ = UPGRADE | {"HTTP_ORIGIN": "http://pve1:39377"}
    assert accept_upgrade(environ, tls=False, allowed_origins=(), request_id="req_1")


@pytest.mark.parametrize(
    ("changed", "ticket"),
    [
        ({}, None),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "pvex.v1, pvex.ticket.a-b_c"}, "a-b_c"),
        ({"HTTP_SEC_WEBSOCKET_PROTOCOL": "pvex.v1, pvex.ticket."}, None),
        ({"QUERY_STRING": "window=5&ticket=a-b_c"}, "a-b_c"),
        ({"QUERY_STRING": "ticket="}, None),
        ({"QUERY_STRING": "ticket=q", "HTTP_SEC_WEBSOCKET_PROTOCOL": "pvex.ticket.p"}, "p"),
        ({"QUERY_STRING": "ticket=q", "HTTP_UPGRADE": ""}, None),
        ({"QUERY_STRING": "&".join(["a"] * 5000) + "%ff=%"}, None),
    ],
)
def test_ticket_is_found(changed: dict[str, Any], ticket: str | None) -> None:
    """In a subprotocol or in the query, of an upgrade request alone: elsewhere it would authenticate nothing."""
    assert find_ticket(UPGRADE | changed) == ticket

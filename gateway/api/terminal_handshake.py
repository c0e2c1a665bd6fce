"""From an HTTP request to a WebSocket: what it must say, where it may come from, and the reply that accepts it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qs

from wsproto.utilities import generate_accept_token

from gateway.errors import MalformedRequest, OriginRefused, UpgradeRequired

SUBPROTOCOL = "pvex.v1"
_TICKET = "pvex.ticket."
_VERSION = "13"


def accept_upgrade(
    environ: Mapping[str, Any], *, tls: bool, allowed_origins: Collection[str], request_id: str
) -> bytes:
    """The head of the 101 that accepts the upgrade. Raises UpgradeRequired, MalformedRequest, OriginRefused."""
    if not _asks_for_upgrade(environ) or environ.get("HTTP_SEC_WEBSOCKET_VERSION") != _VERSION:
        raise UpgradeRequired(
            f"this path speaks WebSocket version {_VERSION} alone: send `Upgrade: websocket` with the subprotocol "
            f"{SUBPROTOCOL}"
        )
    if SUBPROTOCOL not in _subprotocols(environ):
        raise MalformedRequest(f"offer the subprotocol: `Sec-WebSocket-Protocol: {SUBPROTOCOL}`")
    key = str(environ.get("HTTP_SEC_WEBSOCKET_KEY", ""))
    if not _is_key(key):
        raise MalformedRequest("Sec-WebSocket-Key is 16 random bytes in base64 (RFC 6455, 4.1)")
    _check_origin(environ, "https" if tls else "http", allowed_origins)
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": generate_accept_token(key.encode()).decode(),
        "Sec-WebSocket-Protocol": SUBPROTOCOL,
        "X-Request-Id": request_id,
    }
    lines = ["HTTP/1.1 101 Switching Protocols", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


def find_ticket(environ: Mapping[str, Any]) -> str | None:
    """The ticket that an upgrade request carries, for a browser cannot give it a header: as a further subprotocol,
    `pvex.ticket.<ticket>`, or as `?ticket=`. None for a request that asks for no upgrade, or has no ticket."""
    if not _asks_for_upgrade(environ):
        return None
    offered = (name.removeprefix(_TICKET) for name in _subprotocols(environ) if name.startswith(_TICKET))
    asked = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=None).get("ticket", [])
    return next((ticket for ticket in (*offered, *asked) if ticket), None)


def _asks_for_upgrade(environ: Mapping[str, Any]) -> bool:
    return (
        environ.get("REQUEST_METHOD") == "GET"
        and environ.get("SERVER_PROTOCOL") != "HTTP/1.0"
        and "websocket" in _tokens(environ, "HTTP_UPGRADE")
        and "upgrade" in _tokens(environ, "HTTP_CONNECTION")
    )


def _tokens(environ: Mapping[str, Any], name: str) -> list[str]:
    return [token.strip().lower() for token in str(environ.get(name, "")).split(",")]


def _subprotocols(environ: Mapping[str, Any]) -> list[str]:
    return [token.strip() for token in str(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", "")).split(",")]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _check_origin(environ: Mapping[str, Any], scheme: str, allowed: Collection[str]) -> None:
    """A browser says which page asks (RFC 6455, 10.2). What is no browser says nothing, and has a token to show."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return
    own = f"{scheme}://{environ.get('HTTP_HOST', '')}"
    if str(origin).lower() not in {own.lower(), *(name.lower() for name in allowed)}:
        raise OriginRefused("pages of this origin may not open terminals here; see web.allowed_origins")

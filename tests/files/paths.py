"""How the tests of files ask: the URL of a path, and a token that may."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_from_bytes

ACTIONS = "file:read,file:write,exec:run"


def url(vmid: int, path: bytes | str, **query: Any) -> str:
    """The resource of a path in a guest."""
    raw = path.encode() if isinstance(path, str) else path
    more = "".join(f"&{name}={value}" for name, value in query.items())
    return f"/guests/{vmid}/files?path={quote_from_bytes(raw)}{more}"

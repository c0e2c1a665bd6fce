"""Cross-origin requests of browsers (the Fetch standard's CORS protocol): allowed to pages of named origins alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_ASKED = (
    "Authorization, Content-Type, Prefer, Idempotency-Key, Last-Event-ID, Range, If-Range, If-Match, If-None-Match, "
    "Content-Digest"
)
_TOLD = (
    "Location, Retry-After, X-Request-Id, Idempotency-Replayed, Preference-Applied, Content-Range, ETag, "
    "Content-Digest, X-File-Type, X-File-Mode, X-File-Uid, X-File-Gid, X-File-User, X-File-Group, "
    "X-Output-Bytes, X-Output-Complete, X-Output-Dropped, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset"
)
_MAX_AGE = "600"


class Cors:
    """Says yes to pages of `origins` (`https://host[:port]`), and nothing at all to others. No cookie ever counts."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = {origin.lower() for origin in origins}

    def headers(self, environ: Mapping[str, Any], allow: str | None = None) -> dict[str, str]:
        """What a reply adds; `allow` are the methods in the reply to OPTIONS."""
        if not self._origins:
            return {}
        origin = str(environ.get("HTTP_ORIGIN", ""))
        if origin.lower() not in self._origins:
            return {"Vary": "Origin"}
        headers = {"Vary": "Origin", "Access-Control-Allow-Origin": origin}
        if environ.get("REQUEST_METHOD") != "OPTIONS":
            return headers | {"Access-Control-Expose-Headers": _TOLD}
        return headers | {
            "Access-Control-Allow-Methods": allow or "",
            "Access-Control-Allow-Headers": _ASKED,
            "Access-Control-Max-Age": _MAX_AGE,
        }

"""segment: a name that was given as one segment of a request's path, so that none leads to another operation."""

from __future__ import annotations

from urllib.parse import quote

from pvex.errors import UsageError


def segment(name: str) -> str:
    """Percent-encoded. Raises UsageError for `.`, `..` and nothing at all, which no encoding keeps."""
    if name in ("", ".", ".."):
        raise UsageError(f"{name!r} is the name of nothing")
    return quote(name, safe="")

"""What names something: `GUEST:/PATH` in its parts; a name as one segment of a request's path, so that none leads to
another operation."""

from __future__ import annotations

from urllib.parse import quote

from pvex.errors import UsageError


def segment(name: str) -> str:
    """Percent-encoded. Raises UsageError for `.`, `..` and nothing at all, which no encoding keeps."""
    if name in ("", ".", ".."):
        raise UsageError(f"{name!r} is the name of nothing")
    return quote(name, safe="")


def split_place(word: str) -> tuple[str, str] | None:
    """The guest and the path of `GUEST:/PATH`; None for anything else."""
    guest, _, path = word.partition(":")
    return (guest, path) if guest and "/" not in guest and path.startswith("/") else None

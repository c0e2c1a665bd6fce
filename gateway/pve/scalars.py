"""PVE's scalars: 0/1 booleans, numbers sent as texts, joined tags; what is missing, or nothing of PVE's, is None."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.exec.order import GuestKind

Raw = Mapping[str, Any]
_KINDS: Mapping[str, GuestKind] = {kind.value: kind for kind in GuestKind}


def read_kind(value: Any) -> GuestKind | None:
    """What a guest is; None for the types of other things."""
    return _KINDS.get(value) if isinstance(value, str) else None


def number(value: Any) -> int | None:
    """A whole number, sent as one or as a text; a fraction is cut."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return int(value)
    found = fraction(value)
    return int(found) if found is not None else None


def fraction(value: Any) -> float | None:
    """A finite number, sent as one or as a text."""
    if type(value) is int:
        return value
    try:
        found = float(value) if isinstance(value, float | str) else None
    except ValueError:
        return None
    return found if found is not None and abs(found) < float("inf") else None


def flag(value: Any) -> bool:
    """0 or 1, as a number or a text; what is missing is false."""
    return value in (1, "1", True)


def text(value: Any) -> str | None:
    """A text that is not empty; PVE sends names of digits as numbers."""
    if type(value) is str:
        return value or None
    if type(value) in (int, float):
        return str(value)
    return None


def split_tags(value: Any) -> tuple[str, ...]:
    """PVE joins tags by semicolons, and takes commas and spaces too."""
    return tuple(word for word in re.split(r"[;,\s]+", value) if word) if isinstance(value, str) else ()

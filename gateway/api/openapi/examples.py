"""Examples of the API's description: exchanges with a gateway as they were, recorded by `tests/examples`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

Examples = Mapping[str, Sequence["Exchange"]]
"""By the id of their operation."""


@dataclass(frozen=True)
class Exchange:
    """One request and its reply. `path` is as it was asked for, its query included.

    `sent` and `came` are the bodies: JSON values, or text; None where there was none. `sent_as` and `came_as` are their
    media types. `messages` are those of a WebSocket.
    """

    name: str
    summary: str
    path: str
    status: int
    sent_as: str = ""
    sent: Any = None
    came_as: str = ""
    came: Any = None
    asked: Mapping[str, str] | None = None
    told: Mapping[str, str] | None = None
    messages: Sequence[Any] = ()


def load_examples() -> dict[str, list[Exchange]]:
    """All that are part of the program."""
    found = {}
    for file in files("gateway.api.openapi").joinpath("recorded").iterdir():
        operation_id, _, kind = file.name.partition(".")
        if kind == "json":
            found[operation_id] = [Exchange(**exchange) for exchange in json.loads(file.read_text(encoding="utf-8"))]
    return found

"""Every error that there is, by its code: for the API's description, and for what comes over our own sockets."""

from __future__ import annotations

from typing import Any

import gateway.errors_files
import gateway.errors_pve  # noqa: F401  both define errors of their own
from gateway.errors import GatewayError, InternalError


def all_errors() -> list[type[GatewayError]]:
    """Every error class, the root's own code included."""
    found: list[type[GatewayError]] = []
    queue: list[type[GatewayError]] = [GatewayError]
    while queue:
        cls = queue.pop(0)
        found.append(cls)
        queue.extend(cls.__subclasses__())
    return found


def from_wire(data: dict[str, Any]) -> GatewayError:
    """The error that `to_wire` described; an unknown code becomes an InternalError."""
    by_code = {cls.code: cls for cls in all_errors() if cls is not GatewayError}
    cls = by_code.get(data.get("code", ""), InternalError)
    return cls(str(data.get("detail", "")), **dict(data.get("evidence") or {}))

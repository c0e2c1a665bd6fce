"""How a call of the PVE API fails. What matters of a failed change is whether PVE may have begun it.

PveUnreachable and PveRefused say that it has not, PveSilent that nobody knows (PVE.md, API traps).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHOWN = 300


class PveFailure(Exception):
    """A call that did not succeed; the text is safe to show. `outcome` is its name in the metrics."""

    outcome = "refused"


class PveUnreachable(PveFailure):
    """The call never left: no token, no connection, or a certificate that the CA did not sign."""

    outcome = "unreachable"


class PveSilent(PveFailure):
    """The call may have arrived, and no answer of PVE's came: whether it was carried out is unknown.

    `nonsense`: something came, but nothing that PVE sends.
    """

    outcome = "silent"

    def __init__(self, text: str, *, nonsense: bool = False) -> None:
        super().__init__(text)
        self.nonsense = nonsense


class PveRefused(PveFailure):
    """PVE's answer is an error; `errors` says of which parameters, where PVE does."""

    def __init__(self, status: int, message: str, errors: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"the PVE API answered {status}: {message[:_SHOWN]}")
        self.status = status
        self.message = message
        self.errors = errors or {}

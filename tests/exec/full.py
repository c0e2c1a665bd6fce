"""The size of the tests that count: small in the suite, as large as ACCEPTANCE asks for by `make bench FULL=1`."""

from __future__ import annotations

import os


def in_full(number: int, *, else_: int) -> int:
    """`number` when the full size is asked for."""
    return number if os.environ.get("PVE_EXEC_GATEWAY_TESTS") == "full" else else_

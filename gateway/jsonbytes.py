"""JSON as bytes, for what goes between our own processes and is read by nobody else.

Pydantic's own encoder and decoder: several times as fast as the standard library's, of which one exec needs a dozen.
What people read, and the audit log, is written by `json`, which escapes all but ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core


def encode(value: Mapping[str, Any]) -> bytes:
    """UTF-8, no newline in it. Raises ValueError for what JSON cannot say, a lone surrogate among it."""
    return pydantic_core.to_json(value)


def decode(text: bytes | bytearray) -> Any:
    """Raises ValueError for what is no JSON, is no UTF-8 or is nested too deeply."""
    return pydantic_core.from_json(text)

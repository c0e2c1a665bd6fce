"""The Range field of a request, RFC 9110, 14.2: one range of bytes."""

from __future__ import annotations

import re

from gateway.errors import RangeNotSatisfiable

# 14.1.2: one range; several, or another unit, may be ignored, and are.
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")

Span = tuple[int, int]
"""Half-open."""


def read_range(header: str | None, total: int) -> Span | None:
    """The range asked for, cut at the end of `total` bytes; None for everything. Raises RangeNotSatisfiable."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if not match:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, total - int(suffix)), total
    else:
        start, end = int(first), total if last is None else min(int(last) + 1, total)
        if last is not None and int(last) < start:
            return None  # such a range is invalid, and an invalid one is ignored (14.1.1)
    if start >= end:
        raise RangeNotSatisfiable("the range begins past the end of what there is", size=total)
    return start, end

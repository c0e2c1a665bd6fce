"""read_moment: a time as people give it, in seconds since 1970."""

from __future__ import annotations

import re
import time
from datetime import datetime

from pvex.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_moment(option: str, text: str) -> int:
    """`30m`, `12h`, `7d` are so long ago; else an RFC 3339 time, of this machine's zone where it names none.

    Raises UsageError, also for times before 1970.
    """
    ago = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    try:
        moment = time.time() - int(ago[1]) * _UNITS[ago[2]] if ago else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        moment = -1.0
    if moment < 0:
        raise UsageError(f"{option} takes 30m, 12h or 7d, or a time like 2030-01-31T08:00:00Z")
    return int(moment)

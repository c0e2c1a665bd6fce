"""Members of tar archives, for tests of what unpacks them."""

from __future__ import annotations

import tarfile
from typing import Any

MTIME = 1_700_000_000


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: Any) -> tarfile.TarInfo:
    """As the gateway's own archives have them, but for what `more` says."""
    info = tarfile.TarInfo(name)
    info.type, info.mtime, info.mode = kind, MTIME, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in more.items():
        setattr(info, field, value)
    return info

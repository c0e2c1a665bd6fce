"""The names of a device's owner on the node."""

from __future__ import annotations

import contextlib
import grp
import pwd


def user_name(uid: int) -> str | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return None


def group_name(gid: int) -> str | None:
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name
    return None

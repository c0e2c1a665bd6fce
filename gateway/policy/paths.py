"""Paths of the host that a request names: whether they are what they seem. All checks are of bytes, case included."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from pathlib import PurePosixPath

# A comma or an equals sign would end the value in PVE's property strings, the others in some shell or log.
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f,=;\\\"'`$*?\[\]\u2028\u2029\ud800-\udfff]")


def is_plain(path: str) -> bool:
    """Whether it is absolute, its own normal form (no `..`, `.`, `//`, slash at the end), and of plain characters."""
    return (
        path.startswith("/")
        and not path.startswith("//")
        and posixpath.normpath(path) == path
        and not _ODD.search(path)
    )


def is_below(path: str, top: str) -> bool:
    """Whether plain `path` is `top` or below it, by name."""
    return path == top or path.startswith(f"{top}/")


def leads_there(path: str, top: str, kind: int) -> bool:
    """Whether `path`, below `top`, exists as `kind` (stat.S_IFDIR, ...) and no component behind `top` is a link.

    Of this moment: who may write below `top` can put a link there later, which PVE refuses when it mounts
    (PVE::LXC, walk_tree_nofollow). Links above are the administrator's, who wrote `top`.
    """
    try:
        current = os.stat(top)
        place = top
        for name in PurePosixPath(path).relative_to(top).parts:
            place = posixpath.join(place, name)
            current = os.lstat(place)
    except (OSError, ValueError):
        return False
    return stat.S_IFMT(current.st_mode) == kind and _has_no_link(path, top)


def _has_no_link(path: str, top: str) -> bool:
    return os.path.realpath(path) == posixpath.normpath(
        posixpath.join(os.path.realpath(top), posixpath.relpath(path, top))
    )


def is_device(path: str) -> bool:
    """Whether it is a device below /dev, or a link to one: such links are udev's.

    Where others than root can make links (/dev/shm) nothing is a device.
    """
    try:
        above = [os.lstat(place) for place in PurePosixPath(path).parents if is_below(str(place), "/dev")]
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode
    except OSError:
        return False
    ours = all(stat.S_ISDIR(place.st_mode) and not place.st_mode & 0o022 for place in above)
    return ours and bool(above) and is_below(real, "/dev") and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode))


def matches(path: str, pattern: str) -> bool:
    """Whether plain `path` is one of `pattern`, in which `*` stands for any characters but a slash."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(
        re.fullmatch(".*".join(map(re.escape, word.split("*"))), part) for part, word in zip(parts, wanted, strict=True)
    )

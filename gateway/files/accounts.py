"""Accounts: the names of a guest's users and groups, read off its own /etc/passwd and /etc/group; both untrusted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_FILE = 1 << 20
"""What is read of either, as in launcher/users.h."""
MAX_ID = 4294967294
NUMBER = re.compile(r"[0-9]{1,10}")

# What useradd(8) takes and a little more; it goes into a header of the reply.
_NAME = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_.@\\$-]{0,255}")
_ID = re.compile(rb"[0-9]{1,10}")


@dataclass(frozen=True)
class Accounts:
    """The numbers of names, and the first name of each number."""

    users: dict[str, int]
    groups: dict[str, int]
    user_names: dict[int, str]
    group_names: dict[int, str]

    @classmethod
    def parse(cls, passwd: bytes, group: bytes) -> Accounts:
        """Lines that are no entries are passed over."""
        users, groups = dict(_entries(passwd, 7)), dict(_entries(group, 4))
        return cls(users, groups, _names(users), _names(groups))


def _entries(text: bytes, fields: int) -> Iterator[tuple[str, int]]:
    """The last of two entries with the same name comes first, so that in a dict the first one stays."""
    for line in reversed(text.split(b"\n")):
        parts = line.split(b":")
        if len(parts) >= fields and _NAME.fullmatch(parts[0]) and _ID.fullmatch(parts[2]) and int(parts[2]) <= MAX_ID:
            yield parts[0].decode("ascii"), int(parts[2])


def _names(numbers: dict[str, int]) -> dict[int, str]:
    return {number: name for name, number in numbers.items()}

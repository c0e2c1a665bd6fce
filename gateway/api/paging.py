"""Pages of lists that PVE gives whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Paged(Protocol):
    """A query with `limit` and `after`."""

    @property
    def limit(self) -> int: ...
    @property
    def after(self) -> str | None: ...


def cut(found: Sequence[T], name: Callable[[T], str], asked: Paged) -> tuple[Sequence[T], str | None]:
    """The page behind the one that is called `asked.after`, and what to ask for next; None behind the last.

    Of a list in which that one is no more it is the first page: nothing is left out, something may come twice.
    """
    names = [name(item) for item in found]
    start = names.index(asked.after) + 1 if asked.after in names else 0
    part = found[start : start + asked.limit]
    more = start + asked.limit < len(found)
    return part, name(part[-1]) if more else None

"""Answers for people and for programs: tables, JSON, YAML; colours on a terminal alone, and not with NO_COLOR."""

from __future__ import annotations

import json
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import IO, Any
from unicodedata import category, east_asian_width

_COLOURS = {"running": "32", "active": "32", "stopped": "2", "ended": "2", "expired": "33", "revoked": "31"}
_BAD = frozenset({"timeout", "cancelled", "spawn_failed", "gateway_lost", "container_stopped", "signaled", "unknown"})

Columns = Mapping[str, Callable[[Any], Any]]


def coloured(stream: IO[str]) -> bool:
    """Whether colours may be used (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, word: str, *, on: bool) -> str:
    """`text` in the colour of `word`, where it has one."""
    code = "31" if word in _BAD else _COLOURS.get(word)
    return f"\x1b[{code}m{text}\x1b[0m" if on and code else text


def show_list(output: str, items: Sequence[Any], columns: Columns, *, only: str | None = None) -> None:
    """A list as `-o` wants it; the table has these columns. `only`: this member of each, a line each, and no more."""
    if only:
        for item in items:
            print(item[only])
        return
    if output != "table":
        dump(output, items)
        return
    rows = [[plain(value(item)) for value in columns.values()] for item in items]
    widths = [max(map(width, column)) for column in zip(columns, *rows, strict=True)]
    on = coloured(sys.stdout)
    print("  ".join(pad(name, most) for name, most in zip(columns, widths, strict=True)).rstrip())
    for row in rows:
        cells = [paint(pad(cell, most), cell, on=on) for cell, most in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())


def show_one(output: str, item: Mapping[str, Any]) -> None:
    """One answer: its members, a line each; what is nested as JSON."""
    if output != "table":
        dump(output, item)
        return
    most = max(map(len, item), default=0)
    for name, value in item.items():
        text = line(json.dumps(value, ensure_ascii=False)) if isinstance(value, dict | list) else plain(value)
        print(f"{name.ljust(most)}  {text}".rstrip())


def dump(output: str, data: Any) -> None:
    """The answer as it came, as JSON or YAML; what could move a cursor is escaped."""
    if output == "json":
        text = json.dumps(data, indent=2, ensure_ascii=False)
        print("".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text))
        return
    import yaml

    print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), end="")


def plain(value: Any) -> str:
    """A cell: what a guest or a user has named can move no cursor."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(plain(item) for item in value) or "-"
    return line(" ".join(str(value).splitlines()))


def line(text: str) -> str:
    """The same of a text that may be empty."""
    return "".join(char if char.isprintable() else "?" for char in text)


def width(text: str) -> int:
    """How many columns of a terminal it takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, most: int) -> str:
    """At most so many columns of a terminal."""
    if text.isascii():
        return text if len(text) <= most else text[: max(0, most - 1)] + "…"
    ends = list(accumulate(map(_columns, text)))
    return text if ends[-1] <= most else text[: bisect_right(ends, most - 1)] + "…"


def pad(text: str, most: int) -> str:
    """With blanks behind it, as many columns wide."""
    return text + " " * (most - width(text))


def _columns(char: str) -> int:
    """Letters of East Asia take two, marks that stand on the letter before them none."""
    return 0 if category(char) in ("Mn", "Me") else 2 if east_asian_width(char) in "WF" else 1


def size(count: int | None) -> str | None:
    """Bytes in the unit that fits."""
    if count is None:
        return None
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


def age(moment: str | float | None) -> str | None:
    """How long ago it was: an RFC 3339 time, or seconds since 1970."""
    if moment is None:
        return None
    then = datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else datetime.fromisoformat(moment)
    return duration((datetime.now(UTC) - then).total_seconds())


def duration(seconds: float | None) -> str | None:
    """In the largest unit that fits."""
    if seconds is None:
        return None
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"

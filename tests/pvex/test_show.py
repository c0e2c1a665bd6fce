"""What pvex shows and reads: tables that stand in columns, JSON that moves no cursor, times, lists that end."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from pvex.api import Api
from pvex.errors import Cut, UsageError
from pvex.profile import Profile
from pvex.show import cut, dump, plain, show_list, width
from pvex.times import read_moment


@pytest.mark.parametrize(("text", "columns"), [("web1", 4), ("grüße", 5), ("gru\u0308ße", 5), ("世界", 4), ("", 0)])
def test_how_wide_it_is(text: str, columns: int) -> None:
    """In columns of a terminal: letters of East Asia take two, a mark on a letter none."""
    assert width(text) == columns


def test_no_room() -> None:
    """A terminal of one column shows that there is more."""
    assert [cut(text, most) for text in ("abc", "世界") for most in (0, 1)] == ["…"] * 4


def test_columns_of_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """They begin below each other, whatever letters stand before them."""
    rows = [{"name": name, "state": "ok"} for name in ("ascii", "世界世界", "gru\u0308ße", "")]
    show_list("table", rows, {"NAME": lambda one: one["name"], "STATE": lambda one: one["state"]})
    header, *lines = capsys.readouterr().out.splitlines()
    assert {width(line.partition("ok")[0]) for line in lines} == {header.index("STATE")}


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "\x7f", "a\u202eb", "\udcff", "\U000e0001", 'q"\\'])
def test_json_moves_no_cursor(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """What a guest named is escaped where it is not printable, and the same when it is read."""
    dump("json", {"name": text})
    shown = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert json.loads(shown) == {"name": text}


def test_a_cell_is_one_line() -> None:
    """Notes of several lines, too."""
    assert (plain("one\ntwo\n"), plain("a\x1b[2Jb"), plain("\n")) == ("one two", "a?[2Jb", "")


@pytest.mark.parametrize(("text", "ago"), [("30s", 30), ("5m", 300), ("12h", 43200), ("7d", 604800)])
def test_so_long_ago(text: str, ago: int) -> None:
    """As `--since` takes it."""
    before = time.time()
    assert before - ago - 1 <= read_moment("--since", text) <= time.time() - ago


def test_a_moment() -> None:
    """An RFC 3339 time, with its zone or in ours."""
    assert read_moment("--since", "2026-11-22T08:00:00Z") == datetime(2026, 11, 22, 8, tzinfo=UTC).timestamp()
    assert read_moment("--since", "2026-11-22") == int(datetime(2026, 11, 22).astimezone().timestamp())


@pytest.mark.parametrize("text", ["", "yesterday", "5", "-5m", "999999999d", "1960-01-01T00:00:00Z", "0001-01-01"])
def test_no_moment(text: str) -> None:
    """It is told what is one."""
    with pytest.raises(UsageError, match="--since takes 30m"):
        read_moment("--since", text)


class _Pages(Api):
    """A gateway that has these pages."""

    def __init__(self, pages: list[dict[str, Any]]) -> None:
        super().__init__(Profile("test", "http://127.0.0.1:9", "pveg_x"))
        self._pages = iter(pages)
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str, query: Any = None, *, wait: float = 0) -> Any:
        self.asked.append(dict(query))
        return next(self._pages)


def test_pages_are_followed() -> None:
    """To the last, or until there are enough; none is asked for more than it may hold."""
    pages: list[dict[str, Any]] = [
        {"items": [1, 2], "next": "b"},
        {"items": [3, 4], "next": "d"},
        {"items": [5], "next": None},
    ]
    api = _Pages(pages)
    assert list(api.pages("/x", "items", {"q": 1})) == [1, 2, 3, 4, 5]
    assert [one.get("after") for one in api.asked] == [None, "b", "d"]
    api = _Pages([{"items": [1, 2], "next": "b"}, {"items": [3], "next": "c"}])
    assert list(api.pages("/x", "items", most=3, largest=2)) == [1, 2, 3]
    assert [one["limit"] for one in api.asked] == [2, 1]


def test_pages_without_end() -> None:
    """A list that does not go on is told, and not asked for again and again."""
    api = _Pages([{"items": [1], "next": "a"}, {"items": [1], "next": "a"}])
    with pytest.raises(Cut, match="does not go on"):
        list(api.pages("/x", "items"))

"""Exports: the proof that a range is whole, checked with the key alone; and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.export import COLUMNS, ExportFault, Span, check_export, export
from gateway.audit.keys import AuditKeys
from gateway.audit.log import AuditLog
from gateway.audit.settings import AuditSettings

from .live import intent, keys_of, limits, make_settings, read_log

HOSTILE = ["=cmd|'/C calc'!A0", "+1", "-1", "@x", "a,b", 'q"q', "line\nbreak", "\r", "\x1b[2J", "ünï", "\u2028", "'"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> AuditSettings:
    """200 records over several files; names and arguments are hostile."""
    settings = make_settings(tmp_path_factory.mktemp("log"))
    opened = AuditLog(settings.directory, keys_of(settings), limits=limits(rotate_bytes=20_000), sync=lambda _: None)
    for number in range(200):
        word = HOSTILE[number % len(HOSTILE)]
        record = intent(number, command=["echo", word])
        opened.append([{**record, "actor": {"token_id": "tk_1", "name": word}}])
    opened.close()
    return settings


def exported(log: AuditSettings, *, as_csv: bool = False, span: Span | None = None) -> list[str]:
    return list(export(log.directory, keys_of(log), span or Span(first=50, last=120), as_csv=as_csv))


def check(lines: list[str], keys: AuditKeys) -> tuple[int, ExportFault | None]:
    return check_export(io.StringIO("".join(lines), newline=""), keys)


@pytest.mark.parametrize("as_csv", [False, True])
def test_an_export_proves_itself(log: AuditSettings, as_csv: bool) -> None:
    """All of a span, in order; good by the key alone, and bad by any other."""
    lines = exported(log, as_csv=as_csv)
    assert check(lines, keys_of(log)) == (71, None)
    assert check(lines, AuditKeys(b"x" * 32))[1] == ExportFault(
        2 if as_csv else 1, "the line is not as the writer wrote it, or was made with another key"
    )


@pytest.mark.parametrize("as_csv", [False, True])
@given(
    at=st.integers(0, 70),
    to=st.integers(0, 70),
    how=st.sampled_from(["drop", "swap", "repeat", "flip"]),
    flip=st.integers(0, 10_000),
)
def test_every_change_is_found(log: AuditSettings, as_csv: bool, at: int, to: int, how: str, flip: int) -> None:
    """A line left out, at either end too, moved, repeated or changed in any byte: found, at its line."""
    lines = exported(log, as_csv=as_csv)
    first = 1 if as_csv else 0
    records = lines[first:-1]
    changed = list(records)
    if how == "drop":
        del changed[at]
    elif how == "repeat":
        changed.insert(to, changed[at])
    elif how == "swap":
        changed[at], changed[to] = changed[to], changed[at]
    else:
        line = changed[at]
        where = flip % (len(line) - 1)
        changed[at] = line[:where] + chr(ord(line[where]) ^ 1) + line[where + 1 :]
    fault = check([*lines[:first], *changed, lines[-1]], keys_of(log))[1]
    if changed == records:
        assert fault is None
        return
    assert fault, how
    pairs = enumerate(zip([*records, lines[-1]], [*changed, lines[-1]], strict=False), 1 + first)
    place = next(number for number, (old, new) in pairs if old != new)
    if not as_csv or how != "flip":
        assert fault.line == place


@pytest.mark.parametrize("as_csv", [False, True])
def test_a_cut_export(log: AuditSettings, as_csv: bool) -> None:
    """Without its signed end, or with that of another export, it does not pass."""
    lines, keys = exported(log, as_csv=as_csv), keys_of(log)
    fault = check(lines[:-1], keys)[1]
    assert fault and "no signed end" in fault.detail
    other = exported(log, as_csv=as_csv, span=Span(first=50, last=100))
    fault = check([*lines[:-1], other[-1]], keys)[1]
    assert fault and "at the end" in fault.detail
    fault = check([*other[:-1], lines[-1]], keys)[1]
    assert fault and "at the end" in fault.detail
    assert check([lines[-1].replace('"records":71', '"records":0')], keys)[1]
    assert check([], keys)[1]


@pytest.mark.parametrize("as_csv", [False, True])
def test_nothing_may_stand_behind_the_signed_end(log: AuditSettings, as_csv: bool) -> None:
    """Lines behind it are not covered by it: forged ones there, or a second export, must not pass with the first."""
    lines = exported(log, as_csv=as_csv)
    for more in ([lines[3]], ["anything\n"], lines[as_csv:]):
        _, fault = check([*lines, *more], keys_of(log))
        assert fault is not None and fault.line == len(lines) + 1, more
    assert check([*lines, "\n"], keys_of(log))[1] is not None


@pytest.mark.parametrize("as_csv", [False, True])
def test_spans(log: AuditSettings, as_csv: bool) -> None:
    """Everything, nothing, and times: `since` inclusive, `until` not."""
    whole = read_log(log)
    keys = keys_of(log)
    assert check(exported(log, as_csv=as_csv, span=Span()), keys) == (len(whole), None)
    assert check(exported(log, as_csv=as_csv, span=Span(since="2099")), keys) == (0, None)
    since, until = (whole[index].record["ts"] for index in (20, 90))
    assert check(exported(log, as_csv=as_csv, span=Span(since=since, until=until)), keys) == (70, None)


def test_csv_is_harmless(log: AuditSettings) -> None:
    """No cell begins a formula, no cell holds a line break or a control byte, and the columns are the record's."""
    rows = list(csv.reader(io.StringIO("".join(exported(log, as_csv=True, span=Span())), newline="")))
    assert tuple(rows[0]) == COLUMNS
    for row in rows[1:-1]:
        assert len(row) == len(COLUMNS)
        assert not any(cell.startswith(("=", "+", "-", "@")) or not cell.isprintable() for cell in row)
        record = json.loads(row[-1])
        assert (row[0], row[2]) == (str(record["seq"]), record["event"])


def test_forged_lines_are_not_exported(log: AuditSettings, tmp_path: Path) -> None:
    """What the writer did not write is left out, and its number is told under the signature."""
    copy = tmp_path / "log"
    copy.mkdir()
    for path in log.directory.iterdir():
        lines = path.read_bytes().splitlines(keepends=True)
        lines.insert(len(lines) // 2, b'{"event":"exec:intent","seq":60}\n')
        (copy / path.name).write_bytes(b"".join(lines))
    lines_out = list(export(copy, keys_of(log), Span(), as_csv=False))
    assert check(lines_out, keys_of(log))[1] is None
    assert json.loads(lines_out[-1])["export"]["left_out"] == len(list(copy.iterdir()))

"""Verifying part by part: together the parts find what one walk over the whole log finds."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.audit.chain import Chain, Head
from gateway.audit.client import AuditClient
from gateway.audit.files import LOG_NAME
from gateway.audit.log import AuditLog
from gateway.audit.parts import Cursor, Part, verify_part
from gateway.audit.retention import Limits
from gateway.audit.settings import AuditSettings
from gateway.audit.verify import verify
from gateway.audit.walk import Wrong
from gateway.errors import InternalError, TooManyRequests

from .live import Writer, intent, keys_of, limits, make_settings
from .test_audit_verify import mutate, read_files


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> AuditSettings:
    """About 60 records in several files."""
    return write(make_settings(tmp_path_factory.mktemp("log")), limits(rotate_bytes=3000))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> AuditSettings:
    """A log whose oldest files went."""
    return write(make_settings(tmp_path_factory.mktemp("log")), limits(2000, 8000))


def write(settings: AuditSettings, bounds: Limits) -> AuditSettings:
    opened = AuditLog(settings.directory, keys_of(settings), limits=bounds, sync=lambda _: None)
    for number in range(45):
        opened.append([intent(number)])
    opened.close()
    return settings


def parts(settings: AuditSettings, directory: Path, head: Head | None = None, seconds: float = -1) -> Iterator[Part]:
    """Every part; with no time at all each has a record or two."""
    cursor = None
    while True:
        part = verify_part(directory, keys_of(settings), cursor, head, seconds)
        yield part
        if part.next is None:
            return
        cursor = Cursor.parse(part.next)


def last_head(settings: AuditSettings) -> Head:
    sealed = Chain(keys_of(settings).chain).open((settings.directory / LOG_NAME).read_bytes().splitlines()[-1])
    assert sealed
    return sealed.head


@pytest.mark.parametrize("which", ["log", "pruned"])
def test_parts_make_up_the_whole(which: str, request: pytest.FixtureRequest) -> None:
    """Each record is in exactly one part, in order; the last part has met the writer's head, and is good."""
    settings: AuditSettings = request.getfixturevalue(which)
    whole = verify(settings.directory, keys_of(settings))
    found = list(parts(settings, settings.directory, last_head(settings)))
    assert len(found) > 15 and not [part for part in found if part.fault]
    assert sum(part.records for part in found) == whole.records
    numbers = [number for part in found if part.records for number in range(part.first, part.last + 1)]
    assert numbers == list(range(whole.first, whole.last + 1))
    assert not any(part.head_checked for part in found[:-2]) and found[-1].head_checked
    assert list(parts(settings, settings.directory, last_head(settings), 60)) == [
        Part(None, whole.records, whole.first, whole.last, True, None)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_parts_find_what_the_whole_finds(log: AuditSettings, tmp_path: Path, seed: int) -> None:
    """C5 over parts: flip, cut, remove, forge, copy, swap, drop the tail: the same place as one walk names."""
    rng = random.Random(seed)
    head = last_head(log)
    files = read_files(log.directory)
    mutate(files, rng)
    for name, lines in files.items():
        (tmp_path / name).write_bytes(b"".join(lines))
    (one,) = parts(log, tmp_path, head, 60)
    *before, last = parts(log, tmp_path, head)
    if one.fault is None:
        assert last.fault is None
        return
    assert last.fault is not None and not [part for part in before if part.fault]
    assert (last.fault.file, last.fault.line, last.fault.seq) == (one.fault.file, one.fault.line, one.fault.seq)


def test_a_begin_that_was_cut_off_is_found(pruned: AuditSettings, tmp_path: Path) -> None:
    """Files that no record says were pruned are missed by the last part, for only that one has met all such records."""
    shutil.copytree(pruned.directory, tmp_path / "log")
    min(path for path in (tmp_path / "log").iterdir() if path.name != LOG_NAME).unlink()
    *before, last = parts(pruned, tmp_path / "log")
    assert before and not [part for part in before if part.fault]
    assert last.fault and last.fault.wrong is Wrong.REMOVED and "pruned" in last.fault.detail


def test_a_log_changed_between_two_parts(log: AuditSettings, tmp_path: Path) -> None:
    """What the next part should begin behind is gone, or another record stands there: that is a fault, too."""
    shutil.copytree(log.directory, tmp_path / "log")
    first = next(parts(log, tmp_path / "log"))
    assert first.next
    cursor = Cursor.parse(first.next)
    forged = Cursor(Head(cursor.at.seq, "0" * 64))
    part = verify_part(tmp_path / "log", keys_of(log), forged, None)
    assert part.fault and part.fault.seq == cursor.at.seq and part.next is None
    shutil.rmtree(tmp_path / "log")
    (tmp_path / "log").mkdir()
    part = verify_part(tmp_path / "log", keys_of(log), cursor, None)
    assert part.fault and part.fault.wrong is Wrong.REMOVED


def test_the_writers_head_betrays_a_dropped_tail(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """What only the files have lost is missed at once, without the journal: the writer knows what it has written."""
    for number in range(20):
        client.commit(intent(number))
    part = client.verify()
    assert part.fault is None and part.head_checked and part.records == part.last == 21 and part.next is None
    path = settings.directory / LOG_NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    fault = client.verify().fault
    assert fault and fault.wrong is Wrong.TAIL_DROPPED and fault.seq == 21


def test_a_part_takes_a_bounded_time(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """One verification at a time, in the reader, answered before its client gives up; others are told to come again,
    and the writer takes records."""
    client.commit(intent(1))
    line = (settings.directory / LOG_NAME).read_bytes().splitlines(keepends=True)[0]
    with (settings.directory / "audit.log.old").open("wb") as file:
        for _ in range(100):
            file.write(line * 10_000)
    refused: list[TooManyRequests] = []

    def ask(_: int) -> None:
        try:
            client.verify()
        except TooManyRequests as error:
            refused.append(error)

    with ThreadPoolExecutor(4) as crowd:
        asked = [crowd.submit(ask, number) for number in range(4)]
        client.commit(intent(2))
        for future in asked:
            future.result()
    assert len(refused) == 3


def test_a_cursor_of_nonsense_is_refused(writer: Writer, client: AuditClient) -> None:
    """C12: what is no cursor is an error of its caller, and harms nobody."""
    for bad in ("x", "", "1-" + "0" * 63, "1" * 5000, f"1-{'0' * 64}-"):
        with pytest.raises(InternalError):
            client.verify(bad)
    assert client.verify().fault is None

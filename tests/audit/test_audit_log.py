"""The log file: whole batches or nothing, one chain over rotations, crashes, logrotate and vandals."""

from __future__ import annotations

import errno
import gzip
import os
import shutil
import stat
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import clock, retention
from gateway.audit.files import LOG_NAME
from gateway.audit.log import AuditLog
from gateway.audit.retention import WhenFull
from gateway.audit.search import Query, search
from gateway.audit.settings import AuditSettings
from gateway.audit.verify import verify
from gateway.audit.walk import Wrong
from gateway.errors import AuditUnavailable

from .live import events, intent, keys_of, limits, read_log


def open_log(settings: AuditSettings, sync: Callable[[int], None] = os.fdatasync, **changed: Any) -> AuditLog:
    return AuditLog(settings.directory, keys_of(settings), limits=limits(**changed), sync=sync)


def is_good(settings: AuditSettings) -> bool:
    return verify(settings.directory, keys_of(settings)).fault is None


def path_of(settings: AuditSettings) -> Path:
    return settings.directory / LOG_NAME


def test_a_log_begins_with_how_it_was_opened(settings: AuditSettings) -> None:
    """Files are 0600 in a 0700 directory; the first record says that the chain begins here."""
    log = open_log(settings)
    heads = log.append([intent(1), intent(2)])
    assert [head.seq for head in heads] == [2, 3]
    assert events(settings) == ["audit:opened", "exec:intent", "exec:intent"]
    assert read_log(settings)[0].record["data"]["reason"] == "created"
    assert path_of(settings).stat().st_mode & 0o777 == 0o600
    assert settings.directory.stat().st_mode & 0o777 == 0o700
    assert is_good(settings)


def test_a_log_that_is_open_to_others_is_closed(settings: AuditSettings) -> None:
    """What logrotate, or somebody, has made of another mode is 0600 again before a record goes into it."""
    path = path_of(settings)
    path.parent.mkdir(mode=0o700)
    path.touch(0o644)
    path.chmod(0o644)
    open_log(settings).append([intent()])
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_chain_goes_on_after_a_restart(settings: AuditSettings) -> None:
    """A new writer takes up where the last one ended."""
    for _ in range(3):
        log = open_log(settings)
        log.append([intent()])
        log.close()
    assert [sealed.head.seq for sealed in read_log(settings)] == [1, 2, 3, 4, 5, 6]
    assert is_good(settings)


def test_rotation_keeps_one_chain_and_prunes_with_a_record(settings: AuditSettings) -> None:
    """Files close at their size, the oldest go, a record says which, and the rest still verifies."""
    log = open_log(settings, rotate_bytes=4000, max_bytes=16000)
    for number in range(60):
        log.append([intent(number)])
    names = sorted(path.name for path in settings.directory.iterdir())
    assert 3 <= len(names) <= 5 and names[0] == LOG_NAME
    assert sum(path.stat().st_size for path in settings.directory.iterdir()) < 17_000
    assert {"audit:rotated", "audit:pruned"} <= set(events(settings))
    verdict = verify(settings.directory, keys_of(settings))
    assert verdict.fault is None and verdict.first > 1
    (settings.directory / names[1]).unlink()
    fault = verify(settings.directory, keys_of(settings)).fault
    assert fault and fault.wrong is Wrong.REMOVED and fault.line == 1


def test_a_crash_inside_a_rotation_loses_nothing(settings: AuditSettings) -> None:
    """Killed between renaming the file and beginning the next, the chain is found in the closed file."""
    log = open_log(settings)
    log.append([intent()])
    log.close()
    path_of(settings).rename(settings.directory / "audit.log.000000000002")
    log = open_log(settings)
    log.append([intent()])
    assert [sealed.head.seq for sealed in read_log(settings)] == [1, 2, 3, 4]
    assert is_good(settings)


def test_logrotate_may_rename_the_file(settings: AuditSettings) -> None:
    """A renamed file costs no record: the next batch begins a new one on the same chain."""
    log = open_log(settings)
    log.append([intent(1)])
    path_of(settings).rename(settings.directory / "audit.log.1")
    log.append([intent(2)])
    assert events(settings) == ["audit:opened", "exec:intent", "audit:opened", "exec:intent"]
    assert read_log(settings)[2].record["data"]["reason"] == "renamed"
    assert is_good(settings)


@pytest.mark.parametrize("how", ["deleted", "truncated"])
def test_a_file_taken_away_fails_the_batch_at_hand(settings: AuditSettings, how: str) -> None:
    """The batch is refused; the next one begins a file whose first record says what happened; verify sees it."""
    log = open_log(settings)
    log.append([intent(1)])
    if how == "deleted":
        path_of(settings).unlink()
    else:
        os.truncate(path_of(settings), 0)
    with pytest.raises(AuditUnavailable, match=how):
        log.append([intent(2)])
    log.append([intent(3)])
    kept = read_log(settings)
    assert [sealed.record.get("exec_id") for sealed in kept] == [None, "ex_3"]
    assert kept[0].record["data"]["reason"] == how and kept[0].head.seq == 3
    fault = verify(settings.directory, keys_of(settings)).fault
    assert fault and fault.wrong is Wrong.REMOVED


def test_a_torn_last_line_is_kept_aside_and_recorded(settings: AuditSettings) -> None:
    """Half a line, as a crash leaves it, moves to a file of its own; the log says so and stays good."""
    log = open_log(settings)
    log.append([intent(1)])
    log.close()
    half = b'{"action":"exec:run","actor":{"na'
    with path_of(settings).open("ab") as file:
        file.write(half)
    fault = verify(settings.directory, keys_of(settings)).fault
    assert fault and (fault.wrong, fault.line) == (Wrong.TORN, 3)
    open_log(settings).append([intent(2)])
    torn = next(sealed for sealed in read_log(settings) if sealed.record["event"] == "audit:torn")
    aside = settings.directory / torn.record["data"]["saved"]
    assert aside.read_bytes() == half and aside.stat().st_mode & 0o777 == 0o600
    assert is_good(settings) and verify(settings.directory, keys_of(settings)).notes


def test_foreign_lines_stay_and_are_named(settings: AuditSettings) -> None:
    """Lines that another process appends are left as evidence; the chain passes over them; verify points at them."""
    log = open_log(settings)
    log.append([intent(1)])
    with path_of(settings).open("ab") as file:
        file.write(b"not ours\n")
    log.append([intent(2)])
    fault = verify(settings.directory, keys_of(settings)).fault
    assert fault and (fault.wrong, fault.line) == (Wrong.ADDED, 3)
    assert [sealed.head.seq for sealed in read_log(settings)] == [1, 2, 3, 4]


def test_a_log_of_another_key_is_not_written_to(settings: AuditSettings) -> None:
    """With a lost key nothing is chained behind records that nobody can check any more."""
    log = open_log(settings)
    log.append([intent(1)])
    log.close()
    settings.key_file.write_bytes(b"another key of 32 bytes, exactly")
    before = path_of(settings).read_bytes()
    with pytest.raises(AuditUnavailable, match="this key"):
        open_log(settings).append([intent(2)])
    assert path_of(settings).read_bytes() == before


def fill(log: AuditLog) -> int:
    """Records until the log calls itself full; how many."""
    for number in range(1, 200):
        log.append([intent(number)])
        if log.full:
            return number
    raise AssertionError("it never was full")


def test_young_records_are_not_pushed_out(settings: AuditSettings) -> None:
    """At its size the log keeps what is younger than `keep_days`: it says that it is full, and deletes nothing."""
    log = open_log(settings, rotate_bytes=4000, max_bytes=16_000, keep_days=30)
    taken = fill(log)
    assert "keep_days" in log.full
    log.append([])
    kept = read_log(settings)
    assert [sealed.record["exec_id"] for sealed in kept if "exec_id" in sealed.record] == [
        f"ex_{number}" for number in range(1, taken + 1)
    ]
    assert [sealed.record["event"] for sealed in kept].count("audit:full") == 1
    assert "audit:pruned" not in events(settings)
    log.append([intent(900)])  # an outcome still finds room
    assert is_good(settings)


def test_a_full_log_goes_on_when_room_was_made(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving closed files away, or the passing of days, is noticed without a restart."""
    monkeypatch.setattr(retention, "_LOOK_AGAIN", 0.0)
    log = open_log(settings, rotate_bytes=4000, max_bytes=16_000, keep_days=30)
    fill(log)
    for path in settings.directory.glob("audit.log.0*"):
        path.unlink()
    log.append([])
    assert not log.full


def test_pruning_young_records_is_a_choice(settings: AuditSettings) -> None:
    """`when_full: prune` deletes the oldest early, and every deletion is on record."""
    log = open_log(settings, rotate_bytes=4000, max_bytes=16_000, keep_days=30, when_full=WhenFull.PRUNE)
    for number in range(60):
        log.append([intent(number)])
    assert not log.full and "audit:pruned" in events(settings) and is_good(settings)


def test_a_clock_set_back_keeps_records(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that seem to come from the future are not old: the log fills up rather than deletes them."""
    log = open_log(settings, rotate_bytes=4000, max_bytes=16_000, keep_days=1)
    monkeypatch.setattr(clock, "now", lambda: "2099-01-01T00:00:00.000000Z")
    fill(log)
    assert "audit:pruned" not in events(settings)


def test_jumps_of_the_clock_are_recorded(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forth and back while it runs, and a start behind the last record: each leaves a note; order stays by seq."""
    log = open_log(settings)
    log.append([intent(1)])
    hour = 3600 * 1_000_000_000
    for shift in (hour, -hour):
        real = clock._offset
        monkeypatch.setattr(clock, "_offset", lambda real=real, shift=shift: real() + shift / 1e9)
        log.append([intent(2)])
    monkeypatch.undo()
    log.append([intent(3)])
    monkeypatch.setattr(clock, "now", lambda: "2099-01-01T00:00:00.000000Z")
    log.append([intent(4)])
    log.close()
    monkeypatch.undo()
    log = open_log(settings)
    log.append([intent(5)])
    notes = [sealed.record["data"] for sealed in read_log(settings) if sealed.record["event"] == "audit:clock"]
    assert [round(data["seconds"]) if data["seconds"] else None for data in notes] == [3600, -3600, None]
    assert notes[-1]["before"] == "2099-01-01T00:00:00.000000Z"
    opened = [sealed.record["data"] for sealed in read_log(settings) if sealed.record["event"] == "audit:opened"]
    assert [data["latest"] for data in opened] == [None, "2099-01-01T00:00:00.000000Z"]
    assert is_good(settings)


def test_copytruncate_is_noticed(settings: AuditSettings) -> None:
    """logrotate's copy, packed by gzip, is part of the log; the truncated file goes on and says so."""
    log = open_log(settings)
    log.append([intent(1)])
    with path_of(settings).open("rb") as source, gzip.open(settings.directory / "audit.log.1.gz", "wb") as copy:
        shutil.copyfileobj(source, copy)
    os.truncate(path_of(settings), 0)
    with pytest.raises(AuditUnavailable, match="truncated"):
        log.append([intent(2)])
    log.append([intent(3)])
    assert [sealed.record.get("exec_id") for sealed in read_log(settings)] == [None, "ex_1", None, "ex_3"]
    assert is_good(settings)


def test_a_start_with_nothing_but_archives(settings: AuditSettings) -> None:
    """logrotate has truncated the file and packed its copies, and then the node was started anew: the chain goes on."""
    log = open_log(settings, rotate_bytes=2000)
    for number in range(20):
        log.append([intent(number)])
    last = log.head
    log.close()
    for path in list(settings.directory.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    path_of(settings).touch(0o600)
    assert last is not None
    log = open_log(settings, rotate_bytes=2000)
    assert log.append([intent(20)])[0].seq == last.seq + 2
    assert is_good(settings)
    assert [sealed.head.seq for sealed in read_log(settings)] == list(range(1, last.seq + 3))


def test_what_was_lost_to_copytruncate_is_named(settings: AuditSettings) -> None:
    """Records that came between the copy and the truncation are missing, and verify says which."""
    log = open_log(settings)
    log.append([intent(1)])
    shutil.copy(path_of(settings), settings.directory / "audit.log-20260101")
    log.append([intent(2)])
    os.truncate(path_of(settings), 0)
    with pytest.raises(AuditUnavailable):
        log.append([intent(3)])
    log.append([intent(4)])
    fault = verify(settings.directory, keys_of(settings)).fault
    assert fault and (fault.wrong, fault.seq) == (Wrong.REMOVED, 3)


@pytest.mark.parametrize("rewritten", [b"", None])
def test_a_file_truncated_while_a_batch_is_written_fails_it(settings: AuditSettings, rewritten: bytes | None) -> None:
    """Between the look before and the end of the write: the batch is refused, and nothing of it is left."""
    batch = b""

    def truncate(fd: int) -> None:
        nonlocal batch
        if not armed:
            return
        size = os.fstat(fd).st_size
        batch = os.pread(fd, size, before)
        os.ftruncate(fd, 0)
        os.write(fd, batch if rewritten is None else rewritten)
        armed.clear()

    armed: list[bool] = []
    log = open_log(settings, sync=truncate)
    log.append([intent(1)])
    before = path_of(settings).stat().st_size
    armed.append(True)
    with pytest.raises(AuditUnavailable, match="truncated"):
        log.append([intent(2)])
    assert batch and path_of(settings).stat().st_size == 0
    log.append([intent(3)])
    assert [sealed.record.get("exec_id") for sealed in read_log(settings)] == [None, "ex_3"]


class FailingDisk:
    """fdatasync that fails as often as told, after the bytes have reached the file."""

    def __init__(self) -> None:
        self.failures = 0

    def __call__(self, fd: int) -> None:
        os.fdatasync(fd)
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_after_a_failed_fdatasync_nothing_of_the_batch_remains(settings: AuditSettings) -> None:
    """What was refused is not in the log, the seq numbers are given again, and the next batch is durable."""
    disk = FailingDisk()
    log = open_log(settings, sync=disk)
    log.append([intent(1)])
    size = path_of(settings).stat().st_size
    disk.failures = 1
    with pytest.raises(AuditUnavailable, match="Input/output error"):
        log.append([intent(2), intent(3)])
    assert path_of(settings).stat().st_size == size
    log.append([intent(4)])
    assert [sealed.record.get("exec_id") for sealed in read_log(settings)] == [None, "ex_1", "ex_4"]
    assert [sealed.head.seq for sealed in read_log(settings)] == [1, 2, 3]


def test_a_log_that_could_not_be_opened_says_how_it_was_begun(settings: AuditSettings) -> None:
    """Failures of the very first batch lose none of the log's own notes."""
    disk = FailingDisk()
    disk.failures = 2
    log = open_log(settings, sync=disk)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            log.append([intent(1)])
    log.append([intent(2)])
    assert events(settings) == ["audit:opened", "exec:intent"]
    assert is_good(settings)


def test_a_failure_inside_a_rotation_loses_no_note(settings: AuditSettings) -> None:
    """The file was closed already when the disk failed: the next file still says where it came from."""
    disk = FailingDisk()
    log = open_log(settings, sync=disk, rotate_bytes=10)
    log.append([intent(1)])
    disk.failures = 1
    with pytest.raises(AuditUnavailable):
        log.append([intent(2)])
    log.append([intent(3)])
    assert events(settings)[2:4] == ["audit:rotated", "audit:opened"]
    assert is_good(settings)


@pytest.mark.parametrize("cut", [1, 40, 400, 10_000])
def test_zeros_at_the_end_are_no_record(settings: AuditSettings, cut: int) -> None:
    """What a power cut leaves, of any length, is moved aside and not taken for a record."""
    log = open_log(settings)
    log.append([intent(1)])
    log.close()
    with path_of(settings).open("ab") as file:
        file.write(b"\0" * cut)
    open_log(settings).append([intent(2)])
    assert is_good(settings)


def test_two_writers_never_share_a_file(settings: AuditSettings) -> None:
    """Whatever became of the directory's lock: the second one is refused until the first has left."""
    first, second = open_log(settings), open_log(settings)
    first.append([intent(1)])
    with pytest.raises(AuditUnavailable):
        second.append([intent(2)])
    first.append([intent(3)])
    first.close()
    second.append([intent(4)])
    with pytest.raises(AuditUnavailable):
        first.append([intent(5)])
    assert [sealed.record.get("exec_id") for sealed in read_log(settings)] == [None, "ex_1", "ex_3", None, "ex_4"]
    assert is_good(settings)


def test_a_link_in_the_logs_place_is_not_followed(settings: AuditSettings, tmp_path: Path) -> None:
    """Nobody can turn the log into another file of root's."""
    target = tmp_path / "target"
    target.write_text("")
    settings.directory.mkdir(mode=0o700)
    path_of(settings).symlink_to(target)
    with pytest.raises(AuditUnavailable):
        open_log(settings).append([intent(1)])
    assert target.read_text() == ""


def test_a_file_that_cannot_be_deleted_refuses_nobody(
    settings: AuditSettings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An old file that is immutable stays, and that is told; what was made durable meanwhile is not called refused."""
    log = open_log(settings, rotate_bytes=2000, max_bytes=8000)
    unlink = Path.unlink

    def refuse_the_oldest(path: Path, missing_ok: bool = False) -> None:
        if path.name == min(found.name for found in settings.directory.iterdir() if found.name != LOG_NAME):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse_the_oldest)
        for number in range(40):
            assert len(log.append([intent(number)])) == 1
        assert capfd.readouterr().err.count("cannot delete") == 1
    assert is_good(settings)
    found = [sealed.record for sealed in read_log(settings) if sealed.record["event"] == "exec:intent"]
    assert [record["exec_id"] for record in found] == [f"ex_{number}" for number in range(40)]
    pruned = [
        sealed.record["data"]["file"] for sealed in read_log(settings) if sealed.record["event"] == "audit:pruned"
    ]
    assert pruned and len(pruned) == len(set(pruned))
    log.append([intent(40)])
    assert not any((settings.directory / name).exists() for name in pruned)
    assert is_good(settings)


@pytest.mark.parametrize("what", ["directory", "fifo", "device", "dangling", "endless"])
def test_what_is_no_file_is_no_part_of_the_log(settings: AuditSettings, what: str) -> None:
    """A directory, FIFO, device or link under a log file's name keeps nobody from reading, checking or going on."""
    log = open_log(settings)
    log.append([intent(1)])
    log.close()
    odd = settings.directory / "audit.log.old"
    if what == "directory":
        odd.mkdir()
    elif what == "fifo":
        os.mkfifo(odd)
    elif what == "device":
        os.mknod(odd, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    else:
        odd.symlink_to("nowhere" if what == "dangling" else "/dev/zero")
    read: list[list[str]] = []
    reading = threading.Thread(target=lambda: read.append(events(settings)), daemon=True)
    reading.start()
    reading.join(20)
    assert read == [["audit:opened", "exec:intent"]]
    assert is_good(settings)
    path_of(settings).rename(settings.directory / "audit.log.000000000002")
    assert open_log(settings).append([intent(2)])[0].seq == 4


@pytest.mark.parametrize("broken", ["cut", "garbage", "flipped"])
def test_a_broken_archive_is_a_fault_and_no_crash(settings: AuditSettings, broken: str) -> None:
    """Half a gzip file, or one of nonsense, is read as far as it goes; verify names the place, a search goes on."""
    log = open_log(settings, rotate_bytes=4000)
    for number in range(12):
        log.append([intent(number)])
    log.close()
    first = min(path for path in settings.directory.iterdir() if path != path_of(settings))
    packed = bytearray(gzip.compress(first.read_bytes()))
    if broken == "cut":
        packed = packed[: len(packed) // 2]
    else:
        packed[0 if broken == "garbage" else len(packed) // 2] ^= 0xFF
    first.with_suffix(".1.gz").write_bytes(packed)
    first.unlink()
    fault = verify(settings.directory, keys_of(settings)).fault
    assert fault is not None
    assert search(settings.directory, keys_of(settings), Query(limit=1000)).records


def test_a_line_without_an_end_costs_bounded_memory(settings: AuditSettings) -> None:
    """A file of one endless line, sparse or packed, is no way to make a reader of the log take a gigabyte."""
    log = open_log(settings)
    log.append([intent(1)])
    log.close()
    with (settings.directory / "audit.log.junk").open("wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        assert verify(settings.directory, keys_of(settings)).fault is not None
        assert search(settings.directory, keys_of(settings), Query()).records
        assert search(settings.directory, keys_of(settings), Query(newest_first=False)).records
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()

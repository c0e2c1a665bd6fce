"""What is kept, counted and hashed of a stream, against the plainest model of it, for every way of cutting it up."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.exec.spec import Keep
from gateway.exec.text import decode_output
from gateway.supervisor.output.capture import Capture, FileRoom, MemoryRoom, Room
from gateway.supervisor.output.digest import Sha256
from gateway.supervisor.output.layout import Layout

pieces = st.lists(st.binary(max_size=40), max_size=12)
limits = st.integers(0, 60)
keeps = st.sampled_from(Keep)


def model(data: bytes, limit: int, keep: Keep) -> bytes:
    """What shall be kept of `data`."""
    if len(data) <= limit:
        return data
    head = {Keep.HEAD: limit, Keep.TAIL: 0, Keep.HEAD_TAIL: (limit + 1) // 2}[keep]
    return data[:head] + data[len(data) - (limit - head) :]


def filled(parts: list[bytes], limit: int, keep: Keep) -> Capture:
    capture = Capture(limit, Layout.in_memory(limit, keep), MemoryRoom())
    for part in parts:
        capture.feed(part)
    return capture


@given(pieces, limits, keeps)
def test_kept_counted_and_hashed(parts: list[bytes], limit: int, keep: Keep) -> None:
    """However the stream comes in, the kept part, the counts and the hash are those of the whole."""
    data = b"".join(parts)
    capture = filled(parts, limit, keep)
    count = capture.count()
    assert capture.kept() == model(data, limit, keep)
    assert count["bytes"] == len(data)
    assert count["dropped"] == max(0, len(data) - limit)
    assert count["sha256"] == hashlib.sha256(data).hexdigest()
    assert capture.over_limit == (len(data) > limit)
    assert (count["dropped_at"] is None) == (count["dropped"] == 0)


@given(pieces, pieces, limits, keeps)
def test_another_image_goes_on_where_this_one_was(
    before: list[bytes], after: list[bytes], limit: int, keep: Keep
) -> None:
    """A capture that was written down as JSON and read again in the middle of a stream ends as if nothing had been."""
    state = json.loads(json.dumps(filled(before, limit, keep).to_state()))
    capture = Capture.from_state(state, None, lambda _: True)
    for part in after:
        capture.feed(part)
    straight = filled([*before, *after], limit, keep)
    assert capture.kept() == straight.kept()
    assert capture.count() == straight.count()


@given(pieces, limits, keeps, st.integers(0, 500), st.integers(0, 500))
def test_offsets_lead_to_the_bytes_that_stood_there(
    parts: list[bytes], limit: int, keep: Keep, offset: int, length: int
) -> None:
    """What an offset of the stream gives is what stood there, never past a gap, and nothing inside of one."""
    data = b"".join(parts)
    capture = filled(parts, limit, keep)
    kept = capture.layout.kept(len(data))
    found = capture.read(offset, length)
    assert found == data[offset : offset + len(found)]
    inside = [(low, high) for low, high in kept if low <= offset < high]
    assert len(found) == (min(length, inside[0][1] - offset) if inside else 0)
    assert sum(high - low for low, high in kept) == len(capture.kept())


class SmallRoom(MemoryRoom):
    """Takes no byte behind its end."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def write(self, position: int, data: bytes | memoryview) -> bool:
        return position + len(data) <= self.size and super().write(position, data)


@given(pieces, limits, keeps, st.integers(0, 60))
def test_a_full_disk_loses_what_it_says(parts: list[bytes], limit: int, keep: Keep, size: int) -> None:
    """Where the disk takes no more, what is said to be kept is what was sent, and all of it is counted and hashed."""
    data = b"".join(parts)
    capture = Capture(limit, Layout.in_memory(limit, keep), SmallRoom(size))
    for part in parts:
        capture.feed(part)
    count = capture.count()
    kept = capture.layout.kept(count["bytes"])
    assert b"".join(data[low:high] for low, high in kept) == capture.kept()
    assert len(capture.kept()) == count["bytes"] - count["dropped"]
    assert count["sha256"] == hashlib.sha256(data).hexdigest()


def test_memory_is_bounded_by_the_limit() -> None:
    """64 MiB through a capture of 64 KiB keep no more than that, and what came last."""
    capture = Capture(65536, Layout.in_memory(65536, Keep.TAIL), MemoryRoom())
    for _ in range(1024):
        capture.feed(b"x" * 65536)
    assert len(json.dumps(capture.to_state())) < 2 * 65536
    assert capture.bytes == 64 << 20


@given(pieces, limits, keeps)
def test_a_file_holds_what_memory_does(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], limit: int, keep: Keep
) -> None:
    """In a file stand the same bytes at the same places as in memory, and a stream goes on over a new descriptor."""
    path = tmp_path_factory.mktemp("room") / "stdout"
    layout = Layout.in_memory(limit, keep)
    memory = filled(parts, limit, keep)
    room: Room = FileRoom(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), lambda _: True)
    file = Capture(limit, layout, room)
    for number, part in enumerate(parts):
        file.feed(part)
        if number == 1:
            state = json.loads(json.dumps(file.to_state()))
            file = Capture.from_state(state, os.dup(file.fd or 0), lambda _: True)
    assert file.kept() == memory.kept()
    assert file.stored() == memory.stored()
    assert file.count()["bytes"] == memory.count()["bytes"]
    file.close()


def test_growth_is_asked_for_before_it_happens(tmp_path: Path) -> None:
    """A file grows by what it is granted and no further: the rest is dropped, and counted."""
    left = [6 << 20]

    def grant(size: int) -> bool:
        granted = size <= left[0]
        left[0] -= size if granted else 0
        return granted

    fd = os.open(tmp_path / "stdout", os.O_RDWR | os.O_CREAT, 0o600)
    capture = Capture(64 << 20, Layout.spooled(64 << 20, Keep.HEAD_TAIL), FileRoom(fd, grant))
    for _ in range(128):
        capture.feed(b"x" * 65536)
    assert (capture.bytes, len(capture.kept())) == (8 << 20, 4 << 20)
    assert (tmp_path / "stdout").stat().st_size == 4 << 20
    capture.close()


@given(st.text(max_size=60), limits, keeps)
def test_text_is_never_cut_inside_a_character(text: str, limit: int, keep: Keep) -> None:
    """UTF-8 that was cut comes back as UTF-8: a beginning and an end of it, with counts that fit."""
    data = text.encode()
    capture = filled([data], limit, keep)
    shown = decode_output(capture.kept(), capture.count())
    assert shown.encoding == "utf-8"
    kept = shown.text.encode()
    assert len(kept) == shown.count["bytes"] - shown.count["dropped"]
    cut = len(kept) if shown.count["dropped_at"] is None else shown.count["dropped_at"]
    assert data.startswith(kept[:cut])
    assert data.endswith(kept[cut:])
    assert capture.count()["bytes"] - shown.count["bytes"] == 0


@pytest.mark.parametrize("library", [True, False], ids=["libcrypto", "hashlib"])
def test_digest_is_sha256(monkeypatch: pytest.MonkeyPatch, library: bool) -> None:
    """With libcrypto and without, the digest is SHA-256, may be asked for in between, and updating goes on."""
    if not library:
        monkeypatch.setattr(Sha256, "_library", None)
    digest, expected = Sha256(), hashlib.sha256()
    for size in (0, 1, 55, 56, 63, 64, 65, 1000):
        digest.update(b"a" * size)
        expected.update(b"a" * size)
        assert digest.hexdigest() == expected.hexdigest()
    assert (digest.state() is not None) is library


def test_digest_that_cannot_be_carried_on_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libcrypto another image reports no hash rather than a wrong one; nothing else is lost."""
    monkeypatch.setattr(Sha256, "_library", None)
    capture = Capture.from_state(filled([b"abc"], 10, Keep.HEAD).to_state(), None, lambda _: True)
    capture.feed(b"def")
    assert capture.count() == {"bytes": 6, "dropped": 0, "dropped_at": None, "sha256": None}
    assert capture.kept() == b"abcdef"


class FailingRoom(MemoryRoom):
    """Fails at the `failing`th write, half of it written."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.failing = failing

    def write(self, position: int, data: bytes | memoryview) -> bool:
        self.failing -= 1
        if not self.failing:
            super().write(position, data[: len(data) // 2])
        return self.failing > 0 and super().write(position, data)


@given(pieces, st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
@example([b"abc", b"defg"], 3, 0, 4)
@example([bytes(40)], 1, 20, 10)
def test_what_a_failing_disk_leaves_is_true(parts: list[bytes], failing: int, head: int, ring: int) -> None:
    """Where a write fails in the middle, over older bytes too, what is kept is what came, and all is counted."""
    data = b"".join(parts)
    capture = Capture(head + ring, Layout(head, ring), FailingRoom(failing))
    for part in parts:
        capture.feed(part)
    for start, end in capture.layout.kept(capture.bytes):
        assert capture.read(start, end - start) == data[start:end]
    assert capture.count()["bytes"] == len(data)
    assert capture.count()["dropped"] == len(data) - len(capture.kept())


def test_spool_that_cannot_be_asked_keeps_no_more(tmp_path: Path) -> None:
    """A disk that fails when its room is looked up ends the keeping, not the counting."""

    def grant(_: int) -> bool:
        raise OSError(5, "Input/output error")

    capture = Capture(10, Layout(5, 5), FileRoom(os.open(tmp_path / "stdout", os.O_RDWR | os.O_CREAT), grant))
    capture.feed(b"abc")
    capture.feed(b"def")
    assert (capture.bytes, capture.kept(), capture.count()["dropped"]) == (6, b"", 6)
    capture.close()

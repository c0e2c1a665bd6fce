"""What is kept, counted and hashed of a stream, against the plainest model of it, for every way of cutting it up."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exec.spec import Keep
from gateway.exec.text import decode_output
from gateway.supervisor.capture import Capture, kept_ranges, place_in_kept
from gateway.supervisor.digest import Sha256

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
    capture = Capture(limit, keep)
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
    capture = Capture.from_state(json.loads(json.dumps(filled(before, limit, keep).to_state())))
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
    start, size = place_in_kept(capture.count(), offset, length)
    found = capture.kept()[start : start + size]
    assert found == data[offset : offset + size]
    inside = [(low, high) for low, high in kept_ranges(capture.count()) if low <= offset < high]
    assert size == (min(length, inside[0][1] - offset) if inside else 0)
    assert sum(high - low for low, high in kept_ranges(capture.count())) == len(capture.kept())


def test_memory_is_bounded_by_twice_the_limit() -> None:
    """64 MiB through a capture of 64 KiB keep no more than 128 KiB and what came last."""
    capture = Capture(65536, Keep.TAIL)
    for _ in range(1024):
        capture.feed(b"x" * 65536)
    assert len(json.dumps(capture.to_state())) < 4 * 65536
    assert capture.bytes == 64 << 20


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
    capture = Capture.from_state(filled([b"abc"], 10, Keep.HEAD).to_state())
    capture.feed(b"def")
    assert capture.count() == {"bytes": 6, "dropped": 0, "dropped_at": None, "sha256": None}
    assert capture.kept() == b"abcdef"

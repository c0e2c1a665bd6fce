"""Replays: both streams in the order of their coming, from any place, against the plainest model of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import OutputDropped
from gateway.exec.spec import Keep
from gateway.supervisor.output import interleaving
from gateway.supervisor.output.capture import Capture, MemoryRoom
from gateway.supervisor.output.interleaving import STREAMS, Interleaving
from gateway.supervisor.output.layout import Layout
from gateway.supervisor.output.recording import Recording

chunks = st.lists(st.tuples(st.sampled_from((0, 1)), st.binary(min_size=1, max_size=20)), max_size=30)


def recorded(parts: list[tuple[int, bytes]], limit: int = 1 << 20, keep: Keep = Keep.HEAD_TAIL) -> Recording:
    captures = [Capture(limit, Layout.in_memory(limit, keep), MemoryRoom()) for _ in STREAMS]
    order = Interleaving()
    for stream, data in parts:
        captures[stream].feed(data)
        order.add(stream, len(data))
    return Recording((captures[0], captures[1]), Interleaving.from_state(json.loads(json.dumps(order.to_state()))))


@given(chunks, st.lists(st.integers(1, 50), max_size=40))
def test_any_cuts_give_the_same_bytes_in_the_same_order(parts: list[tuple[int, bytes]], limits: list[int]) -> None:
    """However a replay is cut and gone on with, no byte is lost or twice, nor is their order another."""
    recording = recorded(parts)
    expected = [(STREAMS[stream], byte) for stream, data in parts for byte in data]
    found: list[tuple[str, int]] = []
    offsets = dict.fromkeys(STREAMS, 0)
    cursor, turn = 0, iter(limits)
    while cursor < recording.order.total:
        events, blobs, cursor = recording.events(cursor, next(turn, 1 << 20))
        for stream, behind, offset, size, blob in events:
            assert offset == offsets[stream]
            offsets[stream] += size
            found += [(stream, byte) for byte in blobs[blob]]
            assert behind == len(found)
    assert found == expected


@given(chunks, st.integers(0, 700))
def test_a_place_tells_how_far_each_stream_is(parts: list[tuple[int, bytes]], cursor: int) -> None:
    """The bytes of stdout and stderr before a place are those that came before it."""
    recording = recorded(parts)
    came = [stream for stream, data in parts for _ in data][:cursor]
    assert recording.order.offsets(cursor) == (came.count(0), came.count(1))


@given(chunks, st.integers(0, 30), st.sampled_from(Keep))
def test_gaps_are_told_and_all_else_is_there(parts: list[tuple[int, bytes]], limit: int, keep: Keep) -> None:
    """With a limit, bytes and gaps together are each stream, whole: what was kept as it was, the rest by its size."""
    recording = recorded(parts, limit, keep)
    events, blobs, cursor = recording.events(0, 1 << 20)
    assert cursor == recording.order.total
    for number, name in enumerate(STREAMS):
        data = b"".join(part for stream, part in parts if stream == number)
        position = 0
        for stream, _, offset, size, blob in events:
            if stream == name:
                assert offset == position
                assert blob is None or blobs[blob] == data[offset : offset + size]
                position += size
        assert position == len(data)
        kept = sum(size for stream, _, _, size, blob in events if stream == name and blob is not None)
        assert kept == min(len(data), limit)


def test_order_of_very_many_turns_is_forgotten_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound the older half keeps its bytes and loses their order: 0 and what is newer can be gone on from."""
    monkeypatch.setattr(interleaving, "MAX_RUNS", 8)
    parts = [(number & 1, bytes([number])) for number in range(40)]
    recording = recorded(parts)
    assert 0 < recording.order.exact_from < 40
    events, blobs, cursor = recording.events(0, 1 << 20)
    assert cursor == 40
    for number, name in enumerate(STREAMS):
        found = b"".join(blobs[blob] for stream, _, _, _, blob in events if stream == name)
        assert found == b"".join(part for stream, part in parts if stream == number)
    with pytest.raises(OutputDropped):
        recording.events(recording.order.exact_from - 1, 100)
    newest, blobs, _ = recording.events(recording.order.exact_from, 1 << 20)
    assert b"".join(blobs) == bytes(range(recording.order.exact_from, 40))
    assert len(newest) == 40 - recording.order.exact_from

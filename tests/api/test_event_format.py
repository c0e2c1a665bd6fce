"""Events as bytes: whatever pieces output comes in and wherever it is taken up again, nothing is lost or changed."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.events import MAX_DATA, EventFormat, EventWriter
from gateway.api.models.events import EventEnd, EventGap, EventHeartbeat, EventOutput, EventStart
from gateway.exec.reply import GapEvent, OutputEvent
from gateway.exec.text import find_cut, read_cutting

from .fakes import make_view

NDJSON = EventWriter(EventFormat.NDJSON)
SSE = EventWriter(EventFormat.SSE)
Log = Sequence[tuple[str, bytes]]

texts = st.text().map(str.encode)
# Bytes of UTF-8 characters, whole and broken, mixed so that cuts fall everywhere.
fragments = st.sampled_from([b"a", b"\n", b"\x00", "é".encode(), "€".encode(), "😀".encode(), b"\xe2\x82", b"\xf0\x9f"])
outputs = st.one_of(texts, st.binary(max_size=40), st.lists(fragments, max_size=12).map(b"".join))
logs = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), outputs), max_size=8)


def behind(log: Log, cursor: int, size: int, limit: int) -> tuple[list[OutputEvent | GapEvent], int]:
    """The events behind `cursor`, in pieces of `size` and at most `limit` bytes, and the place behind them."""
    events: list[OutputEvent | GapEvent] = []
    place, offsets, left = 0, {"stdout": 0, "stderr": 0}, limit
    for stream, data in log:
        for index in range(0, len(data), size):
            piece = data[index : index + size]
            begin, place, offset = place, place + len(piece), offsets[stream]
            offsets[stream] += len(piece)
            if place <= cursor or not left:
                continue
            skipped = max(0, cursor - begin)
            piece = piece[skipped : skipped + left]
            left -= len(piece)
            events.append(OutputEvent(stream, begin + skipped + len(piece), offset + skipped, piece))
    return events, events[-1].cursor if events else cursor


def follow(writer: EventWriter, log: Log, size: int, limit: int, cursor: int = 0) -> bytes:
    """All that is written when the log is read to its end in batches, as EventStream does it."""
    total, written = sum(len(data) for _, data in log), b""
    while True:
        events, place = behind(log, cursor, size, limit)
        data, held = writer.output(events, more=place < total)
        written += data
        if place >= total:
            return written
        limit += held  # what is held back comes again, and the rest of it has to come with it
        cursor = place - held


def parse(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def decode(event: dict[str, Any]) -> bytes:
    return base64.b64decode(event["data"]) if event["encoding"] == "base64" else event["data"].encode()


def check(events: list[dict[str, Any]], log: Log, cursor: int = 0) -> None:
    """The events hold what the log holds behind `cursor`: offsets and places fit, the order too."""
    flat = [(stream, data[i : i + 1]) for stream, data in log for i in range(len(data))]
    offsets = {name: sum(1 for stream, _ in flat[:cursor] if stream == name) for name in ("stdout", "stderr")}
    for event in events:
        data = decode(event)
        assert event["offset"] == offsets[event["type"]]
        offsets[event["type"]] += len(data)
        assert flat[cursor : cursor + len(data)] == [(event["type"], data[i : i + 1]) for i in range(len(data))]
        cursor += len(data)
        assert event["seq"] == cursor
    assert cursor == len(flat)


@settings(max_examples=400, deadline=None)
@given(log=logs, size=st.integers(1, 9), limit=st.integers(1, 30))
def test_any_pieces_give_the_same_bytes(log: Log, size: int, limit: int) -> None:
    """Whatever pieces and batches the output comes in: the decoded data, joined, is the output, in its order."""
    check(parse(follow(NDJSON, log, size, limit)), log)


@settings(max_examples=400, deadline=None)
@given(log=logs, size=st.integers(1, 9), limit=st.integers(1, 30), share=st.floats(0, 1))
def test_any_place_can_be_gone_on_from(log: Log, size: int, limit: int, share: float) -> None:
    """From any byte on, one within a character too, exactly the rest comes."""
    cursor = int(share * sum(len(data) for _, data in log))
    check(parse(follow(NDJSON, log, size, limit, cursor)), log, cursor)


@settings(max_examples=200, deadline=None)
@given(log=logs, limit=st.integers(1, 30))
def test_a_seq_seen_is_a_place_to_go_on(log: Log, limit: int) -> None:
    """Cut behind any event and taken up again by its seq, the two parts together are the whole."""
    events = parse(follow(NDJSON, log, 5, limit))
    for index, event in enumerate(events):
        check(events[: index + 1] + parse(follow(NDJSON, log, 3, 7, event["seq"])), log)


@settings(max_examples=200, deadline=None)
@given(text=st.text(min_size=1), size=st.integers(1, 9), limit=st.integers(1, 30))
def test_text_of_one_stream_stays_text(text: str, size: int, limit: int) -> None:
    """Where nothing else is between, no character is cut and all of a UTF-8 stream comes as UTF-8."""
    events = parse(follow(NDJSON, [("stdout", text.encode())], size, limit))
    assert {event["encoding"] for event in events} == {"utf-8"}
    assert "".join(event["data"] for event in events) == text


@settings(max_examples=200, deadline=None)
@given(log=logs, size=st.integers(1, 9), limit=st.integers(1, 30))
def test_sse_carries_the_same(log: Log, size: int, limit: int) -> None:
    """An event's data is the NDJSON line; its id and event are the line's seq and type."""
    lines = []
    for block in follow(SSE, log, size, limit).split(b"\n\n")[:-1]:
        id_, kind, data = block.split(b"\n")
        line = data.removeprefix(b"data: ")
        event = json.loads(line)
        assert (id_, kind) == (b"id: %d" % event["seq"], b"event: " + event["type"].encode())
        lines.append(line + b"\n")
    assert b"".join(lines) == follow(NDJSON, log, size, limit)


def test_all_bytes() -> None:
    """All 256 values, in one stream and cut in halves by the other."""
    every = bytes(range(256))
    for log in ([("stdout", every * 3)], [("stdout", every[:128]), ("stderr", every), ("stdout", every[128:])]):
        check(parse(follow(NDJSON, log, 1 << 20, 1 << 20)), log)


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_character_waits_for_its_rest(cut: int) -> None:
    """The beginning of a character at the end of what there is is held back until the rest comes."""
    data = b"a" + "😀".encode()
    first, held = NDJSON.output([OutputEvent("stdout", 1 + cut, 0, data[: 1 + cut])], more=True)
    assert ([event["data"] for event in parse(first)], held) == (["a"], cut)
    rest, held = NDJSON.output([OutputEvent("stdout", 5, 1, data[1:])], more=True)
    assert ([event["data"] for event in parse(rest)], held) == (["😀"], 0)


def test_a_character_that_never_ends() -> None:
    """At the end of the exec, and where another stream comes between, its bytes come in base64."""
    half = "€".encode()[:2]
    ended, held = NDJSON.output([OutputEvent("stdout", 3, 0, b"a" + half)], more=False)
    assert [(event["data"], event["encoding"]) for event in parse(ended)] == [("a", "utf-8"), ("4oI=", "base64")]
    assert held == 0
    events = [OutputEvent("stdout", 3, 0, b"a" + half), OutputEvent("stderr", 4, 0, b"b")]
    between, held = NDJSON.output(events, more=True)
    assert [event["type"] for event in parse(between)] == ["stdout", "stdout", "stderr"]
    assert held == 0


def test_lines_stay_short() -> None:
    """However much comes at once, no line is longer than what simple readers take, and no character is cut by that."""
    for data in ("😀".encode() * 30_000, b"\xff" * 100_000, b"\x00" * 100_000, b'"\\\n' * 40_000):
        for line in NDJSON.output([OutputEvent("stdout", len(data), 0, data)], more=False)[0].splitlines():
            assert len(line) < 1 << 16
    events = parse(NDJSON.output([OutputEvent("stdout", 120_000, 0, "😀".encode() * 30_000)], more=False)[0])
    assert {event["encoding"] for event in events} == {"utf-8"}
    assert len(events) == -(-120_000 // MAX_DATA)


def test_control_characters_are_cheaper_in_base64() -> None:
    """Text that JSON would make six times as long goes as base64; text with some of them stays text."""
    (many,) = parse(NDJSON.output([OutputEvent("stdout", 99, 0, b"\x00" * 99)], more=False)[0])
    (few,) = parse(NDJSON.output([OutputEvent("stdout", 12, 0, b"\x1b[1mhello\x1b[m")], more=False)[0])
    assert (many["encoding"], few["encoding"]) == ("base64", "utf-8")


def test_a_gap_is_told() -> None:
    """What was not kept is an event with its place, and text goes on behind it."""
    events: list[OutputEvent | GapEvent] = [
        OutputEvent("stdout", 2, 0, b"ab"),
        GapEvent("stdout", 12, 2, 10),
        OutputEvent("stdout", 14, 12, b"cd"),
    ]
    before, gap, behind_it = parse(NDJSON.output(events, more=True)[0])
    assert gap == {"seq": 12, "type": "gap", "stream": "stdout", "offset": 2, "bytes": 10}
    assert (before["seq"], behind_it["seq"], behind_it["offset"]) == (2, 14, 12)


def test_members_are_those_described() -> None:
    """Every event has exactly the members that the API's description names."""
    view = make_view(101, ["true"])
    events: list[OutputEvent | GapEvent] = [OutputEvent("stderr", 1, 0, b"x"), GapEvent("stdout", 3, 0, 2)]
    written = NDJSON.start(view) + NDJSON.output(events, more=False)[0] + NDJSON.heartbeat(3) + NDJSON.end(4, view)
    kinds = (EventStart, EventOutput, EventGap, EventHeartbeat, EventEnd)
    assert [event.keys() for event in parse(written)] == [kind.__annotations__.keys() for kind in kinds]
    assert [event["seq"] for event in parse(written)] == [0, 1, 3, 3, 4]
    assert SSE.heartbeat(3) == b": heartbeat\n\n"


@pytest.mark.parametrize(
    ("piece", "start", "text"),
    [(b"", 0, ""), (b"\xac", 1, ""), (b"\x82\xacx\xe2\x82", 2, "x"), (b"\xe2", 0, ""), ("é".encode(), 0, "é")],
)
def test_a_piece_of_text(piece: bytes, start: int, text: str) -> None:
    """Where whole characters begin and end in a piece cut out of a text."""
    cutting = read_cutting(piece)
    assert cutting is not None
    assert (cutting.start, cutting.text) == (start, text)
    assert piece[start : cutting.end] == text.encode()


@pytest.mark.parametrize("piece", [b"\xff", b"a\x80\x80", b"\x80" * 4, b"\xed\xa0\x80", b"\xc0\x80", b"\xe2a"])
def test_what_is_no_text(piece: bytes) -> None:
    """What no cut explains is not UTF-8."""
    assert read_cutting(piece) is None


@given(text=st.text(min_size=4), at=st.integers(0, 200))
def test_a_cut_between_characters(text: str, at: int) -> None:
    """A cut found in UTF-8 is between two characters and at most three bytes back."""
    data = text.encode()
    at = min(at, len(data) - 1)
    cut = find_cut(data, at)
    assert 0 <= at - cut <= 3
    data[:cut].decode()


@pytest.mark.parametrize("kind", ["lines", "binary"])
def test_writing_is_fast(kind: str) -> None:
    """Events are written on the thread that all streams share: 16 MiB in well under a second (figures: bench)."""
    line = b'Jan 01 00:00:00 host systemd[1]: Started "thing" of many.\n'
    piece = (line * 5000)[: 256 << 10] if kind == "lines" else bytes(range(256)) * 1024
    began = time.process_time()
    for index in range(64):
        NDJSON.output([OutputEvent("stdout", (index + 1) * len(piece), index * len(piece), piece)], more=True)
    assert time.process_time() - began < 1

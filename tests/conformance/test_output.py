"""A19: output is bytes: every one counted, hashed, in order, on the stream that it was written to."""

from __future__ import annotations

import random

import pytest

from tests.conformance.cases import Case, over_every_way
from tests.conformance.ways import JSON_WAY, sha256

FACE = "\U0001f600".encode()  # four bytes in UTF-8


def rising(size: int) -> bytes:
    """Bytes of which no part is like another."""
    return random.Random(size).randbytes(size)


@over_every_way()
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(range(256)) * 40, id="all-bytes"),
        pytest.param(b"\0" * 70_000, id="NUL"),
        pytest.param(b"a\rb\r\r\nc\n\xe2\x80\xa8d\r", id="lone-CR-and-U+2028"),
        pytest.param(b"data: x\n\nid: 9\n: no\n", id="like-SSE"),
        pytest.param(b"\xff", id="not-UTF-8"),
        pytest.param(b"text " + FACE[:3], id="cut-character"),
        pytest.param(FACE[3:] + b" text", id="begins-inside-a-character"),
        pytest.param(b"\xef\xbb\xbfbom", id="BOM"),
        *(pytest.param(b"x" * n + FACE * 40_000, id=f"4-byte-characters-{n}") for n in range(4)),
        pytest.param(b"z" * (5 << 20), id="5-MiB-without-a-newline"),
        pytest.param(rising(1 << 20), id="1-MiB-at-random"),
    ],
)
def test_bytes_come_back_as_they_were(case: Case, data: bytes) -> None:
    """Whatever the bytes, they are identical over every way in, with their count and SHA-256."""
    outcome = case.run(["cat", case.guest.put(data)], output={"limit": 8 << 20})
    assert outcome.ending == ("exited", 0, None)
    assert outcome.stdout == data
    assert outcome.view["output"]["stdout"] == {
        "bytes": len(data),
        "dropped": 0,
        "dropped_at": None,
        "sha256": sha256(data),
    }
    assert case.guest.api.get(f"/execs/{outcome.view['id']}/stdout").body == data


@over_every_way()
def test_streams_stay_apart(case: Case) -> None:
    """What is written to stdout and stderr in turns comes back on each, whole and in its order."""
    outcome = case.run("i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done")
    for stream, name in ((outcome.stdout, "out"), (outcome.stderr, "err")):
        assert stream.decode().splitlines() == [f"{name} {i}" for i in range(500)]


@over_every_way()
def test_output_over_the_limit(case: Case) -> None:
    """A stream gives all of it; else at least the limit is kept, of both ends, and what is not is counted exactly."""
    data, limit = rising(12 << 20), 1 << 20
    outcome = case.run(["cat", case.guest.put(data)], output={"limit": limit})
    count = outcome.view["output"]["stdout"]
    assert (count["bytes"], count["sha256"]) == (len(data), sha256(data))
    if case.way.streams:
        assert outcome.stdout == data
    elif case.way is JSON_WAY:
        assert outcome.stdout == data[: limit // 2] + data[-limit // 2 :]
        assert (count["dropped"], count["dropped_at"]) == (len(data) - limit, limit // 2)
    else:
        head = limit if count["dropped_at"] is None else count["dropped_at"]
        assert outcome.stdout == data[:head] + data[head + count["dropped"] :]
        assert len(outcome.stdout) >= limit

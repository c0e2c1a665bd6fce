"""Output as text: exact counts, never a cut character, base64 for all else."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from gateway.exec.text import decode_output
from gateway.exec.view import StreamCount


def count(total: int, dropped: int, dropped_at: int | None) -> StreamCount:
    return {"bytes": total, "dropped": dropped, "dropped_at": dropped_at, "sha256": None}


@given(st.binary())
def test_nothing_dropped_round_trips(data: bytes) -> None:
    """Whole output comes back byte for byte, as UTF-8 exactly where it is UTF-8."""
    text = decode_output(data, count(len(data), 0, None))
    back = text.text.encode() if text.encoding == "utf-8" else base64.b64decode(text.text)
    assert back == data
    assert (text.encoding == "utf-8") == _is_utf8(data)


@given(st.text(alphabet="aé€😀\n"), st.integers(0, 80), st.integers(0, 80))
def test_text_cut_anywhere_stays_text(text: str, first: int, second: int) -> None:
    """UTF-8 with bytes dropped anywhere stays UTF-8; at most 3 bytes more go on each side, exactly counted."""
    data = text.encode()
    start, end = sorted((min(first, len(data)), min(second, len(data))))
    if start == end:
        return
    result = decode_output(data[:start] + data[end:], count(len(data), end - start, start))
    assert result.encoding == "utf-8"
    after = result.count["dropped_at"]
    assert after is not None and start - 3 <= after <= start
    resume = after + result.count["dropped"]
    assert end <= resume <= end + 3
    assert result.text == data[:after].decode() + data[resume:].decode()
    assert len(result.text.encode()) == result.count["bytes"] - result.count["dropped"]


@given(st.binary(), st.integers(0, 100), st.integers(1, 1000))
def test_bytes_cut_anywhere_keep_their_count(kept: bytes, cut: int, dropped: int) -> None:
    """For any bytes: what is shown and what is dropped add up to what there was."""
    cut = min(cut, len(kept))
    result = decode_output(kept, count(len(kept) + dropped, dropped, cut))
    shown = result.text.encode() if result.encoding == "utf-8" else base64.b64decode(result.text)
    assert len(shown) + result.count["dropped"] == result.count["bytes"]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True

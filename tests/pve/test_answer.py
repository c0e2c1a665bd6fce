"""Answers read as they come: the same as json.loads gives, whatever the pieces; long texts as bytes, bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pve.answer import AnswerError, LongText, read_json

BYTES = st.text(st.characters(max_codepoint=255), max_size=300)
TRICKY = st.sampled_from(["\\" * 9, '"' * 9, "\0" * 20, "\\u0000", "\0long:0", "é" * 9, "\x7f\x80\xff", "[{}],:"])
TEXT = st.one_of(BYTES, TRICKY, st.builds(lambda text, times: text * times, TRICKY, st.integers(1, 30_000)))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def as_text(value: Any) -> Any:
    """The value with its long texts as str again."""
    if isinstance(value, LongText):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {as_text(name): as_text(member) for name, member in value.items()}
    return [as_text(member) for member in value] if isinstance(value, list) else value


@settings(max_examples=150, deadline=None)
@given(VALUE, st.integers(1, 200_000), st.booleans())
def test_same_as_json(value: Any, size: int, ascii_only: bool) -> None:
    """Whatever PVE sends and however it is cut, nothing is lost or changed."""
    raw = json.dumps(value, ensure_ascii=ascii_only).encode()
    size = max(size, len(raw) // 50)
    assert as_text(read_json((raw[at : at + size] for at in range(0, len(raw), size)), 1 << 30)) == value


def test_long_texts_are_bounded() -> None:
    """What is beyond the maximum is counted, not kept."""
    found = read_json([json.dumps({"a": "y" * 300_000, "b": "y" * 1000}).encode()], 200_000)
    assert (len(found["a"]), found["a"].cut, found["b"]) == (200_000, 100_000, "y" * 1000)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"a', b'"' + b"x" * 200_000, b'{"a":1}}', b"nonsense", b'"\\', b"[" * 9999]
)
def test_what_is_not_json(raw: bytes) -> None:
    """An answer that breaks off, or is none."""
    with pytest.raises(AnswerError):
        read_json([raw], 1000)


def test_structure_is_bounded() -> None:
    """An endless list of short things is no answer of PVE's."""
    with pytest.raises(AnswerError):
        read_json((b"[" + b"1," * 50_000 for _ in range(1000)), 1000)


def test_long_texts_are_bounded_together() -> None:
    """An agent tells two of them; an answer of many ends before they fill the memory."""
    text = b'"%s"' % (b"x" * (1 << 20))
    two = b'{"data":[%s,%s]}' % (text, text)
    assert [len(one) for one in read_json([two], 1 << 20)["data"]] == [1 << 20, 1 << 20]
    with pytest.raises(AnswerError, match="too large"):
        read_json([b'{"data":[', *([text, b","] * 50), text, b"]}"], 1 << 20)

"""What our own processes write to each other is read as what it was."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import jsonbytes

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), VALUES))
def test_comes_back_as_it_was(value: dict[str, Any]) -> None:
    """Whatever JSON can say, in one line."""
    text = jsonbytes.encode(value)
    assert jsonbytes.decode(text) == value
    assert b"\n" not in text


@pytest.mark.parametrize("text", [b"", b"{", b'{"a":\xff}', b'{"a":"\\ud800"}', b"[" * 100_000, b'{"a":1}x'])
def test_garbage_is_a_value_error(text: bytes) -> None:
    """Cut, no UTF-8, half a surrogate, nested without end, or followed by more: never another exception."""
    with pytest.raises(ValueError, match=r"\S"):
        jsonbytes.decode(text)


@pytest.mark.parametrize("value", [{"a": "\ud800"}, {"a": object()}])
def test_what_json_cannot_say(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        jsonbytes.encode(value)

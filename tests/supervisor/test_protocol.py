"""The frames of the supervisor's socket: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.supervisor.link.protocol import PREFIX, ProtocolError, decode_header, encode, frame_size, split

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["op", "id", "labels"]), values), st.lists(st.binary(max_size=50), max_size=4))
def test_a_frame_comes_back_as_it_was(header: dict[str, object], blobs: list[bytes]) -> None:
    """Header and blobs survive the wire."""
    frame = encode(header, *blobs)
    header_size, blob_size = frame_size(frame)
    assert PREFIX.size + header_size + blob_size == len(frame)
    decoded = decode_header(frame[PREFIX.size : PREFIX.size + header_size])
    assert split(decoded, frame[PREFIX.size + header_size :]) == blobs
    decoded.pop("blobs", None)
    assert decoded == header


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    """Any bytes decode to an object or raise ProtocolError, nothing else."""
    try:
        header = decode_header(data)
    except ProtocolError:
        return
    assert isinstance(header, dict)


@pytest.mark.parametrize("text", [b"[" * 200_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff", b"", b"NaN"])
def test_hostile_json_is_a_protocol_error(text: bytes) -> None:
    """Depth, endless numbers and broken UTF-8 are refused like any other nonsense."""
    with pytest.raises(ProtocolError):
        decode_header(text)


@pytest.mark.parametrize("prefix", [(0, 0), (1, 0), (0xFFFFFFFF, 0), (2, 0xFFFFFFFF)])
def test_sizes_are_bounded(prefix: tuple[int, int]) -> None:
    """A frame that promises too much, or no header at all, is refused before its bytes are awaited."""
    with pytest.raises(ProtocolError):
        frame_size(struct.pack(">II", *prefix))


@pytest.mark.parametrize("sizes", [[1], [4], [-1, 4], [True, 2], ["3"], [1.5, 1.5], {"0": 3}, None, 3])
def test_blob_sizes_must_fit(sizes: object) -> None:
    """Blob sizes that do not add up to the blob are refused."""
    with pytest.raises(ProtocolError):
        split({"blobs": sizes}, b"abc")

"""The tar format as it is read and made here: any pieces, any lies, and never more than one entry at once."""

from __future__ import annotations

import io
import itertools
import tarfile

import pytest

from gateway.errors_files import GuestFilesFailed, TarRefused
from gateway.files import tar_in
from gateway.files.accounts import Accounts
from gateway.files.tar_in import TarReader
from gateway.files.tar_out import TarWriter
from gateway.files.wire import End, Frame, Name, Status

NOBODY = Accounts({}, {}, {0: "root"}, {0: "wheel"})


def stands(mode: int, size: int = 0, *, target: bytes = b"", links: int = 1) -> Status:
    return Status(mode, 0, 0, size, 7, 1, 1_700_000_000_123_456_789, target, links)


def made(*frames: Frame) -> bytes:
    writer = TarWriter(stands(0o040755), NOBODY)
    return b"".join(writer.feed(frame) for frame in frames)


WHOLE = made(
    Name(b"a"), stands(0o100644, 700), b"x" * 300, b"y" * 400, Name(b"d"), stands(0o040700), Name(b"d/" + b"n" * 200),
    stands(0o120777, target=b"\xff"), End(),
)  # fmt: skip


@pytest.mark.parametrize("size", [1, 511, 512, 4096])
def test_any_pieces(size: int) -> None:
    """However the archive is cut, the entries and their bytes are the same; times have their nanoseconds."""
    reader = TarReader(WHOLE[start : start + size] for start in range(0, len(WHOLE), size))
    seen = [(each.kind, each.path, b"".join(reader.content()), each.target, each.mtime) for each in reader.entries()]
    time = 1_700_000_000_123_456_789
    assert seen == [
        ("file", b"a", b"x" * 300 + b"y" * 400, b"", time),
        ("directory", b"d", b"", b"", time),
        ("link", b"d/" + b"n" * 200, b"", b"\xff", time),
        ("directory", b"", b"", b"", time),
    ]


def test_content_that_nobody_takes() -> None:
    """Is passed over, with its padding."""
    assert [each.path for each in TarReader(iter([WHOLE])).entries()] == [b"a", b"d", b"d/" + b"n" * 200, b""]


def test_every_cut_is_told() -> None:
    """An archive without its end is refused, wherever it is cut."""
    for size in range(0, len(WHOLE) - 1024, 256):
        with pytest.raises(TarRefused) as told:
            list(TarReader(iter([WHOLE[:size]])).entries())
        assert told.value.evidence["reason"] == "cut"


def test_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive without end ends at the limit."""
    monkeypatch.setattr(tar_in, "MAX_TAR_ENTRIES", 100)
    block = tarfile.TarInfo("x").tobuf()
    entries = TarReader(itertools.repeat(block)).entries()
    assert len(list(itertools.islice(entries, 100))) == 100
    with pytest.raises(TarRefused) as told:
        next(entries)
    assert told.value.evidence["reason"] == "too_many"


LIES: dict[str, list[Frame]] = {
    "content before a name": [b"x"],
    "more than its length": [Name(b"a"), stands(0o100644, 2), b"xyz"],
    "the next before its length": [Name(b"a"), stands(0o100644, 2), Name(b"b")],
    "the end before its length": [Name(b"a"), stands(0o100644, 2), End()],
    "two names": [Name(b"a"), Name(b"b")],
    "no name": [stands(0o100644)],
    "the end after a name": [Name(b"a"), End()],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_trees_that_no_launcher_tells(lie: list[Frame]) -> None:
    """Frames out of order are guest_files_failed."""
    with pytest.raises(GuestFilesFailed):
        made(*lie)


def test_a_second_name_has_no_bytes() -> None:
    """A file with two names is in the archive once."""
    two = made(
        Name(b"a"), stands(0o100644, 2, links=2), b"xy", Name(b"b"), stands(0o100644, 2, links=2), b"xy", End()
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(two)) as tar:
        assert [(each.name, each.type, each.linkname, each.size) for each in tar][:2] == [
            ("a", tarfile.REGTYPE, "", 2),
            ("b", tarfile.LNKTYPE, "a", 0),
        ]

"""Archives of hostile guests: whatever they say, nothing outside of the directory is made, changed or opened."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pvex.errors import ClientError, Cut
from pvex.unpacking import Unpacker
from tests.files.archives import MTIME, entry


def archive(*entries: tarfile.TarInfo, end: bool = True) -> bytes:
    """Each file holds its own name."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info in (*entries, *([entry("./", tarfile.DIRTYPE)] if end else [])):
            data = info.name.encode() if info.isreg() else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory to unpack into, beside one that nobody may touch."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def unpack(here: Path, data: bytes, size: int = 1000) -> Unpacker:
    """Unpacks what comes in pieces of `size`."""
    root = os.open(here, os.O_RDONLY)
    try:
        unpacker = Unpacker(root, "here")
        unpacker.unpack(data[start : start + size] for start in range(0, len(data), size))
    finally:
        os.close(root)
    return unpacker


def untouched(here: Path) -> bool:
    """Whether all beside it is as it was, and nothing half-made is left in it."""
    outside = here.parent / "outside"
    odd = [path for path in here.rglob("*") if path.name.startswith(".pvex-")]
    return os.listdir(outside) == ["file"] and (outside / "file").read_text() == "kept" and not odd


LINK = entry("out", tarfile.SYMTYPE, linkname="../outside")
HOSTILE = {
    "absolute": ([entry("/tmp/pvex-outside")], "outside of it"),
    "climbs": ([entry("../outside/file")], "outside of it"),
    "climbs later": ([entry("a/b/../../../outside/file")], "outside of it"),
    "through its own link": ([LINK, entry("out/file")], "in the way"),
    "a new file through its own link": ([LINK, entry("out/new")], "in the way"),
    "a directory in its own link": ([LINK, entry("out/new", tarfile.DIRTYPE)], "in the way"),
    "a directory over its own link": ([LINK, entry("out", tarfile.DIRTYPE, mode=0o777)], "in the way"),
    "a link of links": (
        [
            entry("a", tarfile.SYMTYPE, linkname="."),
            entry("b", tarfile.SYMTYPE, linkname="a/../../outside"),
            entry("b/file"),
        ],
        "in the way",
    ),
    "a hard link out": ([entry("a", tarfile.LNKTYPE, linkname="../outside/file")], "outside of it"),
    "an absolute hard link": ([entry("a", tarfile.LNKTYPE, linkname="/etc/passwd")], "outside of it"),
    "a hard link through its own link": (
        [LINK, entry("a", tarfile.LNKTYPE, linkname="out/file")],
        "in the way",
    ),
    "a hard link to nothing": ([entry("a", tarfile.LNKTYPE, linkname="none")], "No such file"),
    "a file over a directory": ([entry("a", tarfile.DIRTYPE), entry("a")], "a directory"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(here: Path, name: str) -> None:
    """Each is refused with the entry's name, and nothing beside the directory has changed."""
    entries, told = HOSTILE[name]
    with pytest.raises(ClientError, match=told):
        unpack(here, archive(*entries))
    assert untouched(here)


def test_links_here_are_not_followed(here: Path) -> None:
    """One that an earlier copy has left is no way out either; a file in a link's place replaces the link."""
    (here / "out").symlink_to("../outside")
    (here / "file").symlink_to("../outside/file")
    with pytest.raises(ClientError, match="out/file: here a link"):
        unpack(here, archive(entry("out/file")))
    unpack(here, archive(entry("file", mode=0o666)))
    assert untouched(here) and (here / "file").read_text() == "file" and not (here / "file").is_symlink()


def test_a_hard_link_is_no_way_to_write(here: Path) -> None:
    """A file that is replaced is a new one: its other name keeps the old bytes and mode."""
    os.link(here.parent / "outside/file", here / "a")
    unpack(here, archive(entry("a", mode=0o777), entry("b", tarfile.LNKTYPE, linkname="a")))
    assert untouched(here) and (here / "a").read_text() == "a"
    assert os.path.samefile(here / "a", here / "b")
    unpack(here, archive(entry("a", tarfile.LNKTYPE, linkname="b")))  # they are one file, and rename(2) does nothing
    assert untouched(here) and sorted(os.listdir(here)) == ["a", "b"]


def test_modes(here: Path) -> None:
    """Through our umask, without setuid, setgid and sticky; we can always enter; what was there stays as it was."""
    (here / "old").mkdir(mode=0o711)
    before = os.umask(0o027)
    try:
        unpack(
            here,
            archive(
                entry("file", mode=0o6777),
                entry("old", tarfile.DIRTYPE, mode=0o777),
                entry("new", tarfile.DIRTYPE, mode=0o1077),
                entry("new/file"),
            ),
        )
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in here.iterdir()}
    assert modes == {"file": 0o750, "old": 0o711, "new": 0o750}
    assert (here / "new").stat().st_mtime == MTIME == (here / "file").stat().st_mtime


def test_no_devices(here: Path) -> None:
    """Nothing but files, directories and links is made."""
    kinds = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    made = unpack(here, archive(*(entry(f"x{n}", kind, devmajor=1, devminor=3) for n, kind in enumerate(kinds))))
    assert (os.listdir(here), made.entries) == ([], 0)


def test_times_that_are_none(here: Path) -> None:
    """Beyond what a file system has, or no number: the file comes all the same."""
    times = ("9" * 30, "nan", "-7", "1.x")
    unpack(here, archive(*(entry(f"x{n}", pax_headers={"mtime": time}) for n, time in enumerate(times))))
    assert len(os.listdir(here)) == len(times)


def cuts() -> Iterator[bytes]:
    """An archive that ends too early: in a header, in a file, between two entries, and with no word of its end."""
    whole = archive(entry("a" * 90), entry("b" * 90))
    yield from (whole[:length] for length in (0, 100, 600, 1024, 1500))
    yield archive(entry("a"), end=False)
    yield b"\xff" * 4096
    yield archive(entry("a"), end=False)[:1024] + b"\xff" * 4096


@pytest.mark.parametrize("data", list(cuts()))
def test_what_is_not_whole(here: Path, data: bytes) -> None:
    """It is told to be none, whatever tarfile makes of it."""
    with pytest.raises(Cut):
        unpack(here, data)
    assert untouched(here)


def test_holes(here: Path) -> None:
    """Zeros take no room: those between two bytes, and a file of nothing else."""
    made = io.BytesIO()
    content = b"a" + bytes(4 << 20) + b"z"
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(entry("sparse", size=len(content)), io.BytesIO(content))
        tar.addfile(entry("zeros", size=3 << 20), io.BytesIO(content[1:]))
        tar.addfile(entry("./", tarfile.DIRTYPE))
    unpack(here, made.getvalue(), 256 << 10)
    assert (here / "sparse").read_bytes() == content and (here / "zeros").read_bytes() == bytes(3 << 20)
    assert (here / "sparse").stat().st_blocks * 512 < 1 << 20 and (here / "zeros").stat().st_blocks == 0

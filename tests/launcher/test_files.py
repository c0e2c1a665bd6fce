"""File mode: what it answers, what it leaves behind, and what it takes for no request (launcher/files.h)."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.files import wire
from gateway.files.channel import Channel
from gateway.files.wire import EXCLUSIVE, End, Failure, Status, Step, request
from tests.launcher import harness
from tests.launcher.harness import Launch, build_spec, start

FILES, WRITE = 2, 4


@contextlib.contextmanager
def serving(root: Path, flags: int = FILES | WRITE) -> Iterator[tuple[Channel, Launch]]:
    """A launcher in file mode whose root is `root`; ended by its input's end, which the caller may bring about."""
    stdin, writing = os.pipe()
    launch = start(build_spec(["files"], flags=flags, user="0"), root=root, stdin=stdin)
    os.close(stdin)
    assert launch.receive().kind == "R"
    launch.go()
    assert launch.receive().kind == ""
    reading = os.dup(launch.stdout)
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    channel = Channel(reading, writing, None, stall_s=10)
    try:
        yield channel, launch
    finally:
        channel.close()
        assert os.waitpid(launch.pid, 0)[1] == 0
        launch.close()


@pytest.fixture(params=["with /proc", "without /proc"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory to be a root: with a /proc, where a file without a name can be given one, and without."""
    if request.param == "with /proc":
        (tmp_path / "proc").mkdir()
    (tmp_path / "d").mkdir()
    return tmp_path


def commit(flags: int = 0) -> bytes:
    return request(b"C", b"/", mode=0o640, uid=3, gid=4, flags=flags)


def data(piece: bytes) -> bytes:
    return wire.data_header(len(piece)) + piece


def test_a_file_gets_its_name_when_it_is_whole(root: Path) -> None:
    """Until the commit the old file stands there; after it the new one with owner and mode, and nothing else."""
    (root / "d/file").write_bytes(b"old")
    with serving(root) as (channel, _):
        old = channel.ask(request(b"W", b"/d/file"))
        assert isinstance(old, Status) and old.size == 3
        channel.put(b"new bytes")
        assert (root / "d/file").read_bytes() == b"old"
        done = channel.ask(commit())
        assert isinstance(done, Status) and (done.mode, done.uid, done.gid, done.size) == (0o640, 3, 4, 9)
        assert (root / "d/file").read_bytes() == b"new bytes"
        assert os.listdir(root / "d") == ["file"]


def test_exclusive_replaces_nothing(root: Path) -> None:
    """With the flag the commit fails where something has come to stand meanwhile, and leaves that alone."""
    with serving(root) as (channel, _):
        assert isinstance(channel.ask(request(b"W", b"/d/file")), Status)
        (root / "d/file").write_bytes(b"theirs")
        assert channel.ask(commit(EXCLUSIVE)) == Failure(errno.EEXIST, Step.PLACE)
        assert isinstance(channel.ask(request(b"W", b"/d/other")), Status)
        assert isinstance(channel.ask(commit(EXCLUSIVE)), Status)
    assert (root / "d/file").read_bytes() == b"theirs"
    assert sorted(os.listdir(root / "d")) == ["file", "other"]


@pytest.mark.parametrize("then", [b"", b"garbage of some length, and more of it", data(b"x")[:9] + b"\xff" * 40])
def test_its_end_leaves_nothing(root: Path, then: bytes) -> None:
    """At the input's end, and at what is no request, an upload is gone, with every trace of it."""
    (root / "d/file").write_bytes(b"old")
    with serving(root) as (channel, _):
        assert isinstance(channel.ask(request(b"W", b"/d/file")), Status)
        channel.put(b"half")
        if then:
            channel.send(then)
    assert os.listdir(root / "d") == ["file"] and (root / "d/file").read_bytes() == b"old"


def test_reading_alone_writes_nothing(root: Path) -> None:
    """A session for reading ends at the first request that would change anything."""
    (root / "d/file").write_bytes(b"old")
    for kind in (b"W", b"U", b"C"):
        with serving(root, FILES) as (channel, launch):
            assert isinstance(channel.ask(request(b"S", b"/d/file")), Status)
            channel.send(request(kind, b"/d/file"))
            assert select.select([launch.stdout], [], [], 10)[0] and os.read(launch.stdout, 1) == b""
    assert (root / "d/file").read_bytes() == b"old"


def test_out_of_turn(root: Path) -> None:
    """A commit without a file is refused, so is a second file; content without one ends it, and says so."""
    with serving(root) as (channel, _):
        assert channel.ask(commit()) == Failure(errno.ENODATA, Step.DATA)
        assert isinstance(channel.ask(request(b"W", b"/d/a")), Status)
        assert channel.ask(request(b"W", b"/d/b")) == Failure(errno.EBUSY, Step.PATH)
        assert isinstance(channel.ask(commit()), Status)
        assert channel.ask(data(b"x")) == Failure(errno.ENODATA, Step.DATA)


def test_a_deep_tree_is_refused_where_it_gets_too_deep(root: Path) -> None:
    """A tree of more directories in each other than may be open at once is not followed without end."""
    deep = root / "d/tree"
    for _ in range(220):
        deep = deep / "x"
    deep.mkdir(parents=True)
    with serving(root) as (channel, _):
        assert channel.ask(request(b"U", b"/d/tree", flags=wire.RECURSIVE)) == Failure(errno.EMFILE, Step.PATH)
        assert isinstance(channel.ask(request(b"S", b"/d/tree")), Status)
        assert isinstance(channel.ask(request(b"U", b"/d/tree/x" + b"/x" * 100, flags=wire.RECURSIVE)), End)
        assert isinstance(channel.ask(request(b"U", b"/d/tree", flags=wire.RECURSIVE)), End)
    assert os.listdir(root / "d") == []


NO_REQUESTS = {
    "no path": struct.pack("<II", ord("S"), 32) + bytes(32),
    "no nul": struct.pack("<II", ord("S"), 34) + bytes(32) + b"/d",
    "two nuls": struct.pack("<II", ord("S"), 36) + bytes(32) + b"/\0d\0",
    "unknown flag": struct.pack("<II", ord("S"), 34) + b"\x40" + bytes(31) + b"/\0",
    "unknown kind": struct.pack("<II", ord("?"), 34) + bytes(32) + b"/\0",
    "large kind": struct.pack("<II", 0x153, 34) + bytes(32) + b"/\0",
    "too long": struct.pack("<II", ord("S"), 1 << 20),
    "too much": struct.pack("<II", ord("D"), (256 << 10) + 1),
}


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_ends_it(tmp_path: Path, sent: bytes) -> None:
    """It answers nothing to it, and exits."""
    with serving(tmp_path) as (channel, launch):
        channel.send(sent)
        assert select.select([launch.stdout], [], [], 10)[0] and os.read(launch.stdout, 1) == b""


FLAGS = ("NOFOLLOW", "EXCLUSIVE", "RECURSIVE", "BELOW", "LATER", "TIMED")


def test_flags_of_python_and_c_are_the_same() -> None:
    """gateway.files.wire and launcher/files.h say the same numbers."""
    text = (harness.LAUNCHER.parents[1] / "gateway/launcher/files.h").read_text()
    for word in (
        *(f"FILES_{flag} = {getattr(wire, flag)}," for flag in FLAGS),
        *(f"FILES_{step.name} = {step.value}" for step in Step),
    ):
        assert word in text

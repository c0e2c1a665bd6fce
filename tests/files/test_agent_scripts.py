"""What is run in virtual machines for their files, by the shells and programs that those have."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.files.machine import Cause
from gateway.files.wire import Failure, FileType, Step
from gateway.supervisor.agent import scripts
from gateway.supervisor.agent.scripts import escape, read_failure, read_place, read_status

Run = Callable[..., bytes | Failure]
BOB = 1234


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with nothing but busybox's programs."""
    directory = tmp_path_factory.mktemp("busybox")
    found = shutil.which("busybox")
    assert found is not None
    for name in subprocess.run([found, "--list"], capture_output=True, check=True, text=True).stdout.split():
        (directory / name).symlink_to(found)
    return str(directory)


@pytest.fixture(params=["dash", "bash", "busybox"])
def run(request: pytest.FixtureRequest, busybox: str) -> Run:
    """Runs a script in a machine of this kind; what it says, or why it failed."""
    path = busybox if request.param == "busybox" else "/bin:/usr/bin"

    def go(script: str, *arguments: str, stdin: bytes = b"") -> bytes | Failure:
        argv = scripts.command(script.replace(":/usr/sbin:/usr/bin:/sbin:/bin", ""), *arguments)
        argv[argv.index("sh")] = "sh" if request.param == "busybox" else request.param
        program = shutil.which("timeout", path=path)
        done = subprocess.run(
            argv, executable=program, env={"PATH": path}, input=stdin, capture_output=True, check=False
        )
        return done.stdout if not done.returncode else read_failure(done.returncode, done.stderr)

    return go


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of somebody who is not root."""
    os.chown(tmp_path, BOB, BOB)
    yield tmp_path


def quote(path: Path | str) -> str:
    return escape(os.fsencode(path))


def said(answer: bytes | Failure) -> bytes:
    assert isinstance(answer, bytes), answer
    return answer


def begin(run: Run, path: Path, word: str = "word") -> tuple[str, str, str]:
    """Begins a new file: its directory, that one's inode, and the name it will have, as arguments."""
    inode, directory, name = read_place(said(run(scripts.BEGIN_WRITE, quote(path), word)).partition(b"\n")[2])
    return escape(directory), inode, escape(name)


def test_a_file_grows_and_takes_its_place(run: Run, place: Path) -> None:
    """Pieces are added and proven by their digest; the file takes its place with owner and mode; nothing is left."""
    name, pieces = "-a\n\\ä \x01", (os.urandom(65536), b"x", b"")
    path = place / name
    path.write_bytes(b"old")
    directory, inode, last = begin(run, path)
    size = 0
    for piece in pieces[:2]:
        told = said(run(scripts.APPEND, directory, inode, str(size), stdin=piece))
        assert told[:64].decode() == hashlib.sha256(piece).hexdigest()
        size += len(piece)
    assert run(scripts.APPEND, directory, inode, "7", stdin=b"y") == Failure(Cause.CHANGED, Step.AGENT)
    asked = directory, inode, str(size), "12", "13", "4751", last
    assert run(scripts.COMMIT, *asked, "new") == Failure(errno.EEXIST, Step.PLACE)
    assert path.read_bytes() == b"old"
    status = read_status(said(run(scripts.COMMIT, *asked, "")).rstrip(b"\n"))
    assert (status.type, status.size, status.uid, status.gid, status.mode) == (FileType.FILE, size, 12, 13, 0o4751)
    assert path.read_bytes() == b"".join(pieces)
    assert status.inode == path.stat().st_ino and abs(status.mtime - path.stat().st_mtime_ns) < 2
    assert os.listdir(place) == [name]


def test_a_new_file_only_where_nothing_is(run: Run, place: Path) -> None:
    """With `new` it takes its place once; what is not wanted any more is removed whole."""
    directory, inode, last = begin(run, place / "new")
    assert said(run(scripts.COMMIT, directory, inode, "0", "0", "0", "600", last, "new"))
    directory, inode, _ = begin(run, place / "other")
    assert run(scripts.DROP, directory, inode) == b""
    assert os.listdir(place) == ["new"]


def test_nothing_is_written_where_somebody_else_planted_it(run: Run, place: Path) -> None:
    """The owner of the directory around it swaps ours for a link, or for one of his own: nothing is touched there."""
    victim = place / "victim"
    victim.mkdir(mode=0o700)
    (victim / "new").write_bytes(b"")
    directory, inode, last = begin(run, place / "file")
    (place / ".pveg-word").rename(place / "away")
    planted = place / ".pveg-word"
    for plant in (lambda: planted.symlink_to(victim), lambda: shutil.copytree(victim, planted)):
        plant()
        for script, more in (
            (scripts.APPEND, ("0",)),
            (scripts.COMMIT, ("0", "0", "0", "600", last, "")),
            (scripts.DROP, ()),
        ):
            assert run(script, directory, inode, *more, stdin=b"x") == Failure(Cause.CHANGED, Step.AGENT)
        if planted.is_symlink():
            planted.unlink()
    assert (victim / "new").read_bytes() == b"" and not (place / "file").exists()


def test_a_directory_that_is_not_ours_is_not_entered(run: Run, place: Path) -> None:
    """At its beginning, too: what stands under its name by the time it is entered is a link to another's directory, or
    one of his own."""
    victim = place / "victim"
    victim.mkdir(mode=0o700)
    link = 'mv ".pveg-$w" away; ln -s victim ".pveg-$w"'
    own = f'mv ".pveg-$w" gone; mkdir -m 700 ".pveg-$w"; chown {BOB} ".pveg-$w"'
    for word, planted in (("one", link), ("two", own)):
        racing = scripts.BEGIN_WRITE.replace("u=$(id -u)", f"{planted}\nu=$(id -u)")
        assert racing != scripts.BEGIN_WRITE
        assert run(racing, quote(place / "file"), word) == Failure(Cause.CHANGED, Step.AGENT)
    assert not os.listdir(victim) and not os.listdir(place / ".pveg-two")


def test_a_link_that_becomes_another_meanwhile(run: Run, place: Path) -> None:
    """What was looked at is what is replaced, with its owner and mode, or nothing is."""
    (place / "mine").write_bytes(b"mine")
    (place / "theirs").write_bytes(b"theirs")
    (place / "link").symlink_to("mine")
    racing = scripts.BEGIN_WRITE.replace("set -- $s\n", 'set -- $s; ln -sf theirs "$v"\n')
    assert racing != scripts.BEGIN_WRITE
    assert run(racing, quote(place / "link"), "word") == Failure(Cause.CHANGED, Step.AGENT)
    assert sorted(os.listdir(place)) == ["link", "mine", "theirs"]


def test_directories_that_hand_down_their_group(run: Run, place: Path) -> None:
    """In a directory with the set-group-id bit a new file grows as in any other."""
    (place / "team").mkdir()
    os.chown(place / "team", 0, 77)
    (place / "team").chmod(0o2775)
    directory, inode, last = begin(run, place / "team/file")
    said(run(scripts.COMMIT, directory, inode, "0", "5", "6", "644", last, ""))
    assert ((place / "team/file").stat().st_uid, (place / "team/file").stat().st_gid) == (5, 6)


def test_a_full_disk_leaves_nothing(run: Run, place: Path) -> None:
    """What cannot even begin says so, and leaves no directory behind."""
    racing = scripts.BEGIN_WRITE.replace("true >new &&", "echo 'sh: x: No space left on device' >&2; false &&")
    assert racing != scripts.BEGIN_WRITE
    assert run(racing, quote(place / "file"), "word") == Failure(errno.ENOSPC, Step.CREATE)
    assert not os.listdir(place)


def test_short_reads_are_not_the_end(run: Run, tmp_path: Path) -> None:
    """A file of the kernel's that comes in pieces smaller than was asked for comes whole; its size says nothing."""
    told = said(run(scripts.READ, quote("/proc/kallsyms"), "0", "500000"))
    line, _, rest = told.partition(b"\n")
    assert read_status(line).size == 0
    content, _, after = rest.rstrip(b"\n").rpartition(b"\n")
    assert read_status(after).type is FileType.FILE
    with open("/proc/kallsyms", "rb") as file:
        assert content == file.read(500_000)


def test_a_fifo_is_not_waited_for(run: Run, place: Path) -> None:
    """What is no regular file is told of and not opened, by whatever way it is reached."""
    os.mkfifo(place / "fifo")
    (place / "link").symlink_to("fifo")
    for script, more in ((scripts.READ, ("0", "10")), (scripts.BEGIN_WRITE, ("word",)), (scripts.NAMES, ())):
        assert read_status(said(run(script, quote(place / "link"), *more)).rstrip(b"\n")).type is FileType.FIFO
    assert sorted(os.listdir(place)) == ["fifo", "link"]


def test_reasons_are_read_from_the_end_of_what_programs_say(run: Run, place: Path) -> None:
    """A path that looks like a reason is not taken for one."""
    for name, number in (("x: No space left on device", errno.ENOENT), ("a" * 256, errno.ENAMETOOLONG)):
        assert run(scripts.LOOK, quote(place / name), "-L") == Failure(number, Step.PATH)
        assert run(scripts.UNLINK, quote(place / name)) == Failure(number, Step.PATH)

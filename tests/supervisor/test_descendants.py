"""The tree of an exec among the guest's own processes: what cannot be read is still there, for a while."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.supervisor.kernel.descendants import Descendants
from gateway.supervisor.kernel.spare import Spare


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends when it is told to."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.fixture
def procs(tmp_path: Path, child: subprocess.Popen[bytes]) -> Path:
    """What a cgroup says of its members: the child is one."""
    path = tmp_path / "ns/cgroup.procs"
    path.parent.mkdir()
    path.write_text(f"{child.pid}\n")
    return path


def tree_of(child: subprocess.Popen[bytes], procs: Path, clock: Clock, proc: Path = Path("/proc")) -> Descendants:
    tree = Descendants(proc, procs.parent, Spare(), clock)
    tree.take_root(child.pid)
    return tree


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A file that is there, and cannot be read."""
    text = path.read_text()
    path.unlink()
    path.mkdir()
    yield
    path.rmdir()
    path.write_text(text)


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """This process can open nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))  # one that is given back has a number below the limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, highest + 64), hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_is_found_and_ended(child: subprocess.Popen[bytes], procs: Path) -> None:
    """By parentage among the members; it is gone when its process has ended, and its cgroup with its guest."""
    tree = tree_of(child, procs, Clock())
    assert tree.pids() == [child.pid] and tree.populated() and not tree.remove()
    assert tree.kill() == 1
    child.wait(20)
    assert tree.pids() == [] and not tree.populated() and tree.remove()
    procs.unlink()
    assert tree.pids() == [] and tree.remove()
    tree.close()


@pytest.mark.parametrize("what", ["members", "process"])
def test_unknown_is_still_there(child: subprocess.Popen[bytes], procs: Path, tmp_path: Path, what: str) -> None:
    """Members, or one of them, that cannot be read count as alive, and nobody is told of a tree that has ended; they
    are ended as soon as they can be."""
    proc = tmp_path / "proc"
    (proc / str(child.pid)).mkdir(parents=True)
    stat = proc / str(child.pid) / "stat"
    stat.write_bytes(Path(f"/proc/{child.pid}/stat").read_bytes())
    tree = tree_of(child, procs, Clock(), proc)
    with unreadable(procs if what == "members" else stat):
        assert tree.populated() and not tree.remove() and not (what == "members" and tree.holds(child.pid))
        for look in (tree.pids, tree.kill):
            with pytest.raises(OSError, match=os.strerror(errno.EISDIR)):
                look()
    assert tree.kill() == 1
    assert child.wait(20) < 0
    tree.close()


def test_unknown_has_an_end(child: subprocess.Popen[bytes], procs: Path) -> None:
    """What nobody can tell of for ten seconds on end is no more waited for."""
    clock = Clock()
    tree = tree_of(child, procs, clock)
    with unreadable(procs):
        assert tree.populated()
        clock.now += 9
        assert tree.populated()
    assert tree.populated()
    with unreadable(procs):
        clock.now += 9
        assert tree.populated()
        clock.now += 10
        assert not tree.populated() and tree.remove()
    tree.close()


def test_a_process_is_seen_without_a_descriptor(child: subprocess.Popen[bytes], procs: Path) -> None:
    """On a node that has none left it was taken for gone, and lived on behind its exec's end."""
    tree = tree_of(child, procs, Clock())
    with no_descriptor():
        seen, populated, gone = tree.pids(), tree.populated(), tree.remove()
        with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
            tree.kill()
    assert (seen, populated, gone) == ([child.pid], True, False)
    assert tree.kill() == 1
    assert child.wait(20) < 0
    tree.close()

"""The way into a stopped container's tree (launcher/stopped.h): what it refuses before it serves anything."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.supervisor.launching.handshake import Message, receive
from gateway.supervisor.launching.nursery import Nursery
from tests.launcher.harness import NURSERY

MAP = "0 100000 65536\n"


@pytest.fixture
def nursery(node: None) -> Iterator[Nursery]:
    made = Nursery(NURSERY.read_bytes())
    yield made
    made.close()


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory that is mounted, on itself."""
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@contextlib.contextmanager
def born(nursery: Nursery, path: Path, uid_map: str = MAP, gid_map: str = MAP) -> Iterator[socket.socket]:
    """The supervisor's end of its status socket. It is gone afterwards."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    ours.settimeout(30)
    mounts, nothing = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.open(os.devnull, os.O_RDWR)
    place = theirs.fileno()
    held = [nothing, nothing, nothing, place, place, place, mounts, place, place]
    nursery.serve_stopped([str(path), uid_map, gid_map, "write"], held)
    for fd in (mounts, nothing):
        os.close(fd)
    theirs.close()
    pid = heard(ours).pid
    try:
        yield ours
    finally:
        ours.close()
        os.waitpid(pid, 0)


def heard(status: socket.socket) -> Message:
    message = receive(status, terminal=False)
    assert message is not None
    return message


def refusal(status: socket.socket) -> str:
    error = heard(status).error
    assert error is not None
    return f"{error['stage']} {error['errno']}"


def test_what_is_not_mounted_is_the_nodes_own(nursery: Nursery, tmp_path: Path) -> None:
    """A directory on which nothing is mounted is refused: it is on the node's disk."""
    with born(nursery, tmp_path) as status:
        assert refusal(status) == "root ENOTDIR"
    with born(nursery, tmp_path / "none") as status:
        assert refusal(status) == "root ENOENT"


@pytest.mark.parametrize("uid_map", ["0 100000 10\n5 200000 10\n", "0 100000\n", "1 100000 10\n", ""])
def test_a_map_that_is_none(nursery: Nursery, tree: Path, uid_map: str) -> None:
    """Ranges that overlap, half of one, none with the guest's root, or none at all: it does not begin."""
    with born(nursery, tree, uid_map) as status:
        assert refusal(status) == "root EINVAL"


def test_without_a_go_nothing_is_served(nursery: Nursery, tree: Path) -> None:
    """It waits for the supervisor, and ends with it."""
    with born(nursery, tree) as status:
        assert heard(status).kind == b"R"

"""What the spool remembers over the life of one supervisor and into the next, and what it forgets."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import ulid
from gateway.config import SpoolConfig
from gateway.errors import SpoolFull
from gateway.exec.ending import Ending
from gateway.exec.limits import Limits
from gateway.exec.order import Order
from gateway.exec.spec import Background, Keep, OnDisconnect, OnLimit, Placement
from gateway.exec.view import Reason
from gateway.supervisor.output.capture import Capture
from gateway.supervisor.output.interleaving import STREAMS
from gateway.supervisor.output.layout import Layout
from gateway.supervisor.output.streams import Streams
from gateway.supervisor.spool.spool import Spool


def make_order(**changes: Any) -> Order:
    """An order as any other."""
    fields: dict[str, Any] = {
        "id": ulid.new("ex_"),
        "audit_id": "au_1",
        "request_id": "req_1",
        "vmid": 101,
        "node": "pve1",
        "incarnation": "17.4711",
        "config_id": "1.2",
        "token_id": "t",
        "token_name": "ci",
        "remote": "127.0.0.1",
        "command": ["true"],
        "labels": {"a": "b"},
        "created_at": "2025-01-01T00:00:00.000Z",
        "queued_ms": 0,
        "limits": Limits(60, 5, 10, 1 << 20),
        "background": Background.DETACH,
        "on_disconnect": OnDisconnect.KILL,
        "on_limit": OnLimit.DROP,
        "placement": Placement.OWN,
        "keep": Keep.HEAD_TAIL,
        "spooled": False,
        "exclusive": False,
    }
    return Order(**{**fields, **changes})


ENDING = Ending(reason=Reason.EXITED, exit_code=3, signal=None, ended_at="2025-01-01T00:00:01.000Z", killed=2)


def make_spool(directory: Path, **settings: Any) -> Spool:
    return Spool(SpoolConfig(directory=directory / "spool", min_free=0, **settings))


def record(spool: Spool, order: Order, stdout: bytes, stderr: bytes, *, left: bool = False) -> None:
    """Ends an exec with this output."""
    layout = Layout.in_memory(order.limits.output_limit, order.keep)
    captures = [Capture(order.limits.output_limit, layout, spool.room(order, name)) for name in STREAMS]
    loop = asyncio.new_event_loop()
    streams = Streams(loop, captures[0], captures[1], block=False, over_limit=None)
    for number, data in enumerate((stdout, stderr)):
        captures[number].feed(data)
        streams.order.add(number, len(data))
    spool.end(order, replace(ENDING, output=streams.counts()), streams, left=left)
    streams.forget()
    loop.close()


def read(spool: Spool, exec_id: str, stream: str, offset: int = 0, length: int = 1 << 30) -> bytes:
    """Kept bytes of an ended exec."""
    life = spool.find(exec_id)
    assert life is not None
    return spool.recording(life).stream(stream).read(offset, length)


def keep_one(spool: Spool, stdout: bytes = b"out", stderr: bytes = b"") -> str:
    """The id of an exec that was accepted, ran and ended."""
    order = make_order()
    spool.accept(order)
    spool.mark_go(order, 17, 4711)
    record(spool, order, stdout, stderr)
    return order.id


def test_life_is_remembered_by_the_next_supervisor(tmp_path: Path) -> None:
    """Order, end and output of an ended exec are read by the next supervisor as they were written."""
    exec_id = keep_one(make_spool(tmp_path), b"\x00\xff", b"err")
    spool = make_spool(tmp_path)
    life = spool.find(exec_id)
    assert life is not None
    assert life.ending is not None
    assert (life.order.id, life.pid, life.start) == (exec_id, 17, 4711)
    assert replace(life.ending, output=None) == ENDING
    assert life.order == make_order(id=exec_id)
    assert [read(spool, exec_id, name) for name in STREAMS] == [b"\x00\xff", b"err"]
    assert read(spool, exec_id, "stdout", 1, 1) == b"\xff"
    assert list(reversed(spool.remembered())) == [exec_id]


def test_all_of_it_is_private(tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, whatever the umask says."""
    spool = make_spool(tmp_path)
    keep_one(spool, b"a", b"b")
    for path in [tmp_path / "spool", *(tmp_path / "spool").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_torn_last_line_is_as_if_it_had_not_been(tmp_path: Path, cut: int) -> None:
    """A supervisor that died while it wrote an end leaves an exec without an end, and the next line is whole."""
    spool, order = make_spool(tmp_path), make_order()
    spool.accept(order)
    spool.mark_go(order, 17, 4711)
    record(spool, order, b"", b"")
    (path,) = (tmp_path / "spool/journal").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    spool = make_spool(tmp_path)
    (life,) = spool.unfinished()
    assert (life.order.id, life.pid, life.ending) == (order.id, 17, None)
    exec_id = keep_one(spool)
    assert make_spool(tmp_path).find(exec_id) is not None


def test_unreadable_lines_are_dropped(tmp_path: Path) -> None:
    """Lines that tell nothing are left out with their file, and so is output that no exec ever had."""
    spool, order = make_spool(tmp_path), make_order()
    spool.accept(order)
    (path,) = (tmp_path / "spool/journal").iterdir()
    path.write_bytes(b'\xff\x00{\n[]\n{}\n{"id": 7}\n{"id": "x", "accepted": {}}\n')
    (tmp_path / "spool/output/strange").mkdir()
    spool = make_spool(tmp_path)
    assert spool.unfinished() == []
    assert list((tmp_path / "spool/output").iterdir()) == []
    keep_one(spool)
    spool.sweep(time.time())
    assert len(list((tmp_path / "spool/journal").iterdir())) == 1


@pytest.mark.parametrize("spooled", [False, True])
def test_dropped_exec_leaves_nothing(tmp_path: Path, spooled: bool) -> None:
    """One that never began is forgotten, by the next supervisor too."""
    spool, order = make_spool(tmp_path), make_order(spooled=spooled)
    spool.accept(order)
    spool.room(order, "stdout").close()
    spool.drop(order.id)
    assert spool.find(order.id) is None
    assert list((tmp_path / "spool/output").iterdir()) == []
    assert make_spool(tmp_path).unfinished() == []


def test_go_that_cannot_be_noted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that may begin without a note would be said not to have run, after a crash."""
    spool, order = make_spool(tmp_path), make_order()
    spool.accept(order)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        spool.mark_go(order, 17, 4711)


def test_end_that_nobody_knows_is_remembered(tmp_path: Path) -> None:
    """One that is settled as unknown stays so for the next supervisor."""
    spool, order = make_spool(tmp_path), make_order()
    spool.accept(order)
    spool.mark_go(order, 17, 4711)
    spool = make_spool(tmp_path)
    (life,) = spool.unfinished()
    spool.end_unknown(life.order)
    spool = make_spool(tmp_path)
    assert spool.unfinished() == []
    found = spool.find(order.id)
    assert found is not None
    assert found.ending is None


@pytest.mark.parametrize("size", [100, 100_000])
def test_output_is_kept_whatever_its_size(tmp_path: Path, size: int) -> None:
    """Small output stands in the journal, large output in files; both are read alike."""
    data = bytes(range(256)) * (size // 256 + 1)
    exec_id = keep_one(make_spool(tmp_path), data, b"e")
    assert (size > 1000) == bool(list((tmp_path / "spool/output").iterdir()))
    spool = make_spool(tmp_path)
    assert read(spool, exec_id, "stdout") == data
    assert read(spool, exec_id, "stderr") == b"e"


def test_survivors_are_waited_for_by_the_next_supervisor(tmp_path: Path) -> None:
    """An exec whose survivors live on is unfinished business until they are gone."""
    spool, order = make_spool(tmp_path), make_order()
    spool.accept(order)
    record(spool, order, b"out", b"", left=True)
    spool = make_spool(tmp_path)
    (life,) = spool.unfinished()
    assert life.ending is not None
    spool.remember(order.id)
    spool.survivors_gone(order.id)
    spool = make_spool(tmp_path)
    assert spool.unfinished() == []
    assert read(spool, order.id, "stdout") == b"out"


def test_sweep_forgets_by_age(tmp_path: Path) -> None:
    """Past spool.retention an exec is gone with its output; until then it is not."""
    spool = make_spool(tmp_path, retention=100.0)
    exec_id = keep_one(spool)
    spool.sweep(time.time() + 99)
    assert spool.find(exec_id) is not None
    spool.sweep(time.time() + 101)
    assert spool.find(exec_id) is None
    assert make_spool(tmp_path).find(exec_id) is None


def test_sweep_forgets_the_oldest_first(tmp_path: Path) -> None:
    """Over spool.max_ended, and over spool.total, the oldest go until it fits."""
    spool = make_spool(tmp_path, max_ended=3)
    made = [keep_one(spool) for _ in range(5)]
    spool.sweep(time.time())
    assert list(reversed(spool.remembered())) == made[:1:-1]
    large = make_spool(tmp_path / "large", total=1 << 20)
    made = [keep_one(large, b"x" * 300_000) for _ in range(5)]
    large.sweep(time.time())
    assert list(reversed(large.remembered())) == made[:1:-1]


def test_sweep_takes_a_few_at_a_time(tmp_path: Path) -> None:
    """With `at_most`, so many go, the oldest first, and it is told whether there are more."""
    spool = make_spool(tmp_path, retention=1.0)
    ids = [keep_one(spool) for _ in range(5)]
    later = time.time() + 2
    left = []
    for more in (True, True, False):
        assert spool.sweep(later, at_most=2) is more
        left.append([exec_id for exec_id in ids if spool.find(exec_id) is not None])
    assert left == [ids[2:], ids[4:], []]
    assert spool.sweep(later, at_most=2) is False


def test_sweep_leaves_those_whose_survivors_live(tmp_path: Path) -> None:
    """An exec that has ended and is still active, for the sake of its survivors, is not swept."""
    spool, order = make_spool(tmp_path, retention=1.0), make_order()
    spool.accept(order)
    record(spool, order, b"out", b"", left=True)
    spool.sweep(time.time() + 100)
    assert spool.find(order.id) is not None
    spool.survivors_gone(order.id)
    spool.sweep(time.time() + 100)
    assert spool.find(order.id) is None


def test_too_little_free_space_refuses(tmp_path: Path) -> None:
    """Less free space than spool.min_free: nothing is accepted."""
    spool = Spool(SpoolConfig(directory=tmp_path / "spool", min_free=1 << 62))
    with pytest.raises(SpoolFull):
        spool.accept(make_order())


def test_nothing_goes_in_vain(tmp_path: Path) -> None:
    """Where all ended execs together would not bring the free space up to spool.min_free, none of them goes for it."""
    exec_id = keep_one(make_spool(tmp_path), b"x" * 100_000)
    spool = Spool(SpoolConfig(directory=tmp_path / "spool", min_free=1 << 62))
    with pytest.raises(SpoolFull):
        spool.accept(make_order())
    spool.sweep(time.time())
    assert spool.find(exec_id) is not None


def test_files_of_a_killed_supervisor_are_read(tmp_path: Path) -> None:
    """What a streamed exec had written when its supervisor was killed is its output, unhashed and not invented."""
    spool, order = make_spool(tmp_path), make_order(spooled=True)
    spool.accept(order)
    room = spool.room(order, "stdout")
    Capture(1 << 20, Layout.spooled(1 << 20, order.keep), room).feed(b"so far")
    room.close()
    spool = make_spool(tmp_path)
    spool.end_lost(order, ENDING)
    life = spool.find(order.id)
    assert life is not None
    assert life.ending is not None
    assert life.ending.output is not None
    assert (life.ending.output["stdout"]["bytes"], life.ending.output["stdout"]["sha256"]) == (6, None)
    assert read(spool, order.id, "stdout") == b"so far"


def test_total_is_for_what_grows_and_what_is_kept(tmp_path: Path) -> None:
    """A file that wants to grow pushes the oldest ended exec out, and gets nothing once there is none left."""
    spool = make_spool(tmp_path, total=9 << 20)
    old = keep_one(spool, b"x" * 900_000)
    grant = spool.granter(make_order(spooled=True))
    assert grant(4 << 20)
    assert grant(4 << 20)
    assert spool.find(old) is not None
    assert not grant(4 << 20)
    assert spool.find(old) is None

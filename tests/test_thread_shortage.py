"""A node without room for another thread (pids.max): what asks for one is refused or waits, and all works again."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.api.lease import Leases
from gateway.api.shares import start_shares
from gateway.api.terminal_start import Opening
from gateway.audit.debts import Debts
from gateway.auth.actor import Actor
from gateway.auth.tokens import Refused, TokenStore
from gateway.errors import Overloaded
from gateway.errors_pve import TooManyChanges
from gateway.guests.background import Workers
from gateway.rates import Rates
from gateway.web.burdens import BURST_MS, Burdens
from gateway.web.lane import Lane
from gateway.web.tls import ServerTls
from gateway.web.watchdog import Watchdog
from tests.auth.changes import HOME, root
from tests.auth.test_administration import make
from tests.exec.waiting import until
from tests.web.conftest import make_certificate

Short = Callable[[], Any]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Short:
    """A context in which no thread begins."""

    @contextmanager
    def shortage() -> Iterator[None]:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            yield

    return shortage


def test_a_lane_goes_on_with_the_threads_that_it_has(short: Short) -> None:
    """What none of them can take is refused at once; the others do the rest, and no place is lost for ever."""
    done: list[int] = []
    lane: Lane[int, int] = Lane("t", size=2, backlog=10, work=lambda item: item, done=lambda item, _: done.append(item))
    with short():
        assert [lane.submit(number) for number in range(20)] == [False] * 20
    assert lane.submit(20)
    until(lambda: done == [20])
    with short():
        assert [lane.submit(number) for number in range(21, 24)] == [True] * 3
        until(lambda: done == [20, 21, 22, 23])
    both = threading.Barrier(2)
    wide: Lane[int, int] = Lane("w", size=2, backlog=0, work=lambda _: both.wait(20), done=lambda item, _: None)
    with short():
        assert [wide.submit(number) for number in range(5)] == [False] * 5
    assert wide.submit(1) and wide.submit(2)
    until(lambda: wide.submit(3), why="two threads work at once, as before")
    assert wide.submit(4) or until(lambda: wide.submit(4))


def test_a_token_is_looked_at_again_as_soon_as_can_be(tmp_path: Path, short: Short) -> None:
    """A stream that was let in is asked after once there is a thread: nobody goes on for ever by a moment without."""
    store = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "ring")
    store.create()
    record, token = make(root(store))
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    seconds = iter(range(1000))
    look = Leases(store, lambda: float(next(seconds))).follow(actor, HOME)
    with short():
        assert [look() for _ in range(3)] == [None] * 3
    root(store).revoke(record.id)
    until(lambda: isinstance(look(), Refused), why="its revocation is seen")


def test_what_is_owed_to_the_log_is_paid_later(short: Short) -> None:
    """Nothing of it is lost, in its order."""
    paid: list[Mapping[str, Any]] = []

    def pay(record: Mapping[str, Any]) -> bool:
        paid.append(record)
        return True

    debts = Debts(pay)
    owed = [{"audit_id": f"au_{number}"} for number in range(3)]
    with short():
        for record in owed:
            debts.add(record)
    assert paid == [] and debts.settle(20) and paid == owed


def test_nothing_is_begun_that_no_thread_can_do(short: Short) -> None:
    """A guest is not made, a terminal not opened: refused with what to do next, and no place or descriptor is kept."""
    workers, starts = Workers(most=1), start_shares()
    services: Any = SimpleNamespace(starts=starts)
    origin: Any = SimpleNamespace(token_id="tk_1")
    before = len(os.listdir("/proc/self/fd"))

    def never(*_: object) -> Any:
        raise AssertionError("it has not begun")

    with short():
        for _ in range(600):
            with pytest.raises(TooManyChanges, match="another thread"):
                workers.start("tk_1", lambda work: 1)
            with pytest.raises(Overloaded, match="another thread"):
                Opening(services, 101, origin, never, lambda _: services, b"", never, key=None)
    assert workers.start("tk_1", lambda work: 1).wait(20, None) == 1
    assert len(os.listdir("/proc/self/fd")) <= before + 8


def test_tls_is_watched_as_soon_as_can_be(tmp_path: Path, short: Short) -> None:
    """Connections come in and are read while neither watchdog nor certificate's thread can begin; then both do."""
    watchdog = Watchdog(Burdens(Rates(BURST_MS)))
    tls = ServerTls(*make_certificate(tmp_path, "first"))
    before = tls.context
    with short():
        read_nothing(tls, watchdog)
    os.replace(make_certificate(tmp_path, "second")[0], tmp_path / "first.pem")
    os.replace(tmp_path / "second.key", tmp_path / "first.key")
    assert tls.context is before
    read_nothing(tls, watchdog)
    until(lambda: tls.context is not before)
    assert "watchdog" in {thread.name for thread in threading.enumerate()}


def read_nothing(tls: ServerTls, watchdog: Watchdog) -> None:
    """Begin a handshake whose client says nothing."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs, tls.secure(ours, watchdog, "a") as sock, pytest.raises(ssl.SSLWantReadError):
        sock.do_handshake()

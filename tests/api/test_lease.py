"""What is under way ends with its caller's token: within a second, as if the client had left, never in doubt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.api.lease import Found, Lease, Leases, Step
from gateway.auth.actor import Actor
from gateway.auth.administration import Administration
from gateway.auth.grants import Grant
from gateway.auth.tokens import TokenStore
from gateway.errors import GatewayError, Unauthenticated
from gateway.web.live import Live
from tests.auth.changes import HOME, root
from tests.auth.test_administration import make


class Watch:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stream(Live):
    """One that always has a byte."""

    heard: list[str] = field(default_factory=list)

    def sources(self) -> tuple[int, ...]:
        return ()

    def produce(self) -> bytes | None:
        return b"x"

    def wake_at(self) -> float:
        return float("inf")

    def receive(self, data: bytes) -> None:
        self.heard.append("data")

    def gone(self) -> None:
        self.heard.append("gone")

    def close(self) -> None:
        self.heard.append("closed")


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    """An empty store with its keys."""
    made = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "ring")
    made.create()
    return made


def lease(store: TokenStore, token: str, watch: Watch) -> tuple[Lease, Stream]:
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    stream = Stream()
    return Leases(store, watch, ask=lambda step: step()).hold(stream, actor, HOME), stream


Ending = Callable[[Administration, str], object]


@pytest.mark.parametrize(
    "end",
    [
        lambda hands, token_id: hands.revoke(token_id),
        lambda hands, token_id: hands.rotate(token_id),
        lambda hands, token_id: (hands.revoke(token_id), hands.delete(token_id)),
        lambda hands, token_id: hands.edit(
            token_id, {"networks": hands.store.get(token_id).networks, "expires": _past()}
        ),
    ],
    ids=["revoked", "replaced", "deleted", "expired"],
)
@pytest.mark.parametrize("way", ["produce", "receive"])
def test_it_ends_within_a_second(store: TokenStore, end: Ending, way: str) -> None:
    """Whichever way bytes go next; the exec's owner is told that its client left, once."""
    watch = Watch()
    record, token = make(root(store))
    live, stream = lease(store, token, watch)
    assert live.produce() == b"x" and live.wake_at() <= 1
    end(root(store), record.id)
    watch.now = 1.0
    with pytest.raises(Unauthenticated):
        live.produce() if way == "produce" else live.receive(b"rm -rf /")
    assert stream.heard == ["gone"]


def _past() -> object:
    from datetime import UTC, datetime

    return datetime.now(UTC) - timedelta(seconds=1)


def test_it_goes_on_through_doubt(store: TokenStore) -> None:
    """A store that is away for a moment, as /etc/pve is when its service restarts, ends nothing; nor does an edit, or a
    rotation with overlap."""
    watch = Watch()
    record, token = make(root(store))
    live, stream = lease(store, token, watch)
    root(store).edit(record.id, {"name": "other"})
    root(store).rotate(record.id, overlap=timedelta(hours=1))
    away = store._directory.rename(store._directory.with_name("away"))
    for _ in range(5):
        watch.now += 1
        assert live.produce() == b"x"
    away.rename(store._directory)
    root(store).revoke(record.id)
    watch.now += 1
    with pytest.raises(GatewayError):
        live.produce()
    assert stream.heard == ["gone"]


def given(action: str, guests: str, **terms: object) -> Grant:
    """A grant of one action."""
    return Grant.from_json({"actions": [action], "guests": guests, **terms})


@pytest.mark.parametrize(
    ("grants", "stays"),
    [
        ([given("exec:run", "100-300")], True),
        ([given("exec:admin", "all")], True),
        ([given("exec:run", "100-150")], False),
        ([given("guest:read", "all")], False),
        ([given("exec:run", "all", commands=[["/bin/id"]])], False),
    ],
)
def test_who_has_lost_grants_comes_again(store: TokenStore, grants: list[Grant], stays: bool) -> None:
    """More grants change nothing; fewer cut the connection, but nobody has left: a new one is asked as anew."""
    watch = Watch()
    record, token = make(root(store), (given("exec:run", "100-199"),))
    live, stream = lease(store, token, watch)
    root(store).edit(record.id, {"grants": tuple(grants)})
    watch.now = 1.0
    if stays:
        assert live.produce() == b"x"
    else:
        with pytest.raises(Unauthenticated):
            live.produce()
    assert stream.heard == []


def test_what_was_found_before_counts_for_nobody_new(store: TokenStore) -> None:
    """A stream that is opened after its token was given more is not cut by what was known of the token before."""
    watch, steps = Watch(), list[Step]()
    record, token = make(root(store), (given("exec:run", "100-150"),))
    leases = Leases(store, watch, ask=steps.append)

    def opened() -> Lease:
        actor = store.verify(token, HOME)
        assert isinstance(actor, Actor)
        return leases.hold(Stream(), actor, HOME)

    def passes(live: Lease) -> None:
        watch.now += 1.0
        assert live.produce() == b"x"
        while steps:
            steps.pop()()

    passes(opened())
    root(store).edit(record.id, {"grants": (given("exec:run", "100-300"),)})
    second = opened()
    for _ in range(3):
        passes(second)
    root(store).edit(record.id, {"grants": (given("exec:run", "100-150"),)})
    passes(second)
    with pytest.raises(Unauthenticated):
        passes(second)


def test_many_streams_of_one_token_are_one_question(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand streams cost the store no more than one."""
    asked: list[Actor] = []
    look_again = store.look_again

    def ask(actor: Actor, remote: str) -> Found:
        asked.append(actor)
        return look_again(actor, remote)

    monkeypatch.setattr(store, "look_again", ask)
    watch = Watch()
    _, token = make(root(store))
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    leases = Leases(store, watch, ask=lambda step: step())
    lives = [leases.hold(Stream(), actor, HOME) for _ in range(1000)]
    for second in range(1, 4):
        watch.now = float(second)
        for live in lives:
            live.produce()
    assert len(asked) == 3


def test_a_store_that_hangs_holds_up_nobody(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way goes on while the store does not answer, and is judged once it does."""
    go, asked = threading.Event(), threading.Semaphore(0)
    look_again = store.look_again

    def hang(actor: Actor, remote: str) -> Found:
        asked.release()
        assert go.wait(10)
        return look_again(actor, remote)

    monkeypatch.setattr(store, "look_again", hang)
    watch = Watch()
    record, token = make(root(store))
    actor = store.verify(token, HOME)
    assert isinstance(actor, Actor)
    stream = Stream()
    live = Leases(store, watch).hold(stream, actor, HOME)
    for _ in range(10):
        watch.now += 1
        assert live.produce() == b"x"
    assert asked.acquire(timeout=10) and not asked.acquire(blocking=False)
    root(store).revoke(record.id)
    go.set()
    with pytest.raises(Unauthenticated):
        for _ in range(10_000):
            watch.now += 1
            live.produce()
            threading.Event().wait(0.001)
    assert stream.heard == ["gone"]

"""Open streams and terminals end with the standing of their token: revoked, expired, narrowed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from gateway.api.standing import HeldLive, Standing
from gateway.auth.actions import Action
from gateway.auth.actor import Actor
from gateway.auth.grants import Grant, reachable
from gateway.auth.tokens import Refusal, Refused
from gateway.errors import Unauthenticated
from gateway.web.live import Live


class Echo(Live):
    """Gives a byte whenever it is asked, and remembers what it was given."""

    upgrades = True

    def __init__(self) -> None:
        self.received = b""
        self.left = self.closed = False

    def sources(self) -> tuple[int, ...]:
        return (7,)

    def produce(self) -> bytes | None:
        return b"x"

    def wake_at(self) -> float:
        return 5.0

    def receive(self, data: bytes) -> None:
        self.received += data

    def gone(self) -> None:
        self.left = True

    def close(self) -> None:
        self.closed = True


def actor(guests: str = "100-199", **members: object) -> Actor:
    grant = Grant.from_json({"actions": ["exec:run"], "guests": guests, **members})
    return Actor("tk_1", "one", reachable([grant], []), None)


class Tokens:
    """A store whose one token is what the test says; `wait` returns when it has been asked twice more."""

    def __init__(self, found: Actor | Refused) -> None:
        self.found = found
        self._asked = threading.Semaphore(0)

    def recall(self, token_id: str, remote: str) -> Actor | Refused:
        assert (token_id, remote) == ("tk_1", "192.0.2.1")
        self._asked.release()
        return self.found

    def wait(self) -> None:
        while self._asked.acquire(blocking=False):
            pass
        for _ in range(3):  # the answer before this one has been judged then
            assert self._asked.acquire(timeout=5)


@pytest.fixture
def hold() -> Callable[[Tokens, Echo], HeldLive]:
    return lambda tokens, live: Standing(tokens.recall, interval=0.01).hold(live, actor(), "192.0.2.1")


Hold = Callable[[Tokens, Echo], HeldLive]


@pytest.mark.parametrize("reason", [Refusal.REVOKED, Refusal.EXPIRED, Refusal.UNKNOWN_TOKEN, Refusal.WRONG_NETWORK])
def test_a_fallen_token_gives_and_gets_nothing(hold: Hold, reason: Refusal) -> None:
    """Not a byte more goes in or out, and its client counts as gone, so that what it attended ends."""
    tokens, live = Tokens(actor()), Echo()
    held = hold(tokens, live)
    tokens.wait()
    held.receive(b"before")
    assert held.produce() == b"x" and held.sources() == (7,) and held.wake_at() == 5.0 and held.upgrades
    tokens.found = Refused(reason, "tk_1")
    tokens.wait()
    with pytest.raises(Unauthenticated):
        held.receive(b"after")
    with pytest.raises(Unauthenticated):
        held.produce()
    assert live.received == b"before" and live.left
    held.close()
    assert live.closed


@pytest.mark.parametrize(
    ("now", "stays"),
    [
        (actor(), True),
        (actor("100-300"), True),
        (actor("all"), True),
        (actor("100-150"), False),
        (actor("100-199", commands=[["/bin/id"]]), False),
        (Actor("tk_1", "one", {}, None), False),
        (Refused(Refusal.STORE_UNAVAILABLE, "tk_1"), True),
    ],
)
def test_who_has_lost_grants_comes_again(hold: Hold, now: Actor | Refused, stays: bool) -> None:
    """More grants change nothing; fewer cut the connection, but end nothing: a new one is checked as anew. A store that
    cannot be read ends nothing."""
    tokens, live = Tokens(now), Echo()
    held = hold(tokens, live)
    tokens.wait()
    if stays:
        assert held.produce() == b"x"
    else:
        with pytest.raises(Unauthenticated):
            held.produce()
    assert not live.left
    held.close()


def test_has_all_of() -> None:
    """Terms count: what was unlimited is lost where there are limits now, and limits may go."""
    limited = actor(commands=[["/bin/id"]])
    assert actor().has_all_of(limited) and limited.has_all_of(limited)
    assert not limited.has_all_of(actor())
    assert not limited.has_all_of(actor(commands=[["/bin/ps"]]))
    assert actor().permits.keys() == {Action.EXEC_RUN}

"""One-use tickets: who has one gets in once, soon, and to the one place it was made for."""

from __future__ import annotations

import json

import pytest

from gateway.errors import TooManyRequests
from gateway.supervisor.operations.tickets import LIFETIME, Tickets

PATH = "/exec/101/terminal"
DATA = {"origin": {"token_id": "tk_1"}}


class Clock:
    """Time that passes when it is told so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_ticket_is_good_once() -> None:
    """It gives back what it was made with, and is nothing afterwards."""
    tickets = Tickets()
    ticket = tickets.make("tk_1", DATA, PATH)
    assert tickets.take(ticket, PATH) == DATA
    assert tickets.take(ticket, PATH) is None


def test_ticket_stands_in_a_url() -> None:
    """32 random bytes, no character of which needs to be quoted, no two alike."""
    tickets = Tickets()
    made = {tickets.make("tk_1", DATA, PATH) for _ in range(50)}
    assert len(made) == 50
    assert all(len(ticket) == 43 and ticket.replace("-", "").replace("_", "").isalnum() for ticket in made)


def test_ticket_is_for_one_path() -> None:
    """At another path it gives nothing, and is used up all the same."""
    tickets = Tickets()
    ticket = tickets.make("tk_1", DATA, PATH)
    assert tickets.take(ticket, "/exec/102/terminal") is None
    assert tickets.take(ticket, PATH) is None


def test_ticket_expires() -> None:
    """It is good until its time is up, and not a moment longer."""
    clock = Clock()
    tickets = Tickets(clock)
    first = tickets.make("tk_1", DATA, PATH)
    clock.now += 1
    second = tickets.make("tk_1", DATA, PATH)
    clock.now += LIFETIME - 1
    assert tickets.take(first, PATH) is None
    assert tickets.take(second, PATH) == DATA


@pytest.mark.parametrize("ticket", ["", "x" * 43, "\udcff", "a\0b"])
def test_what_is_no_ticket_gives_nothing(ticket: str) -> None:
    """Whatever is sent as a ticket is looked up, and found or not."""
    tickets = Tickets()
    tickets.make("tk_1", DATA, PATH)
    assert tickets.take(ticket, PATH) is None


def test_one_token_cannot_take_all_tickets() -> None:
    """A token has a hundred alive at most, and all together a thousand; used and expired ones count no more."""
    clock = Clock()
    tickets = Tickets(clock)
    mine = [tickets.make("tk_1", DATA, PATH) for _ in range(100)]
    with pytest.raises(TooManyRequests):
        tickets.make("tk_1", DATA, PATH)
    tickets.take(mine[0], PATH)
    tickets.make("tk_1", DATA, PATH)
    for number in range(900):
        tickets.make(f"tk_{2 + number % 9}", DATA, PATH)
    with pytest.raises(TooManyRequests):
        tickets.make("tk_11", DATA, PATH)
    clock.now += LIFETIME
    tickets.make("tk_1", DATA, PATH)


def test_tickets_outlive_a_reload_and_are_not_in_its_state() -> None:
    """The next image of the supervisor honours them; what it is handed would open nothing."""
    clock = Clock()
    tickets, after = Tickets(clock), Tickets(clock)
    ticket, used = tickets.make("tk_1", DATA, PATH), tickets.make("tk_1", DATA, PATH)
    tickets.take(used, PATH)
    state = json.dumps(tickets.to_state())
    assert ticket not in state
    after.resume(json.loads(state))
    assert after.take(used, PATH) is None
    assert after.take(ticket, PATH) == DATA
    assert after.take(ticket, PATH) is None

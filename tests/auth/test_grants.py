"""Grants: parsing, merging, protected guests, and that what is not granted is denied."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.actions import GRANTABLE, Action
from gateway.auth.grants import (
    VMID_MAX,
    VMID_MIN,
    Grant,
    format_guests,
    merge,
    parse_actions,
    parse_guests,
    reachable,
    without,
)
from gateway.errors import GrantInvalid
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit, Terms, within

vmids = st.integers(VMID_MIN, 400)
pairs = st.lists(st.tuples(vmids, vmids).map(lambda pair: (min(pair), max(pair))), min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("all", ((100, 999_999_999),)),
        ("101", ((101, 101),)),
        ("100-199,205", ((100, 199), (205, 205))),
        ("205, 100-199", ((100, 199), (205, 205))),
        ("100-150,140-199,200", ((100, 200),)),
    ],
)
def test_parses_guests(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    """Ranges come out sorted and merged."""
    assert parse_guests(text) == ranges


@pytest.mark.parametrize(
    "text",
    ["", ",", "99", "1000000000", "200-100", "100-", "-100", "a", "ALL", "100..200", "0100", "١٠١", "101\n", "all,101"],
)
def test_refuses_what_is_no_guest(text: str) -> None:
    """What is not a vmid, a range or `all` is refused, never guessed at."""
    with pytest.raises(GrantInvalid):
        parse_guests(text)


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is either ranges within the vmids or GrantInvalid."""
    try:
        ranges = parse_guests(text)
    except GrantInvalid:
        return
    assert all(VMID_MIN <= low <= high <= VMID_MAX for low, high in ranges)


@given(pairs)
def test_format_and_parse_are_inverse(given_pairs: list[tuple[int, int]]) -> None:
    """A grant's text means the grant."""
    ranges = merge(given_pairs)
    assert parse_guests(format_guests(ranges)) == ranges


@given(pairs, st.lists(vmids, max_size=5))
def test_ranges_hold_exactly_their_guests(given_pairs: list[tuple[int, int]], protected: list[int]) -> None:
    """Merging and taking out protected guests agree with sets of numbers."""
    wanted = {vmid for low, high in given_pairs for vmid in range(low, high + 1)} - set(protected)
    ranges = without(merge(given_pairs), protected)
    assert {vmid for vmid in range(VMID_MIN, 402) if within(vmid, ranges)} == wanted


def test_protected_guests_can_only_be_read() -> None:
    """A protected guest is out of reach for every action but the reading ones."""
    reach = reachable([Grant(GRANTABLE, parse_guests("all"))], [150])
    assert {action for action in reach if within(150, reach[action][0].guests)} == {
        Action.GUEST_READ,
        Action.DEVICE_READ,
        Action.AUDIT_READ,
        Action.METRICS_READ,
    }
    assert all(within(149, permit.guests) and within(151, permit.guests) for (permit,) in reach.values())


def test_nothing_is_granted_by_default() -> None:
    """No grant reaches nothing, and a grant reaches only its own actions."""
    assert reachable([], []) == {}
    assert reachable([Grant(frozenset({Action.GUEST_READ}), ((101, 101),))], []).keys() == {Action.GUEST_READ}


@pytest.mark.parametrize("words", [[], [""], ["public"], ["any-token"], ["exec:*"], ["EXEC:RUN"], ["exec:run", "x"]])
def test_refuses_what_is_no_action(words: list[str]) -> None:
    """Only grantable actions can be granted; `public` and `any-token` are for routes."""
    with pytest.raises(GrantInvalid):
        parse_actions(words)


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"actions": []}, {"actions": ["exec:run"], "guests": 101}, {"actions": "all", "guests": "all"}],
)
def test_a_damaged_grant_gives_nothing(data: object) -> None:
    """A grant that is not exactly one is an error, not an empty or a full one."""
    with pytest.raises(GrantInvalid):
        Grant.from_json(data)


def test_origin_crosses_the_wire() -> None:
    """An origin survives the supervisor's socket, and nothing else passes for one."""
    origin = Origin("tk_1", "ci", (Permit(((100, 200),)),), ((101, 101),), "10.0.0.1", "req_1")
    wire = origin.to_wire()
    assert Origin.from_wire(wire) == origin
    assert origin.sees("tk_1", 150) and origin.sees("tk_2", 101)
    assert not origin.sees("tk_2", 150) and not origin.sees("tk_1", 201)
    ranges = ([[1, "2"]], [[True, 5]], [[1]], "all")
    damaged: list[object] = [None, [], {}, {**wire, "admin": True}, *({**wire, "admin_guests": bad} for bad in ranges)]
    damaged += [{**wire, "permits": [{"guests": bad, "terms": None}]} for bad in ranges]
    for bad in damaged:
        with pytest.raises(ValueError):
            Origin.from_wire(bad)

"""Grants: parsing, merging, protected guests, and that what is not granted is denied."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.actions import GRANTABLE, Action, with_implied
from gateway.auth.actor import Actor, Denial, Denied
from gateway.auth.grants import (
    VMID_MAX,
    VMID_MIN,
    Grant,
    covers,
    fillable,
    format_guests,
    merge,
    parse_actions,
    parse_guests,
    reachable,
    without,
)
from gateway.errors import GrantInvalid
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit, within
from gateway.exec.spec import ExecSpec

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


@pytest.mark.parametrize(
    "data",
    [
        {"actions": ["exec:run"], "guests": "100-199,205"},
        {"actions": ["metrics:read", "token:admin"], "guests": ""},
        {"actions": ["guest:power"], "pools": ["prod/web", "web"]},
        {"actions": ["exec:run"], "guests": "all", "pools": ["web"]},
        {
            "actions": ["exec:run", "exec:terminal"],
            "guests": "101",
            "commands": [["/bin/id", "..."]],
            "users": ["root"],
        },
        {"actions": ["exec:run"], "guests": "101", "commands": [["/bin/id"]], "cwd": ["/"], "env": ["LANG"]},
        {"actions": ["exec:run"], "guests": "101", "users": ["www-data", "33:33"]},
    ],
)
def test_a_grant_is_its_json(data: dict[str, Any]) -> None:
    """What a token record says of a grant is the grant; only what is given stands in it."""
    grant = Grant.from_json(data)
    assert grant.to_json() == data
    assert Grant.from_json(grant.to_json()) == grant


@pytest.mark.parametrize(
    "changed",
    [
        {"guests": ""},
        {"pools": []},
        {"users": []},
        {"commands": [["/bin/id"]], "users": []},
        {"commands": [["/bin/id"]], "cwd": []},
        {"commands": [["/bin/id"]], "env": []},
        {"actions": ["audit:read"], "guests": ""},
        {"guests": None},
        {"more": 1},
        {"pools": "web"},
        {"pools": ["we b"]},
        {"pools": ["/web"], "guests": ""},
        {"pools": ["a/b/c/d"]},
        {"commands": []},
        {"commands": ["/bin/id"]},
        {"commands": [["id"]]},
        {"commands": [["/bin/id"]] * 101},
        {"commands": [["/bin/id"]], "actions": ["exec:run", "file:write"]},
        {"commands": [["/bin/id"]], "actions": ["exec:admin"]},
        {"commands": [["/bin/id"]], "actions": ["all"]},
        {"users": ["root"], "actions": ["guest:read"]},
        {"users": ["a b"]},
        {"users": ["root:root"]},
        {"users": [0]},
        {"cwd": ["/srv"]},
        {"env": ["LANG"]},
        {"commands": [["/bin/id"]], "cwd": ["srv"]},
        {"commands": [["/bin/id"]], "cwd": ["/srv/.."]},
        {"commands": [["/bin/id"]], "cwd": ["/srv/"]},
        {"commands": [["/bin/id"]], "env": ["A=B"]},
        {"commands": [["/bin/id"]], "env": [""]},
    ],
)
def test_a_grant_that_contradicts_itself_gives_nothing(changed: dict[str, Any]) -> None:
    """No guests, limits that limit nothing or would seem to limit another action, names that are none: an error."""
    with pytest.raises(GrantInvalid):
        Grant.from_json({"actions": ["exec:run"], "guests": "101", **changed})


def test_pools_are_their_members_of_now() -> None:
    """A pool reaches its members, less the protected ones; one that is unknown reaches nobody."""
    grant = Grant(frozenset({Action.EXEC_RUN, Action.GUEST_READ}), ((101, 101),), frozenset({"web", "none"}))
    pools = {"web": frozenset({102, 103, 150}), "db": frozenset({200})}
    reach = reachable([grant], [150], pools)
    assert reach[Action.EXEC_RUN] == (Permit(((101, 103),)),)
    assert reach[Action.GUEST_READ] == (Permit(((101, 103), (150, 150))),)
    assert reachable([grant], [150])[Action.EXEC_RUN] == (Permit(((101, 101),)),)
    only = Grant(frozenset({Action.EXEC_RUN}), (), frozenset({"gone"}))
    assert reachable([only], [], pools) == {Action.EXEC_RUN: (Permit(()),)}


def test_what_implies_what() -> None:
    """Changing a guest implies seeing it, administering execs implies running them; nothing implies more than that."""
    assert with_implied(frozenset({Action.EXEC_ADMIN})) == {Action.EXEC_ADMIN, Action.EXEC_RUN}
    assert with_implied(frozenset({Action.FILE_WRITE})) == {Action.FILE_WRITE, Action.FILE_READ}
    assert with_implied(frozenset({Action.GUEST_DESTROY})) == {Action.GUEST_DESTROY, Action.GUEST_READ}
    for action in (Action.EXEC_RUN, Action.EXEC_TERMINAL, Action.TOKEN_ADMIN, Action.AUDIT_READ, Action.GUEST_READ):
        assert with_implied(frozenset({action})) == {action}
    for action in GRANTABLE:
        once = with_implied(frozenset({action}))
        assert with_implied(once) == once, "implications are complete"
    assert frozenset(Action) - GRANTABLE == {Action.PUBLIC, Action.ANY_TOKEN}


def grant(**members: Any) -> Grant:
    return Grant.from_json({"actions": ["exec:run"], "guests": "100-199", **members})


@pytest.mark.parametrize(
    ("held", "wanted", "covered"),
    [
        ([grant()], grant(), True),
        ([grant()], grant(guests="150"), True),
        ([grant()], grant(guests="150-200"), False),
        ([grant(guests="100-150"), grant(guests="151-199")], grant(), True),
        ([grant()], grant(actions=["exec:terminal"]), False),
        ([grant(actions=["exec:admin"])], grant(), True),
        ([grant()], grant(actions=["exec:admin"]), False),
        ([grant()], grant(commands=[["/bin/id"]]), True),
        ([grant(commands=[["/bin/id"]])], grant(), False),
        ([grant(commands=[["/bin/id"]])], grant(commands=[["/bin/id"]], guests="101"), True),
        ([grant(commands=[["/bin/id"]])], grant(commands=[["/bin/ps"]]), False),
        ([grant(pools=["web"])], grant(pools=["web"], guests=""), True),
        ([grant()], grant(pools=["web"]), False),
        ([grant(guests="all")], grant(pools=["web"]), True),
        ([grant(guests="", pools=["web"])], grant(), False),
        ([], grant(), False),
        ([grant(actions=["all"], guests="all")], grant(actions=["all"], guests="all", pools=["x"]), True),
        ([grant(actions=["metrics:read"], guests="")], grant(actions=["metrics:read"], guests=""), True),
    ],
)
def test_covering(held: list[Grant], wanted: Grant, covered: bool) -> None:
    """Whoever makes tokens gives away no more than it has: guests, pools, actions and terms."""
    assert covers(held, wanted) is covered


MAKING = st.builds(
    lambda actions, guests, pools: grant(
        actions=actions, **({"guests": guests} if guests else {}), **({"pools": pools} if pools else {})
    ),
    st.sampled_from([["guest:create"], ["guest:create", "exec:run"], ["guest:config"], ["all"]]),
    st.sampled_from(["all", "100-500", "501-999999999", "100-199"]),
    st.lists(st.sampled_from(["web", "web/a", "db"]), unique=True),
)


@given(st.lists(MAKING, max_size=3), MAKING)
def test_nobody_gives_a_pool_to_fill_that_they_may_not_fill(held: list[Grant], wanted: Grant) -> None:
    """What a token may delegate (`covers`) never puts a guest into a pool that it could not put one into itself."""
    if covers(held, wanted):
        mine, given_away = fillable(held), fillable([wanted])
        assert mine is None or (given_away is not None and given_away <= mine)


@pytest.mark.parametrize(
    ("grants", "pools"),
    [
        ([], frozenset()),
        ([grant(actions=["guest:create"], guests="100-199")], frozenset()),
        ([grant(actions=["guest:create"], guests="100-199", pools=["web"])], {"web"}),
        ([grant(actions=["guest:config", "exec:run"], guests="all", pools=["web"])], frozenset()),
        ([grant(actions=["guest:create"], guests="all")], None),
        ([grant(actions=["all"], guests="100-500"), grant(actions=["all"], guests="501-999999999")], None),
    ],
)
def test_pools_that_guests_may_be_made_in(grants: list[Grant], pools: frozenset[str] | None) -> None:
    """Those that grants of guest:create name; any, where they come to all guests; none by any other action."""
    assert fillable(grants) == pools


def test_decisions() -> None:
    """One decision: action, then guest, then command; why is for the audit log."""
    limited = grant(guests="101", commands=[["/bin/id"]])
    actor = Actor("tk_1", "ci", reachable([limited, grant(actions=["guest:read"])], [150]), None, frozenset({150}))
    assert actor.decide(Action.ANY_TOKEN) is None and actor.decide(Action.EXEC_RUN) is None
    assert actor.decide(Action.EXEC_RUN, 101, ExecSpec(command=["/bin/id"])) is None
    assert actor.decide(Action.GUEST_READ, 150) is None
    for reason, field, asked in (
        ("action_not_granted", None, (Action.EXEC_TERMINAL, 101)),
        ("guest_not_granted", None, (Action.EXEC_RUN, 102)),
        ("guest_protected", None, (Action.EXEC_RUN, 150)),
        ("command_not_granted", "command", (Action.EXEC_RUN, 101, ExecSpec(command="id"))),
        ("guest_not_granted", None, (Action.EXEC_RUN, 102, ExecSpec(command=["/bin/id"]))),
    ):
        assert actor.decide(*asked) == Denied(Denial(reason), field)


def test_origin_crosses_the_wire() -> None:
    """An origin survives the supervisor's socket, and nothing else passes for one."""
    origin = Origin("tk_1", "ci", (Permit(((100, 200),)),), ((101, 101),), "10.0.0.1", "req_1")
    wire = origin.to_wire()
    assert Origin.from_wire(wire) == origin
    assert origin.sees("tk_1", 150) and origin.sees("tk_2", 101)
    assert not origin.sees("tk_2", 150) and not origin.sees("tk_1", 201)
    ranges = ([[1, "2"]], [[True, 5]], [[1]], "all", [[2, 1]], [[5, 6], [1, 2]], [[1, 5], [4, 6]])
    damaged: list[object] = [None, [], {}, {**wire, "admin": True}, *({**wire, "admin_guests": bad} for bad in ranges)]
    for name in ("permits", "terminal_permits"):
        damaged += [{**wire, name: [{"guests": bad, "terms": None}]} for bad in ranges]
    damaged += [{**wire, "terminal_permits": "all"}]
    for bad in damaged:
        with pytest.raises(ValueError):
            Origin.from_wire(bad)


def test_origins_of_other_versions() -> None:
    """A web that is older gives no right that it does not know of; one that is newer none that we do not know of, and
    what could be a new limit, or one of a permit, is refused rather than left out."""
    wide = ((100, 999),)
    origin = Origin("tk_1", "ci", (Permit(wide),), wide, "10.0.0.1", "req_1", 3, wide, wide, wide, wide)
    wire = origin.to_wire()
    first = {name: wire[name] for name in ("token_id", "token_name", "permits", "admin_guests", "remote", "request_id")}
    assert Origin.from_wire(first) == Origin("tk_1", "ci", (Permit(wide),), wide, "10.0.0.1", "req_1")
    for name in first:
        with pytest.raises(ValueError):
            Origin.from_wire({other: value for other, value in wire.items() if other != name})
    assert Origin.from_wire({**wire, "backup_guests": [[1, 2]]}) == origin
    for more in ({"max_bytes": 5}, {"guests": "all"}, {"permits": [{**Permit(wide).to_wire(), "hours": "9-17"}]}):
        with pytest.raises(ValueError):
            Origin.from_wire({**wire, **more})

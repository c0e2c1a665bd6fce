"""Who may ask how often, and from where: rates, bad logins, trusted proxies, and what each of them is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.api.door import Door
from gateway.api.proxies import find_client
from gateway.app import create_app
from gateway.auth.administration import Administration
from gateway.auth.grants import Grant, parse_actions, parse_guests
from gateway.auth.terms import Limits, parse_networks
from gateway.auth.tokens import TokenStore
from gateway.auth.trail import Trail
from gateway.config import Config, WebConfig
from gateway.errors import TooManyRequests
from tests.auth.changes import issue_token

from .fakes import DAY, Api, FakeAudit, FakeSupervisor, assert_problem, without_ids

Make = Callable[..., Api]
BAD = "pveg_tk_0123456789ABCDEFGHJKMNPQRS.wrong"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Make:
    """An application whose `web` section is as given."""

    def make(**web: Any) -> Api:
        config = Config.model_validate({"node": "pve1", "web": web})
        tokens = TokenStore(tmp_path / "tokens", tmp_path / "keys" / "token.keys")
        tokens.create()
        supervisor, audit = FakeSupervisor(), FakeAudit()
        app = create_app(config, supervisor=supervisor, audit=audit, tokens=tokens, monotonic=clock)
        return Api(app.test_client(), supervisor, audit, tokens)

    return make


def ask(api: Api, token: str | None = None, address: str = "192.0.2.1", path: str = "/execs", **headers: str) -> Any:
    return api.request("GET", path, token, environ_overrides={"REMOTE_ADDR": address}, headers=headers)


def rate_fields(response: Any) -> list[str | None]:
    names = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "Retry-After")
    return [response.headers.get(name) for name in names]


# ---- rates (C9)


def test_token_is_told_what_it_may_still_ask(make: Make, clock: Clock) -> None:
    """Every reply to a token counts down; past it there is 429 and when to come back, and then it goes on."""
    api = make(rate_per_token=2.0)
    token = api.token()
    assert [rate_fields(ask(api, token))[:3] for _ in range(4)] == [
        ["4", "3", "1"],
        ["4", "2", "1"],
        ["4", "1", "2"],
        ["4", "0", "2"],
    ]
    response = ask(api, token)
    problem = assert_problem(response, 429, "rate_limited")
    assert problem["retryable"] is True
    assert rate_fields(response) == ["4", "0", "2", "1"]
    assert ask(api, api.token()).status_code == 200  # another token
    clock.now += 0.5
    assert ask(api, token).status_code == 200


@pytest.mark.parametrize(
    ("common", "statuses"),
    [(1000.0, [200, 200, 200, 429]), (None, [200, 200, 200, 429]), (0.1, [200, 429, 429, 429])],
)
def test_the_lower_of_a_tokens_own_rate_and_the_common_one_holds(
    make: Make, common: float | None, statuses: list[int]
) -> None:
    """Who makes tokens gives none of them more than the node's configuration allows."""
    api = make(rate_per_token=common)
    grant = Grant(parse_actions(["exec:run"]), parse_guests("101"))
    token = issue_token(api.tokens, replace(api.tokens.prepare("own", [grant], lifetime=DAY), limits=Limits(rate=1.5)))
    assert [ask(api, token).status_code for _ in range(4)] == statuses


def test_token_is_counted_from_all_addresses(make: Make) -> None:
    """A token's rate is its own, not its addresses'."""
    api = make(rate_per_token=1.0)
    token = api.token()
    assert [ask(api, token, f"192.0.2.{n}").status_code for n in range(3)] == [200, 200, 429]


def test_errors_count_too(make: Make) -> None:
    """What is refused later has its fields all the same."""
    api = make(rate_per_token=1.0)
    response = ask(api, api.token(), path="/execs?limit=x")
    assert_problem(response, 422, "invalid_request")
    assert rate_fields(response)[:2] == ["2", "1"]


def test_address_is_limited_before_anything_is_looked_at(make: Make) -> None:
    """Over an address' rate even a good token gets 429, unaudited; a /64 counts as one, its neighbour not."""
    api = make(rate_per_address=1.0)
    token = api.token()
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"]
    assert [ask(api, token, address).status_code for address in addresses] == [200, 200, 429, 200]
    mapped = ["::ffff:203.0.113.1", "::ffff:203.0.113.2", "203.0.113.1", "::ffff:203.0.113.1"]
    assert [ask(api, token, address).status_code for address in mapped] == [200, 200, 200, 429]
    response = ask(api, address="2001:db8::9")
    assert_problem(response, 429, "rate_limited")
    assert rate_fields(response) == ["2", "0", "2", "1"]
    assert api.audit.records == []


def test_public_routes_are_limited_by_address(make: Make) -> None:
    """Nobody is exempt."""
    api = make(rate_per_address=1.0)
    told = [ask(api, path="/health/live").status_code for _ in range(3)]
    assert told == [200, 200, 429]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/no/such", 404), ("DELETE", "/execs", 405), ("OPTIONS", "/execs", 204)],
)
def test_what_is_no_operation_counts_too(make: Make, method: str, path: str, status: int) -> None:
    """Unknown paths and methods take of their address' rate like all others, and then there is 429."""
    api = make(rate_per_address=1.0)

    def knock(address: str) -> Any:
        return api.request(method, path, environ_overrides={"REMOTE_ADDR": address})

    assert [knock("192.0.2.1").status_code for _ in range(3)] == [status, status, 429]
    assert_problem(knock("192.0.2.1"), 429, "rate_limited")
    assert rate_fields(knock("192.0.2.1")) == ["2", "0", "2", "1"]
    assert knock("192.0.2.2").status_code == status


def test_rates_can_be_switched_off(make: Make) -> None:
    """null: no rate, and no fields that would tell of one."""
    api = make(rate_per_address=None, rate_per_token=None)
    token = api.token()
    responses = [ask(api, token) for _ in range(50)]
    assert {response.status_code for response in responses} == {200}
    assert rate_fields(responses[0]) == [None] * 4


# ---- bad logins (C9)


def test_bad_logins_are_slowed_and_leave_no_record(make: Make, clock: Clock) -> None:
    """Ten 401 with their records, then 429 with the time to wait, without; they are let on one by one."""
    api = make()
    for _ in range(10):
        assert_problem(ask(api, BAD), 401, "unauthenticated")
    assert len(api.audit.records) == 10
    response = ask(api, BAD)
    assert_problem(response, 429, "too_many_logins")
    assert response.headers["Retry-After"] == "10"
    assert len(api.audit.records) == 10
    clock.now += 10
    assert ask(api, BAD).status_code == 401


def test_nobody_is_locked_out(make: Make) -> None:
    """A good token is taken from the very address, and from its network, whose bad logins are slowed."""
    api = make()
    token = api.token()
    for number in range(1, 200):
        for _ in range(12):
            ask(api, BAD, f"192.0.2.{number}")
    assert ask(api, BAD, "192.0.2.250").status_code == 429
    assert ask(api, token, "192.0.2.1").status_code == 200
    assert ask(api, token, "192.0.2.250").status_code == 200
    assert ask(api, BAD, "198.51.100.1").status_code == 401


def test_no_token_is_no_bad_login(make: Make) -> None:
    """Who shows none is told to, as often as he asks."""
    api = make()
    assert {ask(api).status_code for _ in range(30)} == {401}


def test_bad_login_on_a_public_route_counts(make: Make) -> None:
    """/health/ready shows more to a valid token: guesses there are counted, and its answer stays."""
    api = make()
    assert {ask(api, BAD, path="/health/live").status_code for _ in range(12)} == {200}
    assert ask(api, BAD).status_code == 429


def test_slowed_logins_look_all_alike(make: Make) -> None:
    """Expired, revoked, forged: one body for all of them, slowed too."""
    api = make()
    revoked = api.token()
    Administration(api.tokens, Trail(api.audit, "pve1")).revoke(api.tokens.list()[0].id)
    for _ in range(10):
        ask(api, BAD)
    bodies = {str(without_ids(ask(api, token).json)) for token in (BAD, revoked, "x", f"{BAD}x")}
    assert len(bodies) == 1


# ---- uploads


def test_one_token_leaves_others_the_means_to_upload() -> None:
    """Half of the threads that read long bodies; short ones are not counted."""
    door = Door(WebConfig(threads=16))
    long = {"CONTENT_LENGTH": "100000"}
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(door.admit_body("a", long))
        for environ in (long, {"HTTP_TRANSFER_ENCODING": "chunked"}, {"CONTENT_LENGTH": "nonsense"}):
            with pytest.raises(TooManyRequests):
                stack.enter_context(door.admit_body("a", environ))
        stack.enter_context(door.admit_body("b", long))
        stack.enter_context(door.admit_body("a", {"CONTENT_LENGTH": "65536"}))
        stack.enter_context(door.admit_body("a", {}))


# ---- proxies

PROXIES = ("192.0.2.7/32", "2001:db8:ffff::/48", "127.0.0.0/8")


@pytest.mark.parametrize(
    ("remote", "forwarded", "client"),
    [
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),  # no proxy of ours: its word counts nothing
        ("192.0.2.7", "203.0.113.9", "203.0.113.9"),
        ("::ffff:192.0.2.7", "203.0.113.9", "203.0.113.9"),
        ("192.0.2.7", "203.0.113.9, 127.0.0.1", "203.0.113.9"),
        ("192.0.2.7", "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # the client's own invention stands before
        ("192.0.2.7", "192.0.2.7, 203.0.113.9", "203.0.113.9"),
        ("192.0.2.7", "127.0.0.1", "127.0.0.1"),
        ("192.0.2.7", "", "192.0.2.7"),
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9, garbage", "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9,", "192.0.2.7"),
        ("192.0.2.7", "unknown", "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9\r\nX: y", "192.0.2.7"),
        ("192.0.2.7", "203.0.113.9:4711", "203.0.113.9"),
        ("192.0.2.7", "[2001:db8::1]:4711", "2001:db8::1"),
        ("192.0.2.7", "::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:ffff::1", "2001:db8::1", "2001:db8::1"),
        ("", "203.0.113.9", ""),
    ],
)
def test_client_behind_proxies(remote: str, forwarded: str | None, client: str) -> None:
    """X-Forwarded-For is believed from its end, as far as trusted proxies wrote it."""
    trusted = WebConfig.model_validate({"trusted_proxies": PROXIES}).trusted_proxies
    environ = {"REMOTE_ADDR": remote} | ({} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded})
    assert find_client(environ, trusted) == client
    assert find_client(environ, ()) == remote


def test_address_behind_a_proxy_is_the_one_that_counts(make: Make) -> None:
    """For rates, records, and the networks of a token."""
    api = make(rate_per_address=1.0, trusted_proxies=["192.0.2.7/32"])
    token = api.token(networks=parse_networks(["203.0.113.0/24"]))
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert ask(api, token, "192.0.2.7", **forwarded).status_code == 200
    assert ask(api, token, "192.0.2.8", **forwarded).status_code == 401  # no proxy of ours
    assert api.audit.records[-1]["remote"] == "192.0.2.8"
    assert ask(api, token, "192.0.2.7", **forwarded).status_code == 200
    assert ask(api, token, "192.0.2.7", **forwarded).status_code == 429
    assert ask(api, token, "192.0.2.7", **{"X-Forwarded-For": "203.0.113.10"}).status_code == 200


def test_lifetime_is_not_touched(make: Make) -> None:
    """A token that has expired is a bad login like the others."""
    api = make()
    token = api.token(lifetime=-DAY)
    assert ask(api, token).status_code == 401

"""The token resource over HTTP: it works first, then what is refused, and what replies and records must not hold."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from .fakes import Api, assert_problem, without_ids

GRANT = {"actions": ["exec:run"], "guests": "101-110"}
NEW: dict[str, Any] = {"name": "ci", "grants": [GRANT], "expires": "1h"}
UNKNOWN = "tk_" + "0" * 26


@pytest.fixture
def admin(api: Api) -> str:
    """A token that administers, and may run commands in guests 101 to 199."""
    return api.token("exec:run,guest:read,token:admin")


def create(api: Api, admin: str, **more: Any) -> dict[str, Any]:
    response = api.request("POST", "/tokens", admin, json={**NEW, **more})
    assert response.status_code == 201, response.data
    view: dict[str, Any] = response.json
    assert response.headers["Location"] == f"/tokens/{view['id']}"
    assert response.headers["ETag"] == '"1"'
    return view


def test_a_token_is_made_and_works(api: Api, admin: str) -> None:
    """The reply holds the token; no other reply and no record ever does; the maker is named."""
    made = create(api, admin, limits={"rate": 5, "max_running": 2}, networks=["127.0.0.0/8"])
    token = made.pop("token")
    self = api.request("GET", "/tokens/self", token).json
    assert self["id"] == made["id"] and self["limits"] == {"rate": 5.0, "max_running": 2}
    shown = api.request("GET", f"/tokens/{made['id']}", admin).json
    assert shown == made
    assert shown["state"] == "active" and shown["created_by"] == api.request("GET", "/tokens/self", admin).json["id"]
    listed = api.request("GET", "/tokens", admin).data.decode()
    assert made["id"] in listed
    assert token.rpartition(".")[2] not in listed + json.dumps([dict(record) for record in api.audit.records])


def test_a_tokens_own_rate(api: Api, admin: str) -> None:
    """Two seconds' worth at once, then 429 with when to come again; nobody else is slowed; an edit lifts it."""
    made = create(api, admin, limits={"rate": 2})
    answers = [api.request("GET", "/execs", made["token"]) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert_problem(answers[-1], 429, "rate_limited")
    assert api.request("GET", "/execs", admin).status_code == 200
    api.request("PATCH", f"/tokens/{made['id']}", admin, json={"limits": {"rate": None}})
    assert api.request("GET", "/execs", made["token"]).status_code == 200


def test_edit_rotate_revoke_delete(api: Api, admin: str) -> None:
    """A token's whole life; each step shows its version, and the record of each names both tokens by id."""
    made = create(api, admin)
    path, first = f"/tokens/{made['id']}", made["token"]
    edited = api.request("PATCH", path, admin, json={"limits": {"max_running": 1}, "name": "other"})
    assert (edited.status_code, edited.headers["ETag"]) == (200, '"2"')
    assert edited.json["limits"] == {"rate": None, "max_running": 1} and edited.json["grants"] == [GRANT]
    rotated = api.request("POST", f"{path}/rotate", admin, json={"overlap": "10m"}).json
    assert [secret["generation"] for secret in rotated["secrets"]] == [2, 1]
    for token in (first, rotated["token"]):
        assert api.request("GET", "/execs", token).status_code == 200
    assert_problem(api.request("DELETE", path, admin), 409, "token_live")
    assert api.request("POST", f"{path}/revoke", admin).json["state"] == "revoked"
    for token in (first, rotated["token"]):
        assert_problem(api.request("GET", "/execs", token), 401, "unauthenticated")
    assert_problem(api.request("PATCH", path, admin, json={"name": "x"}), 409, "token_dead")
    assert api.request("DELETE", path, admin).json["id"] == made["id"]
    assert_problem(api.request("GET", path, admin), 404, "token_not_found")
    events = [record for record in api.audit.records if str(record["event"]).startswith("token:")]
    assert [str(record["event"]).partition(":")[2] for record in events] == [
        "create",
        "edit",
        "rotate",
        "revoke",
        "delete",
    ]
    assert {record["actor"]["token_id"] for record in events} == {made["created_by"]}
    assert {record["data"]["token"]["id"] for record in events} == {made["id"]}
    assert all(record["request_id"].startswith("req_") for record in events)


def test_if_match(api: Api, admin: str) -> None:
    """A change for another version is 412, tells the version there is, and changes nothing; `*` is any."""
    path = f"/tokens/{create(api, admin)['id']}"
    assert api.request("PATCH", path, admin, json={"name": "a"}, headers={"If-Match": '"1"'}).status_code == 200
    for method, where, body in (
        ("PATCH", path, {"name": "b"}),
        ("POST", f"{path}/rotate", {}),
        ("POST", f"{path}/revoke", None),
        ("DELETE", path, None),
    ):
        response = api.request(method, where, admin, json=body, headers={"If-Match": '"1"'})
        assert assert_problem(response, 412, "precondition_failed")["etag"] == '"2"'
        response = api.request(method, where, admin, json=body, headers={"If-Match": 'W/"1"'})
        assert_problem(response, 422, "invalid_request")
    assert api.request("GET", path, admin).json["name"] == "a"
    assert api.request("PATCH", path, admin, json={"name": "c"}, headers={"If-Match": "*"}).status_code == 200


def test_pages_and_filters(api: Api, admin: str) -> None:
    """Pages hold each token within reach once, in the order of creation; filters apply before the page is cut."""
    made = [create(api, admin, name=f"t{number % 2}")["id"] for number in range(5)]
    api.token("exec:run", "all")  # out of reach
    seen: list[str] = []
    after = ""
    while True:
        page = api.request("GET", f"/tokens?limit=2{after}", admin).json
        assert len(page["tokens"]) <= 2
        seen += [token["id"] for token in page["tokens"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen[-5:] == made and len(seen) == 6
    named = api.request("GET", "/tokens?name=t1", admin).json["tokens"]
    assert [token["id"] for token in named] == made[1::2]
    api.request("POST", f"/tokens/{made[0]}/revoke", admin)
    revoked = api.request("GET", "/tokens?state=revoked", admin).json["tokens"]
    assert [token["id"] for token in revoked] == made[:1]
    assert len(api.request("GET", "/tokens?created_by=local", admin).json["tokens"]) == 1


def test_more_than_one_has_is_403_and_recorded(api: Api, admin: str) -> None:
    """What may not be given is named, the attempt is recorded with it, and there is no token."""
    ids = api.tokens.ids()
    for more, what in (
        ({"grants": [{"actions": ["exec:run"], "guests": "all"}]}, ["grants"]),
        ({"grants": [{"actions": ["all"], "guests": "101"}]}, ["grants"]),
        ({"expires": "never"}, ["expires"]),
    ):
        problem = assert_problem(api.request("POST", "/tokens", admin, json={**NEW, **more}), 403, "privilege_exceeded")
        record = api.audit.records[-1]
        assert problem["exceeds"] == what and problem["audit_id"] == record["audit_id"]
        assert record["data"]["reason"] == "privilege_exceeded" and record["data"]["exceeds"] == what
    assert api.tokens.ids() == ids


def test_out_of_reach_is_not_there(api: Api, admin: str) -> None:
    """A stronger token, an unknown one and an impossible id have one answer, on every way to it."""
    api.token("exec:run", "all", lifetime=None)
    strong = api.tokens.ids()[-1]
    for method, tail, body in (
        ("GET", "", None),
        ("PATCH", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/rotate", {}),
        ("POST", "/revoke", None),
    ):
        answers = []
        for token_id in (strong, UNKNOWN, "nonsense"):
            response = api.request(method, f"/tokens/{token_id}{tail}", admin, json=body)
            problem = assert_problem(response, 404, "token_not_found")
            answers.append({**without_ids(problem), "token_id": ""} | {"audit_id": ""})
        assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({**NEW, "grants": []}, "invalid_request"),
        ({**NEW, "name": "a\nb"}, "invalid_request"),
        ({**NEW, "limits": {"rate": 0}}, "invalid_request"),
        ({**NEW, "limits": {"rate": True}}, "invalid_request"),
        ({**NEW, "secret": "x"}, "invalid_request"),
        ({**NEW, "networks": ["10.0.0.1/8"]}, "grant_invalid"),
        ({**NEW, "expires": "2020-01-01T00:00:00Z"}, "grant_invalid"),
        ({**NEW, "grants": [{"actions": ["exec:rum"], "guests": "101"}]}, "grant_invalid"),
        ({**NEW, "grants": [{"actions": ["exec:run"]}]}, "grant_invalid"),
    ],
)
def test_what_is_no_request(api: Api, admin: str, body: dict[str, Any], code: str) -> None:
    """It is 422 with what is wrong, and nothing is made."""
    ids = api.tokens.ids()
    assert_problem(api.request("POST", "/tokens", admin, json=body), 422, code)
    assert api.tokens.ids() == ids


@pytest.mark.parametrize("body", [{"name": None}, {"grants": None}, {"expires": None}, {"limits": None}])
def test_null_is_not_absent(api: Api, admin: str, body: dict[str, Any]) -> None:
    """A member that is null changes nothing by accident: it is 422."""
    made = create(api, admin)
    assert_problem(api.request("PATCH", f"/tokens/{made['id']}", admin, json=body), 422, "invalid_request")


def test_no_record_no_change(api: Api, admin: str) -> None:
    """With the audit log down each change is 503 and the token is as it was."""
    made = create(api, admin)
    path = f"/tokens/{made['id']}"
    api.audit.down = True
    for method, where, body in (
        ("POST", "/tokens", NEW),
        ("PATCH", path, {"name": "x"}),
        ("POST", f"{path}/rotate", {}),
        ("POST", f"{path}/revoke", None),
    ):
        assert_problem(api.request(method, where, admin, json=body), 503, "audit_unavailable")
    assert api.request("GET", path, admin).json["revision"] == 1 and len(api.tokens.ids()) == 2


def test_every_401_is_one(api: Api, admin: str) -> None:
    """C3: no token, one forged, cut, of another ring, revoked, expired, replaced, from elsewhere, with a damaged record
    or none: the same status, headers and body."""
    good = create(api, admin)["token"]
    revoked, replaced, gone, damaged = (create(api, admin) for _ in range(4))
    api.request("POST", f"/tokens/{revoked['id']}/revoke", admin)
    api.request("POST", f"/tokens/{replaced['id']}/rotate", admin, json={})
    api.tokens._path(gone["id"]).unlink()
    api.tokens._path(damaged["id"]).write_text("{}")
    head, _, signature = good.rpartition(".")
    tokens = [
        good[:-1],
        good + "A",
        f"{head}.{signature[::-1]}",
        good.replace(".1.", ".2."),
        good.replace(".1.", ".01."),
        "pveg_" + UNKNOWN + ".1." + signature,
        "x",
        api.token(lifetime=timedelta(seconds=-1)),
        create(api, admin, networks=["10.0.0.0/8"])["token"],
        *(made["token"] for made in (revoked, replaced, gone, damaged)),
    ]
    responses = [
        api.request("GET", "/execs", token, environ_overrides={"REMOTE_ADDR": f"198.{number}.0.1"})
        for number, token in enumerate([*tokens, None])  # of one address so many would be slowed down
    ]
    told = {
        (json.dumps(without_ids(assert_problem(response, 401, "unauthenticated"))), *sorted(_headers(response)))
        for response in responses
    }
    assert len(told) == 1
    assert api.request("GET", "/execs", good).status_code == 200
    reasons = [record["data"]["reason"] for record in api.audit.records if record["event"] == "request:denied"]
    assert set(reasons) >= {"bad_signature", "revoked", "expired", "replaced", "wrong_network", "unknown_token"}


def _headers(response: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in response.headers if name != "X-Request-Id"]

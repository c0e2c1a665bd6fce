"""GET /execs, GET and DELETE /execs/{id}: it works first, then the refusals."""

from __future__ import annotations

import pytest

from .fakes import Api, assert_problem, make_view


def run(api: Api, token: str, vmid: int = 101) -> str:
    exec_id: str = api.request("POST", f"/exec/{vmid}", token, json={"command": ["true"]}).json["id"]
    return exec_id


def test_lists_and_pages(api: Api) -> None:
    """Pages of `limit` follow each other by `next` and together hold every exec once."""
    token = api.token()
    made = [run(api, token) for _ in range(5)]
    seen, after = [], ""
    while True:
        page = api.request("GET", f"/execs?limit=2{after}", token).json
        seen += [view["id"] for view in page["execs"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == sorted(made, reverse=True)


def test_filters(api: Api) -> None:
    """vmid, state and repeated labels narrow the list together."""
    token = api.token()
    first, second = run(api, token, 101), run(api, token, 102)
    api.supervisor.execs[first][0]["labels"] = {"job": "a=b", "step": "1"}
    listed = {
        query: [view["id"] for view in api.request("GET", f"/execs?{query}", token).json["execs"]]
        for query in ("vmid=102", "label=job%3Da%3Db&label=step=1", "label=job=a&vmid=101", "state=running", "")
    }
    assert list(listed.values()) == [[second], [first], [], [], [second, first]]


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("vmid=99", "vmid"),
        ("state=hunter2", "state"),
        ("after=hunter2", "after"),
        ("label=hunter2", "label.0"),
        ("color=hunter2", "color"),
        ("wait=1", "wait"),
    ],
)
def test_bad_queries_are_named(api: Api, query: str, path: str) -> None:
    """A query parameter that is unknown, repeated or wrong is named, its value is not repeated."""
    response = api.request("GET", f"/execs?{query}", api.token())
    problem = assert_problem(response, 422, "invalid_request")
    assert [error["path"] for error in problem["errors"]] == [path]
    assert "hunter2" not in response.text


@pytest.mark.parametrize("query", ["limit=%ff", "&".join(f"label=a{n}=b" for n in range(70))])
def test_malformed_queries(api: Api, query: str) -> None:
    """A query that is not UTF-8 or has too many parameters is 400."""
    assert_problem(api.request("GET", f"/execs?{query}", api.token()), 400, "malformed_request")


def test_gets_one_and_waits(api: Api) -> None:
    """The exec as it is, and with `wait` as it ended."""
    token = api.token()
    exec_id = run(api, token)
    api.supervisor.execs[exec_id][0]["state"] = "running"
    assert api.request("GET", f"/execs/{exec_id}", token).json["state"] == "running"
    assert api.request("GET", f"/execs/{exec_id}?wait=2.5", token).json["state"] == "ended"


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "x", ""])
def test_wait_is_bounded(api: Api, wait: str) -> None:
    """`wait` is 0 to 60 seconds."""
    token = api.token()
    response = api.request("GET", f"/execs/{run(api, token)}?wait={wait}", token)
    assert assert_problem(response, 422, "invalid_request")["errors"][0]["path"] == "wait"


@pytest.mark.parametrize("exec_id", ["x", "ex_", "ex_" + "0" * 25, "ex_" + "I" * 26, "%2e%2e", "ex_" + "0" * 26])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_execs(api: Api, exec_id: str, method: str) -> None:
    """An exec id that is unknown or impossible: the same 404."""
    problem = assert_problem(api.request(method, f"/execs/{exec_id}", api.token()), 404, "exec_not_found")
    assert problem["detail"].startswith("no such exec of this token")


def test_kills(api: Api) -> None:
    """DELETE is 202 while the tree is ending, 200 when it ended within `wait`, 409 once it has ended."""
    token = api.token()
    exec_id = run(api, token)
    api.supervisor.execs[exec_id][0]["state"] = "running"
    assert api.request("DELETE", f"/execs/{exec_id}", token).status_code == 202
    assert api.request("DELETE", f"/execs/{exec_id}?wait=5", token).status_code == 200
    assert_problem(api.request("DELETE", f"/execs/{exec_id}", token), 409, "exec_ended")


def test_lists_nothing_of_other_guests(api: Api) -> None:
    """Execs in a guest that the grant does not reach any more are not listed, asked for by vmid or not."""
    view = make_view(500, ["true"])
    token = api.token()
    token_id = token.removeprefix("pveg_").split(".")[0]
    api.supervisor.execs[view["id"]] = (view, token_id)
    assert api.request("GET", "/execs", token).json["execs"] == []
    assert api.request("GET", "/execs?vmid=500", token).json["execs"] == []

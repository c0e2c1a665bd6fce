"""What holds for every request: ids, headers, unknown paths and methods, odd heads, tokens in odd forms."""

from __future__ import annotations

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from gateway.api.routes import ROUTES
from gateway.errors import SupervisorUnavailable

from .fakes import Api, assert_problem, without_ids


def test_request_ids_are_ours(api: Api) -> None:
    """Each reply has a new id; one sent by the client is not taken over."""
    sent = {"X-Request-Id": "req_from_outside"}
    ids = {api.request("GET", "/health/live", headers=sent).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3
    assert "req_from_outside" not in ids


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/exec", "/exec/", "/exec/101/", "//exec/101", "/exec//101", "/execs/", "/static/x", "/%ff"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_paths(api: Api, path: str, method: str) -> None:
    """A path that the table does not have is 404 as a problem: no redirect, no HTML."""
    assert_problem(api.request(method, path), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/exec/101", "OPTIONS, POST"),
        ("PUT", "/execs/x", "DELETE, GET, HEAD, OPTIONS"),
        ("TRACE", "/execs", "GET, HEAD, OPTIONS"),
        ("BREW", "/execs", "GET, HEAD, OPTIONS"),
    ],
)
def test_unknown_methods(api: Api, method: str, path: str, allow: str) -> None:
    """A method that the path does not take is 405 and names those that it takes."""
    response = api.request(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == allow


def test_options(api: Api) -> None:
    """OPTIONS names the methods and needs no token."""
    response = api.request("OPTIONS", "/execs")
    assert (response.status_code, response.headers["Allow"], response.data) == (204, "GET, HEAD, OPTIONS", b"")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer pveg_x",
        "pveg_x",
        "Bearer pveg_" + "A" * 8000,
        "Bearer pveg_é",
        "Bearer a b",
        "bearer\tx",
    ],
)
def test_no_usable_token_is_one_answer(api: Api, value: str) -> None:
    """Whatever stands in Authorization, if it is not a valid token the answer is the same 401."""
    problem = assert_problem(api.request("GET", "/execs", headers={"Authorization": value}), 401, "unauthenticated")
    plain = assert_problem(api.request("GET", "/execs"), 401, "unauthenticated")
    assert problem | {"request_id": ""} == plain | {"request_id": ""}


def test_scheme_is_case_insensitive(api: Api) -> None:
    """RFC 9110: the scheme's case does not matter."""
    headers = {"Authorization": f"bearer {api.token()}"}
    assert api.request("GET", "/execs", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["", "a" * 300, "[::1", "exa mple", "é", "a:99999", "\x00"])
def test_odd_hosts_are_no_500(api: Api, host: str) -> None:
    """The Host header is of no interest, and cannot break anything (but Werkzeug's own client, which parses it)."""
    environ = EnvironBuilder("/health/live", environ_overrides={"HTTP_HOST": host}).get_environ()
    _, status, _ = run_wsgi_app(api.client.application, environ, buffered=True)
    assert status[:3] in ("200", "400", "404")


def test_the_table_is_what_is_served(api: Api) -> None:
    """Flask serves exactly the routes of the table."""
    rules = {
        (method, rule.rule.replace("<", "{").replace(">", "}"))
        for rule in api.client.application.url_map.iter_rules()
        for method in rule.methods or ()
    }
    assert rules - {("HEAD", path) for _, path in rules} == {(route.method, route.path) for route in ROUTES}


def test_broken_store_is_503_for_every_token(api: Api) -> None:
    """With the store open to others no token can be told good or bad: each is refused alike, and may come again."""
    token = api.token()
    directory = api.tokens._directory
    directory.chmod(0o755)
    good = assert_problem(api.request("GET", "/execs", token), 503, "token_store_unavailable")
    bad = assert_problem(api.request("GET", "/execs", "pveg_x"), 503, "token_store_unavailable")
    assert without_ids(good) == without_ids(bad) and str(directory) not in good["detail"]
    assert api.audit.records[-1]["data"]["reason"] == "store_unavailable"
    directory.chmod(0o700)
    assert api.request("GET", "/execs", token).status_code == 200


@pytest.mark.parametrize("fault", [SupervisorUnavailable("it is away"), RuntimeError("a defect")])
def test_the_log_names_request_and_token(api: Api, caplog: pytest.LogCaptureFixture, fault: Exception) -> None:
    """What the log says of a request can be found by its id and by its token's, never by the token itself."""
    token = api.token()
    token_id = token.removeprefix("pveg_").split(".")[0]
    api.supervisor.fails = fault
    response = api.request("POST", "/exec/101", token, json={"command": ["true"]})
    api.audit.down = True
    denied = api.request("POST", "/exec/102", token, json={"command": ["true"]})
    api.request("POST", "/exec/102", json={"command": ["true"]})
    lines = [record.getMessage() for record in caplog.records]
    for line, reply in zip(lines, (response, denied), strict=False):
        assert line.startswith(f"request {reply.headers['X-Request-Id']} of {token_id}"), lines
    assert lines[2].startswith("request req_") and "of a stranger: denial (no_token) not recorded" in lines[2]
    assert len(lines) == 3 and token not in caplog.text

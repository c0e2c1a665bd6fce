"""Health, and what a token is told about itself."""

from __future__ import annotations

from gateway.errors import SupervisorUnavailable

from .fakes import Api


def test_live_needs_nothing(api: Api) -> None:
    """The process is alive whatever else is down."""
    api.supervisor.fails = SupervisorUnavailable("down")
    api.audit.down = True
    response = api.request("GET", "/health/live")
    assert (response.status_code, response.json) == (200, {"status": "alive"})


def test_ready(api: Api) -> None:
    """Ready when every check holds; details only for callers with a token."""
    api.supervisor.checks = [{"name": "cgroup_v2", "ok": True, "detail": "seen"}]
    response = api.request("GET", "/health/ready")
    assert (response.status_code, response.json["status"]) == (200, "ready")
    assert [check["name"] for check in response.json["checks"]] == [
        "supervisor",
        "cgroup_v2",
        "audit",
        "tokens",
        "pmxcfs",
    ]
    assert all(check.keys() == {"name", "ok"} for check in response.json["checks"])
    detailed = api.request("GET", "/health/ready", api.token()).json["checks"]
    assert all(check.keys() == {"name", "ok", "detail"} for check in detailed)


def test_not_ready_names_what_is_missing(api: Api) -> None:
    """One check that fails, in either process, is 503 and is named."""
    api.supervisor.checks = [{"name": "launcher", "ok": False, "detail": "not there"}]
    api.audit.down = True
    response = api.request("GET", "/health/ready")
    assert (response.status_code, response.json["status"]) == (503, "not_ready")
    failed = {check["name"] for check in response.json["checks"] if not check["ok"]}
    assert failed == {"launcher", "audit"}


def test_what_either_process_misses_is_missing(api: Api) -> None:
    """Of what both processes look at there is one check, and it fails where either's does, whichever that is."""
    both = [
        {"name": name, "ok": name == "audit", "detail": f"{name}: so says the supervisor"}
        for name in ("audit", "tokens")
    ]
    api.supervisor.checks = both
    api.audit.down = True
    checks = api.request("GET", "/health/ready", api.token()).json["checks"]
    assert (
        [check["name"] for check in checks].count("audit") == [check["name"] for check in checks].count("tokens") == 1
    )
    by_name = {check["name"]: check for check in checks}
    assert (by_name["audit"]["ok"], by_name["tokens"]["ok"]) == (False, False)
    assert by_name["tokens"]["detail"] == "tokens: so says the supervisor"
    assert "supervisor" not in by_name["audit"]["detail"]


def test_a_dead_supervisor_still_tells_of_the_node(api: Api) -> None:
    """Where the supervisor does not answer, perhaps because it refused the node, the web looks itself."""
    api.supervisor.fails = SupervisorUnavailable("down")
    checks = {check["name"]: check["ok"] for check in api.request("GET", "/health/ready").json["checks"]}
    assert checks["supervisor"] is False
    assert {"cgroup_v2", "nsdelegate", "nursery", "launcher"} <= checks.keys()
    assert "lxc_attach" not in checks, "containers are not entered by it"


def test_tokens_self(api: Api) -> None:
    """A token is told its name and reach, without protected guests."""
    view = api.request("GET", "/tokens/self", api.token("exec:admin,guest:read", "149-151")).json
    assert view["name"] == "test"
    assert view["reach"] == [
        {"action": "exec:admin", "guests": "149,151"},
        {"action": "exec:run", "guests": "149,151"},
        {"action": "guest:read", "guests": "149-151"},
    ]

"""Health: is this process alive, and does the node have everything that running commands needs."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.api.call import Call, Reply
from gateway.api.models.health import Alive, CheckView, Readiness
from gateway.api.services import Services
from gateway.auth.actor import ANONYMOUS
from gateway.doctor.finding import Finding, Verdict
from gateway.doctor.node import check_pmxcfs
from gateway.errors import GatewayError
from gateway.supervisor import readiness


def show_live(services: Services, call: Call) -> Reply:
    """This process answers."""
    alive: Alive = {"status": "alive"}
    return Reply(alive)


def show_ready(services: Services, call: Call) -> Reply:
    """Everything that is needed, by name; what exactly was found is for callers with a token only."""
    checks = find_checks(services)
    ready = all(check["ok"] for check in checks)
    if call.actor is ANONYMOUS:
        checks = [{"name": check["name"], "ok": check["ok"]} for check in checks]
    answer: Readiness = {"status": "ready" if ready else "not_ready", "checks": checks}
    return Reply(answer, status=200 if ready else 503)


def find_checks(services: Services) -> list[CheckView]:
    """Everything that running commands needs, as it is now."""
    cluster = [_finding(found) for found in check_pmxcfs(services.config)]
    return _merge([*_check_supervisor(services), _check_audit(services), _check_tokens(services), *cluster])


def _merge(checks: Iterable[CheckView]) -> list[CheckView]:
    """One check a name: the first that fails, where two processes looked at the same thing."""
    merged: dict[str, CheckView] = {}
    for check in checks:
        if merged.setdefault(check["name"], check)["ok"]:
            merged[check["name"]] = check
    return list(merged.values())


def _check_supervisor(services: Services) -> list[CheckView]:
    """What the supervisor says of the node; where it does not answer, the node is looked at from here."""
    try:
        found: Iterable[CheckView] = services.supervisor.health()["checks"]
    except GatewayError as exc:
        node = readiness.checks(services.config)
        return [_check("supervisor", exc), *(_view(check) for check in node)]
    return [_check("supervisor", None), *found]


def _check_audit(services: Services) -> CheckView:
    try:
        status = services.audit.ping()
    except GatewayError as exc:
        return _check("audit", exc)
    return {"name": "audit", "ok": bool(status.get("ok")), "detail": str(status.get("why") or "")}


def _check_tokens(services: Services) -> CheckView:
    try:
        services.tokens.check()
    except GatewayError as exc:
        return _check("tokens", exc)
    return _check("tokens", None)


def _check(name: str, error: GatewayError | None) -> CheckView:
    return {"name": name, "ok": error is None, "detail": error.detail if error else ""}


def _finding(found: Finding) -> CheckView:
    ok = found.verdict is not Verdict.FAILED
    return {"name": found.name, "ok": ok, "detail": "" if ok else f"{found.detail}; {found.remedy}"}


def _view(check: readiness.Check) -> CheckView:
    return {"name": check["name"], "ok": check["ok"], "detail": check["detail"]}

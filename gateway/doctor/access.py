"""What PVE lets the gateway do: its two API tokens are taken, and have the privileges that `setup` gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.config import PveConfig
from gateway.doctor.finding import Finding, bad, good
from gateway.pve.access import SUPERVISOR, WEB, Role, narrows
from gateway.pve.client import PveApi
from gateway.pve.failure import PveFailure, PveRefused

_SECONDS = 10.0
_REMEDY = "run `pve-exec-gateway setup` as root: it makes what is missing and replaces a token that PVE does not take"


def check_access(config: PveConfig) -> Iterator[Finding]:
    """Both tokens, each by its file."""
    yield from _check("pve_token", WEB, config, config.token_file, "pve.token_file")
    yield from _check("pve_agent_token", SUPERVISOR, config, config.agent_token_file, "pve.agent_token_file")


def _check(name: str, role: Role, config: PveConfig, file: Path, key: str) -> Iterator[Finding]:
    api = PveApi(config.api, file, config.ca, key=key)
    try:
        token = api.token_id
        granted = api.call("GET", ("access", "permissions"), {}, timeout=_SECONDS)
    except PveRefused as exc:
        refused = "PVE does not take the token" if exc.status == 401 else str(exc)
        yield bad(name, f"{file}: {refused}", _REMEDY)
        return
    except PveFailure as exc:
        yield bad(name, str(exc), f"see `systemctl status pveproxy`, pve.api and pve.ca; or {_REMEDY}")
        return
    finally:
        api.close()
    missing = _missing(role, granted)
    if not missing:
        yield good(name, f"{token} may do what it must, for {role.purpose}")
    else:
        yield bad(name, f"{token} lacks {'; '.join(missing)}", _REMEDY)


def _missing(role: Role, granted: Any) -> list[str]:
    """By path; where somebody has narrowed it to some guests, or to a pool of them, that was meant."""
    given = granted if isinstance(granted, dict) else {}
    found = []
    for path in role.paths:
        has = {
            privilege for place, has in given.items() if narrows(str(place), path) or place == "/" for privilege in has
        }
        lacking = sorted(set(role.privileges) - has)
        if lacking:
            found.append(f"{', '.join(lacking)} below {path}" if len(lacking) < 6 else f"{role.name} below {path}")
    return found

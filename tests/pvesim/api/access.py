"""Who asks and what they may: API tokens of `priv/token.cfg`, roles and access lists of `user.cfg`, as PVE keeps them.

A token has privilege separation: only its own access list counts (PVE.md).
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.api.facts import Failure

_TOKENS = pmxcfs.ROOT / "priv/token.cfg"
_USERS = pmxcfs.ROOT / "user.cfg"


def add_token(token_id: str, secret: str, *, privileges: Sequence[str], path: str = "/") -> None:
    """Make the token `user@realm!name` with `privileges` on `path`, or replace it."""
    tokens = {**_read_tokens(), token_id: secret}
    pmxcfs.write(_TOKENS, "".join(f"{name} {value}\n" for name, value in tokens.items()))
    role = "Sim" + "".join(character for character in token_id if character.isalnum())
    kept = [line for line in _read_users() if role not in line and not line.startswith(f"token:{token_id}:")]
    kept += [
        f"token:{token_id}:0:1::",
        f"role:{role}:{','.join(privileges)}:",
        f"acl:1:{path}:{token_id}:{role}:",
    ]
    pmxcfs.write(_USERS, "\n".join(kept) + "\n")


def authenticate(header: str | None) -> str:
    """The token id of an Authorization header; raises Failure(401), whose answer PVE delays."""
    scheme, _, credentials = (header or "").partition("=")
    token_id, _, secret = credentials.partition("=")
    known = _read_tokens().get(token_id)
    if scheme != "PVEAPIToken":
        raise Failure(401, "No ticket\n")
    if known is None or not hmac.compare_digest(known.encode(), secret.encode()):
        raise Failure(401, "Authentication failed!\n")
    return token_id


def authorize(token_id: str, permissions: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raises Failure(403) unless the token has one of the privileges that the method's facts ask for."""
    if permissions.get("user") == "all":
        return
    _, template, privileges, *_ = permissions["check"]
    path = template.format(**parameters)
    if not set(privileges) & _privileges_on(token_id, path):
        raise Failure(403, f"Permission check failed ({path}, {'|'.join(dict.fromkeys(privileges))})\n")


def _privileges_on(token_id: str, path: str) -> set[str]:
    roles: dict[str, set[str]] = {}
    reached: list[tuple[str, str]] = []
    for line in _read_users():
        kind, *fields = line.split(":")
        if kind == "role":
            roles[fields[0]] = set(fields[1].split(","))
        elif kind == "acl" and fields[2] == token_id:
            reached.append((fields[1], fields[3]))
    above = [role for root, role in reached if path == root or root == "/" or path.startswith(f"{root}/")]
    return set().union(*(roles.get(role, set()) for role in above))


def _read_tokens() -> dict[str, str]:
    lines = _TOKENS.read_text().splitlines() if _TOKENS.exists() else []
    return dict(line.split(" ", 1) for line in lines)


def _read_users() -> list[str]:
    return _USERS.read_text().splitlines() if _USERS.exists() else []

"""`/access/users`: users and their API tokens (pve-access-control, API2/User.pm)."""

import uuid
from typing import Any

from tests.pvesim.api import access, users
from tests.pvesim.api.call import Call, Handler
from tests.pvesim.api.failure import die, refuse
from tests.pvesim.api.privileges import may


def list_users(call: Call) -> Any:
    sees_all = may(call.user, "/access/groups", "User.Modify", "Sys.Audit", any_of=True)
    known = users.read().users
    return [
        {"userid": name, "enable": int(enabled)}
        for name, enabled in sorted(known.items())
        if sees_all or name == call.user
    ]


def show_user(call: Call) -> Any:
    known = users.read()
    _require_user(call["userid"])
    tokens = {name.partition("!")[2]: {"privsep": int(on)} for name, on in known.tokens.items() if _is_of(name, call)}
    return {"enable": int(known.users[call["userid"]]), "tokens": tokens}


def create_user(call: Call) -> Any:
    name = call["userid"]
    with users.changing() as lines:
        if name in users.read().users:
            die(f"create user failed: user '{name}' already exists")
        users.set_line(
            lines, "user", name, str(call.get("enable", 1)), "0", "", "", "", _clean(call.get("comment")), ""
        )


def remove_user(call: Call) -> Any:
    name = call["userid"]
    with users.changing() as lines:
        _require_user(name)
        users.drop_line(lines, "user", name)
        gone = [line.split(":")[1] for line in lines if line.startswith(f"token:{name}!")]
        lines[:] = [line for line in lines if not line.startswith(f"token:{name}!")]
        _drop_entries(lines, {name, *gone})
    for token in gone:
        access.set_secret(token, None)


def list_tokens(call: Call) -> Any:
    tokens = users.read().tokens
    return [
        {"tokenid": name.partition("!")[2], "privsep": int(on)} for name, on in tokens.items() if _is_of(name, call)
    ]


def show_token(call: Call) -> Any:
    full = _require_token(call)
    return {"privsep": int(users.read().tokens[full])}


def create_token(call: Call) -> Any:
    """Its secret is shown this once."""
    full = f"{call['userid']}!{call['tokenid']}"
    separated, secret = call.get("privsep", 1), str(uuid.uuid4())
    with users.changing() as lines:
        _require_user(call["userid"])
        if full in users.read().tokens:
            refuse({"tokenid": "Token already exists."})
        expires, comment = str(call.get("expire", 0)), _clean(call.get("comment"))
        users.set_line(lines, "token", full, expires, str(separated), comment)
    access.set_secret(full, secret)
    return {"full-tokenid": full, "value": secret, "info": {"privsep": str(separated)}}


def remove_token(call: Call) -> Any:
    full = _require_token(call)
    with users.changing() as lines:
        users.drop_line(lines, "token", full)
        _drop_entries(lines, {full})
    access.set_secret(full, None)


def _is_of(token: str, call: Call) -> bool:
    return token.startswith(f"{call['userid']}!")


def _clean(text: str | None) -> str:
    return (text or "").replace(":", "%3A").replace("\n", " ")


def _require_user(name: str) -> None:
    if name not in users.read().users:
        die(f"no such user ('{name}')")


def _require_token(call: Call) -> str:
    full = f"{call['userid']}!{call['tokenid']}"
    if full not in users.read().tokens:
        die(f"no such token '{call['tokenid']}' for user '{call['userid']}'")
    return full


def _drop_entries(lines: list[str], whom: set[str]) -> None:
    lines[:] = [line for line in lines if not (line.startswith("acl:") and line.split(":")[3] in whom)]


_TOKEN = "/access/users/{userid}/token/{tokenid}"
ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/access/users"): list_users,
    ("POST", "/access/users"): create_user,
    ("GET", "/access/users/{userid}"): show_user,
    ("DELETE", "/access/users/{userid}"): remove_user,
    ("GET", "/access/users/{userid}/token"): list_tokens,
    ("GET", _TOKEN): show_token,
    ("POST", _TOKEN): create_token,
    ("DELETE", _TOKEN): remove_token,
}

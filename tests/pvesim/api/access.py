"""Who asks: API tokens of `priv/token.cfg`, and tickets for passwords of `priv/shadow.cfg`, as PVE keeps them.

A ticket comes in the cookie PVEAuthCookie or as Authorization, holds for two hours, and needs a CSRF token beside it
for whatever changes something.
"""

import hashlib
import hmac
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.pvesim import pmxcfs
from tests.pvesim.api import users
from tests.pvesim.api.failure import Failure

_TOKENS = pmxcfs.ROOT / "priv/token.cfg"
_PASSWORDS = pmxcfs.ROOT / "priv/shadow.cfg"
_TICKET_SECONDS = 7200


def add_token(
    token_id: str, secret: str, *, privileges: Sequence[str] = (), path: str = "/", separated: bool = True
) -> None:
    """Make the token `user@realm!name`, or replace it, and its user, who may do no more than it.

    With `separated` it has `privileges` on `path`, which its user gets too, since a token never may more than its
    owner. Without it may what its owner may: a token of root@pam nearly everything.
    """
    set_secret(token_id, secret)
    owner = token_id.partition("!")[0]
    role = "Sim" + "".join(character for character in token_id if character.isalnum())
    with users.changing() as lines:
        if not any(line.startswith(f"user:{owner}:") for line in lines):
            users.set_line(lines, "user", owner, "1", "0", "", "", "", "", "")
        users.set_line(lines, "token", token_id, "0", f"{separated:d}", "")
        lines[:] = [line for line in lines if f":{role}:" not in line]
        if separated:
            users.set_line(lines, "role", role, ",".join(privileges))
            lines += [f"acl:1:{path}:{who}:{role}:" for who in (token_id, owner)]


def store_token(file: Path, token_id: str, secret: str, *, privileges: Sequence[str]) -> None:
    """Make the token, as `add_token` does, and the file that holds it, as the gateway is given it."""
    add_token(token_id, secret, privileges=privileges)
    file.touch(0o600)
    file.write_text(f"{token_id}={secret}\n")


def set_secret(token_id: str, secret: str | None) -> None:
    """Write a token's secret, in clear as PVE does; None revokes it."""
    _change(_TOKENS, token_id, secret)


def set_password(user: str, password: str) -> None:
    """A password for tickets; also for root@pam, whose real one would be the machine's."""
    _change(_PASSWORDS, user, hashlib.sha256(password.encode()).hexdigest())


def authenticate(method: str, headers: Mapping[str, str]) -> str:
    """The user or token id that a request comes from; raises Failure(401), whose answer PVE delays."""
    scheme, _, credentials = headers.get("Authorization", "").partition("=")
    cookie = re.search(r"PVEAuthCookie=([^;\s]+)", headers.get("Cookie", ""))
    if scheme == "PVEAPIToken":
        return _verify_token(credentials)
    ticket = credentials if scheme == "PVEAuthCookie" else cookie[1] if cookie else ""
    if ticket:
        user = _verify_ticket(urllib.parse.unquote(ticket))
        if method != "GET" and not _is_csrf_token(user, headers.get("CSRFPreventionToken", "")):
            raise Failure(401, "Permission denied - invalid csrf token\n")
        return user
    raise Failure(401, "No ticket\n")


def make_ticket(user: str, password: str) -> dict[str, object]:
    """The reply of POST /access/ticket. Raises Failure(401)."""
    known, ticket = _read(_PASSWORDS).get(user, ""), password if password.startswith("PVE:") else ""
    if ticket:
        if _verify_ticket(ticket) != user:
            raise Failure(401, "authentication failure\n")
    elif not hmac.compare_digest(known, hashlib.sha256(password.encode()).hexdigest()):
        raise Failure(401, "authentication failure\n")
    if not users.read().is_valid(user):
        raise Failure(401, "authentication failure\n")
    stamp = f"{int(time.time()):08X}"
    return {
        "username": user,
        "ticket": f"PVE:{user}:{stamp}::{_sign(f'PVE:{user}:{stamp}')}",
        "CSRFPreventionToken": f"{stamp}:{_sign(f'csrf:{user}:{stamp}')}",
        "cap": {},
    }


def _verify_token(credentials: str) -> str:
    token_id, _, secret = credentials.partition("=")
    known = _read(_TOKENS).get(token_id)
    if known is None or not hmac.compare_digest(known.encode(), secret.encode()) or not users.read().is_valid(token_id):
        raise Failure(401, "Authentication failed!\n")
    return token_id


def _verify_ticket(ticket: str) -> str:
    found = re.fullmatch(r"PVE:([^:]+):([0-9A-F]{8})::(\w+)", ticket)
    if found is None or not hmac.compare_digest(found[3], _sign(f"PVE:{found[1]}:{found[2]}")):
        raise Failure(401, "Authentication failed!\n")
    if not -300 < time.time() - int(found[2], 16) < _TICKET_SECONDS:
        raise Failure(401, "Authentication failed!\n")
    return found[1]


def _is_csrf_token(user: str, text: str) -> bool:
    stamp, _, signature = text.partition(":")
    return hmac.compare_digest(signature.encode(), _sign(f"csrf:{user}:{stamp}").encode())


def _sign(text: str) -> str:
    """With the key of the cluster's CA, which every node has."""
    key = (pmxcfs.ROOT / "priv/pve-root-ca.key").read_bytes()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _change(file: Path, name: str, value: str | None) -> None:
    with users.changing():  # one lock for all of the access files
        lines = _read(file)
        lines.pop(name, None)
        if value is not None:
            lines[name] = value
        pmxcfs.write(file, "".join(f"{key} {text}\n" for key, text in lines.items()))


def _read(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines() if file.exists() else []
    return dict(line.split(" ", 1) for line in lines)

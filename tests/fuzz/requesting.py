"""What is sent: schemathesis's cases, good and bad ones, as they are and brought near to what there is on the node."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from requests import Request
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok

from tests.fuzz.guests import ground_guest
from tests.fuzz.known import Known
from tests.fuzz.stock import MACHINE, RUNNING
from tests.pvesim.services import REPOSITORY

VMIDS = ("101", "104", "101", "104", "103", "999", str(RUNNING), str(MACHINE))
"""A privileged guest, an unprivileged one, one that is stopped, none; a container and a machine that come and go."""
SPEC = REPOSITORY / "openapi/openapi.yaml"

Operation = APIOperation[Any, Any, Any, Any]

_LONGEST = 0.5
"""Seconds that a command may run: nothing waits for long, and nothing is mocked for it."""
_WEIGHT = {"POST /exec/{vmid}": 4, "POST /guests": 2, "POST /guests/{vmid}/clone": 2}
"""Operations that get more cases than others."""
_COMMANDS: tuple[Any, ...] = (
    ["true"],
    ["/no/such"],
    ["cat"],
    ["sleep", "9"],
    "echo out; echo err >&2; exit 3",
    "head -c 200000 /dev/urandom",
    "yes | head -c 3000000",
    "printf '\\377\\376'; kill -9 $$",
    "sleep 0.2 & echo left",
)
_OWN_FILES = ("/root/fuzz", "/root/fuzz.tree", "/root/fuzz.tree/deep", "/no/such/file", "/proc/fuzz")
_PLACES = {
    "GET /guests/{vmid}/files": (
        *_OWN_FILES,
        "/etc/passwd",
        "/bin/busybox",
        "/",
        "/root",
        "/dev/null",
        "/proc/self/stat",
    ),
    "PUT /guests/{vmid}/files": _OWN_FILES,
    "DELETE /guests/{vmid}/files": _OWN_FILES,
    "GET /devices/lookup": ("/dev/null", "/dev/tty", "/dev/no", "/dev/../etc/shadow", "/dev"),
}
"""Of what is changed there, nothing that a guest has of itself."""
_ACCEPTS = (None, "application/json", "application/x-ndjson", "text/event-stream", "*/*", "text/html", ";q=", "\x7f")
_GRANT: dict[str, Any] = {"actions": ["exec:run"], "guests": "104"}


@dataclass(frozen=True)
class Sent:
    """One request: the case it comes from, as arguments of requests.Session.request, and whether it is unchanged."""

    case: Case[Any]
    arguments: dict[str, Any]
    pure: bool


def load_operations(spec: Path = SPEC) -> list[Operation]:
    """Every operation of the committed description."""
    found = schemathesis.openapi.from_path(spec).get_all_operations()
    return [result.ok() for result in found if isinstance(result, Ok)]


def generate(operations: Iterable[Operation], count: int, seed: int, take: Callable[[Case[Any]], None]) -> None:
    """About `count` cases, half of them good, half of them bad; equal for an equal seed."""
    chosen = [(operation, mode) for operation in operations for mode in GenerationMode]
    for number, (operation, mode) in enumerate(chosen):
        if mode is GenerationMode.NEGATIVE and not _has_input(operation):
            continue

        @seeded(seed + number)
        @settings(
            max_examples=max(1, count // len(chosen)) * _WEIGHT.get(operation.label, 1),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def give(case: Case[Any]) -> None:
            take(case)

        # Of some, nothing that can be sent is wrong: a header that may be any text, a token that need not be there.
        with contextlib.suppress(*([Unsatisfiable] if mode is GenerationMode.NEGATIVE else [])):
            give()


def _has_input(operation: Operation) -> bool:
    """Whether there is anything that could be wrong."""
    described = operation.definition.raw
    return bool(described.get("parameters") or described.get("requestBody") or described.get("security"))


def variants(case: Case[Any], known: Known, token: str, base_url: str, chance: random.Random) -> Iterator[Sent]:
    """The case as it is; with what there is on the node in it; and the bytes of its body damaged."""
    header = {} if chance.random() < 0.05 else {"Authorization": f"Bearer {token}"}
    _tame(case.body)
    sent = case.as_transport_kwargs(base_url, headers=header)
    yield Sent(case, sent, pure=bool(header) and not _flattens(sent))
    header = {"Authorization": f"Bearer {token}"}
    if accept := chance.choice(_ACCEPTS[: 5 if chance.random() < 0.9 else None]):
        header["Accept"] = accept
    if chance.random() < 0.3:
        header["Prefer"] = "respond-async"
    _ground(case, known, chance)
    _tame(case.body)
    arguments = case.as_transport_kwargs(base_url, headers=header)
    yield Sent(case, arguments, pure=False)
    if isinstance(case.body, dict | list):
        body = json.dumps(case.body).encode()
        damaged = {**arguments, "data": _damage(body, chance)}
        damaged.pop("json", None)
        yield Sent(case, damaged, pure=False)


def _flattens(arguments: dict[str, Any]) -> bool:
    """Whether a list in the query is none any more once it is sent: `["null"]` is `null` there, which may be right."""
    given = arguments.get("params") or {}
    prepared = Request("GET", arguments["url"], params=given).prepare()
    told = parse_qs(urlsplit(prepared.url or "").query, keep_blank_values=True)
    return any(isinstance(value, list | dict) and len(told.get(name, [])) < 2 for name, value in given.items())


def _ground(case: Case[Any], known: Known, chance: random.Random) -> None:
    """Puts a guest, an exec, a token and a command that exist in the place of those made up."""
    path = case.path_parameters
    if case.operation.definition.raw.get("x-action", "").startswith("guest:"):
        ground_guest(case, known, chance)
    elif "vmid" in path:
        path["vmid"] = chance.choice(VMIDS)
    if case.operation.label in _PLACES and isinstance(case.query, dict):
        case.query["path"] = chance.choice(_PLACES[case.operation.label])
    if "id" in path and known.execs:
        path["id"] = chance.choice(known.execs)
    if "token_id" in path and known.tokens:
        path["token_id"] = chance.choice(known.tokens)
    if not isinstance(case.body, dict):
        return
    if case.operation.label == "POST /exec/{vmid}":
        case.body.update(command=chance.choice(_COMMANDS), stdin=known.canary, env={"CANARY": known.canary})
        for name in ("shell", "redact", "stdin_encoding", "user", "cwd"):
            if chance.random() < 0.8:
                case.body.pop(name, None)
    elif case.operation.label in ("POST /tokens", "PATCH /tokens/{token_id}") and chance.random() < 0.5:
        case.body.update(grants=[_GRANT], expires="1h")
        if chance.random() < 0.5:
            case.body.update(name="fuzz", networks=[])


def _tame(body: Any) -> None:
    """Bounds the times in a body that may be taken; what is wrong with it stays."""
    if not isinstance(body, dict) or "command" not in body:
        return
    for name in ("timeout", "kill_grace", "queue_timeout"):
        value = body.get(name)
        if value is None or (isinstance(value, int | float) and value > _LONGEST):
            body[name] = _LONGEST


def _damage(body: bytes, chance: random.Random) -> bytes:
    """JSON that is none any more, or another than it was."""
    at = chance.randrange(len(body) + 1)
    return chance.choice(
        [
            body[:at],
            body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :],
            body[:at] + b"\\ud800" + body[at:],
            body[:at] + chance.choice([b"\xff", b"\0", b"NaN", b"1e999", b"9" * 5000, b"[" * 5000]) + body[at:],
            body[:-1] + b"," + body[1:],
            b"\xef\xbb\xbf" + body,
        ]
    )

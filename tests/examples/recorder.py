"""Recorder: asks the API, and keeps each exchange under its operation; and when two recordings are of one shape."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gateway.api.openapi.examples import Exchange
from tests.contract import JSON, PROBLEM, find_operation
from tests.exec.api import Answer, Api
from tests.exec.websocket import Closed, Heard, Output

RECORDED = Path(__file__).parents[2] / "gateway" / "api" / "openapi" / "recorded"

_TOLD = ("Location", "ETag", "Idempotency-Replayed", "Preference-Applied", "Content-Range", "X-Output-Complete")
TAR = "application/x-tar"
_SECRET = re.compile(r"pveg_[A-Za-z0-9_.-]{20,}")
_MAX_ITEMS = 3
"""Of a list: more of the same explains nothing."""
_MAX_TEXT = 4000
"""Characters, whole lines of them."""


class Recorder:
    """One teller of the story. `exchanges`: what was recorded, by the operation's id."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.exchanges: dict[str, list[Exchange]] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        says: str,
        name: str = "ok",
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        expect: int = 200,
    ) -> Any:
        """One exchange, recorded; the reply's JSON, or its text. Fails where the status is not the expected one."""
        answer = self.api.request(method, path, body, raw=raw, headers=headers, timeout=90)
        assert answer.status == expect, (method, path, answer.status, answer.body[:2000])
        came_as = answer.headers.get_content_type() if answer.body else ""
        sent_as = (headers or {}).get("Content-Type", "application/json") if body is not None or raw is not None else ""
        self._keep(
            method,
            path,
            Exchange(
                name=name,
                summary=says,
                path=path,
                status=answer.status,
                sent_as=sent_as,
                sent=body if raw is None else _text(raw, sent_as),
                came_as=came_as,
                came=_shorten(_without_secrets(_body(answer, came_as))),
                asked=dict(headers or {}),
                told={field: answer.headers[field] for field in _TOLD if field in answer.headers},
            ),
        )
        return _body(answer, came_as)

    def note_messages(self, path: str, says: str, messages: list[dict[str, Any]]) -> None:
        """A WebSocket's messages, as `show_said` and `show_heard` give them."""
        self._keep("GET", path, Exchange("ok", says, path, 101, messages=messages))

    def _keep(self, method: str, path: str, exchange: Exchange) -> None:
        operation = find_operation(method, path.partition("?")[0])
        assert operation is not None, (method, path)
        kept = self.exchanges.setdefault(operation["operationId"], [])
        assert exchange.name not in [other.name for other in kept], (operation["operationId"], exchange.name)
        kept.append(exchange)


def show_said(kind: str, **members: Any) -> dict[str, Any]:
    """A text message of the client's."""
    return {"from": "client", "text": {"type": kind, **members}}


def show_input(offset: int, data: bytes) -> dict[str, Any]:
    """A binary message of the client's."""
    return {"from": "client", "binary": {"channel": 0, "offset": offset, "payload": data.decode()}}


def show_heard(heard: Heard) -> dict[str, Any]:
    """Any message of the gateway's, or its close."""
    if isinstance(heard, Closed):
        return {"from": "gateway", "close": {"code": heard.code, "reason": heard.reason}}
    if isinstance(heard, Output):
        binary = {"channel": heard.channel, "offset": heard.offset, "payload": heard.data.decode()}
        return {"from": "gateway", "binary": binary}
    return {"from": "gateway", "text": heard}


def write(exchanges: dict[str, list[Exchange]]) -> list[str]:
    """Writes what has another shape than what is there, and removes what is no more; the operations in question."""
    changed = []
    for operation_id, kept in exchanges.items():
        file = RECORDED / f"{operation_id}.json"
        old = json.loads(file.read_text()) if file.exists() else []
        if len(old) != len(kept) or not is_alike(old, as_json(kept)):
            file.write_text(json.dumps(as_json(kept), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            changed.append(operation_id)
    for file in RECORDED.glob("*.json"):
        if file.stem not in exchanges:
            file.unlink()
            changed.append(file.stem)
    return changed


def as_json(exchanges: list[Exchange]) -> list[dict[str, Any]]:
    """What a file holds: members that say nothing left out."""
    return [
        {key: value for key, value in asdict(each).items() if value not in (None, "", {}, ())} for each in exchanges
    ]


def is_alike(one: Any, other: Any) -> bool:
    """Whether both have the same members, of the same types: null is like null only, what is empty like any of its
    kind. What is not in the same `state`, as an exec that has or has not ended by then, has other nulls."""
    if one in ([], {}) or other in ([], {}):
        return type(one) is type(other)
    if isinstance(one, dict) and isinstance(other, dict):
        moved = one.get("state") != other.get("state")
        return one.keys() == other.keys() and all(
            (moved and (one[name] is None or other[name] is None)) or is_alike(one[name], other[name]) for name in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return all(is_alike(a, b) for a, b in zip(one, other, strict=False))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return isinstance(one, bool) is isinstance(other, bool)
    return type(one) is type(other)


def _body(answer: Answer, media_type: str) -> Any:
    if not answer.body:
        return None
    return answer.json() if media_type in (JSON, PROBLEM) else _text(answer.body, media_type)


def _text(data: bytes, media_type: str) -> str:
    """Of an archive the names in it: its bytes would explain nothing."""
    if media_type != TAR:
        return data.decode()
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return "\n".join(["(an archive of:)", *(member.name for member in tar)])


def _shorten(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shorten(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_shorten(item) for item in value[:_MAX_ITEMS]]
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return value[: value.rindex("\n", 0, _MAX_TEXT) + 1] if "\n" in value[:_MAX_TEXT] else value[:_MAX_TEXT]
    return value


def _without_secrets(value: Any) -> Any:
    """A token that is recorded is nobody's."""
    return json.loads(_SECRET.sub("pveg_0000.not-a-token", json.dumps(value)))

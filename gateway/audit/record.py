"""The record: its events, its fields, its one canonical line, and the bound on its size."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from gateway import ulid
from gateway.audit.keys import Redactor

Fields = dict[str, Any]
"""The members of a record as JSON values."""

VERSION: Final = 1
MAX_BYTES = 64 << 10
"""A record's line, chain fields included, is never longer."""

_CHAIN_ROOM = 512
_SHORT = 256
_MAX_ITEMS = 64
_MAX_DEPTH = 8


class Event(StrEnum):
    """`subject:action`. Those of the subject `audit` are the writer's own; it takes them from nobody."""

    EXEC_INTENT = "exec:intent"
    EXEC_OUTCOME = "exec:outcome"
    EXEC_CANCEL = "exec:cancel"
    EXEC_SIGNAL = "exec:signal"
    EXEC_INPUT = "exec:input"
    EXEC_ABORTED = "exec:aborted"
    REQUEST_DENIED = "request:denied"
    GUEST_CREATE = "guest:create"
    GUEST_RESTORE = "guest:restore"
    GUEST_CLONE = "guest:clone"
    GUEST_DELETE = "guest:delete"
    GUEST_START = "guest:start"
    GUEST_STOP = "guest:stop"
    GUEST_SHUTDOWN = "guest:shutdown"
    GUEST_REBOOT = "guest:reboot"
    GUEST_SUSPEND = "guest:suspend"
    GUEST_RESUME = "guest:resume"
    GUEST_CONFIG = "guest:config"
    GUEST_ROOT_CONFIG = "guest:root-config"
    GUEST_RESIZE = "guest:resize"
    GUEST_MIGRATE = "guest:migrate"
    GUEST_TEMPLATE = "guest:template"
    GUEST_SNAPSHOT = "guest:snapshot"
    GUEST_SNAPSHOT_DELETE = "guest:snapshot-delete"
    GUEST_ROLLBACK = "guest:rollback"
    GUEST_BACKUP = "guest:backup"
    GUEST_BACKUP_DELETE = "guest:backup-delete"
    GUEST_TASK_STOP = "guest:task-stop"
    GUEST_OUTCOME = "guest:outcome"
    GUEST_ABORTED = "guest:aborted"
    FILE_READ = "file:read"
    FILE_WRITE = "file:write"
    FILE_DELETE = "file:delete"
    FILE_OUTCOME = "file:outcome"
    FILE_ABORTED = "file:aborted"
    STORAGE_DOWNLOAD = "storage:download"
    STORAGE_OUTCOME = "storage:outcome"
    STORAGE_ABORTED = "storage:aborted"
    TOKEN_CREATE = "token:create"
    TOKEN_EDIT = "token:edit"
    TOKEN_ROTATE = "token:rotate"
    TOKEN_REVOKE = "token:revoke"
    TOKEN_DELETE = "token:delete"
    TOKEN_KEY_ROTATE = "token:key-rotate"
    TOKEN_KEY_RETIRE = "token:key-retire"
    TOKEN_ABORTED = "token:aborted"
    NODE_CHECK = "node:check"
    AUDIT_OPENED = "audit:opened"
    AUDIT_ROTATED = "audit:rotated"
    AUDIT_PRUNED = "audit:pruned"
    AUDIT_TORN = "audit:torn"
    AUDIT_RECOVERED = "audit:recovered"
    AUDIT_FULL = "audit:full"
    AUDIT_CLOCK = "audit:clock"
    AUDIT_LOST = "audit:lost"


_GUEST_ENDS = (Event.GUEST_OUTCOME, Event.GUEST_ABORTED)
ANNOUNCEMENTS = frozenset(
    {
        *(event for event in Event if event.startswith("guest:") and event not in _GUEST_ENDS),
        Event.FILE_READ,
        Event.FILE_WRITE,
        Event.FILE_DELETE,
        Event.STORAGE_DOWNLOAD,
        Event.EXEC_INTENT,
        Event.EXEC_CANCEL,
        Event.EXEC_SIGNAL,
        Event.EXEC_INPUT,
        Event.TOKEN_CREATE,
        Event.TOKEN_EDIT,
        Event.TOKEN_ROTATE,
        Event.TOKEN_REVOKE,
        Event.TOKEN_DELETE,
        Event.TOKEN_KEY_ROTATE,
        Event.TOKEN_KEY_RETIRE,
    }
)
"""They say what is about to be done. If their caller was told no, an `aborted` record takes them back."""


def build_record(
    event: Event,
    *,
    audit_id: str | None = None,
    request_id: str | None = None,
    token_id: str | None = None,
    token_name: str | None = None,
    remote: str | None = None,
    action: str | None = None,
    vmid: int | None = None,
    node: str | None = None,
    exec_id: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> Fields:
    """The fields a caller gives; the writer adds `v`, `seq`, `ts`, `peer`, `prev` and `mac`.

    `audit_id` names the operation: an outcome carries its intent's. `data` holds what the event needs, with
    every secret already replaced by `Redactor.hash`.
    """
    actor = {"token_id": token_id, "name": token_name} if token_id is not None else None
    given = {
        "event": str(event),
        "audit_id": audit_id or new_audit_id(),
        "request_id": request_id,
        "actor": actor,
        "remote": remote,
        "action": action,
        "vmid": vmid,
        "node": node,
        "exec_id": exec_id,
        "data": dict(data) if data else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def build_aborted(record: Mapping[str, Any], reason: str) -> Fields:
    """The record that takes an announcement back: same operation, `aborted`, and why."""
    same = {
        name: record[name]
        for name in ("audit_id", "request_id", "actor", "remote", "action", "vmid", "node", "exec_id")
        if name in record
    }
    event = Event(str(record["event"]).partition(":")[0] + ":aborted")
    return {**same, "event": str(event), "data": {"aborted": record["event"], "reason": reason}}


def note(event: Event, **data: object) -> Fields:
    """A record of the log about itself."""
    return {"event": str(event), "audit_id": new_audit_id(), "data": data}


def new_audit_id() -> str:
    return ulid.new("au_")


def now() -> str:
    """This moment, RFC 3339 in UTC with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def canonical(record: Mapping[str, Any]) -> bytes:
    """The one way to write a record: sorted keys, no spaces, ASCII with JSON escapes, so no value can hold a
    newline or a terminal's control bytes. Raises ValueError for NaN, infinities and what JSON cannot say."""
    return _json(record)


def _json(value: object) -> bytes:
    try:
        return _ENCODER.encode(value).replace("\x7f", "\\u007f").encode("ascii")
    except (TypeError, RecursionError) as exc:
        raise ValueError(f"not a JSON value: {exc}") from None


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def check_fields(record: object) -> tuple[Fields, int]:
    """`record` as a caller may send it, and the bytes it takes.

    Raises ValueError naming the field that is unknown, missing or wrong.
    """
    if not isinstance(record, dict):
        raise ValueError("record is not an object")
    for name, value in record.items():
        check = _FIELDS.get(name)
        if check is None:
            raise ValueError(f"unknown field {str(name)[:64]!r}")
        if not check(value):
            raise ValueError(f"field {name!r} has a wrong type or length")
    for name in ("event", "audit_id"):
        if name not in record:
            raise ValueError(f"field {name!r} is missing")
    if not _is_shallow(record.get("data"), _MAX_DEPTH):
        raise ValueError("field 'data' is nested too deeply")
    return record, len(canonical(record))


def _is_shallow(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_shallow(item, depth - 1) for item in value.values())
    if isinstance(value, list):
        return depth > 0 and all(_is_shallow(item, depth - 1) for item in value)
    return True


def _is_event(value: object) -> bool:
    return isinstance(value, str) and value in _CALLERS_EVENTS


def _is_audit_id(value: object) -> bool:
    return isinstance(value, str) and value.startswith("au_") and ulid.is_ulid(value[3:])


def _is_short(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _SHORT


def _is_vmid(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 32


def _is_actor(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() <= {"token_id", "name"}
        and all(item is None or _is_short(item) for item in value.values())
    )


_CALLERS_EVENTS = frozenset(str(event) for event in Event if not event.startswith("audit:"))
_FIELDS: dict[str, Callable[[object], bool]] = {
    "event": _is_event,
    "audit_id": _is_audit_id,
    "request_id": _is_short,
    "actor": _is_actor,
    "remote": _is_short,
    "action": _is_short,
    "vmid": _is_vmid,
    "node": _is_short,
    "exec_id": _is_short,
    "idempotency_key": _is_short,
    "fingerprint": _is_short,
    "data": lambda value: isinstance(value, dict),
}


def bound_record(record: Fields, redactor: Redactor, limit: int = MAX_BYTES) -> Fields:
    """`record`, with the long values of `data` cut until its line fits into `limit` bytes.

    A cut value becomes `{"cut": <its beginning>, "bytes": <its length>, "hash": <keyed hash>}`: what was cut
    can still be looked up. So does an object of more than 64 members; a list keeps its first 64. If all that
    is not enough, `data` as a whole is cut. Lists and objects are measured and hashed as canonical JSON.
    """
    room = limit - _CHAIN_ROOM
    if len(canonical(record)) <= room:
        return record
    data = record.get("data", {})
    for longest in (4096, 1024, 256):
        bounded = {**record, "data": _cut(data, longest, redactor)}
        if len(canonical(bounded)) <= room:
            return bounded
    return {**record, "data": _marker(_json(data), 256, redactor)}


def _cut(value: object, longest: int, redactor: Redactor) -> object:
    if isinstance(value, str):
        raw = value.encode("utf-8", "surrogatepass")
        return value if len(raw) <= longest else _marker(raw, longest // 4, redactor)
    if isinstance(value, dict):
        if len(value) > _MAX_ITEMS or any(len(name) > longest for name in value):
            return _marker(_json(value), longest // 4, redactor)
        return {name: _cut(item, longest, redactor) for name, item in value.items()}
    if isinstance(value, list):
        items = [_cut(item, longest, redactor) for item in value[:_MAX_ITEMS]]
        return items if len(value) <= _MAX_ITEMS else [*items, _marker(_json(value), 64, redactor)]
    return value


def _marker(raw: bytes, shown: int, redactor: Redactor) -> Fields:
    return {"cut": raw[:shown].decode("utf-8", "ignore"), "bytes": len(raw), "hash": redactor.hash(raw)}

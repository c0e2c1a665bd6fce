"""Problems as the API's description tells of them: one shape, and by status the codes that an operation can give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.api.openapi.headers import OF_PROBLEMS, QUOTA, TOLD
from gateway.api.problems import MAX_FIELD_ERRORS, MEDIA_TYPE
from gateway.api.route import Route
from gateway.api.schemas import REF, Schema
from gateway.auth.actions import Action
from gateway.errors import (
    Forbidden,
    GatewayError,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    Overloaded,
    PayloadTooLarge,
    PolicyRefused,
    RateLimited,
    TokenStoreError,
    TooManyLogins,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
)
from gateway.errors_all import all_errors
from gateway.web.codes import EDGE_CODES


def _text(description: str, **more: Any) -> Schema:
    return {"type": "string", "description": description, **more}


def _number(description: str) -> Schema:
    return {"type": "integer", "description": description}


def _texts(description: str) -> Schema:
    return {"type": "array", "items": {"type": "string"}, "description": description}


_FIELD_ERROR: Schema = {
    "type": "object",
    "description": "One field of the request that cannot be taken; never the value that was sent.",
    "required": ["path", "code", "message"],
    "properties": {
        "path": _text("Where: the names of members and the positions in lists, joined by dots; or a header's name."),
        "code": _text("Stable; for programs: `missing`, `unknown_field`, `int_type`, ..."),
        "message": _text("What was wrong; for people."),
    },
}
_REFUSED_THING: Schema = {
    "type": "object",
    "description": "What node policy does not allow.",
    "required": ["what", "key"],
    "properties": {
        "what": _text("The option or thing."),
        "key": {
            "type": ["string", "null"],
            "description": "The key of the node's configuration that could allow it; null where nothing can.",
        },
    },
}
_PROBLEM: Schema = {
    "type": "object",
    "description": "Every failure has this shape (RFC 9457). `code` is for programs and never changes its meaning; "
    "`detail` says what to do next. The members behind `request_id` stand where they apply; more may come.",
    "required": ["type", "title", "status", "code", "detail", "retryable", "request_id"],
    "properties": {
        "type": _text("`urn:pve-exec-gateway:problem:` and the code.", format="uri"),
        "title": _text("The code in words."),
        "status": _number("The HTTP status again."),
        "code": _text(
            "Stable; for programs. Each operation lists those that it can give.", pattern="^[a-z][a-z0-9_]*$"
        ),
        "detail": _text("What was wrong and what to do next; for people."),
        "retryable": {"type": "boolean", "description": "Whether the same request may succeed later."},
        "request_id": _text("Names the request in the logs; X-Request-Id is the same."),
        "audit_id": _text("Of the audit log's records about it."),
        "errors": {
            "type": "array",
            "items": {"$ref": REF + "FieldError"},
            "description": f"Which fields cannot be taken: {MAX_FIELD_ERRORS} at most; or PVE's own parameters.",
        },
        "vmid": _number("The guest; absent where what stood there can be none."),
        "exec_id": _text("The exec."),
        "token_id": _text("The token."),
        "snapshot": _text("The snapshot."),
        "node": _text("The node."),
        "storage": _text("The storage."),
        "pool": _text("The pool."),
        "volume": _text("The volume."),
        "template": _text("The template."),
        "source": _number("The guest that was to be copied."),
        "upid": _text("PVE's task: see GET /tasks/{upid}."),
        "exitstatus": _text("How PVE's task ended."),
        "log": _texts("The last lines of PVE's task."),
        "lock": _text("Who has the guest: `backup`, `migrate`, ..."),
        "action": _text("The action that no grant of the token gives here."),
        "field": _text("The first field of the command that no grant allows."),
        "refused": {
            "type": "array",
            "items": {"$ref": REF + "RefusedThing"},
            "description": "What node policy does not allow; 20 at most.",
        },
        "program": _text("The command's program, where it is what no grant allows."),
        "exceeds": _texts("In what the token would be allowed more than the caller."),
        "privilege": _text("What PVE says that the gateway's own API token lacks."),
        "path": _text("Where it lacks that; or the device that was named."),
        "preset": _text("The preset that stands for no device of the node."),
        "key": _text("The guest's option that gives something there already."),
        "group": {"type": ["string", "null"], "description": "The group whose number in the guest is not known."},
        "why": _text("Why it is not."),
        "limit": _number("The limit that was reached: how many bytes or requests."),
        "limited_by": _text("The limit on execs that was reached, by its name, like `exec.max_running`."),
        "remaining": _number("As RateLimit-Remaining."),
        "reset": _number("As RateLimit-Reset."),
        "retry_after": _number("Seconds to wait, as Retry-After."),
        "size": _number("The length in bytes of the output so far, or of the file."),
        "kept": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
            "description": "The half-open ranges of the output that were kept.",
        },
        "errno": _text("Why the guest's kernel refuses it, by its name: `EROFS`, `ENOSPC`, ..."),
        "file_type": _text("What stands at the path: `directory`, `fifo`, `socket`, `character-device`, ..."),
        "entry": _text("The path in the archive of the entry at which it ended."),
        "reason": _text("Why an archive is refused: `absolute`, `climbs`, `through_link`, `device`, `cut`, ..."),
        "sha256": _text("Of the bytes that came, in hexadecimal."),
        "offset": _number("Where the input goes on."),
        "expected": _number("Where the input goes on."),
        "exact_from": _number("The first `from` behind 0 from which the order of both streams is known still."),
        "etag": _text("The ETag of the version there is."),
        "state": _text("The state of what cannot be changed so."),
        "until": _text("Until when."),
        "missing": _texts("What the node lacks."),
        "unsupported": _texts("Fields or operations that the guest's driver does not have."),
        "offered": _texts("The media types that there are."),
        "allow": _texts("The methods that there are."),
        "undone": {
            "type": "boolean",
            "description": "Of a guest whose making failed, or of what one was given: whether nothing of it is left.",
        },
        "request": {
            "type": "object",
            "additionalProperties": True,
            "description": "What was asked for, less its secrets.",
        },
    },
}


def problem_schemas() -> dict[str, Schema]:
    """The components of every problem."""
    return {"Problem": _PROBLEM, "FieldError": _FIELD_ERROR, "RefusedThing": _REFUSED_THING}


def describe_codes() -> dict[str, Schema]:
    """Every code there is: its status, its title, whether to ask again, what it means."""
    found: dict[str, Schema] = {}
    for error in all_errors():
        meaning = " ".join((error.__doc__ or "").split())
        found.setdefault(
            error.code,
            {"status": error.status, "title": error.title, "retryable": error.retryable, "meaning": meaning},
        )
    return dict(sorted(found.items()))


def describe_problems(route: Route) -> dict[int, Schema]:
    """The operation's problems by status, its own, those of the pipeline and those of the edge."""
    by_status: dict[int, list[str]] = {}
    for error in [*_pipeline_errors(route), *route.possible_errors]:
        by_status.setdefault(error.status, []).append(error.code)
    for status, codes in EDGE_CODES.items():
        by_status.setdefault(status, []).extend(codes)
    return {status: _problem(status, codes) for status, codes in sorted(by_status.items())}


def _problem(status: int, codes: Iterable[str]) -> Schema:
    each = list(dict.fromkeys(codes))
    told = ["X-Request-Id", *(QUOTA if status not in _EDGE_ALONE else ())]
    told += [name for name in OF_PROBLEMS if status in TOLD[name].statuses and status != 101]
    return {
        "description": "Problem: " + ", ".join(f"`{code}`" for code in each),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in told},
        "content": {MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}}},
        "x-problem-codes": each,
    }


_EDGE_ALONE = (408, 414, 417, 431, 501, 505)
"""Answered before anybody knows whose request it is."""


def share_responses(operations: Iterable[Mapping[str, Any]]) -> dict[str, Schema]:
    """The components of those problems that several operations have; what they are is put by references to them."""
    uses: dict[str, list[tuple[Schema, str]]] = {}
    for operation in operations:
        for status, reply in operation["responses"].items():
            if set(reply.get("content", ())) == {MEDIA_TYPE}:
                key = f"{status} {','.join(reply['x-problem-codes'])}"
                uses.setdefault(key, []).append((operation["responses"], status))
    shared: dict[str, Schema] = {}
    for key in sorted(key for key, places in uses.items() if len(places) > 1):
        status = key.partition(" ")[0]
        same = sum(name.startswith(f"Problem{status}") for name in shared)
        name = f"Problem{status}" + ("" if not same else chr(ord("A") + same))
        responses, _ = uses[key][0]
        shared[name] = responses[status]
        for replies, at in uses[key]:
            replies[at] = {"$ref": f"#/components/responses/{name}"}
    return shared


def _pipeline_errors(route: Route) -> list[type[GatewayError]]:
    errors: list[type[GatewayError]] = [MalformedRequest, InvalidRequest, InternalError, RateLimited]
    if route.action is not Action.PUBLIC:
        errors += [Unauthenticated, TooManyLogins, TooManyRequests, TokenStoreError]
    if route.action not in (Action.PUBLIC, Action.ANY_TOKEN):
        errors.append(Forbidden)
    if route.asks_pve:
        errors.append(Overloaded)
    if route.change is not None:
        errors.append(PolicyRefused)
    if route.body is not None:
        errors += [PayloadTooLarge, UnsupportedMediaType]
    if route.upload:
        errors.append(UnsupportedMediaType)
    return errors

"""ROUTES as an OpenAPI 3.1 document: parameters, bodies, replies and problems, from the code that runs."""

from __future__ import annotations

from collections.abc import Iterable

from gateway import __version__
from gateway.api.events import EventFormat
from gateway.api.headers import JSON
from gateway.api.models.events import ExecEvent
from gateway.api.problems import MEDIA_TYPE
from gateway.api.route import PARAMETERS, Route
from gateway.api.routes import ROUTES
from gateway.api.schemas import REF, Schema, expand_model, model_schema, type_schema
from gateway.auth.actions import MEANINGS, Action
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
from gateway.web.codes import EDGE_CODES

_BYTES = "application/octet-stream"
_PARAMETER_TEXT = {
    "vmid": "The guest's cluster-wide number.",
    "id": "The exec's id.",
    "token_id": "The token's id, which is no secret.",
    "snapshot": "The snapshot's name.",
    "upid": "The task's name, as PVE gave it.",
}
_ASKED = {
    "If-Match": "The ETag of the version that is meant; if there is another by now, nothing is changed (412).",
    "Range": "One range, like `bytes=0-99`; several are ignored.",
    "If-Range": "The ETag of the version that a Range is meant of; of another one everything is sent.",
    "If-None-Match": "`*`: only if nothing stands there yet (412).",
    "Content-Digest": "`sha-256=:<base64>:` of the body (RFC 9530); if that is not what comes, nothing is replaced.",
    "Prefer": "`respond-async` starts the exec and answers 202 at once, where Accept takes JSON.",
    "Idempotency-Key": "1 to 255 visible ASCII characters. The same key with the same request, from the same token, "
    "gives the first one's exec; with another request it is refused.",
    "Origin": "The page that asks, where a browser does: the gateway's own, or one of `web.allowed_origins`.",
    "Sec-WebSocket-Protocol": "`pvex.v1`; from a browser `pvex.ticket.<ticket>`, too, where `?ticket=` is not given.",
    "Last-Event-ID": "`seq` of the last event seen: go on behind it.",
}
_TOLD = {
    "Content-Digest": "`sha-256=:<base64>:` of the body, where it has at most 1 MiB (RFC 9530).",
    "Content-Range": "The range that this is, and the whole's length: of a running command's output `*`.",
    "ETag": "The version of the token, or of the guest's configuration, for If-Match; of the file, for If-Range.",
    "Last-Modified": "When the guest says that the file was changed last.",
    "Idempotency-Replayed": "`true` when an earlier request with this Idempotency-Key began the exec.",
    "Location": "The exec or the task (200, 202), the token or the guest (201).",
    "Preference-Applied": "`respond-async` (202).",
    "Sec-WebSocket-Protocol": "`pvex.v1`.",
    "X-File-Type": "`file` or `directory`.",
    "X-File-Mode": "Its permissions, in octal: `0644`.",
    "X-File-Uid": "Its owner's number in the guest.",
    "X-File-Gid": "Its group's number in the guest.",
    "X-File-User": "Its owner's name, where the guest's /etc/passwd has one.",
    "X-File-Group": "Its group's name, where the guest's /etc/group has one.",
    "X-Output-Bytes": "The stream's length so far, dropped bytes counted.",
    "X-Output-Complete": "`true` when no more will come.",
    "X-Output-Dropped": "Ranges that were not kept, like `100-199,300-399`.",
    "X-Request-Id": "Names this request in the logs.",
}
_EVENT_TEXT = {
    EventFormat.NDJSON: "One event a line.",
    EventFormat.SSE: "`id` is the event's seq, `event` its type, `data` the same JSON; heartbeats are comments.",
}
_PROBLEM: Schema = {
    "type": "object",
    "description": "RFC 9457. More members name what it is about: vmid, exec_id, audit_id, kept, limit, ...",
    "required": ["type", "title", "status", "code", "detail", "retryable", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; for programs."},
        "detail": {"type": "string", "description": "What was wrong and what to do next; for people."},
        "retryable": {"type": "boolean"},
        "request_id": {"type": "string"},
        "audit_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["path", "code", "message"],
                "properties": {name: {"type": "string"} for name in ("path", "code", "message")},
            },
        },
    },
}


def build_openapi(routes: Iterable[Route] = ROUTES) -> Schema:
    """The whole document. Same input, same output: it is committed and compared."""
    schemas: dict[str, Schema] = {"Problem": _PROBLEM}
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pve-exec-gateway",
            "version": __version__,
            "description": "Run commands in the guests of a Proxmox VE node.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "x-actions": {str(action): meaning for action, meaning in MEANINGS.items()},
        "servers": [{"url": "https://localhost:39377"}],
        "paths": paths,
        "components": {
            "responses": _edge_responses(paths),
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "pveg_..."}},
        },
    }


def _operation(route: Route, schemas: dict[str, Schema]) -> Schema:
    operation: Schema = {"operationId": route.operation_id, "summary": route.summary}
    if route.action is Action.PUBLIC:
        operation["security"] = []
    else:
        operation["security"] = [{"token": []}]
        operation["x-action"] = str(route.action)
    parameters = [*_path_parameters(route), *_query_parameters(route, schemas), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        body = model_schema(route.body, schemas)
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    if route.upload:
        operation["requestBody"] = {"required": False, "content": {_BYTES: {}}}
    operation["responses"] = _replies(route, schemas) | _problems(route)
    return operation


def _path_parameters(route: Route) -> list[Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PARAMETER_TEXT[name],
            "schema": {"type": "string", "pattern": f"^{PARAMETERS[name].pattern}$"},
        }
        for name in route.parameters
    ]


def _query_parameters(route: Route, schemas: dict[str, Schema]) -> list[Schema]:
    properties = expand_model(route.query, schemas)["properties"]
    parameters = []
    for name, schema in properties.items():
        described = {key: value for key, value in schema.items() if key not in ("title", "description")}
        parameters.append(
            {"name": name, "in": "query", "description": schema.get("description", ""), "schema": described}
        )
    return parameters


def _header_parameters(route: Route) -> list[Schema]:
    """Accept is none of them: OpenAPI has it in the content of replies."""
    return [
        {"name": name, "in": "header", "description": _ASKED[name], "schema": {"type": "string"}} for name in route.asks
    ]


def _replies(route: Route, schemas: dict[str, Schema]) -> Schema:
    told = ("X-Request-Id", *route.tells)
    headers = {name: {"description": _TOLD[name], "schema": {"type": "string"}} for name in told}
    replies: Schema = {}
    for status in route.statuses:
        replies[str(status)] = {"description": _DESCRIPTIONS[status], "headers": headers}
        content = _content(route, status, schemas)
        if status in EDGE_CODES:
            problem = _problem(EDGE_CODES[status])
            replies[str(status)]["description"] += " " + problem["description"]
            content |= problem["content"]
        if content:
            replies[str(status)]["content"] = content
    return replies


def _content(route: Route, status: int, schemas: dict[str, Schema]) -> Schema:
    if status in (101, 204):
        return {}
    if status == 202 and route.accepted is not None:
        return {JSON: {"schema": type_schema(route.accepted, schemas)}}
    content: Schema = {}
    if route.reply is bytes:
        content[_BYTES] = {}
    elif route.reply is str:
        content["text/plain"] = {"schema": {"type": "string"}}
    elif route.reply is not None:
        content[JSON] = {"schema": type_schema(route.reply, schemas)}
    if route.content:
        content[_BYTES] = {}
    if route.events:
        schemas.setdefault("ExecEvent", type_schema(ExecEvent, schemas))
        for format_ in EventFormat:
            content[format_.value] = {
                "schema": {"type": "string", "description": _EVENT_TEXT[format_]},
                "x-item-schema": {"$ref": REF + "ExecEvent"},
            }
    return content


_DESCRIPTIONS = {
    101: "The WebSocket is open.",
    200: "Done.",
    201: "Made.",
    202: "Accepted; it is not finished yet.",
    204: "Nothing more will come.",
    206: "The range that was asked for.",
    503: "Not ready.",
}


def _problems(route: Route) -> Schema:
    """By status; what is the edge's alone is described once, for all operations."""
    by_status: dict[int, list[str]] = {}
    for error in [*_pipeline_errors(route), *route.possible_errors]:
        by_status.setdefault(error.status, []).append(error.code)
    problems: Schema = {}
    for status in sorted({*by_status, *EDGE_CODES} - {*route.statuses}):
        codes = by_status.get(status, [])
        if codes:
            problems[str(status)] = _problem([*codes, *EDGE_CODES.get(status, ())])
        else:
            problems[str(status)] = {"$ref": f"#/components/responses/{_edge_name(status)}"}
    return problems


def _problem(codes: Iterable[str]) -> Schema:
    return {
        "description": "Problem: " + ", ".join(f"`{code}`" for code in dict.fromkeys(codes)),
        "content": {MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}}},
    }


def _edge_name(status: int) -> str:
    return f"Edge{status}"


def _edge_responses(paths: dict[str, Schema]) -> Schema:
    """Those that an operation refers to."""
    replies = (operation["responses"] for path in paths.values() for operation in path.values())
    used = {reply["$ref"].rsplit("/", 1)[1] for told in replies for reply in told.values() if "$ref" in reply}
    edge = {_edge_name(status): _problem(codes) for status, codes in EDGE_CODES.items()}
    return {name: reply for name, reply in edge.items() if name in used}


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

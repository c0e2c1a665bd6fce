"""One operation of ROUTES as the API's description has it: parameters, bodies, replies, and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.api.events import EventFormat
from gateway.api.headers import JSON
from gateway.api.models.events import ExecEvent
from gateway.api.openapi.examples import Exchange
from gateway.api.openapi.headers import ASKED, QUOTA, TOLD
from gateway.api.openapi.naming import tag_of
from gateway.api.openapi.problems import describe_problems
from gateway.api.openapi.websocket import describe_websocket
from gateway.api.route import PARAMETERS, Route
from gateway.api.schemas import REF, Schema, expand_model, model_schema, type_schema
from gateway.auth.actions import MEANINGS, Action
from gateway.pve.ids import MAX_VMID, MIN_VMID

_BYTES = "application/octet-stream"
_TAR = "application/x-tar"
_ANY_BYTES: Schema = {"type": "string", "format": "binary"}
_PATH = {
    "vmid": ("The guest's cluster-wide number.", 101),
    "id": ("The exec's id.", "ex_01KAKZ1XQ3T6W9Y2B5D8FGHJKM"),
    "token_id": ("The token's id, which is no secret.", "tk_01KAKZ1XQ3T6W9Y2B5D8FGHJKM"),
    "snapshot": ("The snapshot's name.", "before-upgrade"),
    "upid": ("The task's name, as PVE gave it.", "UPID:pve1:0000C0DE:00C0FFEE:68B1A3F0:vzstart:101:gateway@pve!exec:"),
}
_EVENT_TEXT = {
    EventFormat.NDJSON: "One ExecEvent a line.",
    EventFormat.SSE: "`id` is the event's seq, `event` its type, `data` the same JSON; heartbeats are comments.",
}
_DESCRIPTIONS = {
    101: "The WebSocket is open.",
    200: "Done.",
    201: "Made.",
    202: "Accepted; it is not finished yet.",
    204: "There is nothing more to tell.",
    206: "The range that was asked for.",
    304: "It is what the caller has still.",
    503: "Not ready.",
}


def describe_operation(route: Route, schemas: dict[str, Schema], exchanges: Iterable[Exchange]) -> Schema:
    """The operation; what it needs is added to `schemas`. `exchanges` become examples of its request and replies."""
    operation: Schema = {
        "operationId": route.operation_id,
        "tags": [tag_of(route)],
        "summary": route.summary,
        "description": _describe(route),
    }
    if route.action is Action.PUBLIC:
        operation["security"] = [{}, {"token": []}]
    else:
        operation["security"] = [{"token": []}]
        operation["x-action"] = str(route.action)
        if route.or_action is not None:
            operation["x-or-action"] = str(route.or_action)
    if route.event is not None:
        operation["x-audit-event"] = str(route.event)
    parameters = [*_path_references(route), *_query_parameters(route, schemas), *_header_parameters(route)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        body = model_schema(route.body, schemas)
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    if route.upload:
        operation["requestBody"] = {"required": False, "content": {_BYTES: {"schema": _ANY_BYTES}}}
        if route.archive:
            operation["requestBody"]["content"][_TAR] = {"schema": _ANY_BYTES}
    if route.upgrades:
        operation["x-websocket"] = describe_websocket(route, schemas)
    problems = describe_problems(route)
    replies = {status: _reply(route, status, schemas, problems.pop(status, None)) for status in route.statuses}
    operation["responses"] = {str(status): reply for status, reply in (replies | problems).items()}
    _add_examples(operation, exchanges)
    return operation


def path_parameters(paths: Mapping[str, Schema]) -> dict[str, Schema]:
    """The components of all parameters that stand in paths."""
    used = [name for name in PARAMETERS if any(f"{{{name}}}" in path for path in paths)]
    return {
        name: {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH.get(name, ("", ""))[0],
            "schema": _path_schema(name),
            "example": _PATH.get(name, ("", ""))[1],
        }
        for name in used
    }


def _path_schema(name: str) -> Schema:
    if name == "vmid":
        return {"type": "integer", "minimum": MIN_VMID, "maximum": MAX_VMID}
    return {"type": "string", "pattern": f"^{PARAMETERS[name].pattern}$"}


def _describe(route: Route) -> str:
    """What its summary leaves out: who may, what is recorded, what decides beside grants."""
    told = [route.description] if route.description else []
    if route.action is Action.PUBLIC:
        told.append("**Grant:** none; a token is not needed.")
    elif route.action is Action.ANY_TOKEN:
        told.append("**Grant:** none; every valid token may.")
    else:
        where = " on the guest" if "vmid" in route.parameters else ""
        told.append(f"**Grant:** `{route.action}`{where}: {MEANINGS[route.action]}.")
    if route.or_action is Action.EXEC_TERMINAL:
        told.append(f"With `{route.or_action}` alone only terminals that the token itself has begun are there.")
    if route.change is not None:
        told.append("**Node policy** decides before the grants are asked for more: what it refuses nobody is given.")
    if route.event is not None:
        told.append(f"**Audit:** `{route.event}` is recorded before anything is done; no record, no action.")
    return "\n\n".join(told)


def _path_references(route: Route) -> list[Schema]:
    return [{"$ref": f"#/components/parameters/{name}"} for name in route.parameters]


def _query_parameters(route: Route, schemas: dict[str, Schema]) -> list[Schema]:
    expanded = expand_model(route.query, schemas)
    parameters = []
    for name, schema in expanded["properties"].items():
        described = {key: value for key, value in _without_null(schema).items() if key != "description"}
        if described.get("format") == "binary":  # of bytes, percent-encoded as all of a query is
            del described["format"]
        required = {"required": True} if name in expanded.get("required", ()) else {}
        parameters.append(
            {"name": name, "in": "query", "description": schema.get("description", ""), **required, "schema": described}
        )
    return parameters


def _without_null(schema: Schema) -> Schema:
    """A parameter is left out where it is to be null: there is no way to write that in a URL."""
    rest = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(rest) != 1:
        return schema
    return {**rest[0], **{key: value for key, value in schema.items() if key not in ("anyOf", "default")}}


def _header_parameters(route: Route) -> list[Schema]:
    """Accept is none of them: OpenAPI has it in the content of replies."""
    return [
        {"name": name, "in": "header", "description": ASKED[name].description, "schema": ASKED[name].schema}
        for name in route.asks
    ]


def _reply(route: Route, status: int, schemas: dict[str, Schema], problem: Schema | None) -> Schema:
    told = ["X-Request-Id", *QUOTA, *(name for name in route.tells if TOLD[name].stands_in(status))]
    if status == 101:
        told.append("Upgrade")
    reply: Schema = {
        "description": _DESCRIPTIONS[status],
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in told},
    }
    content = _content(route, status, schemas)
    if problem is not None:
        reply["description"] += " " + problem["description"]
        reply["headers"] |= problem["headers"]
        reply["x-problem-codes"] = problem["x-problem-codes"]
        content |= problem["content"]
    if content:
        reply["content"] = content
    return reply


def _content(route: Route, status: int, schemas: dict[str, Schema]) -> Schema:
    if status in (101, 204, 304):
        return {}
    content: Schema = {}
    if route.reply is bytes:
        content[_BYTES] = {"schema": _ANY_BYTES}
    elif route.reply is str:
        content[route.media_type] = {"schema": {"type": "string"}}
    elif route.reply is not None:
        if route.content:  # first: to most generators that is the reply
            content[_BYTES] = {"schema": _ANY_BYTES}
        content[route.media_type] = {"schema": type_schema(route.reply, schemas)}
    if route.content and route.archive and status == 200:
        content[_TAR] = {"schema": _ANY_BYTES}
    if route.events and status != 202:
        event = {"description": "What an exec did: one line of a stream.", **type_schema(ExecEvent, schemas)}
        schemas.setdefault("ExecEvent", event)
        for format_ in EventFormat:
            content[format_.value] = {
                "schema": {"type": "string", "description": _EVENT_TEXT[format_]},
                "x-item-schema": {"$ref": REF + "ExecEvent"},
            }
    return content


def _add_examples(operation: Schema, exchanges: Iterable[Exchange]) -> None:
    """Puts every recorded request and reply where its media type is described."""
    for exchange in exchanges:
        asked = operation.get("requestBody", {}).get("content", {}).get(exchange.sent_as)
        if asked is not None and exchange.sent is not None:
            _put(asked, exchange, exchange.sent)
        told = operation["responses"].get(str(exchange.status), {}).get("content", {}).get(exchange.came_as)
        if told is not None:
            _put(told, exchange, exchange.came)
        if exchange.messages and "x-websocket" in operation:
            operation["x-websocket"]["example"] = list(exchange.messages)


def _put(content: Schema, exchange: Exchange, value: Any) -> None:
    content.setdefault("examples", {})[exchange.name] = {"summary": exchange.summary, "value": value}

"""Whether replies are what the API's description says: every client of the tests asks, for every reply that it sees.

A reply of an operation has one of its statuses, media types and header fields; its body has the schema's members and
no others (to clients the schemas stay open, so that members can be added). A validator is compiled when it is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any
from urllib.parse import unquote

import jsonschema_rs

from gateway.api.events import EventFormat
from gateway.api.openapi import build_openapi

JSON, PROBLEM = "application/json", "application/problem+json"
NDJSON, SSE = (format_.value for format_ in EventFormat)

_OF_HTTP = frozenset((
    "accept-ranges", "access-control-allow-origin", "access-control-expose-headers", "allow", "cache-control",
    "connection", "content-length", "content-security-policy", "content-type", "cross-origin-resource-policy", "date",
    "referrer-policy", "sec-websocket-accept", "server", "transfer-encoding", "vary", "via", "x-accel-buffering",
    "x-content-type-options",
))  # fmt: skip
"""What needs no telling: HTTP's own fields, and what replies carry for the sake of browsers and proxies."""


class Broken(AssertionError):
    """A reply is not what the description says."""


def check_reply(method: str, path: str, status: int, headers: Iterable[tuple[str, str]], body: bytes | None) -> None:
    """Raises Broken. `path` may have a query; `body` None is not looked at: a stream's, a file's.

    A path that no operation has is answered by a problem.
    """
    fields = {name.lower(): value for name, value in headers}
    media_type = fields.get("content-type", "").partition(";")[0]
    operation = find_operation(method, path.partition("?")[0])
    if operation is None:
        if status >= 400 and body and method != "HEAD":
            _check(("schema", "Problem"), body, f"{method} {path}")
        return
    where = f"{operation['operationId']}: {status}"
    reply = find_reply(operation["operationId"], status)
    if reply is None:
        raise Broken(f"{where} is no status of this operation; the description has {', '.join(operation['responses'])}")
    _check_headers(reply, fields, where)
    if method == "HEAD" or (not body and "content" not in reply):
        return
    if media_type not in reply.get("content", {}):
        raise Broken(f"{where} came as {media_type or 'nothing'}; the description has {list(reply.get('content', ()))}")
    if body is None:
        return
    if media_type in (NDJSON, SSE):
        for event in _events_in(media_type, body):
            check_event(event)
    if media_type not in (JSON, PROBLEM):
        return
    _check((operation["operationId"], str(status), media_type), body, where)
    if media_type != PROBLEM:
        return
    if (code := json.loads(body)["code"]) not in reply["x-problem-codes"]:
        raise Broken(f"{where}: `{code}` is not among the codes of its description: {reply['x-problem-codes']}")
    if ("retry-after" in fields) is not (status in (429, 503)):
        raise Broken(f"{where}: Retry-After stands in problems of 429 and 503, and nowhere else")


def check_request(operation_id: str, body: Any, where: str) -> None:
    """Raises Broken for a JSON body that the operation would not take."""
    _judge(("request", operation_id), body, where)


def check_event(event: Any) -> None:
    """Raises Broken for what is no event of an exec."""
    _judge(("schema", "ExecEvent"), event, f"event {event.get('type')}")


def check_message(message: Any) -> None:
    """Raises Broken for what is no text message of pvex.v1 from the gateway."""
    _judge(("schema", "TerminalGatewayMessage"), message, f"message {message.get('type')}")


@cache
def document() -> dict[str, Any]:
    """The description, as clients get it."""
    found: dict[str, Any] = json.loads(json.dumps(build_openapi()))
    return found


def find_operation(method: str, path: str) -> dict[str, Any] | None:
    """The operation that answers this; HEAD is answered as GET is. An escaped slash is one."""
    wanted = "get" if method == "HEAD" else method.lower()
    for pattern, operations in _paths():
        if wanted in operations and pattern.fullmatch(unquote(path)):
            found: dict[str, Any] = operations[wanted]
            return found
    return None


@cache
def _paths() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Those without parameters first: /tokens/self is no token."""
    paths = sorted(document()["paths"].items(), key=lambda item: item[0].count("{"))
    return [(re.compile(re.sub(r"{\w+}", "[^/]+", path)), operations) for path, operations in paths]


@cache
def _operation(operation_id: str) -> dict[str, Any]:
    operations = (operation for path in document()["paths"].values() for operation in path.values())
    return next(operation for operation in operations if operation["operationId"] == operation_id)


@cache
def find_reply(operation_id: str, status: int) -> Any:
    """The reply of an operation, a reference to a component resolved; None where it has none."""
    reply: dict[str, Any] | None = _operation(operation_id)["responses"].get(str(status))
    while reply is not None and "$ref" in reply:
        reply = document()["components"]["responses"][reply["$ref"].rsplit("/", 1)[1]]
    return reply


def _check_headers(reply: Mapping[str, Any], fields: Mapping[str, str], where: str) -> None:
    told = {name.lower(): ref["$ref"].rsplit("/", 1)[1] for name, ref in reply.get("headers", {}).items()}
    if strange := fields.keys() - told.keys() - _OF_HTTP:
        raise Broken(f"{where}: the description does not tell of the header fields {sorted(strange)}")
    for name, component in told.items():
        field = document()["components"]["headers"][component]
        if name not in fields:
            if field.get("required"):
                raise Broken(f"{where}: the header field {component} is missing")
            continue
        value = int(fields[name]) if field["schema"]["type"] == "integer" else fields[name]
        if not _validator(("header", component)).is_valid(value):
            raise Broken(f"{where}: {component}: {value!r} is not as described: {field['schema']}")


def _events_in(media_type: str, body: bytes) -> Iterator[Any]:
    """Those that came whole."""
    for line in body.split(b"\n")[:-1]:
        if media_type == NDJSON:
            yield json.loads(line)
        elif line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


def _check(key: tuple[str, ...], body: bytes, where: str) -> None:
    _judge(key, json.loads(body), where)


def _judge(key: tuple[str, ...], value: Any, where: str) -> None:
    validator = _validator(key)
    if validator.is_valid(value):
        return
    errors = [f"{'.'.join(map(str, error.instance_path))}: {error.message}" for error in validator.iter_errors(value)]
    raise Broken(f"{where} is not as described: {'; '.join(errors)[:2000]}")


@cache
def _validator(key: tuple[str, ...]) -> Any:
    """Of a component of a kind, or of an operation's reply by status and media type."""
    if key[0] == "header":
        schema = document()["components"]["headers"][key[1]]["schema"]
    elif key[0] == "schema":
        schema = {"$ref": f"#/components/schemas/{key[1]}"}
    elif key[0] == "request":
        schema = _operation(key[1])["requestBody"]["content"][JSON]["schema"]
    else:
        reply = find_reply(key[0], int(key[1]))
        schema = reply["content"][key[2]]["schema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": _closed()}, validate_formats=True)


@cache
def _closed() -> dict[str, Any]:
    """The components with no member that they do not name."""
    return {"schemas": {name: _close(schema) for name, schema in document()["components"]["schemas"].items()}}


def _close(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _close(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed

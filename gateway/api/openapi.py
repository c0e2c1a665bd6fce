"""ROUTES as an OpenAPI 3.1 document: parameters, bodies, replies and problems, from the code that runs."""

from __future__ import annotations

import re
import types
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel

from gateway import __version__
from gateway.api.problems import MEDIA_TYPE
from gateway.api.routes import PARAMETERS, ROUTES, Route
from gateway.auth.actions import Action
from gateway.errors import (
    Forbidden,
    GatewayError,
    InternalError,
    InvalidRequest,
    MalformedRequest,
    PayloadTooLarge,
    TooManyRequests,
    Unauthenticated,
    UnsupportedMediaType,
)

Schema = dict[str, Any]

_REF = "#/components/schemas/"
_PARAMETER_TEXT = {"vmid": "The guest's cluster-wide number.", "id": "The exec's id."}
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
        "servers": [{"url": "https://localhost:39377"}],
        "paths": paths,
        "components": {
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
    parameters = [*_path_parameters(route), *_query_parameters(route, schemas)]
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        body = _model(route.body, schemas)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    operation["responses"] = {**_replies(route, schemas), **_problems(route)}
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
    properties = _expand(route.query, schemas)["properties"]
    parameters = []
    for name, schema in properties.items():
        described = {key: value for key, value in schema.items() if key not in ("title", "description")}
        parameters.append(
            {"name": name, "in": "query", "description": schema.get("description", ""), "schema": described}
        )
    if bytes is route.reply:
        text = "One range, like `bytes=0-99`; several are ignored."
        parameters.append({"name": "Range", "in": "header", "description": text, "schema": {"type": "string"}})
    return parameters


def _replies(route: Route, schemas: dict[str, Schema]) -> Schema:
    if route.reply is bytes:
        content: Schema = {"application/octet-stream": {}}
    else:
        content = {"application/json": {"schema": _type(route.reply, schemas)}}
    headers = {"X-Request-Id": {"schema": {"type": "string"}}}
    return {
        str(status): {"description": _DESCRIPTIONS[status], "headers": headers, "content": content}
        for status in route.statuses
    }


_DESCRIPTIONS = {
    200: "Done.",
    202: "Accepted; it is not finished yet.",
    206: "The range that was asked for.",
    503: "Not ready.",
}


def _problems(route: Route) -> Schema:
    by_status: dict[int, list[str]] = {}
    for error in [*_pipeline_errors(route), *route.possible_errors]:
        if error.status not in route.statuses:
            codes = by_status.setdefault(error.status, [])
            codes.append(error.code)
    return {
        str(status): {
            "description": "Problem: " + ", ".join(f"`{code}`" for code in codes),
            "content": {MEDIA_TYPE: {"schema": {"$ref": _REF + "Problem"}}},
        }
        for status, codes in sorted(by_status.items())
    }


def _pipeline_errors(route: Route) -> list[type[GatewayError]]:
    errors: list[type[GatewayError]] = [MalformedRequest, InvalidRequest, InternalError]
    if route.action is not Action.PUBLIC:
        errors += [Unauthenticated, TooManyRequests]
    if route.action not in (Action.PUBLIC, Action.ANY_TOKEN):
        errors.append(Forbidden)
    if route.body is not None:
        errors += [PayloadTooLarge, UnsupportedMediaType]
    return errors


def _model(model: type[BaseModel], schemas: dict[str, Schema]) -> Schema:
    if model.__name__ not in schemas:
        schemas[model.__name__] = _expand(model, schemas)
    return {"$ref": _REF + model.__name__}


def _expand(model: type[BaseModel], schemas: dict[str, Schema]) -> Schema:
    schema = model.model_json_schema(ref_template=_REF + "{model}")
    schemas.update(schema.pop("$defs", {}))
    return {"properties": {}, **schema}


def _type(hint: Any, schemas: dict[str, Schema]) -> Schema:
    """The schema of a reply's type: TypedDicts, words, lists and what may be null."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (NotRequired, Required):
        return _type(arguments[0], schemas)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_type(argument, schemas) for argument in arguments]}
    if origin is list:
        return {"type": "array", "items": _type(arguments[0], schemas)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], schemas)}
    if is_typeddict(hint):
        return _typed_dict(hint, schemas)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"type": "string", "enum": [str(word) for word in hint]}
    return {"type": _WORDS[hint]}


_WORDS = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
    dict: "object",
}


def _typed_dict(hint: Any, schemas: dict[str, Schema]) -> Schema:
    name = hint.__name__
    if name not in schemas:
        hints = get_type_hints(hint, include_extras=True)
        optional = {key for key, value in hints.items() if get_origin(value) is NotRequired}
        schemas[name] = {
            "type": "object",
            "description": re.sub(r"\s+", " ", hint.__doc__ or ""),
            "required": [key for key in hints if key not in optional],
            "properties": {key: _type(value, schemas) for key, value in hints.items()},
        }
    return {"$ref": _REF + name}

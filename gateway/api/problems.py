"""Errors as the client sees them: application/problem+json (RFC 9457), one shape for every failure."""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, Tag, ValidationError

from gateway.api.headers import show_quota
from gateway.errors import FieldError, GatewayError, InvalidRequest, MalformedRequest, RateLimited

MEDIA_TYPE = "application/problem+json"
MAX_FIELD_ERRORS = 20
_MAX_EXPLAINED = 200
_MAX_PATH = 200
_RETRY_AFTER = 1


def build_problem(error: GatewayError, request_id: str) -> dict[str, Any]:
    """The problem document of `error`; its evidence (vmid, errors, audit_id, ...) are members of it."""
    return {
        "type": f"urn:pve-exec-gateway:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "detail": error.detail,
        "retryable": error.retryable,
        "request_id": request_id,
        **{name: value for name, value in error.evidence.items() if name not in _RESERVED and value is not None},
    }


_RESERVED = frozenset({"type", "title", "status", "code", "detail", "retryable", "request_id"})


def problem_headers(error: GatewayError) -> dict[str, str]:
    """The header fields that HTTP wants beside the status (RFC 9110: 10.2.1, 10.2.3, 11.6.1, 14.4, 15.5.22)."""
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="pve-exec-gateway"'
    if error.status == 405:
        headers["Allow"] = ", ".join(error.evidence.get("allow", ()))
    if error.status == 416:
        headers["Content-Range"] = f"bytes */{error.evidence.get('size', '*')}"
    if error.status == 426:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    if error.status in (429, 503):
        headers["Retry-After"] = str(error.evidence.get("retry_after", _RETRY_AFTER))
    if isinstance(error, RateLimited):
        headers |= show_quota(*(error.evidence[name] for name in ("limit", "remaining", "reset")))
    return headers


def explain(model: type[BaseModel], error: ValidationError) -> GatewayError:
    """What pydantic found, without anything of the sent values: bad JSON, or which fields cannot be taken."""
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return MalformedRequest(f"the body is not JSON: {found[0]['ctx']['error']}")
    fields = list(_merge_unions(_to_field_error(model, item) for item in found[:_MAX_EXPLAINED]))
    more = len(fields) - MAX_FIELD_ERRORS + max(0, len(found) - _MAX_EXPLAINED)
    detail = "some fields cannot be taken; see `errors`"
    if more > 0:
        detail += f", which leaves out {more} more"
    return InvalidRequest(detail, errors=[field.to_json() for field in fields[:MAX_FIELD_ERRORS]])


def _to_field_error(model: type[BaseModel], item: Any) -> FieldError:
    # A validator of a whole model names the field it means in its context.
    where = [*item["loc"], *([item["ctx"]["field"]] if "field" in item.get("ctx", {}) else [])]
    path = ".".join(_name_parts(model, where))[:_MAX_PATH]
    if item["type"] == "extra_forbidden":
        return FieldError(path, "unknown_field", "unknown field")
    if item["type"] == "missing":
        return FieldError(path, "missing", "this field is required")
    return FieldError(path, item["type"], item["msg"])


def _name_parts(annotation: Any, loc: Iterable[int | str]) -> Iterable[str]:
    """`loc` as the sender knows it: pydantic's own words for union members and dictionary keys left out."""
    for part in loc:
        annotation = _plain(annotation)
        tagged = _tagged(annotation)
        if tagged:
            annotation = tagged.get(part)
            if annotation is None:
                yield str(part)
        elif isinstance(part, int):
            yield str(part)
            annotation = next(iter(get_args(annotation)), None)
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield part
            field = annotation.model_fields.get(part)
            annotation = field.annotation if field else None
        elif get_origin(annotation) is dict:
            yield part
            annotation = get_args(annotation)[1]


def _tagged(annotation: Any) -> dict[int | str, Any]:
    """The members of a union that a word tells apart, by that word."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return {}
    return {
        mark.tag: member
        for member in get_args(annotation)
        for mark in getattr(member, "__metadata__", ())
        if isinstance(mark, Tag)
    }


def _plain(annotation: Any) -> Any:
    """`X` for `Annotated[X, ...]`, for `X | None` and for a model that is an `X`."""
    while True:
        if isinstance(annotation, type) and issubclass(annotation, RootModel):
            annotation = annotation.model_fields["root"].annotation
            continue
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
            continue
        if origin in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not type(None)]
            if len(members) == 1:
                annotation = members[0]
                continue
        return annotation


def _merge_unions(errors: Iterable[FieldError]) -> Iterable[FieldError]:
    """One error where a field could be of several types: the deepest, or all that it could have been."""
    by_path: dict[str, FieldError] = {}
    for error in errors:
        known = by_path.get(error.path)
        if known is None:
            by_path[error.path] = error
        elif known.message != error.message:
            by_path[error.path] = FieldError(error.path, known.code, f"{known.message}, or: {error.message}")
    parents = {path[:at] for path in by_path for at, char in enumerate(path) if char == "."}
    for path, error in by_path.items():
        if not (error.code.endswith("_type") and path in parents):
            yield error

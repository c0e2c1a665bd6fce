"""From bytes to models: the body and the query of a request, parsed once, bounded, nothing unknown."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, get_origin
from urllib.parse import parse_qsl

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from gateway.api.models.execs import Query
from gateway.api.problems import explain
from gateway.errors import (
    FieldError,
    GatewayError,
    InvalidRequest,
    MalformedRequest,
    PayloadTooLarge,
    UnsupportedMediaType,
)

MAX_QUERY_FIELDS = 64
MAX_MEMBERS = 4096
MAX_TOKENS = 500_000
"""Of a JSON body: texts, and what opens or parts its values. The most arguments that Linux takes are 333,000."""
_TOKEN = re.compile(rb'"[^"]*"?|[\[{,]')
_JSON = re.compile(r'application/json(?: *; *charset="?utf-8"?)? *', re.IGNORECASE)


def read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """The JSON body's bytes. Raises UnsupportedMediaType, PayloadTooLarge (unread), MalformedRequest."""
    if not _JSON.fullmatch(environ.get("CONTENT_TYPE", "")):
        raise UnsupportedMediaType("send the body as JSON, with `Content-Type: application/json`")
    size = _body_size(environ)
    if size is not None and size > limit:
        raise _too_large(limit)
    body = _read(environ["wsgi.input"].read, limit + 1 if size is None else size)
    if len(body) > limit:
        raise _too_large(limit)
    if size is not None and len(body) < size:
        raise _cut_short(len(body), size)
    return body


def read_pieces(environ: Mapping[str, Any], size: int) -> Iterator[bytes]:
    """The body's bytes as they come, at most `size` at once. Raises MalformedRequest where it breaks off."""
    left = _body_size(environ)
    source = environ["wsgi.input"]
    # `read` waits for all that it is asked for, and a body may come as slowly as somebody types.
    read = getattr(source, "read1", source.read)
    total = 0
    while left is None or total < left:
        piece = _read(read, size if left is None else min(size, left - total))
        if not piece:
            break
        total += len(piece)
        yield piece
    if left is not None and total < left:
        raise _cut_short(total, left)


def _body_size(environ: Mapping[str, Any]) -> int | None:
    """The body's length; None when only its end tells."""
    if environ.get("HTTP_CONTENT_ENCODING", "identity") != "identity":
        raise UnsupportedMediaType("send the body without a Content-Encoding")
    length = environ.get("CONTENT_LENGTH") or ""
    if length.isdecimal():
        return int(length)
    return None if environ.get("wsgi.input_terminated") else 0


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    try:
        return read(size)
    except Exception as exc:
        # The server's own errors: broken chunks, a client that left or was too slow, which it answers itself.
        raise MalformedRequest("the body could not be read to its end") from exc


def _cut_short(came: int, size: int) -> GatewayError:
    return MalformedRequest(f"the body ended after {came} of {size} bytes")


def _too_large(limit: int) -> GatewayError:
    return PayloadTooLarge(f"a body is at most {limit} bytes here; send less, or raise web.max_body", limit=limit)


def parse_json(model: type[BaseModel], body: bytes) -> BaseModel:
    """The `model` that `body` is. Raises MalformedRequest or InvalidRequest."""
    _check_tokens(body)
    # Then what bounds the work of all that follows: pydantic collects an error for every member.
    # It also takes the last of two equal keys, where another reader may take the first. Numbers do not matter here.
    with contextlib.suppress(ValueError, RecursionError):  # not JSON: pydantic's parser tells where and why
        json.loads(body, object_pairs_hook=_check_members, parse_int=_ignore, parse_float=_ignore)
    try:
        return model.model_validate_json(body)
    except ValidationError as exc:
        raise explain(model, exc) from None


def _check_tokens(body: bytes) -> None:
    """Before anything is made of it: the shortest values take a hundred bytes of memory for each of theirs."""
    if sum(map(body.count, (b",", b"[", b"{", b'"'))) <= MAX_TOKENS:
        return
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")  # now a quote begins or ends a text
    if next(islice(_TOKEN.finditer(plain), MAX_TOKENS, None), None) is not None:
        raise _invalid("", "too_many_values", "there are too many values in it")


def _check_members(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > MAX_MEMBERS:
        raise _invalid("", "too_many_members", f"an object has at most {MAX_MEMBERS} members here")
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise _invalid(name[:200], "duplicate_key", "given twice")
        seen.add(name)


def _ignore(_: str) -> None:
    return None


def parse_query(model: type[Query], text: str) -> Query:
    """The query's parameters as one `model`; where that has bytes, percent-encoded ones of any value are taken.

    Raises MalformedRequest or InvalidRequest.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise MalformedRequest(f"the query has more than {MAX_QUERY_FIELDS} parameters") from None
    values: dict[str, Any] = {}
    for name, given in pairs:
        field = model.model_fields.get(name)
        value = _as_field(field, name, given)
        if field is not None and get_origin(field.annotation) is list:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise _invalid(name[:200], "repeated", "given more than once")
        else:
            values[name] = value
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise explain(model, exc) from None


def _as_field(field: FieldInfo | None, name: str, given: str) -> str | bytes:
    try:
        name.encode()
        if field is not None and field.annotation is bytes:
            return given.encode("utf-8", "surrogateescape")
        given.encode()
    except UnicodeEncodeError:
        raise MalformedRequest("the query is not percent-encoded UTF-8") from None
    return given


def _invalid(path: str, code: str, message: str) -> GatewayError:
    field = FieldError(path, code, message)
    return InvalidRequest("some fields cannot be taken; see `errors`", errors=[field.to_json()])

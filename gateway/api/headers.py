"""Header fields: what those of a request ask for, Accept, Prefer, Idempotency-Key, Last-Event-ID; and RateLimit-*."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.errors import FieldError, GatewayError, InvalidRequest, NotAcceptable

JSON = "application/json"

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_REVISION = re.compile(r'"([0-9]{1,18})"', re.ASCII)
_DIGEST = re.compile(r'"([0-9a-f]{40})"', re.ASCII)
_SEQ = re.compile(r"[0-9]{1,18}")


def choose_media_type(environ: Mapping[str, Any], offered: Sequence[str]) -> str:
    """The one of `offered` that Accept likes best (RFC 9110, 12.5.1); the first of equals, and where there is none.

    Raises NotAcceptable when it takes none of them.
    """
    accept = _field(environ, "HTTP_ACCEPT")
    if not accept:
        return offered[0]
    ranges = dict(_read_range(item) for item in _split(accept))
    quality = {media_type: _quality(ranges, media_type) for media_type in offered}
    best = max(offered, key=lambda media_type: quality[media_type])
    if not quality[best]:
        raise NotAcceptable(f"this is answered as one of: {', '.join(offered)}", offered=list(offered))
    return best


def prefers_async(environ: Mapping[str, Any]) -> bool:
    """Whether Prefer holds `respond-async` (RFC 7240)."""
    names = (re.split("[;=]", item, maxsplit=1)[0] for item in _split(_field(environ, "HTTP_PREFER")))
    return "respond-async" in (name.strip().lower() for name in names)


def read_idempotency_key(environ: Mapping[str, Any]) -> str | None:
    """The Idempotency-Key. Raises InvalidRequest when it is not 1 to 255 visible ASCII characters."""
    key: str | None = environ.get("HTTP_IDEMPOTENCY_KEY")
    if key is not None and not _KEY.fullmatch(key):
        raise _invalid("Idempotency-Key", "a key is 1 to 255 visible ASCII characters")
    return key


def read_if_match(environ: Mapping[str, Any]) -> int | None:
    """The revision in If-Match (RFC 9110, 13.1.1); None where any will do. Raises InvalidRequest."""
    text = _field(environ, "HTTP_IF_MATCH")
    if text in ("", "*"):
        return None
    match = _REVISION.fullmatch(text)
    if not match:
        raise _invalid("If-Match", 'it is the one ETag that the token was shown with, like `"3"`')
    return int(match[1])


def read_digest(environ: Mapping[str, Any]) -> str | None:
    """The digest of a guest's configuration in If-Match; None where any will do. Raises InvalidRequest."""
    text = _field(environ, "HTTP_IF_MATCH")
    if text in ("", "*"):
        return None
    match = _DIGEST.fullmatch(text)
    if not match:
        raise _invalid("If-Match", "it is the one ETag that the guest was shown with: its `digest`, in quotes")
    return match[1]


def read_last_event_id(environ: Mapping[str, Any]) -> int:
    """The `seq` in Last-Event-ID, 0 where there is none. Raises InvalidRequest."""
    seq = _field(environ, "HTTP_LAST_EVENT_ID")
    if seq and not _SEQ.fullmatch(seq):
        raise _invalid("Last-Event-ID", "it is the `seq` of the last event seen, a whole number")
    return int(seq or 0)


def show_quota(limit: int, remaining: int, reset: int) -> dict[str, str]:
    """RateLimit-*, as of draft-ietf-httpapi-ratelimit-headers-03."""
    told = {"Limit": limit, "Remaining": remaining, "Reset": reset}
    return {f"RateLimit-{name}": str(value) for name, value in told.items()}


def _field(environ: Mapping[str, Any], name: str) -> str:
    return str(environ.get(name, "")).strip()


def _split(value: str) -> list[str]:
    """The items of a list, quoted strings in them emptied: none that matters here is one."""
    return [item.strip() for item in _QUOTED.sub('""', value).split(",") if item.strip()]


def _read_range(item: str) -> tuple[str, float]:
    """A media range and its quality; parameters of media types change nothing here. A bad quality is none."""
    name, *parameters = (part.strip().lower() for part in item.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            return name, float(parameter[2:]) if _QVALUE.fullmatch(parameter[2:]) else 0.0
    return name, 1.0


def _quality(ranges: Mapping[str, float], media_type: str) -> float:
    """That of the most precise range that holds `media_type`."""
    names = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((ranges[name] for name in names if name in ranges), 0.0)


def _invalid(header: str, message: str) -> GatewayError:
    field = FieldError(header, "header", message)
    return InvalidRequest(f"the header {header} cannot be taken; see `errors`", errors=[field.to_json()])

"""Content-Digest, RFC 9530: what a body's bytes hash to."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from gateway.errors import FieldError, InvalidRequest

# A dictionary of byte sequences (RFC 8941); other algorithms than ours are passed over.
_MEMBER = re.compile(r"\s*([a-z0-9*._-]+)=:([A-Za-z0-9+/=]*):\s*")
_SIZE = 32


def read_content_digest(environ: Mapping[str, Any]) -> bytes | None:
    """The body's sha-256, as its sender has it; None where there is none to compare. Raises InvalidRequest."""
    text = environ.get("HTTP_CONTENT_DIGEST")
    if text is None:
        return None
    found = None
    for part in str(text)[:4096].split(","):
        match = _MEMBER.fullmatch(part)
        if match is None:
            raise _invalid()
        if match[1] == "sha-256":
            found = match[2]
    if found is None:
        return None
    try:
        digest = base64.b64decode(found, validate=True)
    except binascii.Error:
        raise _invalid() from None
    if len(digest) != _SIZE:
        raise _invalid()
    return digest


def show_content_digest(digest: bytes) -> str:
    """The field's value for this sha-256."""
    return f"sha-256=:{base64.b64encode(digest).decode('ascii')}:"


def _invalid() -> InvalidRequest:
    error = FieldError("Content-Digest", "invalid_header", "it is like `sha-256=:<44 characters of base64>:`")
    return InvalidRequest("a header field cannot be taken; see `errors`", errors=[error.to_json()])

"""The pages at /docs: an API reference that needs nothing but this gateway, and a browser that trusts nothing else.

Swagger UI (Apache-2.0) draws it. Its two files are kept here as the npm registry has them (`swagger-ui/VERSION` names
version and hash; `make vendor` fetches them anew): a Debian package is built without a network, and a node may have
none. The page names their hashes, so that a browser runs these bytes or none.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.resources import files

from gateway.api.documents import Document

PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # Swagger UI's style has its icons in it
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_OF_THE_PAGE = {"Content-Security-Policy": PAGE_POLICY, "Cross-Origin-Opener-Policy": "same-origin"}
_SCRIPT, _STYLE = "text/javascript; charset=utf-8", "text/css; charset=utf-8"


def page_makers() -> dict[str, Callable[[], Document]]:
    """What reads each of the pages out of the program, by name."""
    return {
        "page.html": lambda: Document(_read("page.html"), "text/html; charset=utf-8", _OF_THE_PAGE),
        "start.js": partial(_document, "start.js", _SCRIPT),
        "swagger-ui-bundle.js": partial(_document, "swagger-ui/swagger-ui-bundle.js", _SCRIPT),
        "swagger-ui.css": partial(_document, "swagger-ui/swagger-ui.css", _STYLE),
    }


def _document(path: str, media_type: str) -> Document:
    return Document(_read(path), media_type)


def _read(path: str) -> bytes:
    return files("gateway.api.docs").joinpath(path).read_bytes()

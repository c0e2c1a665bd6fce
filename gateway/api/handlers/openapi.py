"""GET /openapi.json and /openapi.yaml: the description of this API; GET /docs: the same to look at and to try."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.services import Services


def show_json(services: Services, call: Call) -> Reply:
    """The same document as openapi/openapi.yaml."""
    return _show(services, call, "openapi.json")


def show_yaml(services: Services, call: Call) -> Reply:
    """openapi/openapi.yaml."""
    return _show(services, call, "openapi.yaml")


def show_page(services: Services, call: Call) -> Reply:
    """The page, which loads the three that follow and the description."""
    return _show(services, call, "page.html")


def show_start(services: Services, call: Call) -> Reply:
    """Our lines of the page's program."""
    return _show(services, call, "start.js")


def show_program(services: Services, call: Call) -> Reply:
    """Swagger UI's program."""
    return _show(services, call, "swagger-ui-bundle.js")


def show_style(services: Services, call: Call) -> Reply:
    """Swagger UI's style."""
    return _show(services, call, "swagger-ui.css")


def _show(services: Services, call: Call, name: str) -> Reply:
    """The document, or 304 where If-None-Match has it still (RFC 9110, 13.1.2). It may be kept, and is asked for again
    each time."""
    document = services.documents.find(name)
    headers = {**document.headers, "ETag": document.etag, "Cache-Control": "no-cache"}
    if _has(str(call.environ.get("HTTP_IF_NONE_MATCH", "")), document.etag):
        return Reply(b"", status=304, headers=headers, media_type=document.media_type)
    return Reply(document.body, headers=headers, media_type=document.media_type)


def _has(asked: str, etag: str) -> bool:
    """Whether one of the ETags is ours, by the weak comparison."""
    return asked.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in asked.split(","))

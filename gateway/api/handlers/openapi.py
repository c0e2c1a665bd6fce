"""GET /openapi.json: the description of this API."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.services import Services


def show_openapi(services: Services, call: Call) -> Reply:
    """The same document as openapi/openapi.yaml."""
    return Reply(services.openapi())

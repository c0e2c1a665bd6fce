"""ROUTES: every operation of the API, one entry each; URL rules, checks and OpenAPI derive from it."""

from __future__ import annotations

from gateway.api.call import Handler
from gateway.api.device_routes import DEVICE_ROUTES
from gateway.api.exec_routes import EXEC_ROUTES
from gateway.api.file_routes import FILE_ROUTES
from gateway.api.guest_routes import GUEST_ROUTES
from gateway.api.handlers import health, metrics, openapi
from gateway.api.making_routes import MAKING_ROUTES
from gateway.api.models.health import Alive, Readiness
from gateway.api.route import Route
from gateway.api.trust_routes import TRUST_ROUTES
from gateway.auth.actions import Action


def _page(path: str, operation_id: str, summary: str, handler: Handler) -> Route:
    """A part of /docs, which the API's description leaves out: no client asks for it."""
    return Route(
        method="GET",
        path=path,
        operation_id=operation_id,
        summary=summary,
        action=Action.PUBLIC,
        reply=bytes,
        described=False,
        handler=handler,
    )


ROUTES: tuple[Route, ...] = (
    *EXEC_ROUTES,
    *TRUST_ROUTES,
    *GUEST_ROUTES,
    *MAKING_ROUTES,
    *DEVICE_ROUTES,
    *FILE_ROUTES,
    Route(
        method="GET",
        path="/health/live",
        operation_id="showLiveness",
        summary="Whether the web process answers",
        action=Action.PUBLIC,
        reply=Alive,
        handler=health.show_live,
    ),
    Route(
        method="GET",
        path="/health/ready",
        operation_id="showReadiness",
        summary="Whether commands can run; names what is missing, with details for callers with a token",
        action=Action.PUBLIC,
        reply=Readiness,
        statuses=(200, 503),
        handler=health.show_ready,
    ),
    Route(
        method="GET",
        path="/metrics",
        operation_id="showMetrics",
        summary="What the gateway's processes have counted, as Prometheus reads it",
        action=Action.METRICS_READ,
        reply=str,
        media_type="text/plain",
        handler=metrics.show_metrics,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation_id="showOpenapi",
        summary="This description as JSON",
        action=Action.PUBLIC,
        reply=dict,
        statuses=(200, 304),
        asks=("If-None-Match",),
        tells=("ETag",),
        handler=openapi.show_json,
    ),
    Route(
        method="GET",
        path="/openapi.yaml",
        operation_id="showOpenapiYaml",
        summary="This description as YAML",
        action=Action.PUBLIC,
        reply=dict,
        media_type="application/yaml",
        statuses=(200, 304),
        asks=("If-None-Match",),
        tells=("ETag",),
        handler=openapi.show_yaml,
    ),
    _page("/docs", "showDocs", "The API reference, for browsers", openapi.show_page),
    _page("/docs/start.js", "showDocsStart", "Our lines of its program", openapi.show_start),
    _page("/docs/swagger-ui-bundle.js", "showDocsProgram", "Swagger UI's program", openapi.show_program),
    _page("/docs/swagger-ui.css", "showDocsStyle", "Swagger UI's style", openapi.show_style),
)

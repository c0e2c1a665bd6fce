"""ROUTES: every operation of the API, one entry each; URL rules, checks and OpenAPI derive from it."""

from __future__ import annotations

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
        operation_id="showLive",
        summary="Whether the web process answers",
        action=Action.PUBLIC,
        reply=Alive,
        handler=health.show_live,
    ),
    Route(
        method="GET",
        path="/health/ready",
        operation_id="showReady",
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
        handler=metrics.show_metrics,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation_id="showOpenapi",
        summary="This description",
        action=Action.PUBLIC,
        reply=dict,
        handler=openapi.show_openapi,
    ),
)

"""The composition root: builds the services of one gateway, and the WSGI application on top of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache, partial

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

from gateway.api.denials import DenialLog
from gateway.api.openapi import build_openapi
from gateway.api.pipeline import Pipeline, list_methods, refuse
from gateway.api.routes import ROUTES, Route
from gateway.api.services import Audit, Services, Supervisor
from gateway.audit.client import AuditClient
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.errors import MalformedRequest, MethodNotAllowed, NotFound
from gateway.pve.guests import GuestMap
from gateway.supervisor.client import SupervisorClient


def build(config: Config) -> Flask:
    """The application as it runs: with the real supervisor, audit log and token store."""
    tokens = config.tokens
    return create_app(
        config,
        supervisor=SupervisorClient(config.supervisor.socket, GuestMap(config.pve.etc, config.node)),
        audit=AuditClient(config.audit.socket),
        tokens=TokenStore(tokens.directory, tokens.key_file, protected=config.guests.protected),
    )


def create_app(
    config: Config,
    *,
    supervisor: Supervisor,
    audit: Audit,
    tokens: TokenStore,
    monotonic: Callable[[], float] = time.monotonic,
) -> Flask:
    """The WSGI application. Flask gives the URL routing; everything else of a request is the pipeline's."""
    services = Services(config=config, supervisor=supervisor, audit=audit, tokens=tokens, openapi=cache(_dump_openapi))
    pipeline = Pipeline(services, DenialLog(audit, config.node, monotonic))
    app = Flask("gateway", static_folder=None, template_folder=None)
    # ClientGone passes through Flask to the server, which closes the connection.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.url_map.merge_slashes = False  # it would answer `//exec` by a redirect, in HTML
    for route in ROUTES:
        app.add_url_rule(
            route.path.replace("{", "<").replace("}", ">"),
            endpoint=route.operation_id,
            view_func=partial(_view, pipeline, route),
            methods=[route.method],
            provide_automatic_options=False,
        )
    app.register_error_handler(HTTPException, _refuse_unrouted)
    return app


def _view(pipeline: Pipeline, route: Route, /, **path: str) -> Response:
    return pipeline.take(route, request.environ, path)


def _refuse_unrouted(error: HTTPException) -> Response:
    if isinstance(error, WerkzeugMethodNotAllowed):
        allow = sorted({*(error.valid_methods or ()), "OPTIONS"})
        if request.method == "OPTIONS":
            return list_methods(allow)
        return refuse(MethodNotAllowed(f"this path takes {', '.join(allow)}", allow=allow))
    if error.code == 404:
        return refuse(NotFound("no such path in this API; GET /openapi.json lists them"))
    return refuse(MalformedRequest("the request's URL or host cannot be understood"))


def _dump_openapi() -> bytes:
    return json.dumps(build_openapi(), separators=(",", ":")).encode()

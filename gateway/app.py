"""The composition root: builds the services of one gateway, and the WSGI application on top of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed
from werkzeug.exceptions import NotFound as WerkzeugNotFound

from gateway.api.cors import Cors
from gateway.api.denials import DenialLog
from gateway.api.docs import page_makers
from gateway.api.documents import Document, Documents
from gateway.api.door import Door
from gateway.api.figures import CLIENT_GONE, UNMATCHED, WebFigures
from gateway.api.headers import JSON
from gateway.api.openapi.text import YAML, write_json, write_yaml
from gateway.api.pipeline import Pipeline
from gateway.api.route import Route
from gateway.api.routes import ROUTES
from gateway.api.services import Audit, Services, Supervisor
from gateway.api.shares import start_shares, stream_shares
from gateway.app_tokens import build_tokens
from gateway.audit.client import AuditClient
from gateway.audit.unfinished import UnfinishedChanges
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.devices.sysfs import Sysfs
from gateway.devices.tree import DeviceTree
from gateway.errors import MalformedRequest, MethodNotAllowed, NotFound
from gateway.errors_all import all_errors
from gateway.guests.changes import Changes
from gateway.guests.leftovers import Leftovers
from gateway.guests.maker import Maker
from gateway.guests.pace import Pace
from gateway.guests.workshop import Workshop
from gateway.policy.node import NodePolicy
from gateway.pve.freezer import Freezer
from gateway.pve.guests import GuestMap
from gateway.pve.pools import PoolFile
from gateway.pve.service import Pve, connect
from gateway.supervisor.link.client import SupervisorClient
from gateway.web.codes import EDGE_CODES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def make_figures() -> WebFigures:
    """Counts for all workers, and for all applications that come after each other in one master."""
    good = {status for route in ROUTES for status in route.statuses} | {204}
    statuses = {*good, *EDGE_CODES, *(error.status for error in all_errors())}
    return WebFigures(((route.method, route.path) for route in ROUTES), statuses)


def build(config: Config, figures: WebFigures) -> Application:
    """The application as it runs: with the real supervisor, audit log and token store."""
    return create_app(
        config,
        supervisor=SupervisorClient(config.supervisor.socket, GuestMap(config.pve.etc, config.node)),
        audit=AuditClient(config.audit.socket),
        tokens=build_tokens(config),
        figures=figures,
    )


def create_app(
    config: Config,
    *,
    supervisor: Supervisor,
    audit: Audit,
    tokens: TokenStore,
    pve: Pve | None = None,
    changes: Changes | None = None,
    figures: WebFigures | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Application:
    """The WSGI application. Flask gives the URL routing; everything else of a request is the pipeline's.

    `pve` and `changes`: what stands for the configured PVE API, and for changes by way of it. `figures`: what others
    have counted before.
    """
    figures = figures or make_figures()
    pve = pve or connect(config.pve, figures.count_call, supervisor.let_go)
    changes = changes or _build_changes(config, audit, pve)
    guests, pace = GuestMap(config.pve.etc, config.node), Pace()
    services = Services(
        config=config,
        supervisor=supervisor,
        audit=audit,
        tokens=tokens,
        policy=NodePolicy(config.policy),
        pve=pve,
        guests=guests,
        freezer=Freezer(config.lxc.cgroup, config.node),
        changes=changes,
        maker=Maker(Workshop(pve, guests, changes, pace, supervisor, config.node, alone=config.web.workers == 1)),
        pools=PoolFile(config.pve.etc / "user.cfg"),
        pace=pace,
        devices=DeviceTree(config.devices.dev),
        sysfs=Sysfs(config.devices.sys),
        documents=Documents(_documents()),
        streams=stream_shares(config.web.max_streams),
        starts=start_shares(),
        figures=figures,
    )
    pipeline = Pipeline(services, DenialLog(audit, config.node, monotonic), Door(config.web, monotonic=monotonic))
    return Application(pipeline, Cors(config.web.allowed_origins), changes, figures)


def _build_changes(config: Config, audit: Audit, pve: Pve) -> Changes:
    leftovers = Leftovers(pve, GuestMap(config.pve.etc, config.node))
    return Changes(audit, pve.tasks, pve.watcher, UnfinishedChanges(config.pve.changes), leftovers.settle)


class Application(Flask):
    """ROUTES as a Flask application, without Flask's contexts and hooks: nothing here uses them, and each request
    would pay for them. ClientGone passes through to the server, which closes the connection."""

    def __init__(self, pipeline: Pipeline, cors: Cors, changes: Changes, figures: WebFigures) -> None:
        super().__init__("gateway", static_folder=None, template_folder=None)
        self._changes = changes
        self._pipeline = pipeline
        self._figures = figures
        self._cors = cors
        self._routes = {route.operation_id: route for route in ROUTES}
        self.url_map.merge_slashes = False  # it would answer `//exec` by a redirect, in HTML
        for route in ROUTES:
            self.add_url_rule(
                route.path.replace("{", "<").replace("}", ">"),
                endpoint=route.operation_id,
                methods=[route.method],
                provide_automatic_options=False,
            )
        self._urls = self.url_map.bind("")

    def begin(self) -> None:
        """Begins what goes on beside requests, in threads of this process: call it in the one that serves."""
        self._changes.keep_recovering()

    def cors_headers(self, environ: Mapping[str, Any]) -> dict[str, str]:
        """What a reply adds for the page that asks, also one that others make."""
        return self._cors.headers(environ)

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answers one request."""
        began, name, status = time.monotonic(), UNMATCHED, CLIENT_GONE
        try:
            found = self._find(environ)
            if isinstance(found, Response):
                response = found
            else:
                route, values = found
                name = route.method, route.path
                response = self._pipeline.take(route, environ, values)
            status = response.status_code
        finally:
            self._figures.count_request(name, status, time.monotonic() - began)
        response.headers.update(self._cors.headers(environ, response.headers.get("Allow")))
        return response(environ, start_response)

    def _find(self, environ: WSGIEnvironment) -> tuple[Route, Mapping[str, str]] | Response:
        """The operation that is asked for, with what stands in its path; or the reply to what is none."""
        method = environ["REQUEST_METHOD"]
        try:
            path = environ.get("PATH_INFO", "").encode("latin-1").decode()  # PEP 3333: bytes in disguise
            operation_id, values = self._urls.match(path, method)
        except WerkzeugMethodNotAllowed as known:
            allow = sorted({*(known.valid_methods or ()), "OPTIONS"})
            if method == "OPTIONS":
                return self._pipeline.list_methods(allow, environ)
            error = MethodNotAllowed(f"this path takes {', '.join(allow)}", allow=allow)
            return self._pipeline.turn_away(error, environ)
        except WerkzeugNotFound:
            return self._pipeline.turn_away(NotFound("no such path in this API; GET /openapi.json lists them"), environ)
        except (HTTPException, UnicodeDecodeError):
            return self._pipeline.turn_away(MalformedRequest("the request's URL cannot be understood"), environ)
        return self._routes[operation_id], values


def _documents() -> dict[str, Callable[[], Document]]:
    return {
        "openapi.json": lambda: Document(write_json(), JSON),
        "openapi.yaml": lambda: Document(write_yaml().encode(), YAML),
        **page_makers(),
    }

"""The one way a request takes: identify, authenticate, authorize, validate, handle, reply."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from flask import Response

from gateway import jsonbytes, ulid
from gateway.api.call import Call, Reply
from gateway.api.denials import Attempt, DenialLog
from gateway.api.door import Door
from gateway.api.lease import Leases
from gateway.api.parse import parse_json, parse_query, read_body
from gateway.api.problems import MEDIA_TYPE, build_problem, problem_headers
from gateway.api.route import PARAMETERS, Route, check_names
from gateway.api.services import Services
from gateway.api.shares import Shares, pve_shares
from gateway.api.standing import Standing
from gateway.api.terminal_handshake import find_ticket
from gateway.auth.actions import Action
from gateway.auth.actor import ANONYMOUS, Actor, Denial
from gateway.auth.tokens import Refusal, Refused
from gateway.errors import (
    ClientGone,
    Forbidden,
    GatewayError,
    GuestNotFound,
    InternalError,
    RateLimited,
    TokenStoreError,
    TooManyLogins,
    Unauthenticated,
)
from gateway.web.live import Live
from gateway.web.safe import SAFE_HEADERS

REQUEST_ID = "req_"

log = logging.getLogger(__name__)


class Pipeline:
    """Takes requests of any route, in many threads at once."""

    def __init__(self, services: Services, denials: DenialLog, door: Door) -> None:
        self._services = services
        self._door = door
        self._denials = denials
        self._leases = Leases(services.tokens)
        threads = services.config.web.threads
        self._shares = Shares("requests", each=max(2, threads * 3 // 4))
        self._pve_shares = pve_shares(threads)

    def take(self, route: Route, environ: Mapping[str, Any], path: Mapping[str, str]) -> Response:
        """The reply to one request. Raises ClientGone alone: then there is nobody to reply to."""
        request_id = ulid.new(REQUEST_ID)
        quota: dict[str, str] = {}
        actor = ANONYMOUS
        try:
            attempt = Attempt(route, _read_vmid(path), _read_exec_id(path), self._door.let_in(environ), request_id)
            actor = self._authenticate(attempt, environ)
            quota = self._door.count(actor.token_id, actor.limits.rate) if actor is not ANONYMOUS else {}
            call = self._admit(attempt, actor, environ, path)
            reply = self._lease(self._handle(attempt, call), call)
            response = _render(reply, request_id, head=environ["REQUEST_METHOD"] == "HEAD")
        except ClientGone:
            raise
        except Exception as exc:
            response = refuse(exc, request_id, actor.token_id)
        response.headers.update(quota)
        return response

    def turn_away(self, error: GatewayError, environ: Mapping[str, Any]) -> Response:
        """The reply to what is no operation: `error`, unless its address asks too often."""
        try:
            self._door.let_in(environ)
        except RateLimited as limited:
            error = limited
        return refuse(error)

    def list_methods(self, allow: Iterable[str], environ: Mapping[str, Any]) -> Response:
        """The reply to OPTIONS: the methods that the path takes."""
        try:
            self._door.let_in(environ)
        except RateLimited as limited:
            return refuse(limited)
        response = _respond(b"", 204, None, {"Allow": ", ".join(allow)}, ulid.new(REQUEST_ID))
        del response.headers["Content-Type"]
        return response

    def _admit(self, attempt: Attempt, actor: Actor, environ: Mapping[str, Any], path: Mapping[str, str]) -> Call:
        route = attempt.route
        self._authorize(attempt, actor)
        standing = self._stand(attempt, actor)
        check_names(path)
        query = parse_query(route.query, environ.get("QUERY_STRING", ""))
        raw, body = b"", None
        if route.body is not None:
            with self._door.admit_body(actor.token_id, environ):
                raw = read_body(environ, self._services.config.web.max_body)
            body = parse_json(route.body, raw)
            if standing.aged:  # the body was long in coming
                actor = standing.renew()
        return Call(
            request_id=attempt.request_id,
            remote=attempt.remote,
            actor=actor,
            action=route.action,
            event=route.event,
            environ=environ,
            vmid=attempt.vmid or 0,
            exec_id=attempt.exec_id or "",
            token_id=path.get("token_id", ""),
            names=path,
            query=query,
            body=body,
            raw=raw,
            standing=standing,
            refuse=lambda error: self._denials.refuse(attempt, actor, error),
        )

    def _handle(self, attempt: Attempt, call: Call) -> Reply:
        try:
            if attempt.route.action is Action.PUBLIC:
                return attempt.route.handler(self._services, call)
            upload = self._door.admit_body(call.actor.token_id, call.environ) if attempt.route.upload else nullcontext()
            to_pve = self._pve_shares.take(call.actor.token_id) if attempt.route.asks_pve else nullcontext()
            with self._shares.take(call.actor.token_id), to_pve, upload:
                if attempt.route.change is not None:
                    self._services.policy.require(attempt.route.change(self._services, call))
                reply = attempt.route.handler(self._services, call)
            if attempt.route.event is None and not isinstance(reply.body, Live):
                call.standing.current()  # what took long to find may not be shown any more
            return reply
        except GatewayError as error:
            if attempt.route.action is Action.PUBLIC:
                raise
            refused = call.refuse(error)
            if refused is error:
                raise
            raise refused from None

    def _lease(self, reply: Reply, call: Call) -> Reply:
        """What goes on after this ends with the caller's token."""
        if not isinstance(reply.body, Live) or not call.actor.token_id:
            return reply
        reply.body.caller = _name(call.request_id, call.actor.token_id)
        return replace(reply, body=self._leases.hold(reply.body, call.actor, call.remote))

    def _authenticate(self, attempt: Attempt, environ: Mapping[str, Any]) -> Actor:
        scheme, _, token = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if scheme.lower() == "bearer":
            found = self._services.tokens.verify(token.strip(" "), attempt.remote)
        elif attempt.route.upgrades and not scheme and (ticket := find_ticket(environ)) is not None:
            found = self._redeem(ticket, attempt, environ)
        else:
            found = Refused(Refusal.NO_TOKEN)
        if isinstance(found, Actor):
            return found
        wait = self._door.note_bad_login(attempt.remote, found)
        if attempt.route.action is Action.PUBLIC:
            return ANONYMOUS
        if wait:
            raise TooManyLogins("too many invalid tokens came from this address or its network", retry_after=wait)
        self._denials.record_stranger(attempt, found)
        if found.reason is Refusal.STORE_UNAVAILABLE:
            raise TokenStoreError("no token can be verified on this node now; its log tells why")
        raise Unauthenticated(
            "send a valid token: `Authorization: Bearer pveg_...`; `pve-exec-gateway token create` makes one"
        )

    def _authorize(self, attempt: Attempt, actor: Actor) -> None:
        action = attempt.route.action
        denied = actor.decide(action, attempt.vmid)
        other = attempt.route.or_action
        if denied is None or (other is not None and actor.decide(other, attempt.vmid) is None):
            return
        audit_id = self._denials.record_actor(attempt, denied.reason, actor)
        if denied.reason is Denial.ACTION_NOT_GRANTED:
            words = f"not {action}" if other is None else f"neither {action} nor {other}"
            detail = f"this token may {words}; see GET /tokens/self for what it may"
            raise Forbidden(detail, action=action, audit_id=audit_id)
        raise GuestNotFound.for_vmid(attempt.vmid or 0, audit_id=audit_id)

    def _stand(self, attempt: Attempt, actor: Actor) -> Standing:
        """For an actor who was let in: what became of that, whenever it is asked."""

        def judge(found: Actor | Refused, exec_id: str | None) -> Actor:
            now = replace(attempt, exec_id=exec_id or attempt.exec_id)
            if isinstance(found, Actor):
                self._authorize(now, found)
                return found
            audit_id = self._denials.record_actor(now, found.reason, actor)
            if found.reason is Refusal.STORE_UNAVAILABLE:
                raise TokenStoreError("nobody can tell now whether this token is valid; try again", audit_id=audit_id)
            raise Unauthenticated("the token that this was asked with is not valid any more", audit_id=audit_id)

        return Standing(self._services.tokens, self._leases, actor, attempt.remote, judge)

    def _redeem(self, ticket: str, attempt: Attempt, environ: Mapping[str, Any]) -> Actor | Refused:
        """Who made the ticket, if that secret of its token is valid still; the ticket is used up, valid or not."""
        maker = self._services.supervisor.take_ticket(ticket, f"GET {environ.get('PATH_INFO', '')}")
        if maker is None:
            return Refused(Refusal.BAD_TICKET)
        return self._services.tokens.recall(maker.token_id, maker.secret, attempt.remote)


def refuse(error: Exception, request_id: str | None = None, token_id: str = "") -> Response:
    """The problem that `error` is. What is no GatewayError is a defect of ours: its traceback is logged. The log names
    request and token."""
    request_id = request_id or ulid.new(REQUEST_ID)
    if not isinstance(error, GatewayError):
        log.error("%s failed", _name(request_id, token_id), exc_info=error)
        error = InternalError("a fault of the gateway; its log tells more under this request_id")
    elif error.status >= 500:
        log.warning("%s: %s: %s", _name(request_id, token_id), error.code, error.detail)
    body = json.dumps(build_problem(error, request_id), separators=(",", ":")).encode()
    return _respond(body, error.status, MEDIA_TYPE, problem_headers(error), request_id)


def _name(request_id: str, token_id: str) -> str:
    """A request in the log, by which it is found (gateway.logs)."""
    return f"request {request_id} of {token_id}" if token_id else f"request {request_id}"


def _read_vmid(path: Mapping[str, str]) -> int | None:
    """The path's vmid where it is a possible one."""
    text = path.get("vmid", "")
    return int(text) if PARAMETERS["vmid"].fullmatch(text) else None


def _read_exec_id(path: Mapping[str, str]) -> str | None:
    """The path's exec id where it is a possible one."""
    text = path.get("id", "")
    return text if PARAMETERS["id"].fullmatch(text) else None


def _render(reply: Reply, request_id: str, *, head: bool) -> Response:
    body = reply.body
    if head and isinstance(body, Live):
        body.close()
        body = iter(())  # of no length: a header may have told what it would be
    elif reply.media_type == "application/json" and not isinstance(body, bytes | Live):
        body = jsonbytes.encode(body)
    return _respond(body, reply.status, reply.media_type, reply.headers, request_id)


def _respond(body: Any, status: int, media_type: str | None, headers: Mapping[str, str], request_id: str) -> Response:
    safe = [(name, value) for name, value in SAFE_HEADERS if name not in headers]
    fields = [*headers.items(), *safe, ("X-Request-Id", request_id)]
    live = isinstance(body, Live)  # as it is, for the server to see
    response = Response(body, status=status, headers=fields, content_type=media_type, direct_passthrough=live)
    if status == 204:
        del response.headers["Content-Type"]
    return response

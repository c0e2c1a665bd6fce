"""The token resource: what the caller's own is, and the administration of those it may administer."""

from __future__ import annotations

from itertools import islice
from typing import Any

from gateway.api.call import Call, Reply
from gateway.api.headers import read_if_match
from gateway.api.models.tokens import (
    CanReply,
    CanRequest,
    GrantSpec,
    LimitsSpec,
    Reach,
    ReachTerms,
    RotateRequest,
    TokenList,
    TokenPatch,
    TokenRequest,
    TokenSelf,
    TokensQuery,
    TokenView,
)
from gateway.api.services import Services
from gateway.auth.actions import Action
from gateway.auth.actor import Denial
from gateway.auth.administration import Administration, Changes, etag
from gateway.auth.grants import Grant, format_guests
from gateway.auth.records import TokenRecord
from gateway.auth.terms import parse_expiry, parse_networks, parse_overlap
from gateway.auth.trail import Trail
from gateway.auth.view import describe
from gateway.exec.permit import Permit, Terms


def show_self(services: Services, call: Call) -> Reply:
    """Its id, name, expiry, and what it reaches."""
    actor = call.actor
    reach = [_show_reach(action, permit) for action in sorted(actor.permits) for permit in actor.permits[action]]
    view: TokenSelf = {
        "id": actor.token_id,
        "name": actor.token_name,
        "expires": actor.expires,
        "reach": reach,
        "limits": {"rate": actor.limits.rate, "max_running": actor.limits.max_running},
    }
    return Reply(view)


def ask_self(services: Services, call: Call) -> Reply:
    """Whether the grants allow it, by the decision that every request goes through. Whether the guest exists, and what
    node policy says, is not asked: the caller learns no more than its own grants."""
    asked: CanRequest = call.body
    denied = call.actor.decide(asked.action, asked.vmid, asked.exec)
    if denied is None:
        return Reply(CanReply(allowed=True, reason=None, field=None))
    hidden = denied.reason is Denial.GUEST_PROTECTED
    reason = Denial.GUEST_NOT_GRANTED if hidden else denied.reason
    return Reply(CanReply(allowed=False, reason=reason, field=denied.field))


def _show_reach(action: Action, permit: Permit) -> Reach:
    shown: Reach = {"action": action, "guests": format_guests(permit.guests)}
    if permit.terms is not None:
        shown["terms"] = _show_terms(permit.terms)
    return shown


def _show_terms(terms: Terms) -> ReachTerms:
    return {
        "commands": [list(pattern.words) for pattern in terms.commands],
        "users": list(terms.users),
        "cwd": list(terms.cwd),
        "env": list(terms.env),
    }


def list_tokens(services: Services, call: Call) -> Reply:
    """A page of the tokens that may do no more than the caller's."""
    query: TokensQuery = call.query
    now = services.tokens.clock()
    found = (
        record
        for record in _administration(services, call).after(query.after or "")
        if query.state in (None, record.state(now))
        and query.name in (None, record.name)
        and query.created_by in (None, record.created_by)
    )
    records = list(islice(found, query.limit))
    page: TokenList = {
        "tokens": [_view(services, record) for record in records],
        "next": records[-1].id if len(records) == query.limit else None,
    }
    return Reply(page)


def create_token(services: Services, call: Call) -> Reply:
    """The token itself stands in this reply, and nowhere again."""
    asked: TokenRequest = call.body
    changes = _changes(services, asked, {*TokenRequest.model_fields})
    record, token = _administration(services, call).create(changes)
    return _reply(services, record, token=token, status=201)


def show_token(services: Services, call: Call) -> Reply:
    return _reply(services, _administration(services, call).find(call.token_id))


def edit_token(services: Services, call: Call) -> Reply:
    """Changes what the body names, on the version that If-Match names, or on the last."""
    asked: TokenPatch = call.body
    changes = _changes(services, asked, asked.model_fields_set)
    revision = read_if_match(call.environ)
    return _reply(services, _administration(services, call).edit(call.token_id, changes, revision))


def rotate_token(services: Services, call: Call) -> Reply:
    """The new token stands in this reply, and nowhere again."""
    asked: RotateRequest = call.body
    changes: Changes = {}
    if asked.expires is not None:
        changes["expires"] = parse_expiry(asked.expires, services.tokens.clock())
    record, token = _administration(services, call).rotate(
        call.token_id,
        overlap=parse_overlap(asked.overlap),
        changes=changes,
        revision=read_if_match(call.environ),
    )
    return _reply(services, record, token=token)


def revoke_token(services: Services, call: Call) -> Reply:
    return _reply(services, _administration(services, call).revoke(call.token_id, read_if_match(call.environ)))


def delete_token(services: Services, call: Call) -> Reply:
    """Its last state; there is no such token from now on."""
    record = _administration(services, call).delete(call.token_id, read_if_match(call.environ))
    return Reply(_view(services, record))


def _administration(services: Services, call: Call) -> Administration:
    trail = Trail(
        services.audit,
        services.config.node,
        remote=call.remote,
        request_id=call.request_id,
        token_id=call.actor.token_id,
        token_name=call.actor.token_name,
    )
    return Administration(services.tokens, trail, call.actor)


def _changes(services: Services, asked: TokenRequest | TokenPatch, given: set[str]) -> Changes:
    changes: Changes = {}
    if "name" in given:
        changes["name"] = asked.name
    if "grants" in given:
        changes["grants"] = tuple(_grant(spec) for spec in asked.grants)
    if "expires" in given:
        changes["expires"] = parse_expiry(asked.expires, services.tokens.clock())
    if "networks" in given:
        changes["networks"] = parse_networks(asked.networks)
    if "limits" in given:
        changes |= _limits(asked.limits)
    return changes


def _limits(asked: LimitsSpec) -> Changes:
    changes: Changes = {}
    if "rate" in asked.model_fields_set:
        changes["rate"] = asked.rate
    if "max_running" in asked.model_fields_set:
        changes["max_running"] = asked.max_running
    return changes


def _grant(spec: GrantSpec) -> Grant:
    return Grant.from_json(spec.model_dump(exclude_unset=True))


def _view(services: Services, record: TokenRecord) -> TokenView:
    last_used = services.tokens.last_used
    used = last_used.get(record.id) if last_used is not None else None
    view: Any = describe(record, services.tokens.clock(), used)
    return view  # type: ignore[no-any-return]


def _reply(services: Services, record: TokenRecord, *, token: str | None = None, status: int = 200) -> Reply:
    view = _view(services, record)
    headers = {"ETag": etag(record)}
    if token is not None:
        view["token"] = token
    if status == 201:
        headers["Location"] = f"/tokens/{record.id}"
    return Reply(view, status=status, headers=headers)

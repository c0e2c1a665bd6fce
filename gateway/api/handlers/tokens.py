"""/tokens/self: what the caller's own token is, what it may do, and whether it might do a certain thing."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.tokens import CanReply, CanRequest, Reach, ReachTerms, TokenSelf
from gateway.api.services import Services
from gateway.auth.actions import Action
from gateway.auth.actor import Denial
from gateway.auth.grants import format_guests
from gateway.exec.permit import Permit, Terms


def show_self(services: Services, call: Call) -> Reply:
    """Its id, name, expiry, and what it reaches."""
    actor = call.actor
    reach = [_show_reach(action, permit) for action in sorted(actor.permits) for permit in actor.permits[action]]
    view: TokenSelf = {"id": actor.token_id, "name": actor.token_name, "expires": actor.expires, "reach": reach}
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

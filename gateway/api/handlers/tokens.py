"""GET /tokens/self: what the caller's own token is."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.tokens import TokenSelf
from gateway.api.services import Services
from gateway.auth.grants import format_guests


def show_self(services: Services, call: Call) -> Reply:
    """Its id, name, expiry, and what it reaches."""
    actor = call.actor
    reach = sorted(actor.reach.items())
    view: TokenSelf = {
        "id": actor.token_id,
        "name": actor.token_name,
        "expires": actor.expires,
        "reach": [{"action": action, "guests": format_guests(guests)} for action, guests in reach],
    }
    return Reply(view)

"""POST /tickets: what a browser shows instead of a token, for it cannot send headers with a WebSocket."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.input import Ticket, TicketRequest
from gateway.api.services import Services

SECONDS = 30
"""How long the supervisor takes a ticket."""


def make_ticket(services: Services, call: Call) -> Reply:
    """One for the WebSocket at `path`; what the caller may do there is asked when it is used."""
    asked: TicketRequest = call.body
    ticket: Ticket = {
        "ticket": services.supervisor.make_ticket(call.origin, call.actor.secret, f"GET {asked.path}"),
        "expires_in": SECONDS,
    }
    return Reply(ticket)

"""GET /exec/{vmid}/terminal and GET /execs/{id}/attach: from request to WebSocket.

Their replies have status 101, which the Terminal writes itself; to werkzeug a reply of that status has no body.
"""

from __future__ import annotations

from contextlib import ExitStack

from gateway.api.call import Call, Reply
from gateway.api.headers import read_idempotency_key
from gateway.api.models.terminals import AttachQuery
from gateway.api.services import Services
from gateway.api.terminal import Terminal
from gateway.api.terminal_handshake import accept_upgrade
from gateway.api.terminal_start import Opening, join


def open_terminal(services: Services, call: Call) -> Reply:
    """A WebSocket on which the client's first message starts an exec."""
    head = _accept(services, call)
    key = read_idempotency_key(call.environ)
    services.supervisor.locate(call.vmid)
    vmid, origin, again, refuse, watch = call.vmid, call.origin, call.decide_again, call.refuse, call.standing.watch

    def start(message: bytes) -> Opening:
        return Opening(services, vmid, origin, again, watch, message, refuse, key=key)

    with ExitStack() as holds:
        holds.enter_context(services.streams.take(call.actor.token_id))
        idle = services.config.web.terminal_idle
        return Reply(Terminal(head, holds.pop_all(), start=start, idle=idle))


def attach_exec(services: Services, call: Call) -> Reply:
    """A WebSocket that follows an exec, and with `write` feeds it."""
    head = _accept(services, call)
    query: AttachQuery = call.query
    with ExitStack() as holds:
        holds.enter_context(services.streams.take(call.actor.token_id))
        session = join(services, call.exec_id, call.origin, write=query.write, cursor=query.from_, window=query.window)
        idle = services.config.web.terminal_idle
        return Reply(Terminal(head, holds.pop_all(), session=session, idle=idle))


def _accept(services: Services, call: Call) -> bytes:
    config = services.config
    return accept_upgrade(
        call.environ,
        tls=config.tls is not None,
        allowed_origins=config.web.allowed_origins,
        request_id=call.request_id,
    )

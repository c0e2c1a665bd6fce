"""The exec resource: list, look at, end."""

from __future__ import annotations

from gateway.api.call import Call, Reply
from gateway.api.models.execs import ExecList, ListQuery, WaitQuery
from gateway.api.services import Services
from gateway.exec.view import State


def list_execs(services: Services, call: Call) -> Reply:
    """A page of the execs that the caller may see; execs of guests out of its reach do not exist for it."""
    query: ListQuery = call.query
    labels = dict(pair.split("=", 1) for pair in query.label)
    execs = services.supervisor.list(call.origin, query.vmid, query.state, labels, query.limit, query.after)
    page: ExecList = {"execs": execs, "next": execs[-1]["id"] if len(execs) == query.limit else None}
    return Reply(page)


def get_exec(services: Services, call: Call) -> Reply:
    """The exec as it is now, or as it is when it ends within `wait` seconds."""
    query: WaitQuery = call.query
    if query.wait:
        services.supervisor.get(call.exec_id, call.origin, query.wait, call.watch)
    return Reply(services.supervisor.get(call.exec_id, call.latest_origin))


def kill_exec(services: Services, call: Call) -> Reply:
    """Ends the exec's whole tree: 200 when it has ended within `wait` seconds, else 202."""
    query: WaitQuery = call.query
    view = services.supervisor.kill(call.exec_id, call.origin)
    if view["state"] != State.ENDED and query.wait:
        services.supervisor.get(call.exec_id, call.origin, query.wait, call.watch)
        view = services.supervisor.get(call.exec_id, call.latest_origin)
    return Reply(view, status=200 if view["state"] == State.ENDED else 202)

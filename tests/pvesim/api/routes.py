"""ROUTES: every method that is simulated and what answers it. Parameters, types and privileges are the facts'."""

import re
from functools import cache
from typing import Any

from tests.pvesim.api import (
    access_routes,
    appliances,
    backup,
    cluster,
    content,
    facts,
    pools,
    privileges,
    role_routes,
    storage_routes,
    task_routes,
)
from tests.pvesim.api.call import Call, Handler, Parameters, Simulation
from tests.pvesim.api.facts import Facts
from tests.pvesim.api.failure import Failure, die, refuse
from tests.pvesim.api.lxc.routes import ROUTES as LXC
from tests.pvesim.api.qemu.routes import ROUTES as QEMU

ROUTES: dict[tuple[str, str], Handler] = {
    **access_routes.ROUTES,
    **role_routes.ROUTES,
    **cluster.ROUTES,
    **pools.ROUTES,
    **task_routes.ROUTES,
    **storage_routes.ROUTES,
    **content.ROUTES,
    **appliances.ROUTES,
    **backup.ROUTES,
    **LXC,
    **QEMU,
}


def find(method: str, path: str) -> tuple[Handler, Facts, dict[str, str]]:
    """What answers `method path`, its facts, and the parameters that stand in the path; raises Failure(501)."""
    for (verb, template), handler in ROUTES.items():
        matched = _pattern(template).fullmatch(path) if verb == method else None
        if matched:
            return handler, facts.load()[method, template], matched.groupdict()
    raise Failure(501, f"Method '{method} {path}' not implemented\n")


def call(sim: Simulation, user: str, method: str, path: str, given: Parameters, *, is_cli: bool = False) -> Any:
    """The result of one request of `user`. Raises Failure. Privileges are looked at before parameters, as in PVE."""
    handler, rules, inside = find(method, path)
    for name, value in given.items():
        if str(inside.get(name, value)) != str(value):
            refuse({name: "duplicate parameter (already defined in URI) with conflicting values!"})
    parameters = {**given, **inside}
    privileges.authorize(user, rules["permissions"], parameters)
    node = _reach(sim, parameters.get("node", sim.node))
    return handler(Call(sim, user, node, facts.check(rules, parameters), is_cli))


def _reach(sim: Simulation, node: str) -> str:
    """The node that a request is for. Raises Failure: 500 for an unknown one, 595, 596 or 599 for one that is away."""
    if node == "localhost":
        return sim.node
    if node not in sim.nodes:
        die(f"hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known")
    status = sim.faults.away().get(node)
    if status:
        reasons = {595: "No route to host", 596: "Connection timed out", 599: "Too many redirections"}
        raise Failure(status, reasons.get(status, "Errors during connection establishment"))
    return node


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """A volume's name has slashes; no other part of a path has."""
    parts = re.sub(r"{volume}", r"(?P<volume>.+)", template)
    return re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", parts))

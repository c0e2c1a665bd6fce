"""ROUTES: every path that is simulated and what answers it. Parameters, types and privileges are the facts'."""

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.api import facts, machines
from tests.pvesim.api.facts import Facts, Failure
from tests.pvesim.api.qga import GuestAgent, Timing

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Node:
    """What the methods act upon."""

    name: str
    timing: Timing

    def agent(self, vmid: int) -> GuestAgent:
        config = pmxcfs.ROOT / "nodes" / self.name / "qemu-server" / f"{vmid}.conf"
        return GuestAgent(vmid, config, machines.RUN / f"{vmid}.pid", self.timing)


def version(_: Node, __: Parameters) -> Any:
    return {"version": "9.2.11", "release": "9.2", "repoid": "0123456789abcdef"}


def status_current(node: Node, parameters: Parameters) -> Any:
    vmid = parameters["vmid"]
    agent = node.agent(vmid)
    config, pid = agent.load_config(), agent.pid()
    told: dict[str, Any] = {"vmid": vmid, "name": config.get("name"), "status": "running" if pid else "stopped"}
    told |= {"qmpstatus": told["status"], "uptime": 0, "cpus": 1, "ha": {"managed": 0}}
    if "agent" in config:
        told["agent"] = 1
    if pid:
        told["pid"] = pid
    return told


def agent_ping(node: Node, parameters: Parameters) -> Any:
    return {"result": node.agent(parameters["vmid"]).command("guest-ping", {})}


def agent_exec(node: Node, parameters: Parameters) -> Any:
    return node.agent(parameters["vmid"]).exec(parameters["command"], parameters.get("input-data"))


def agent_exec_status(node: Node, parameters: Parameters) -> Any:
    return node.agent(parameters["vmid"]).exec_status(parameters["pid"])


_VM = "/nodes/{node}/qemu/{vmid}"
ROUTES: dict[tuple[str, str], Callable[[Node, Parameters], Any]] = {
    ("GET", "/version"): version,
    ("GET", f"{_VM}/status/current"): status_current,
    ("POST", f"{_VM}/agent/ping"): agent_ping,
    ("POST", f"{_VM}/agent/exec"): agent_exec,
    ("GET", f"{_VM}/agent/exec-status"): agent_exec_status,
}


def find(method: str, path: str) -> tuple[Callable[[Node, Parameters], Any], Facts, dict[str, str]]:
    """What answers `method path`, its facts, and the parameters that stand in the path; raises Failure(501)."""
    for (verb, template), handler in ROUTES.items():
        matched = re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", template), path)
        if matched and verb == method:
            return handler, facts.load()[template][method], matched.groupdict()
    raise Failure(501, f"Method '{method} {path}' not implemented")


def call(node: Node, method: str, path: str, given: Parameters, allow: Callable[[Facts, Parameters], None]) -> Any:
    """The result of one request of a token. Raises Failure. `allow` is asked before anything is looked at."""
    handler, rules, inside = find(method, path)
    for name, value in given.items():
        if inside.get(name, value) != value:
            raise Failure(
                400,
                "Parameter verification failed.\n",
                {name: "duplicate parameter (already defined in URI) with conflicting values!"},
            )
    parameters = {**given, **inside}
    allow(rules, parameters)
    if "node" in parameters and parameters["node"] not in ("localhost", node.name):
        raise Failure(500, f"hostname lookup '{parameters['node']}' failed - failed to get address info\n")
    return handler(node, facts.check(rules, parameters))


def this_node(timing: Timing) -> Node:
    return Node(socket.gethostname(), timing)

"""The guest agent's methods (qemu-server, API2/Qemu/Agent.pm)."""

from typing import Any

from tests.pvesim.api.call import Call


def ping(call: Call) -> Any:
    return {"result": call.sim.agent(call.node, call.vmid).command("guest-ping", {})}


def execute(call: Call) -> Any:
    return call.sim.agent(call.node, call.vmid).exec(call["command"], call.get("input-data"))


def show_execution(call: Call) -> Any:
    return call.sim.agent(call.node, call.vmid).exec_status(call["pid"])


def show_interfaces(call: Call) -> Any:
    return {"result": call.sim.agent(call.node, call.vmid).command("guest-network-get-interfaces", {})}

"""Which function answers which method of `/nodes/{node}/qemu`."""

from tests.pvesim.api.call import Handler
from tests.pvesim.api.qemu import agent, guest

_ALL, _ONE = "/nodes/{node}/qemu", "/nodes/{node}/qemu/{vmid}"

ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", _ALL): guest.list_machines,
    ("GET", f"{_ONE}/status/current"): guest.show_status,
    ("POST", f"{_ONE}/agent/ping"): agent.ping,
    ("POST", f"{_ONE}/agent/exec"): agent.execute,
    ("GET", f"{_ONE}/agent/exec-status"): agent.show_execution,
}

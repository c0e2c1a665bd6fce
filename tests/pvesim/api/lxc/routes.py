"""Which function answers which method of `/nodes/{node}/lxc`."""

from tests.pvesim.api.call import Handler
from tests.pvesim.api.lxc import configuration, create, destroy, guest, power

_ALL, _ONE = "/nodes/{node}/lxc", "/nodes/{node}/lxc/{vmid}"

ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", _ALL): guest.list_containers,
    ("POST", _ALL): create.create,
    ("DELETE", _ONE): destroy.destroy,
    ("GET", f"{_ONE}/config"): configuration.show,
    ("PUT", f"{_ONE}/config"): configuration.change,
    ("GET", f"{_ONE}/pending"): configuration.show_pending,
    ("GET", f"{_ONE}/interfaces"): guest.show_interfaces,
    ("GET", f"{_ONE}/status/current"): guest.show_status,
    ("POST", f"{_ONE}/status/start"): power.start,
    ("POST", f"{_ONE}/status/stop"): power.stop,
    ("POST", f"{_ONE}/status/shutdown"): power.shutdown,
    ("POST", f"{_ONE}/status/reboot"): power.reboot,
    ("POST", f"{_ONE}/status/suspend"): power.suspend,
    ("POST", f"{_ONE}/status/resume"): power.resume,
}

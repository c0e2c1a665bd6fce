"""Which function answers which method of `/nodes/{node}/qemu`."""

from tests.pvesim.api.call import Handler
from tests.pvesim.api.qemu import agent, configuration, guest, lifecycle, migrate, power, snapshots

_SNAPSHOTS = "/nodes/{node}/qemu/{vmid}/snapshot"
_ALL, _ONE = "/nodes/{node}/qemu", "/nodes/{node}/qemu/{vmid}"

ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", _ALL): guest.list_machines,
    ("POST", _ALL): lifecycle.create,
    ("DELETE", _ONE): lifecycle.destroy,
    ("POST", f"{_ONE}/clone"): lifecycle.clone,
    ("POST", f"{_ONE}/template"): lifecycle.make_template,
    ("GET", f"{_ONE}/config"): configuration.show,
    ("GET", f"{_ONE}/pending"): configuration.show_pending,
    ("PUT", f"{_ONE}/config"): configuration.change,
    ("POST", f"{_ONE}/config"): configuration.change_by_task,
    ("PUT", f"{_ONE}/resize"): snapshots.resize,
    ("POST", f"{_ONE}/migrate"): migrate.migrate,
    ("GET", _SNAPSHOTS): snapshots.list_snapshots,
    ("POST", _SNAPSHOTS): snapshots.take,
    ("DELETE", f"{_SNAPSHOTS}/{{snapname}}"): snapshots.remove,
    ("POST", f"{_SNAPSHOTS}/{{snapname}}/rollback"): snapshots.roll_back,
    ("GET", f"{_SNAPSHOTS}/{{snapname}}/config"): snapshots.show_config,
    ("PUT", f"{_SNAPSHOTS}/{{snapname}}/config"): snapshots.change_config,
    ("GET", f"{_ONE}/status/current"): guest.show_status,
    ("POST", f"{_ONE}/status/start"): power.start,
    ("POST", f"{_ONE}/status/stop"): power.stop,
    ("POST", f"{_ONE}/status/shutdown"): power.shutdown,
    ("POST", f"{_ONE}/status/reboot"): power.reboot,
    ("POST", f"{_ONE}/status/reset"): power.reset,
    ("POST", f"{_ONE}/status/suspend"): power.suspend,
    ("POST", f"{_ONE}/status/resume"): power.resume,
    ("POST", f"{_ONE}/agent/ping"): agent.ping,
    ("POST", f"{_ONE}/agent/exec"): agent.execute,
    ("GET", f"{_ONE}/agent/exec-status"): agent.show_execution,
    ("GET", f"{_ONE}/agent/network-get-interfaces"): agent.show_interfaces,
}

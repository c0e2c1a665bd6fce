"""Which function answers which method of `/nodes/{node}/lxc`."""

from tests.pvesim.api.call import Handler
from tests.pvesim.api.lxc import clone, configuration, create, destroy, guest, migrate, power, resize, snapshots

_SNAPSHOTS = "/nodes/{node}/lxc/{vmid}/snapshot"
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
    ("GET", f"{_ONE}/feature"): resize.show_feature,
    ("PUT", f"{_ONE}/resize"): resize.resize,
    ("POST", f"{_ONE}/clone"): clone.clone,
    ("POST", f"{_ONE}/template"): clone.make_template,
    ("POST", f"{_ONE}/migrate"): migrate.migrate,
    ("GET", _SNAPSHOTS): snapshots.list_snapshots,
    ("POST", _SNAPSHOTS): snapshots.take,
    ("DELETE", f"{_SNAPSHOTS}/{{snapname}}"): snapshots.remove,
    ("POST", f"{_SNAPSHOTS}/{{snapname}}/rollback"): snapshots.roll_back,
    ("GET", f"{_SNAPSHOTS}/{{snapname}}/config"): snapshots.show_config,
    ("PUT", f"{_SNAPSHOTS}/{{snapname}}/config"): snapshots.change_config,
    ("POST", f"{_ONE}/status/start"): power.start,
    ("POST", f"{_ONE}/status/stop"): power.stop,
    ("POST", f"{_ONE}/status/shutdown"): power.shutdown,
    ("POST", f"{_ONE}/status/reboot"): power.reboot,
    ("POST", f"{_ONE}/status/suspend"): power.suspend,
    ("POST", f"{_ONE}/status/resume"): power.resume,
}

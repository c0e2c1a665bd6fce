"""Templates that can be downloaded: `/nodes/{node}/aplinfo` (pve-manager, API2/Nodes.pm)."""

from typing import Any

from tests.pvesim.api import archives, storages, tasks
from tests.pvesim.api.call import Call, Handler
from tests.pvesim.api.failure import die, refuse


def list_appliances(_: Call) -> Any:
    return [
        {"template": name, "package": name.partition("_")[0], "os": system, "section": section, "type": "lxc",
         "source": "https://templates.invalid", "version": name.split("_")[1], "headline": name.partition("_")[0]}
        for name, (system, section, _) in archives.APPLIANCES.items()
    ]  # fmt: skip


def download_appliance(call: Call) -> Any:
    name = call["template"]
    if name not in archives.APPLIANCES:
        refuse({"template": "no such template"})
    storage = storages.find(call["storage"], call.node)
    if "vztmpl" not in storage.content:
        die(f"storage '{storage.id}' does not support templates")

    def work() -> None:
        target = storage.place("vztmpl") / name
        print(f"downloading https://templates.invalid/{name} to {target}")
        if call.sim.faults.is_full(storage.id):
            die(f"download of 'https://templates.invalid/{name}' to '{target}' failed - No space left on device")
        archives.download(name, target)
        print("download finished")

    return tasks.fork_worker(call, "download", name, work)


ROUTES: dict[tuple[str, str], Handler] = {
    ("GET", "/nodes/{node}/aplinfo"): list_appliances,
    ("POST", "/nodes/{node}/aplinfo"): download_appliance,
}

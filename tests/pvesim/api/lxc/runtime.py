"""The running side of a container: start, stop, freeze, addresses."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.pvesim import cgroup
from tests.pvesim.api import tasks, volumes
from tests.pvesim.api.call import TICKS, read_start_time
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die
from tests.pvesim.api.lxc import properties, runtime_config

LXC = volumes.LXC
_CGROUPS = Path("/sys/fs/cgroup")


def is_running(vmid: int) -> bool:
    """As PVE::LXC::check_running: the container's command socket is in /proc/net/unix."""
    name = f" @/var/lib/lxc/{vmid}/command".encode()
    return any(line.endswith(name) for line in Path("/proc/net/unix").read_bytes().split(b"\n"))


def init_pid(vmid: int) -> int:
    """The container's first process; 0 when there is none."""
    said = _lxc(vmid, "lxc-info", "-pH").strip()
    return int(said) if said.isdigit() else 0


def start(vmid: int, guest: GuestConfig, *, dhcp_delay: float) -> None:
    """Start it as `systemctl start pve-container@<vmid>` does: nothing happens to one that runs. Raises Failure."""
    if is_running(vmid):
        return
    runtime_config.write_lxc_config(vmid, guest)
    for top in (_CGROUPS / "lxc" / str(vmid), _CGROUPS / "lxc.monitor" / str(vmid)):
        for directory, _, _ in os.walk(top, topdown=False):
            Path(directory).rmdir()  # a directory left there makes lxc-start abort
    log = LXC / str(vmid) / "start.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["lxc-start", "-n", str(vmid), "-d", "-o", str(log), "-l", "ERROR"],
        check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        print(log.read_text() if log.exists() else done.stderr, flush=True)
        die(f"startup for container '{vmid}' failed")
    if any(net.get("ip") == "dhcp" for net in properties.networks(guest.values).values()):
        tasks.run_later(dhcp_delay, lambda: give_addresses(vmid, guest))


def stop(vmid: int, *, timeout: int | None = None, kill: bool = False, then_kill: bool = False) -> None:
    """PVE::LXC::vm_stop; one that does not run is no error. Raises Failure `container did not stop`."""
    if not is_running(vmid):
        return
    command = ["--kill"] if kill else [*([] if then_kill else ["--nokill"]), "--timeout", str(timeout or 60)]
    done = subprocess.run(
        ["lxc-stop", "-n", str(vmid), *command], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        print(f"command 'lxc-stop -n {vmid} {' '.join(command)}' failed: exit code {done.returncode}", flush=True)
        die("container did not stop")
    _lxc(vmid, "lxc-wait", "-s", "STOPPED", "-t", "10")


def freeze(vmid: int) -> None:
    """`lxc/<vmid>/ns` alone, as PVE 9 does for a snapshot (PVE.md)."""
    _set_frozen(vmid, True)


def thaw(vmid: int) -> None:
    _set_frozen(vmid, False)


def uptime(pid: int) -> int:
    """Seconds since a process started."""
    since_boot = float(Path("/proc/uptime").read_text().split()[0])
    return int(since_boot - read_start_time(pid) / TICKS) if read_start_time(pid) else 0


def give_addresses(vmid: int, guest: GuestConfig) -> None:
    """What a DHCP server on the bridge would do: an address made from the vmid, with the bridge as the gateway."""
    pid = init_pid(vmid)
    for number, net in properties.networks(guest.values).items():
        if net.get("ip") == "dhcp" and pid:
            address = f"10.{128 + number}.{vmid >> 8 & 255}.{vmid & 255}/8"
            subprocess.run(
                ["nsenter", "-t", str(pid), "-n", "ip", "addr", "add", address, "dev", net["name"]],
                check=False, stdin=subprocess.DEVNULL, capture_output=True,
            )  # fmt: skip


def interfaces(vmid: int) -> list[dict[str, Any]] | None:
    """`GET …/interfaces`: null for a stopped container [M]."""
    pid = init_pid(vmid) if is_running(vmid) else 0
    if not pid:
        return None
    listed = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "ip", "-json", "addr"], check=False, capture_output=True, text=True
    )
    if listed.returncode:
        return None
    return [_interface(link) for link in json.loads(listed.stdout)]


def _interface(link: dict[str, Any]) -> dict[str, Any]:
    addresses = [one for one in link["addr_info"] if "local" in one]
    return {
        "name": link["ifname"],
        "hwaddr": link.get("address"),
        "hardware-address": link.get("address"),
        **{one["family"]: f"{one['local']}/{one['prefixlen']}" for one in addresses},
        "ip-addresses": [
            {"ip-address-type": one["family"], "ip-address": one["local"], "prefix": one["prefixlen"]}
            for one in addresses
        ],
    }


def _set_frozen(vmid: int, frozen: bool) -> None:
    inner = _CGROUPS / "lxc" / str(vmid) / "ns"
    if inner.is_dir():
        (inner / "cgroup.freeze").write_text(f"{frozen:d}")
        cgroup.wait_for(inner, f"frozen {frozen:d}", seconds=10)


def _lxc(vmid: int, tool: str, *arguments: str) -> str:
    command = [tool, "-n", str(vmid), *arguments]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout

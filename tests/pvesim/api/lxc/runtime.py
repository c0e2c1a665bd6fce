"""The running side of a container: its LXC configuration written anew at each start, start, stop, freeze, addresses."""

import json
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.pvesim import boot, cgroup, config
from tests.pvesim.api import tasks, volumes
from tests.pvesim.api.call import TICKS, read_start_time
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.failure import die
from tests.pvesim.api.lxc import properties

LXC = volumes.LXC
_CGROUPS = Path("/sys/fs/cgroup")


def is_running(vmid: int) -> bool:
    """As PVE::LXC::check_running: the container's command socket is in /proc/net/unix."""
    name = f"@/var/lib/lxc/{vmid}/command"
    return any(line.endswith(name) for line in Path("/proc/net/unix").read_text().splitlines())


def init_pid(vmid: int) -> int:
    """The container's first process; 0 when there is none."""
    said = _lxc(vmid, "lxc-info", "-pH").strip()
    return int(said) if said.isdigit() else 0


def start(vmid: int, guest: GuestConfig, *, dhcp_delay: float) -> None:
    """Start it as `systemctl start pve-container@<vmid>` does. Raises Failure."""
    write_lxc_config(vmid, guest)
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
    thaw(vmid)  # else nothing in it would hear of the stop
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


def write_lxc_config(vmid: int, guest: GuestConfig) -> None:
    """update_lxc_config: /var/lib/lxc/<vmid>/config, and `rootfs` beside it for those who look for it there."""
    home = LXC / str(vmid)
    home.mkdir(parents=True, exist_ok=True)
    root = volumes.tree(next(iter(properties.mount_points(guest.values))).volume)
    link = home / "rootfs"
    if not link.is_dir() or link.is_symlink():
        link.unlink(missing_ok=True)
        link.symlink_to(root)
    (home / "config").write_text("".join(f"{line}\n" for line in _lxc_lines(vmid, guest, root)))


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


def _lxc_lines(vmid: int, guest: GuestConfig, root: Path) -> Iterator[str]:
    yield "lxc.cgroup.relative = 0"
    yield f"lxc.cgroup.dir.monitor = lxc.monitor/{vmid}"
    yield f"lxc.cgroup.dir.container = lxc/{vmid}"
    yield "lxc.cgroup.dir.container.inner = ns"
    yield f"lxc.rootfs.path = dir:{root}"
    yield f"lxc.uts.name = {guest.get('hostname', f'CT{vmid}')}"
    yield from ("lxc.monitor.unshare = 1", "lxc.apparmor.profile = unconfined", "lxc.pty.max = 1024")
    yield from (f"lxc.seccomp.profile = {config.SECCOMP}", f"lxc.tty.max = {guest.get('tty', '2')}")
    yield from ("lxc.environment = TERM=linux", "lxc.mount.auto = cgroup:mixed proc:mixed sys:mixed")
    yield from (
        "lxc.cgroup2.devices.deny = a",
        "lxc.cgroup2.devices.allow = c *:* m",
        "lxc.cgroup2.devices.allow = b *:* m",
    )
    yield from (f"lxc.cgroup2.devices.allow = c {device} rwm" for device in config.DEVICES)
    if guest.get("unprivileged") == "1":
        yield from (f"lxc.idmap = {kind} 0 {config.UID_SHIFT} 65536" for kind in "ug")
    else:
        yield f"lxc.cap.drop = {config.DROPPED}"
    if guest.get("ostype") == "unmanaged":  # busybox's init takes other signals than LXC's defaults
        yield from ("lxc.signal.halt = SIGUSR2", "lxc.signal.reboot = SIGTERM")
    if "memory" in (_CGROUPS / "cgroup.controllers").read_text().split():
        yield f"lxc.cgroup2.memory.max = {int(guest.get('memory', '512')) << 20}"
    yield from _network_lines(vmid, guest)
    yield from _mount_lines(guest)
    yield from (f"{name} = {value}" for name, value in guest.raw)


def _network_lines(vmid: int, guest: GuestConfig) -> Iterator[str]:
    for number, net in properties.networks(guest.values).items():
        head = f"lxc.net.{number}"
        yield f"{head}.type = veth"
        yield f"{head}.link = {net.get('bridge', boot.BRIDGE)}"
        yield f"{head}.veth.pair = veth{vmid}i{number}"
        yield f"{head}.name = {net['name']}"
        if "hwaddr" in net:
            yield f"{head}.hwaddr = {net['hwaddr']}"
        for version, key, gateway in ((4, "ip", "gw"), (6, "ip6", "gw6")):
            if "/" in net.get(key, ""):
                yield f"{head}.ipv{version}.address = {net[key]}"
            if gateway in net:
                yield f"{head}.ipv{version}.gateway = {net[gateway]}"
        if net.get("link_down") != "1":
            yield f"{head}.flags = up"


def _mount_lines(guest: GuestConfig) -> Iterator[str]:
    for point in properties.mount_points(guest.values):
        if point.key != "rootfs":
            source = volumes.tree(point.volume) if point.type == "volume" else Path(point.volume)
            options = "bind,create=dir" + (",ro" if point.parts.get("ro") == "1" else "")
            yield f"lxc.mount.entry = {source} {point.parts['mp'].lstrip('/')} none {options} 0 0"
    for key in sorted(key for key in guest.values if key[:3] == "dev" and key[3:].isdigit()):
        device = properties.parse(key, guest.values[key])
        status = os.stat(device["path"])
        kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
        rights = "r" if device.get("deny-write") == "1" else "rw"
        yield f"lxc.cgroup2.devices.allow = {kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {rights}"
        source, target = _make_device(guest, device, status), device["path"].lstrip("/")
        yield f"lxc.mount.entry = {source} {target} none bind,create=file 0 0"


def _make_device(guest: GuestConfig, device: dict[str, str], status: os.stat_result) -> Path:
    """A node of its own, with the guest's owner and mode (PVE's passthrough directory)."""
    shift = config.UID_SHIFT if guest.get("unprivileged") == "1" else 0
    owner = int(device.get("uid", "0")) + shift, int(device.get("gid", "0")) + shift
    mode = int(device.get("mode", "0660"), 8)
    place = Path("/run/pvesim/devices") / f"{os.getpid()}-{time.monotonic_ns()}"
    os.mknod(place, stat.S_IFMT(status.st_mode) | mode, status.st_rdev)
    os.chown(place, *owner)
    place.chmod(mode)
    return place


def _set_frozen(vmid: int, frozen: bool) -> None:
    inner = _CGROUPS / "lxc" / str(vmid) / "ns"
    if inner.is_dir():
        (inner / "cgroup.freeze").write_text(f"{frozen:d}")
        cgroup.wait_for(inner, f"frozen {frozen:d}", seconds=10)


def _lxc(vmid: int, tool: str, *arguments: str) -> str:
    command = [tool, "-n", str(vmid), *arguments]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout

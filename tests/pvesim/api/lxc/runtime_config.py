"""The LXC configuration of a container, written anew at each start (update_lxc_config, PVE/LXC.pm)."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from tests.pvesim import boot, config
from tests.pvesim.api import volumes
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.lxc import properties

_CGROUP_ROOT = Path("/sys/fs/cgroup")


def write_lxc_config(vmid: int, guest: GuestConfig) -> None:
    """update_lxc_config: /var/lib/lxc/<vmid>/config, and `rootfs` beside it for those who look for it there."""
    home = volumes.LXC / str(vmid)
    home.mkdir(parents=True, exist_ok=True)
    root = volumes.tree(next(iter(properties.mount_points(guest.values))).volume)
    link = home / "rootfs"
    if not link.is_dir() or link.is_symlink():
        link.unlink(missing_ok=True)
        link.symlink_to(root)
    (home / "config").write_text("".join(f"{line}\n" for line in _lxc_lines(vmid, guest, root)))


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
    if "memory" in (_CGROUP_ROOT / "cgroup.controllers").read_text().split():
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
        source, target = make_device(guest, device, status), device["path"].lstrip("/")
        yield f"lxc.mount.entry = {source} {target} none bind,create=file 0 0"


def make_device(guest: GuestConfig, device: dict[str, str], status: os.stat_result) -> Path:
    """A node of its own, with the guest's owner and mode (PVE's passthrough directory)."""
    shift = config.UID_SHIFT if guest.get("unprivileged") == "1" else 0
    owner = int(device.get("uid", "0")) + shift, int(device.get("gid", "0")) + shift
    mode = int(device.get("mode", "0660"), 8)
    place = Path("/run/pvesim/devices") / f"{os.getpid()}-{time.monotonic_ns()}"
    os.mknod(place, stat.S_IFMT(status.st_mode) | mode, status.st_rdev)
    os.chown(place, *owner)
    place.chmod(mode)
    return place

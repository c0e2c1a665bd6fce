"""What a running container is given without a restart: devices and mount points (device_passthrough_hotplug and
mountpoint_hotplug, PVE/LXC.pm)."""

import os
import stat
import subprocess
from pathlib import Path

from tests.pvesim import linux
from tests.pvesim.api import volumes
from tests.pvesim.api.config_text import GuestConfig
from tests.pvesim.api.lxc import properties, runtime_config


def plug(vmid: int, guest: GuestConfig, key: str) -> None:
    """Puts `dev[n]` or `mp[n]` of the configuration into the container. Raises OSError."""
    if key.startswith("dev"):
        device = properties.parse(key, guest.values[key])
        status = os.stat(device["path"])
        source = runtime_config.make_device(guest, device, status)
        _attach(vmid, guest, source, device["path"], directory=False)
        kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
        rights = "r" if device.get("deny-write") == "1" else "rw"
        numbers = f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {rights}"
        subprocess.run(["lxc-cgroup", "-n", str(vmid), "devices.allow", numbers], check=True, stdin=subprocess.DEVNULL)
    else:
        point = properties.MountPoint(key, properties.parse(key, guest.values[key]))
        source = volumes.tree(point.volume) if point.type == "volume" else Path(point.volume)
        _attach(vmid, guest, source, point.parts["mp"], directory=True, read_only=point.parts.get("ro") == "1")


def _attach(
    vmid: int, guest: GuestConfig, source: Path, path: str, *, directory: bool, read_only: bool = False
) -> None:
    said = subprocess.run(["lxc-info", "-n", str(vmid), "-pH"], check=True, capture_output=True, text=True)
    mount = linux.clone_mount(str(source))
    if read_only:
        linux.make_read_only(mount)
    init = os.pidfd_open(int(said.stdout))
    child = os.fork()
    if child == 0:
        _in_guest(init, mount, Path(path), directory=directory, unprivileged=guest.get("unprivileged") == "1")
    os.close(mount)
    os.close(init)
    if os.waitpid(child, 0)[1]:
        raise OSError(0, "move_mount failed")


def _in_guest(init: int, mount: int, place: Path, *, directory: bool, unprivileged: bool) -> None:
    """As the guest's root, to whom its /dev belongs."""
    code = 1
    try:
        if unprivileged:
            linux.setns(init, linux.CLONE_NEWUSER)
            os.setgid(0)
            os.setuid(0)
        linux.setns(init, linux.CLONE_NEWNS)
        place.parent.mkdir(parents=True, exist_ok=True)
        if directory:
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        linux.attach_mount(mount, os.open(place, os.O_PATH))
        code = 0
    finally:
        os._exit(code)

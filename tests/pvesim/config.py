"""A guest's two configurations: PVE's `<vmid>.conf`, and what PVE makes of it for LXC at a start.

Source: `update_lxc_config` in pve-container's PVE/LXC.pm.
"""

from dataclasses import dataclass
from pathlib import Path

from tests.pvesim import boot, pmxcfs

UID_SHIFT = 100000
SECCOMP = "/usr/share/lxc/config/common.seccomp"

# From /usr/share/lxc/config/common.conf, which PVE's guests include; spelled out, so that a host's additions
# in common.conf.d (lxcfs) do not change the tests. null zero full tty console ptmx random urandom pts fuse.
DEVICES = ("1:3", "1:5", "1:7", "5:0", "5:1", "5:2", "1:8", "1:9", "136:*", "10:229")
DROPPED = "mac_admin mac_override sys_time sys_module sys_rawio"


@dataclass(frozen=True)
class Settings:
    """What a guest is configured with; `memory` in MiB."""

    vmid: int
    hostname: str
    ostype: str
    unprivileged: bool
    memory: int
    mac: str

    @property
    def address(self) -> str:
        """The guest's own address: 10.0.0.0/8 with the vmid's lower 24 bits, so 101 is 10.0.0.101/8."""
        return ".".join(["10", *(str(self.vmid >> shift & 255) for shift in (16, 8, 0))]) + "/8"


def pve_path(vmid: int) -> Path:
    """Where this node keeps the guest's configuration."""
    return pmxcfs.ROOT / "local/lxc" / f"{vmid}.conf"


def pve_text(settings: Settings) -> str:
    """The guest's configuration in PVE's syntax."""
    net = f"name=eth0,bridge={boot.BRIDGE},hwaddr={settings.mac.upper()},ip={settings.address},type=veth"
    lines = [
        "arch: amd64",
        "cores: 1",
        f"hostname: {settings.hostname}",
        f"memory: {settings.memory}",
        f"net0: {net}",
        f"ostype: {settings.ostype}",
        f"rootfs: local:{settings.vmid}/vm-{settings.vmid}-disk-0.raw,size=4G",
        "swap: 0",
    ]
    if settings.unprivileged:
        lines.append("unprivileged: 1")
    return "\n".join(lines) + "\n"


def parse_pve(text: str) -> dict[str, str]:
    """The keys of a PVE configuration, without its snapshots and description."""
    current = text.partition("\n[")[0]
    pairs = (line.partition(": ") for line in current.splitlines() if not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def lxc_text(settings: Settings, rootfs: Path) -> str:
    """The guest's LXC configuration, as PVE writes it at each start."""
    vmid = settings.vmid
    lines = [
        "lxc.cgroup.relative = 0",
        f"lxc.cgroup.dir.monitor = lxc.monitor/{vmid}",
        f"lxc.cgroup.dir.container = lxc/{vmid}",
        "lxc.cgroup.dir.container.inner = ns",
        f"lxc.rootfs.path = dir:{rootfs}",
        f"lxc.uts.name = {settings.hostname}",
        "lxc.monitor.unshare = 1",
        "lxc.apparmor.profile = unconfined",
        f"lxc.seccomp.profile = {SECCOMP}",
        "lxc.tty.max = 2",
        "lxc.pty.max = 1024",
        "lxc.environment = TERM=linux",
        "lxc.mount.auto = cgroup:mixed proc:mixed sys:mixed",
        "lxc.net.0.type = veth",
        f"lxc.net.0.link = {boot.BRIDGE}",
        f"lxc.net.0.veth.pair = veth{vmid}i0",
        "lxc.net.0.name = eth0",
        f"lxc.net.0.hwaddr = {settings.mac}",
        f"lxc.net.0.ipv4.address = {settings.address}",
        "lxc.net.0.flags = up",
        "lxc.cgroup2.devices.deny = a",
        "lxc.cgroup2.devices.allow = c *:* m",
        "lxc.cgroup2.devices.allow = b *:* m",
        *(f"lxc.cgroup2.devices.allow = c {device} rwm" for device in DEVICES),
    ]
    if settings.unprivileged:
        lines += [f"lxc.idmap = {kind} 0 {UID_SHIFT} 65536" for kind in "ug"]
    else:
        lines.append(f"lxc.cap.drop = {DROPPED}")
    if settings.ostype == "unmanaged":  # busybox's init takes other signals than LXC's defaults
        lines += ["lxc.signal.halt = SIGUSR2", "lxc.signal.reboot = SIGTERM"]
    if "memory" in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split():
        lines.append(f"lxc.cgroup2.memory.max = {settings.memory * 1024 * 1024}")
    return "\n".join(lines) + "\n"

"""C11 for what new guests bring along: backups' and snapshots' configurations, read as PVE reads them or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import PolicyConfig
from gateway.errors import PolicyRefused
from gateway.exec.order import GuestKind
from gateway.guests.container import ContainerRequest
from gateway.guests.machine import MachineRequest
from gateway.guests.network import CardSpec
from gateway.guests.origins import describe_restored, describe_rollback
from gateway.policy.node import NodePolicy
from gateway.pve.models import GuestConfig, GuestRef

POLICY = NodePolicy(PolicyConfig(features=("nesting",), raw_keys=("lxc.mount.entry",)))
ORDINARY = """#a note
#[not a section]
arch: amd64
cores: 2
features: nesting=1
hostname: web
memory: 512
mp0: local:7105/vm-7105-disk-1.raw,mp=/data,backup=1,size=1G
net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,type=veth
rootfs: local:7105/vm-7105-disk-0.raw,size=4G
unprivileged: 1
unused0: local:7105/vm-7105-disk-2.raw

[before]
unprivileged: 0
mp1: /,mp=/host
snaptime: 1767225600
"""


def restore(config: str, **members: Any) -> None:
    """Decides about the restore of a backup with this configuration."""
    pve: Any = SimpleNamespace(storages=SimpleNamespace(backup_config=lambda node, backup: config))
    wish = ContainerRequest(backup="local:backup/vzdump-lxc-7105-2026_01_01-00_00_00.tar.zst", **members)
    POLICY.require(describe_restored(pve, "pve1", wish))


MACHINE = """#a note
boot: order=scsi0
cores: 2
ide2: local:iso/debian-13.iso,media=cdrom,size=600M
ide3: local-lvm:vm-7105-cloudinit,media=cdrom
name: web
net0: virtio=BC:24:11:00:00:01,bridge=vmbr0
scsi0: local-lvm:vm-7106-disk-0,size=4G
unused0: local-lvm:vm-7106-disk-9
#qmdump#map:scsi0:drive-scsi0:local-lvm:raw:

[before]
args: -device x
snaptime: 1767225600
"""


def restore_machine(config: str, **members: Any) -> None:
    pve: Any = SimpleNamespace(storages=SimpleNamespace(backup_config=lambda node, backup: config))
    backup = "local:backup/vzdump-qemu-7105-2026_01_01-00_00_00.vma.zst"
    POLICY.require(describe_restored(pve, "pve1", MachineRequest(type="qemu", backup=backup, **members)))


def test_an_ordinary_backup_of_a_machine_is_restored() -> None:
    """Drives whose data the archive has are made anew, whatever they were called; others stay what they are."""
    restore_machine(MACHINE, networks=[CardSpec()], memory=512)


@pytest.mark.parametrize(
    "wrong",
    [
        ("#qmdump#map:scsi0:", "#qmdump#map:scsi1:"),
        ("#qmdump#map:", "# qmdump#map:"),
        (":raw:\n", ":raw\n"),
        ("scsi0: ", "scsi1: local-lvm:vm-7106-disk-1\nscsi0: "),
        ("scsi0: local", "scsi0: file=/dev/sda,volume=local"),
        ("scsi0: local-lvm:vm-7106-disk-0,", "scsi0: local-lvm:vm-7106-disk-0, "),
        ("cores: 2", "args: -device x"),
        ("cores: 2", "hostpci0: 01:00"),
        ("cores: 2", "virtiofs0: dirid=etc"),
        ("bridge=vmbr0", "firewall=1"),
        ("\n[before]", "[PENDING]"),
        ("\n[before]", "[pve:pending]"),
        ("\n[before]", "[not a section!]"),
        ("local:iso/debian-13.iso,media=cdrom,size=600M", "local:iso/debian-13.iso"),
    ],
)
def test_a_machine_of_which_pve_would_make_more_is_refused(wrong: tuple[str, str]) -> None:
    """What stands in an archive without its data PVE leaves as it is: another guest's disk, a device, an argument."""
    config = MACHINE.replace(*wrong)
    assert config != MACHINE
    with pytest.raises(PolicyRefused):
        restore_machine(config)


def test_an_ordinary_backup_is_restored() -> None:
    """Its volumes are made anew; what stood in its snapshots is not restored."""
    restore(ORDINARY)


@pytest.mark.parametrize(
    "wrong",
    [
        ("mp0: ", "mp0: ro=1,volume=/srv,mp=/host\nmp2: "),
        ("mp0: ", "mp0: mp=/host,volume=/srv\nmp2: "),
        ("backup=1", "volume=/srv"),
        ("backup=1", "idmap=u:0:0:1"),
        ("\n[before]", "[not a section!]\nunprivileged: 0"),
        ("\n[before]", "[]\nlxc.apparmor.profile: unconfined"),
        ("\n[before]", "[pve:pending]\nfeatures: fuse=1"),
        ("\n[before]", "[before]\n[pve:pending]\ndev0: /dev/sda\n[after]"),
        ("unprivileged: 1", "unprivileged: 0\n unprivileged: 1"),
        ("unprivileged: 1", "unprivileged: 0\nunprivileged = 1"),
        ("unprivileged: 1", "unprivileged: 0\nunprivileged: 1"),
        ("unprivileged: 1", "#\x0bunprivileged: 1"),
        ("#a note", "#a note\x0b[x]\nlxc.apparmor.profile = unconfined"),
        ("#a note", "#a note\u2028[x]\nhookscript: local:snippets/x.sh"),
        ("cores: 2", "Cores: 2"),
    ],
)
def test_a_backup_that_pve_reads_otherwise_is_refused(wrong: tuple[str, str]) -> None:
    """Whoever can write an archive finds no way to word its configuration that we overlook and PVE does not."""
    config = ORDINARY.replace(*wrong)
    assert config != ORDINARY
    with pytest.raises(PolicyRefused):
        restore(config)


@pytest.mark.parametrize("name", ["backup/vzdump-lxc-7105-2026_01_01-00_00_00.tar.zst", "iso/x.iso", "7105/vm-7105-x"])
def test_a_template_is_no_backup(name: str) -> None:
    """A backup is somebody's: it is restored, by who may make its guest, and never taken for a template."""
    with pytest.raises(ValidationError):
        ContainerRequest(template=f"local:{name}")


def test_a_rollback_to_other_raw_options_is_one_of_them() -> None:
    """They are compared by their values: that the guest has some of the same name now allows nothing."""

    def config(*lines: tuple[str, str]) -> GuestConfig:
        return GuestConfig.read({"unprivileged": 1, "lxc": [list(line) for line in lines]})

    def rollback(then: GuestConfig, now: GuestConfig) -> None:
        pve: Any = SimpleNamespace(
            snapshots=SimpleNamespace(config=lambda guest, name: then),
            guests=SimpleNamespace(config=lambda guest, pending: now),
        )
        NodePolicy(PolicyConfig()).require(describe_rollback(pve, GuestRef(7105, GuestKind.LXC, "pve1"), "before"))

    entry = ("lxc.mount.entry", "/srv/a a none bind"), ("lxc.mount.entry", "/srv/b b none bind")
    rollback(config(*entry), config(*entry))
    rollback(config(), config(*entry))
    for now in (config(), config(entry[0]), config(entry[1], entry[0])):
        with pytest.raises(PolicyRefused):
            rollback(config(*entry), now)

"""C11 for what new guests bring along: backups' and snapshots' configurations, read as PVE reads them or refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config import PolicyConfig
from gateway.errors import PolicyRefused
from gateway.exec.order import GuestKind
from gateway.guests.origins import describe_restored, describe_rollback
from gateway.guests.wish import GuestRequest
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
    wish = GuestRequest(backup="local:backup/vzdump-lxc-7105-2026_01_01-00_00_00.tar.zst", **members)
    POLICY.require(describe_restored(pve, "pve1", wish))


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
        GuestRequest(template=f"local:{name}")


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

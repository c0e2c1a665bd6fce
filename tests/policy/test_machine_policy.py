"""C11 for virtual machines: whose disks a machine's options give it, against every way to write them."""

from __future__ import annotations

import pytest

from gateway.config import PolicyConfig
from gateway.errors import PolicyRefused
from gateway.policy.machine import describe_machine
from gateway.policy.node import NodePolicy

NOTHING = NodePolicy(PolicyConfig())


@pytest.mark.parametrize(
    "options",
    [
        {"scsi0": "local:1,import-from=local:102/vm-102-disk-0.raw"},
        {"scsi0": "local:0,import-from=/dev/sda"},
        {"efidisk0": "local:1,efitype=4m,import-from=local:102/vm-102-disk-0.raw"},
        {"scsi0": "local:1,volume=local:102/vm-102-disk-0.raw"},
        {"scsi0": "file=local:1,volume=local:102/vm-102-disk-0.raw"},
        {"ide2": "local:iso/x.iso,volume=/dev/sda"},
        {"ide2": "none,media=cdrom,volume=/dev/sda"},
        {"cdrom": "none,volume=/dev/sda"},
        {"unused0": "local:101/vm-101-disk-0.raw,volume=local:102/vm-102-disk-0.raw"},
        {"scsi0": "media=disk,file=local:102/vm-102-disk-0.raw"},
        {"scsi0": "local:1,file=/dev/sda"},
        {"scsi0": "local:1,whatever=/dev/sda"},
        {"scsi0": "local:0,import-from=local:import/debian.qcow2"},
        {"scsi1": "local:iso/debian-13.iso"},
        {"scsi1": "local:iso/debian-13.iso,media=disk"},
        {"ide2": "local:iso/a/../../x.iso,media=cdrom"},
        {"ide2": "local:import/debian.qcow2,media=cdrom"},
        {"scsi0": ",volume=/dev/sda"},
        {"serial0": "/dev/ttyS0"},
        {"args": "-device x"},
        {"hostpci0": "01:00"},
        {"cicustom": "user=local:snippets/x"},
        {"net0": "virtio"},
        {"net31": "virtio,firewall=1,bridge="},
    ],
)
def test_nothing_of_others_is_given_to_a_machine(options: dict[str, str]) -> None:
    """A disk of another guest or of the node neither becomes one of the machine's, nor is copied into one: PVE knows
    `volume` as another name of `file`, takes the later of both, and fills a new disk from `import-from`. A network card
    without a bridge would reach what listens on the node's loopback. A CD that is no CD could be written to."""
    with pytest.raises(PolicyRefused):
        NOTHING.require(describe_machine(101, options))


@pytest.mark.parametrize(
    "options",
    [
        {"scsi0": "local:32,iothread=1,discard=on,ssd=1", "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"},
        {"scsi0": "local:101/vm-101-disk-0.qcow2,size=32G", "ide2": "none,media=cdrom"},
        {"ide2": "local:iso/debian-13.iso,media=cdrom,size=600M", "serial0": "socket"},
        {"scsi1": "local:0,import-from=local:101/vm-101-disk-0.raw", "ide0": "local:cloudinit"},
        {"unused0": "local:101/vm-101-disk-1.raw", "unused1": "volume=local:101/vm-101-disk-2.raw"},
        {"efidisk0": "local:1,efitype=4m,pre-enrolled-keys=1", "tpmstate0": "local:1,version=v2.0"},
        {"vmstate": "local:101/vm-101-state-one.raw", "runningmachine": "pc-q35-9.2", "runningcpu": "kvm64,enforce"},
    ],
)
def test_ordinary_machines_need_no_policy(options: dict[str, str]) -> None:
    """New disks, its own, images, and what PVE notes of a snapshot with memory."""
    NOTHING.require(describe_machine(101, options))


@pytest.mark.parametrize(
    ("options", "patterns", "allowed"),
    [
        ({"scsi0": "local:0,import-from=local:import/debian-13.qcow2"}, ("local:import/debian-*",), True),
        ({"scsi0": "local:0,import-from=other:import/debian-13.qcow2"}, ("local:import/debian-*",), False),
        ({"scsi0": "local:0,import-from=local:import/debian-.ova/disk.vmdk"}, ("local:import/debian-*",), False),
        ({"scsi0": "local:import/debian-13.qcow2"}, ("local:import/debian-*",), False),
        ({"ide2": "local:iso/x.iso,media=cdrom"}, ("*:iso/*",), True),
        ({"ide2": "local:iso/x.iso,media=cdrom"}, (), False),
    ],
)
def test_images_that_policy_names(options: dict[str, str], patterns: tuple[str, ...], allowed: bool) -> None:
    """`policy.images` names what a disk may be made of and a CD may be; an image is copied, never a disk itself."""
    policy, change = NodePolicy(PolicyConfig(images=patterns)), describe_machine(101, options)
    if allowed:
        policy.require(change)
    else:
        with pytest.raises(PolicyRefused):
            policy.require(change)

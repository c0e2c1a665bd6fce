"""What is a device below /dev and what is none, whose vendor is whose, and the lines that give one away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.devices.kinds import Kind, kind_of
from gateway.devices.passing import Passed, allow_line, device_options, device_value, free_keys
from gateway.devices.presets import preset_paths
from gateway.devices.sysfs import NOTHING, Hardware, Sysfs
from gateway.devices.tree import DeviceTree
from gateway.errors import DeviceNotFound, GatewayError, NotADevice
from tests.devices.made import CARD, DISK, RENDER, STICK, make_dev, make_node, make_sys

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are made by root alone")


@pytest.fixture
def dev(tmp_path: Path) -> Path:
    make_dev(tmp_path / "dev")
    return tmp_path / "dev"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/dri/renderD128", RENDER),
        ("/dev/dri/by-path/pci-0000:00:02.0-render", RENDER),
        ("/dev/far", RENDER),
        ("/dev/around", CARD),
        ("/dev/sda", DISK),
        ("/dev/disk/by-id/ata-DISK_1", DISK),
    ],
)
def test_devices_are_found(dev: Path, path: str, number: tuple[int, int]) -> None:
    """Character and block devices, and links that stay in /dev, relative or not."""
    node = DeviceTree(dev).find(path)
    assert (node.major, node.minor) == number and node.block is (number == DISK)


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/dev/../etc/shadow", NotADevice),
        ("/etc/shadow", NotADevice),
        ("dev/null", NotADevice),
        ("/dev/./null", NotADevice),
        ("/dev/null,mode=0666", NotADevice),
        ("/dev", NotADevice),
        ("/dev/dri", NotADevice),
        ("/dev/file", NotADevice),
        ("/dev/fifo", NotADevice),
        ("/dev/out", NotADevice),
        ("/dev/up", NotADevice),
        ("/dev/round", NotADevice),
        ("/dev/shm/null", NotADevice),
        ("/dev/" + "x" * 300, NotADevice),
        ("/dev/nothing", DeviceNotFound),
        ("/dev/null/x", DeviceNotFound),
        ("/devil/null", NotADevice),
    ],
)
def test_nothing_else_is(dev: Path, path: str, error: type[GatewayError]) -> None:
    """B2's refusals: `..`, links out of /dev, directories, missing paths; and where others may make names."""
    with pytest.raises(error):
        DeviceTree(dev).find(path)


def test_a_device_that_vanishes(dev: Path) -> None:
    """Between two looks, and behind a link that stays: not there any more."""
    tree = DeviceTree(dev)
    assert tree.find("/dev/far").kind is Kind.DRM
    (dev / "dri/renderD128").unlink()
    for path in ("/dev/dri/renderD128", "/dev/far"):
        with pytest.raises(DeviceNotFound):
            tree.find(path)


def test_list(dev: Path) -> None:
    """Every node once, with what it is for; none of a directory in which others may make some."""
    tree = DeviceTree(dev)
    assert {node.path: node.kind for node in tree.nodes()} == {
        "/dev/bus/usb/001/005": Kind.USB,
        "/dev/dri/card0": Kind.DRM,
        "/dev/dri/renderD128": Kind.DRM,
        "/dev/net/tun": Kind.TUN,
        "/dev/null": Kind.OTHER,
        "/dev/sda": Kind.DISK,
    }
    assert tree.names(Kind.DISK) == {"/dev/sda": ["/dev/disk/by-id/ata-DISK_1"]}
    assert tree.names(Kind.DRM) == {"/dev/dri/renderD128": ["/dev/dri/by-path/pci-0000:00:02.0-render"]}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvidia0", Kind.NVIDIA),
        ("nvidiactl", Kind.NVIDIA),
        ("nvidia-uvm-tools", Kind.NVIDIA),
        ("nvidia-caps/nvidia-cap1", Kind.NVIDIA),
        ("kfd", Kind.KFD),
        ("kvm", Kind.KVM),
        ("fuse", Kind.FUSE),
        ("ttyUSB0", Kind.SERIAL),
        ("tty0", Kind.OTHER),
        ("input/event3", Kind.INPUT),
        ("snd/pcmC0D0p", Kind.SOUND),
        ("video0", Kind.VIDEO),
        ("accel/accel0", Kind.ACCEL),
        ("mem", Kind.OTHER),
    ],
)
def test_kinds(name: str, kind: Kind) -> None:
    """By the names that drivers give."""
    assert kind_of(name, block=False) is kind


def test_hardware(tmp_path: Path) -> None:
    """A card's ids are its own, a stick's USB's, and a disk has no ids of the controller above it."""
    make_sys(tmp_path / "sys")
    sysfs = Sysfs(tmp_path / "sys")
    assert sysfs.hardware(*RENDER, block=False) == Hardware("pci", "8086", "56a0", None)
    assert sysfs.hardware(*STICK, block=False) == Hardware("usb", "0403", "6001", "FT[31mDI UART")
    assert sysfs.hardware(*DISK, block=True) == Hardware(model="ATA Samsung SSD 870")
    assert sysfs.hardware(1, 3, block=False) == NOTHING


@pytest.mark.parametrize(
    ("preset", "paths"),
    [
        ("gpu", ["/dev/dri/card0", "/dev/dri/renderD128"]),
        ("tun", ["/dev/net/tun"]),
        ("fuse", ["/dev/fuse"]),
        ("usb:0403:6001", ["/dev/bus/usb/001/005"]),
    ],
)
def test_presets(dev: Path, tmp_path: Path, preset: str, paths: list[str]) -> None:
    """What belongs together, as it is on this node now."""
    make_sys(tmp_path / "sys")
    assert preset_paths(DeviceTree(dev), Sysfs(tmp_path / "sys"), preset) == paths


def test_presets_with_more_of_them(dev: Path, tmp_path: Path) -> None:
    """A card's companions come along where they are; without any there is no card, and no such stick."""
    tree, sysfs = DeviceTree(dev), Sysfs(tmp_path / "sys")
    for name in ("kfd", "nvidia0", "nvidiactl", "nvidia-uvm"):
        make_node(dev / name, 195, 0)
    assert len(preset_paths(tree, sysfs, "gpu")) == 6
    with pytest.raises(DeviceNotFound):
        preset_paths(tree, sysfs, "usb:dead:beef")
    for name in ("kfd", "nvidia0", "nvidiactl", "nvidia-uvm", "dri/card0", "dri/renderD128"):
        (dev / name).unlink()
    with pytest.raises(DeviceNotFound):
        preset_paths(tree, sysfs, "gpu")


def test_lines(dev: Path) -> None:
    """What PVE's configuration and LXC's own take."""
    assert device_value("/dev/dri/renderD128", mode=0o660, gid=993) == "/dev/dri/renderD128,gid=993,mode=0660"
    assert device_value("/dev/null", mode=0o2666, uid=7, deny_write=True) == "/dev/null,uid=7,mode=0666,deny-write=1"
    assert allow_line(DeviceTree(dev).find("/dev/sda")) == "lxc.cgroup2.devices.allow: b 8:0 rwm"
    given = device_options({"dev10": "mode=0660,path=/dev/a", "dev2": "/dev/b,gid=5", "devil": "x", "dev256": "/dev/c"})
    assert [(key, Passed.read(value).path) for key, value in given.items()] == [("dev2", "/dev/b"), ("dev10", "/dev/a")]
    assert free_keys(["dev0", "dev2"])[:2] == ["dev1", "dev3"]
    assert free_keys(f"dev{number}" for number in range(256)) == []

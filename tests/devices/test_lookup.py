"""GET /devices and /devices/lookup on a running gateway: a group's number in real containers, and the lines (B2)."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.devices.made import RENDER, make_dev, make_sys
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim import config, pmxcfs
from tests.pvesim.guests import Guest

FIRST, LAST = 7560, 7569
RENDER_PATH = "/dev/dri/renderD128"
GROUP = "video"
"""44 on every Debian: the group that owns the made card."""


@pytest.fixture(scope="module")
def tree(node: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A /dev and a /sys of a node with a graphics card."""
    place = tmp_path_factory.mktemp("devices")
    make_dev(place / "dev")
    make_sys(place / "sys")
    return place


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], tree: Path) -> Gateway:
    return make_gateway(devices={"dev": str(tree / "dev"), "sys": str(tree / "sys")})


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api(gateway.token("devices", actions="device:read", guests=f"{FIRST}-{LAST}"))
    yield opened
    opened.close()


def look(api: Api, path: str = RENDER_PATH, vmid: int | None = None) -> Answer:
    return api.get(f"/devices/lookup?path={path}" + ("" if vmid is None else f"&vmid={vmid}"))


def told(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    guest: dict[str, Any] = answer.json()["guest"]
    return guest


def write_group(rootfs: Path, text: str) -> None:
    (rootfs / "etc/group").write_text(text)


def test_a_device(api: Api) -> None:
    """Type, numbers, mode, owner on the node, lasting names and vendor; no guest was named."""
    answer = look(api)
    assert answer.status == 200, answer.body
    assert answer.json() == {
        "device": {
            "path": RENDER_PATH, "kind": "drm", "type": "char", "major": RENDER[0], "minor": RENDER[1],
            "mode": "0660", "uid": 0, "gid": 44, "user": "root", "group": GROUP,
            "names": ["/dev/dri/by-path/pci-0000:00:02.0-render"],
            "bus": "pci", "vendor": "8086", "product": "56a0", "model": None,
        },
        "guest": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/dev/../etc/shadow", 422, "not_a_device"),
        ("/dev/out", 422, "not_a_device"),
        ("/dev/dri", 422, "not_a_device"),
        ("/dev/nothing", 404, "device_not_found"),
        ("/dev/null%00", 422, "not_a_device"),
        ("", 422, "not_a_device"),
        ("/dev/" + "x" * 300, 422, "invalid_request"),
    ],
)
def test_refusals(api: Api, path: str, status: int, code: str) -> None:
    """What is no device below /dev, or is not there."""
    answer = look(api, path)
    assert (answer.status, answer.code) == (status, code), answer.body


def test_list(api: Api) -> None:
    """By path, in pages; what nobody gives to guests only where it is asked for."""
    whole = [one["path"] for one in api.get("/devices").json()["devices"]]
    assert whole == ["/dev/bus/usb/001/005", "/dev/dri/card0", RENDER_PATH, "/dev/net/tun", "/dev/sda"]
    page = api.get("/devices?limit=2").json()
    assert ([one["path"] for one in page["devices"]], page["next"]) == (whole[:2], whole[1])
    rest = api.get(f"/devices?limit=3&after={page['next']}").json()
    assert ([one["path"] for one in rest["devices"]], rest["next"]) == (whole[2:], None)
    assert [one["path"] for one in api.get("/devices?kind=other").json()["devices"]] == ["/dev/null"]


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_group_in_the_guest(api: Api, make_guest: Callable[..., Guest], unprivileged: bool) -> None:
    """The group's number there, whatever it is on the node; then the ready lines, with the next free option."""
    guest = make_guest(
        FIRST, unprivileged=unprivileged, prepare=lambda root: write_group(root, f"root:x:0:\n{GROUP}:x:993:\n")
    )
    with config.pve_path(FIRST).open("a") as file:
        file.write("dev0: /dev/null,mode=0666\ndev2: /dev/far\n[old]\ndev1: /dev/null\n")
    assert told(look(api, vmid=FIRST)) == {
        "vmid": FIRST, "group": GROUP, "gid": 993, "unknown": None,
        "key": "dev1", "line": f"dev1: {RENDER_PATH},gid=993,mode=0660",
        "allow": "lxc.cgroup2.devices.allow: c 226:128 rwm", "given_as": ["dev2"],
    }  # fmt: skip
    write_group(guest.rootfs, f"root:x:0:\n{GROUP}:x:107:someone\n")
    assert told(look(api, vmid=FIRST))["gid"] == 107
    root_owned = told(look(api, "/dev/net/tun", FIRST))
    assert (root_owned["gid"], root_owned["line"]) == (0, "dev1: /dev/net/tun,mode=0666")


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to("/proc/1/root/etc/group")


def make_giant(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_hostile_group_files(api: Api, make_guest: Callable[..., Guest], unprivileged: bool) -> None:
    """A FIFO, a link, a GiB, none at all, one without the group: said so at once, and never the node's own number."""
    guest = make_guest(FIRST + 1, unprivileged=unprivileged)
    path = guest.rootfs / "etc/group"
    for spoil, why in (
        (make_fifo, "group_file_unreadable"),
        (make_link, "group_file_unreadable"),
        (make_giant, "group_file_unreadable"),
        (lambda path: None, "no_such_group"),
        (lambda path: path.write_bytes(b"\x00\xff:x:1:\n" + GROUP.encode() + b":x:-1:\n"), "no_such_group"),
    ):
        path.unlink(missing_ok=True)
        spoil(path)
        began = time.monotonic()
        found = told(look(api, vmid=FIRST + 1))
        assert (found["gid"], found["unknown"]) == (None, why)
        assert found["line"] == f"dev0: {RENDER_PATH},mode=0660"
        assert time.monotonic() - began < 4.5, "it was waited for"
    until(lambda: not inspections(guest), why="the inspections' cgroups are removed")


def inspections(guest: Guest) -> list[Path]:
    return list(guest.cgroup.glob("pveg-*/inspection-*"))


def test_a_guest_that_does_not_run(api: Api, make_guest: Callable[..., Guest]) -> None:
    """Stopped, frozen: unknown, and why; nothing is guessed."""
    guest = make_guest(FIRST + 2)
    guest.freeze()
    try:
        assert told(look(api, vmid=FIRST + 2))["unknown"] == "guest_frozen"
    finally:
        guest.thaw()
    guest.stop(kill=True)
    found = told(look(api, vmid=FIRST + 2))
    assert (found["gid"], found["unknown"]) == (None, "guest_not_running")


def test_file_systems_that_hang(api: Api, make_guest: Callable[..., Guest]) -> None:
    """A guest whose /etc never answers: said so within the limit, no more than a few ever wait for it, and all that
    waited goes with it; a neighbour's lookup is not delayed."""
    hung, fine = make_guest(FIRST + 4), make_guest(FIRST + 5, prepare=lambda root: write_group(root, f"{GROUP}:x:7:\n"))
    fuse = os.open("/dev/fuse", os.O_RDWR)
    try:
        enter = ["nsenter", "-t", str(hung.init_pid()), "-m", "busybox", "mount", "-i", "-t", "fuse"]
        options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0"
        subprocess.run([*enter, "-o", options, "nobody", "/etc"], pass_fds=[fuse], check=True)
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(look, api, RENDER_PATH, FIRST + 4) for _ in range(8)]
            began = time.monotonic()
            assert told(look(api, vmid=FIRST + 5))["gid"] == 7
            assert time.monotonic() - began < 4.5, "it waited with the others"
            assert {told(future.result())["unknown"] for future in waiting} == {"guest_silent"}
        assert told(look(api, vmid=FIRST + 5))["gid"] == 7
    finally:
        os.close(fuse)
    until(lambda: not inspections(hung), why="what waited for it ends")
    assert told(look(api, vmid=FIRST + 4))["unknown"] == "group_file_unreadable"
    until(lambda: not inspections(fine), why="the neighbour's are removed, too")


def test_guests_out_of_reach(api: Api, gateway: Gateway, make_guest: Callable[..., Guest]) -> None:
    """Beyond the grant, unknown, without any guest in the grant: one answer. A machine has no such devices."""
    make_guest(LAST + 1)
    plain = gateway.api(gateway.token_for({"actions": ["device:read"]}))
    answers = [look(api, vmid=LAST + 1), look(api, vmid=LAST), look(plain, vmid=FIRST), look(plain, vmid=LAST + 1)]
    assert {(answer.status, answer.code) for answer in answers} == {(404, "guest_not_found")}
    assert look(plain).status == 200
    plain.close()
    pmxcfs.register(FIRST + 3, node="pve2")
    try:
        answer = look(api, vmid=FIRST + 3)
        assert (answer.status, answer.code) == (409, "guest_unsupported")
    finally:
        pmxcfs.unregister(FIRST + 3)

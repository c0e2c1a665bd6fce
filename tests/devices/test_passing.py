"""Devices given to real containers, privileged and not, by what only root@pam may: there with these numbers (B2)."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.devices.made import make_node
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests.conftest import PRIVILEGES, SECRET, TOKEN_ID
from tests.pvesim import config
from tests.pvesim.api import access
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.guests import Guest

FIRST, LAST = 7580, 7589
VIDEO_GID, GUEST_GID = 44, 993
CARD = f"/dev/pveg-card-{os.getpid()}"
"""A device that belongs to the group video on this node; /dev/null's numbers."""


@pytest.fixture(scope="module")
def card(node: None) -> Iterator[str]:
    make_node(Path(CARD), 1, 3, gid=VIDEO_GID)
    yield CARD
    Path(CARD).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def gateway(
    make_gateway: Callable[..., Gateway], pve: PveProcess, card: str, tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    path = tmp_path_factory.mktemp("token") / "pve.token"
    access.store_token(path, TOKEN_ID, SECRET, privileges=PRIVILEGES)
    return make_gateway(
        pve={"api": pve.url, "token_file": str(path), "pvesh": str(pve.pvesh)},
        policy={"devices": ["/dev/net/tun", "/dev/fuse", "/dev/loop*", "/dev/zero", "/dev/pveg-*", "/dev/shm/*"]},
    )


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api(gateway.token("devices", actions="all", guests=f"{FIRST}-{LAST}"))
    yield opened
    opened.close()


def give(api: Api, vmid: int, **asked: Any) -> Answer:
    return api.request("POST", f"/guests/{vmid}/devices", asked, timeout=60)


def given(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body.decode()
    told: dict[str, Any] = answer.json()
    return told


def listed(api: Api, vmid: int) -> dict[str, dict[str, Any]]:
    answer = api.get(f"/guests/{vmid}/devices")
    assert answer.status == 200, answer.body.decode()
    return {one["key"]: one for one in answer.json()["devices"]}


def stat_in(api: Api, vmid: int, path: str) -> str:
    """As the guest's own root sees it: type, major:minor in hexadecimal, mode, owner."""
    return str(api.run(vmid, ["stat", "-c", "%F %t:%T %a %u:%g", path])["stdout"]).strip()


def write_group(rootfs: Path) -> None:
    (rootfs / "etc/group").write_text(f"root:x:0:\nvideo:x:{GUEST_GID}:\n")


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_given_used_and_taken_back(
    api: Api, gateway: Gateway, make_guest: Callable[..., Guest], card: str, unprivileged: bool
) -> None:
    """While it runs: there at once, with the group's number of this guest, and usable; asked for again nothing is
    changed; taken back it goes with a restart that is made on request. All of it on record."""
    make_guest(FIRST, unprivileged=unprivileged, prepare=write_group)
    blocked = api.run(FIRST, "mknod /tmp/tun c 10 200 && : <>/tmp/tun")
    assert blocked["exit_code"] != 0  # the device filter, or mknod itself
    tun = given(give(api, FIRST, preset="tun"))
    assert (tun["keys"], tun["seen"], tun["restart_needed"], tun["unknown"]) == (["dev0"], True, False, None)
    assert stat_in(api, FIRST, "/dev/net/tun") == "character special file a:c8 666 0:0"
    assert api.run(FIRST, ": <>/dev/net/tun")["exit_code"] == 0
    shown = given(give(api, FIRST, path=card))
    assert (shown["keys"], shown["seen"]) == (["dev1"], True)
    assert stat_in(api, FIRST, card) == f"character special file 1:3 660 0:{GUEST_GID}"
    assert f"dev1: {card},gid={GUEST_GID},mode=0660" in config.pve_path(FIRST).read_text()

    again = given(give(api, FIRST, path=card))
    assert (again["keys"], again["audit_id"]) == (["dev1"], None)
    otherwise = give(api, FIRST, path=card, gid=7)
    assert (otherwise.status, otherwise.code, otherwise.json()["key"]) == (409, "already_given", "dev1")

    back = given(api.request("DELETE", f"/guests/{FIRST}/devices?path={card}"))
    assert (back["keys"], back["restart_needed"]) == (["dev1"], True)
    assert {key: (one["state"], one["in_guest"]) for key, one in listed(api, FIRST).items()} == {
        "dev0": ("given", True),
        "dev1": ("until_next_start", True),
    }
    gone = given(api.request("DELETE", f"/guests/{FIRST}/devices?key=dev0&restart=true", timeout=60))
    assert gone["restart_needed"] is False and gone["upid"].split(":")[5] == "vzreboot"
    assert listed(api, FIRST) == {}
    assert api.run(FIRST, ["ls", card])["exit_code"] != 0
    until(lambda: len(gateway.records(audit_id=tun["audit_id"])) == 2, why="its outcome is recorded")
    records = gateway.records(audit_id=tun["audit_id"])
    assert [record["event"] for record in records] == ["guest:root-config", "guest:outcome"]
    assert records[0]["data"]["options"] == {"dev0": "/dev/net/tun,mode=0666"}


def test_given_before_the_start(api: Api, make_guest: Callable[..., Guest], card: str) -> None:
    """A stopped guest tells no group's number: asked for. With one, the node is there when it starts (B2); a block
    device, too, and one that may only be read."""
    guest = make_guest(FIRST + 1, unprivileged=True)
    guest.stop(kill=True)
    answer = give(api, FIRST + 1, path=card)
    assert (answer.status, answer.code, answer.json()["why"]) == (409, "group_unknown", "guest_not_running")
    first = given(give(api, FIRST + 1, path=card, gid=GUEST_GID, uid=5, mode="0640"))
    assert (first["keys"], first["running"], first["unknown"]) == (["dev0"], False, "guest_not_running")
    loop = given(give(api, FIRST + 1, path="/dev/loop7", gid=6))
    assert loop["keys"] == ["dev1"]
    given(give(api, FIRST + 1, path="/dev/zero", read_only=True))
    assert api.request("POST", f"/guests/{FIRST + 1}/start?wait=60", timeout=70).status == 200
    assert stat_in(api, FIRST + 1, card) == f"character special file 1:3 640 5:{GUEST_GID}"
    assert stat_in(api, FIRST + 1, "/dev/loop7") == f"block special file 7:7 {loop_mode():o} 0:6"
    assert all(one["in_guest"] for one in listed(api, FIRST + 1).values())


def loop_mode() -> int:
    return stat.S_IMODE(os.stat("/dev/loop7").st_mode)


def test_refusals(api: Api, gateway: Gateway, make_guest: Callable[..., Guest]) -> None:
    """Node policy first, for every token (C11); then the grant; then what there is. Nothing is changed by any."""
    make_guest(FIRST + 2)
    before = config.pve_path(FIRST + 2).read_text()
    with shared_memory() as place:
        for path in ("/dev/kvm", "/dev/../etc/shadow", "/etc/shadow", "/dev/net", "/dev/pveg-nothing", place):
            answer = give(api, FIRST + 2, path=path)
            assert (answer.status, answer.code) == (403, "policy_refused"), path
            assert answer.json()["refused"][0]["key"] == "policy.devices"
    assert give(api, FIRST + 2, preset="usb:dead:beef").code == "device_not_found"
    assert give(api, FIRST + 2, preset="../x").code == "invalid_request"
    assert give(api, FIRST + 2, path="/dev/zero", preset="tun").code == "invalid_request"
    assert api.request("DELETE", f"/guests/{FIRST + 2}/devices?key=dev9").code == "device_not_found"
    weaker = gateway.api(gateway.token("weaker", actions="guest:config", guests=f"{FIRST}-{LAST}"))
    assert (give(weaker, FIRST + 2, path="/dev/zero").status, weaker.get(f"/guests/{FIRST + 2}/devices").status) == (
        403,
        200,
    )
    weaker.close()
    rootly = gateway.api(gateway.token("rootly", actions="guest:root-config", guests=f"{FIRST}-{LAST}"))
    restart = give(rootly, FIRST + 2, path="/dev/zero", restart=True)
    assert (restart.status, restart.code, restart.json()["action"]) == (403, "forbidden", "guest:power")
    assert give(rootly, 101, path="/dev/zero").code == "guest_not_found"
    rootly.close()
    assert config.pve_path(FIRST + 2).read_text() == before


@contextlib.contextmanager
def shared_memory() -> Iterator[str]:
    """A device node where everybody may make names."""
    place = Path(f"/dev/shm/pveg-{os.getpid()}")
    try:
        make_node(place, 1, 5)
        yield str(place)
    finally:
        place.unlink(missing_ok=True)


def test_a_guest_that_shows_another(api: Api, gateway: Gateway, make_guest: Callable[..., Guest], card: str) -> None:
    """Its root has put a link in the place, so PVE's mount lands elsewhere: seen, told, and taken back."""
    make_guest(FIRST + 3, prepare=write_group)
    assert api.run(FIRST + 3, ["ln", "-s", "/dev/zero", card])["exit_code"] == 0
    answer = give(api, FIRST + 3, path=card)
    assert (answer.status, answer.code) == (502, "not_in_guest"), answer.body
    assert "something else" in answer.json()["detail"] and answer.json()["undone"] is False  # it runs until its restart
    assert listed(api, FIRST + 3)["dev0"]["state"] == "until_next_start"
    records = [record for record in gateway.records(vmid=FIRST + 3) if record["event"] == "guest:root-config"]
    assert [record["data"]["delete"] for record in records] == [[], ["dev0"]]


def test_a_device_that_vanishes(api: Api, make_guest: Callable[..., Guest], card: str) -> None:
    """Given, and then unplugged: the list says so; what has gone before it could be given is refused."""
    make_guest(FIRST + 4, prepare=write_group)
    other = Path(f"/dev/pveg-gone-{os.getpid()}")
    make_node(other, 1, 3)
    try:
        given(give(api, FIRST + 4, path=str(other)))
    finally:
        other.unlink()
    shown = listed(api, FIRST + 4)["dev0"]
    assert (shown["type"], shown["in_guest"]) == (None, False) and "no such device any more" in shown["differs"]
    assert give(api, FIRST + 4, path=str(other)).code == "policy_refused"


def test_two_at_once(api: Api, make_guest: Callable[..., Guest]) -> None:
    """Callers who pick the same free option do not overwrite each other: each has its own in the end."""
    make_guest(FIRST + 5)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(give, api, FIRST + 5, path=path) for path in ("/dev/zero", "/dev/net/tun", "/dev/fuse")]
        keys = [given(future.result())["keys"][0] for future in asked]
    assert sorted(keys) == ["dev0", "dev1", "dev2"]


def test_more_devices_than_one_question_holds(api: Api, make_guest: Callable[..., Guest]) -> None:
    """A guest may have 256 devices, of names of any length: they are listed, and each is looked at in the guest."""
    make_guest(FIRST)
    path = config.pve_path(FIRST)
    text = path.read_text()
    lines = [f"dev{number}: /dev/{'long-' * 30}{number}" for number in range(100)]
    path.write_text("\n".join([text.rstrip(), *lines, ""]))
    try:
        told = listed(api, FIRST)
    finally:
        path.write_text(text)
    assert len(told) == 100 and all(one["in_guest"] is False for one in told.values())

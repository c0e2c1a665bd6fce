"""Snapshots, backups, what is restored of them, and templates: made, listed, gone back to, removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.guests import made
from tests.guests.made import TEMPLATE, assert_nothing_left, known
from tests.pvesim import config, guests
from tests.pvesim.api import archives, storages
from tests.pvesim.api.process import Api as PveProcess

FIRST, LAST = 7260, 7279
THIN, PLAIN = 7260, 7261
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def sources(api: Api) -> Iterator[None]:
    """Guest 7260 runs on a storage with snapshots, 7261 is stopped on one without."""
    for vmid, storage in ((THIN, "local-lvm"), (PLAIN, "local")):
        wish = {"template": TEMPLATE, "vmid": vmid, "storage": storage, "start": vmid == THIN}
        answer = api.request("POST", "/guests?wait=60", wish, timeout=90)
        assert answer.status == 201, answer.body
    yield
    made.sweep(FIRST, LAST)


def ask(api: Api, method: str, path: str, body: object = None) -> Answer:
    return api.request(method, f"/guests/{path}", body, timeout=90)


def back_up(api: Api, vmid: int, **more: Any) -> Answer:
    return ask(api, "POST", f"{vmid}/backups?wait=60", {"storage": "local", **more})


# ---- snapshots


def test_snapshot_and_rollback(api: Api, records: Records) -> None:
    """What was written after the snapshot is gone after the rollback, which stops the guest and starts it again."""
    guest = guests.get(THIN)
    api.run(THIN, "echo before > /root/file")
    taken = ask(api, "POST", f"{THIN}/snapshots?wait=60", {"name": "clean", "description": "as new"})
    assert taken.status == 200, taken.body
    api.run(THIN, "echo after > /root/file")
    (listed,) = ask(api, "GET", f"{THIN}/snapshots").json()["snapshots"]
    assert (listed["name"], listed["description"], listed["parent"]) == ("clean", "as new", None)
    again = ask(api, "POST", f"{THIN}/snapshots?wait=60", {"name": "clean"})
    assert (again.status, again.code) == (409, "snapshot_exists"), again.body
    back = ask(api, "POST", f"{THIN}/snapshots/clean/rollback?wait=60&start=true")
    assert back.status == 200, back.body
    assert records(back.json()["audit_id"])[0]["event"] == "guest:rollback"
    if guest.state() != "RUNNING":
        ask(api, "POST", f"{THIN}/start?wait=60")
    assert api.run(THIN, ["cat", "/root/file"])["stdout"] == "before\n"
    gone = ask(api, "DELETE", f"{THIN}/snapshots/clean?wait=60")
    assert gone.status == 200 and ask(api, "GET", f"{THIN}/snapshots").json()["snapshots"] == []


def test_snapshots_that_cannot_be(api: Api) -> None:
    """Each is a problem of its own, and nothing is changed."""
    missing = ask(api, "POST", f"{THIN}/snapshots/nosuch/rollback?wait=60")
    assert (missing.status, missing.code) == (404, "snapshot_not_found"), missing.body
    gone = ask(api, "DELETE", f"{THIN}/snapshots/nosuch?wait=60")
    assert (gone.status, gone.code) == (404, "snapshot_not_found"), gone.body
    unsuitable = ask(api, "POST", f"{PLAIN}/snapshots?wait=60", {"name": "clean"})
    assert (unsuitable.status, unsuitable.code) == (409, "storage_unsuitable"), unsuitable.body
    for name in ("current", "a", "../x", "1st"):
        assert ask(api, "POST", f"{THIN}/snapshots", {"name": name}).code == "invalid_request"
    assert ask(api, "POST", f"{THIN}/snapshots/..%2f..%2fconfig/rollback").status == 404


def test_snapshot_of_a_locked_guest(api: Api) -> None:
    """423, nothing changed."""
    path = config.pve_path(PLAIN)
    text = path.read_text()
    path.write_text(f"{text.rstrip()}\nlock: migrate\n")
    try:
        answer = ask(api, "POST", f"{PLAIN}/snapshots?wait=60", {"name": "clean"})
        assert (answer.status, answer.code) == (423, "guest_locked"), answer.body
    finally:
        path.write_text(text)


@pytest.mark.parametrize(
    ("line", "key"),
    [("dev0: /dev/kmsg", "policy.devices"), ("mp0: /etc,mp=/host", "policy.bind_sources")],
)
def test_rollback_gives_nothing_back(api: Api, line: str, key: str) -> None:
    """C11: what the guest had of the node when the snapshot was taken, and has no more, policy decides about."""
    assert ask(api, "POST", f"{THIN}/snapshots?wait=60", {"name": "risky"}).status == 200
    path = config.pve_path(THIN)
    text = path.read_text()
    try:
        path.write_text(text.replace("[risky]\n", f"[risky]\n{line}\n"))
        answer = ask(api, "POST", f"{THIN}/snapshots/risky/rollback?wait=60")
        assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
        assert key in [refused["key"] for refused in answer.json()["refused"]]
    finally:
        path.write_text(text)
    assert ask(api, "DELETE", f"{THIN}/snapshots/risky?wait=60").status == 200


def test_rollback_starts_nothing_without_the_power_to(api: Api, as_token: Callable[..., Api]) -> None:
    """`start` is guest:power, as a restart after a change is: without it nothing is rolled back either."""
    assert ask(api, "POST", f"{THIN}/snapshots?wait=60", {"name": "still"}).status == 200
    config_only = as_token("guest:config", str(THIN))
    answer = ask(config_only, "POST", f"{THIN}/snapshots/still/rollback?wait=60&start=true")
    assert (answer.status, answer.code, answer.json()["action"]) == (403, "forbidden", "guest:power"), answer.body
    assert ask(config_only, "POST", f"{THIN}/snapshots/still/rollback?wait=60").status == 200
    assert api.get(f"/guests/{THIN}").json()["status"] == "stopped"
    powerful = as_token("guest:config,guest:power", str(THIN))
    assert ask(powerful, "POST", f"{THIN}/snapshots/still/rollback?wait=60&start=true").status == 200
    if guests.get(THIN).state() != "RUNNING":
        ask(api, "POST", f"{THIN}/start?wait=60")
    assert ask(api, "DELETE", f"{THIN}/snapshots/still?wait=60").status == 200


def test_snapshots_are_under_a_grant(api: Api, as_token: Callable[..., Api]) -> None:
    """Who may read sees them; who may change takes them; who may destroy removes them."""
    reader = as_token("guest:read", str(THIN))
    assert ask(reader, "GET", f"{THIN}/snapshots").status == 200
    assert ask(reader, "POST", f"{THIN}/snapshots", {"name": "ab"}).code == "forbidden"
    changer = as_token("guest:config", str(THIN))
    assert ask(changer, "DELETE", f"{THIN}/snapshots/ab").code == "forbidden"
    assert ask(changer, "POST", f"{PLAIN}/snapshots", {"name": "ab"}).code == "guest_not_found"


# ---- backups


def test_backup_and_restore(api: Api, records: Records) -> None:
    """A running guest is backed up, and restored under another number, with what was in it."""
    api.run(THIN, "echo kept > /root/kept")
    answer = back_up(api, THIN, notes="before the deploy")
    assert answer.status == 200, answer.body
    volume = answer.json()["volume"]
    assert f"vzdump-lxc-{THIN}-" in volume
    assert guests.get(THIN).state() == "RUNNING" and api.run(THIN, ["true"])["exit_code"] == 0
    listed = ask(api, "GET", f"{THIN}/backups").json()["backups"]
    assert [(one["volume"], one["notes"]) for one in listed] == [(volume, "before the deploy")]
    wish = {"backup": volume, "vmid": 7265, "name": "restored", "start": True}
    restored = api.request("POST", "/guests?wait=60", wish, timeout=90)
    assert restored.status == 201, restored.body
    assert api.run(7265, "cat /root/kept")["stdout"] == "kept\n"
    text = config.pve_path(7265).read_text()
    assert "hostname: restored" in text and "unprivileged: 1" in text
    assert records(restored.json()["audit_id"])[0]["event"] == "guest:restore"
    gone = ask(api, "DELETE", f"{THIN}/backups?volume={volume}&wait=60")
    assert gone.status == 200, gone.body
    assert ask(api, "GET", f"{THIN}/backups").json() == {"backups": [], "next": None}


def test_backups_page_by_page(api: Api) -> None:
    """The newest first, and `next` goes on behind the last."""
    storages.find("local").place("backup").mkdir(parents=True, exist_ok=True)
    paths = [
        storages.find("local").place("backup") / f"vzdump-lxc-7270-2026_01_0{day}-00_00_00.tar.zst" for day in (1, 2, 3)
    ]
    for path in paths:
        path.write_bytes(b"x")
    first = ask(api, "GET", "7270/backups?limit=2").json()
    second = ask(api, "GET", f"7270/backups?limit=2&after={first['next']}").json()
    volumes = [one["volume"] for one in (*first["backups"], *second["backups"])]
    assert len(first["backups"]) == 2 and second["next"] is None
    assert sorted(volumes) == [f"local:backup/{path.name}" for path in paths]


def test_backups_that_cannot_be(api: Api, pve: PveProcess) -> None:
    """An unknown storage, one for no backups, a full one, a locked guest, a protected backup: each by its code."""
    assert back_up(api, PLAIN, storage="nowhere").code == "storage_not_found"
    assert back_up(api, PLAIN, storage="local-lvm").code == "storage_unsuitable"
    pve.faults.fill("local")
    full = back_up(api, PLAIN)
    assert (full.status, full.code) == (507, "storage_full"), full.body
    assert any("space" in line for line in full.json()["log"])
    pve.faults.clear()
    path = config.pve_path(PLAIN)
    text = path.read_text()
    path.write_text(f"{text.rstrip()}\nlock: snapshot\n")
    locked = back_up(api, PLAIN)
    path.write_text(text)
    assert (locked.status, locked.code, locked.json()["lock"]) == (423, "guest_locked", "snapshot"), locked.body
    kept = back_up(api, PLAIN, protected=True).json()["volume"]
    refused = ask(api, "DELETE", f"{PLAIN}/backups?volume={kept}&wait=60")
    assert (refused.status, refused.code) == (409, "guest_protected"), refused.body


def test_backups_are_under_a_grant(api: Api, as_token: Callable[..., Api]) -> None:
    """A backup holds all of its guest: restoring it needs guest:create for both, and removing it guest:destroy."""
    volume = back_up(api, PLAIN).json()["volume"]
    other = as_token("guest:create,guest:destroy", "7266-7268")
    bodies = []
    for name in (volume, volume.replace(f"-{PLAIN}-", "-7299-")):
        answer = other.request("POST", "/guests?wait=60", {"backup": name})
        assert (answer.status, answer.code) == (404, "guest_not_found"), answer.body
        bodies.append({k: v for k, v in answer.json().items() if k not in ("vmid", "request_id", "audit_id")})
    assert bodies[0] == bodies[1]
    assert ask(other, "DELETE", f"7266/backups?volume={volume}").code == "volume_not_found"
    assert ask(api, "GET", f"{PLAIN}/backups").json()["backups"]


def test_restores_that_cannot_be(api: Api) -> None:
    """No such backup, no backup at all, of a machine; nothing is made."""
    missing = api.request(
        "POST",
        "/guests?wait=60",
        {"backup": f"local:backup/vzdump-lxc-{PLAIN}-2020_01_01-00_00_00.tar.zst", "vmid": 7266},
    )
    assert (missing.status, missing.code) == (404, "volume_not_found"), missing.body
    assert api.request("POST", "/guests", {"backup": TEMPLATE}).code == "invalid_request"
    machine = {"backup": f"local:backup/vzdump-qemu-{PLAIN}-2020_01_01-00_00_00.vma.zst"}
    answer = api.request("POST", "/guests", machine)
    assert (answer.code, answer.json()["errors"][0]["path"]) == ("invalid_request", "type"), answer.body
    assert_nothing_left(7266)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("dev0: /dev/kmsg", "policy.devices"),
        ("mp0: /etc,mp=/host", "policy.bind_sources"),
        ("features: mknod=1", "policy.features"),
        ("lxc.mount.entry: /etc host none bind", "policy.raw_keys"),
        ("hookscript: local:snippets/x.sh", "policy.hookscripts"),
    ],
)
def test_restore_under_node_policy(api: Api, line: str, key: str) -> None:
    """C11: an archive brings a configuration along, and policy decides about that before anything is made."""
    path = config.pve_path(PLAIN)
    text = path.read_text()
    path.write_text(f"{text.rstrip()}\n{line}\n")
    try:
        volume = back_up(api, PLAIN).json()["volume"]
    finally:
        path.write_text(text)
    answer = api.request("POST", "/guests?wait=60", {"backup": volume, "vmid": 7267}, timeout=90)
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
    assert key in [refused["key"] for refused in answer.json()["refused"]]
    assert 7267 not in known()


def test_restore_that_fails(api: Api, pve: PveProcess) -> None:
    """A full storage: nothing stays."""
    volume = back_up(api, PLAIN).json()["volume"]
    pve.faults.fill("local-lvm")
    wish = {"backup": volume, "vmid": 7268, "storage": "local-lvm"}
    answer = api.request("POST", "/guests?wait=60", wish, timeout=90)
    assert (answer.status, answer.code, answer.json()["undone"]) == (507, "storage_full", True), answer.body
    assert_nothing_left(7268)


# ---- templates


def test_templates(api: Api) -> None:
    """What is there, what is offered, and a download, which can be made of at once."""
    there = api.get("/templates").json()["templates"]
    assert TEMPLATE in [one["volume"] for one in there]
    offered = api.get("/templates?available=true&limit=1").json()
    assert offered["next"] and offered["templates"][0]["volume"] is None
    name = "alpine-3.22-default_20250617_amd64.tar.xz"
    answer = api.request("POST", "/templates?wait=60", {"storage": "shared", "template": name})
    assert answer.status == 200, answer.body
    assert answer.json()["volume"] == f"shared:vztmpl/{name}"
    assert f"shared:vztmpl/{name}" in [
        one["volume"] for one in api.get("/templates?storage=shared").json()["templates"]
    ]
    (storages.find("shared").place("vztmpl") / name).unlink()


def test_templates_that_cannot_be(api: Api, pve: PveProcess) -> None:
    """Unknown ones, storages that are unknown or full, and names that are none."""
    busybox = {"template": archives.BUSYBOX}
    assert api.request("POST", "/templates?wait=60", {"storage": "nowhere", **busybox}).code == "storage_not_found"
    nosuch = {"storage": "local", "template": "nosuch.tar.gz"}
    assert api.request("POST", "/templates?wait=60", nosuch).code == "volume_not_found"
    assert api.request("POST", "/templates", {"storage": "local", "template": "../x"}).code == "invalid_request"
    pve.faults.fill("shared")
    full = api.request("POST", "/templates?wait=60", {"storage": "shared", **busybox})
    assert (full.status, full.code) == (507, "storage_full"), full.body

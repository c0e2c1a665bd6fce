"""Guests listed, shown, changed and destroyed, with real containers behind the simulated API."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests.conftest import PROTECTED
from tests.pvesim import config, guests
from tests.pvesim.api import ha, users
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.guests import Guest

VMID, SECOND, GONE = 7121, 7122, 7198
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def shared_guest(node: None) -> Iterator[Guest]:
    made = guests.create(VMID, unprivileged=True)
    yield made
    made.destroy()


@pytest.fixture
def guest(shared_guest: Guest) -> Iterator[Guest]:
    """Guest 7121, unprivileged and running, with the configuration that it was made with."""
    if shared_guest.state() != "RUNNING":
        shared_guest.start()
    path = config.pve_path(VMID)
    before = path.read_text()
    yield shared_guest
    path.write_text(before)


def patch(api: Api, body: Any, vmid: int = VMID, **headers: str) -> Any:
    return api.request("PATCH", f"/guests/{vmid}", body, headers={k.replace("_", "-"): v for k, v in headers.items()})


def read(api: Api, vmid: int = VMID) -> Any:
    answer = api.get(f"/guests/{vmid}")
    assert answer.status == 200, answer.body
    return answer.json()


# ---- listed and shown


def test_list(api: Api, guest: Guest, make_guest: Callable[..., Guest], as_token: Callable[..., Api]) -> None:
    """Those that the grant reaches, by vmid, filtered, page by page; no trace of others."""
    make_guest(SECOND, start=False)
    patch(api, {"tags": ["ci", "web"]}, SECOND)
    shown = api.get("/guests").json()["guests"]
    assert {VMID, SECOND} <= {one["vmid"] for one in shown} and all(7100 <= one["vmid"] <= 7199 for one in shown)
    assert [one["vmid"] for one in shown] == sorted(one["vmid"] for one in shown)
    assert [one["vmid"] for one in api.get("/guests?tag=ci").json()["guests"]] == [SECOND]
    assert api.get("/guests?tag=ci&status=running").json() == {"guests": [], "next": None}
    fits_all = api.get("/guests?status=stopped&type=lxc&tag=web&node=pve1").json()["guests"]
    assert [one["vmid"] for one in fits_all] == [SECOND]
    assert api.get("/guests?type=qemu").json()["guests"] == [] and api.get("/guests?node=pve2").json()["guests"] == []
    first = api.get(f"/guests?limit=1&after={VMID - 1}").json()
    assert [one["vmid"] for one in first["guests"]] == [VMID] and first["next"] == VMID
    assert api.get(f"/guests?limit=1&after={VMID}").json()["guests"][0]["vmid"] == SECOND
    narrow = as_token("guest:power", str(SECOND))
    assert [one["vmid"] for one in narrow.get("/guests").json()["guests"]] == [SECOND]


def test_show(api: Api, guest: Guest) -> None:
    """State, configuration and the digest that a change names."""
    answer = api.get(f"/guests/{VMID}")
    view = answer.json()
    assert (view["vmid"], view["type"], view["status"], view["node"]) == (VMID, "lxc", "running", "pve1")
    assert view["config"]["hostname"] == view["name"] == f"ct{VMID}" and view["pending"] == {}
    assert answer.headers["ETag"] == f'"{view["digest"]}"' and len(view["digest"]) == 40


@pytest.mark.parametrize("suffix", ["", "/addresses", "/addresses?wait=2"])
def test_unknown_guests_are_alike(api: Api, as_token: Callable[..., Api], guest: Guest, suffix: str) -> None:
    """One that does not exist, and one out of the grant: one body."""
    bodies = []
    for client, vmid in ((api, GONE), (as_token("all", "7102"), VMID)):
        answer = client.get(f"/guests/{vmid}{suffix}")
        assert (answer.status, answer.code) == (404, "guest_not_found")
        bodies.append({**answer.json(), "vmid": 0, "request_id": "", "audit_id": ""})
    assert bodies[0] == bodies[1]


def test_addresses(api: Api, guest: Guest, make_guest: Callable[..., Guest]) -> None:
    """None of a stopped guest, at once or after the wait; and those of one that gets one meanwhile."""
    make_guest(SECOND, start=False)
    assert api.get(f"/guests/{SECOND}/addresses").json() == {"vmid": SECOND, "ready": False, "addresses": []}
    assert api.get(f"/guests/{SECOND}/addresses?wait=0.7").json()["ready"] is False
    told = api.get(f"/guests/{VMID}/addresses").json()
    assert told["ready"] is any(not one["address"].startswith("fe80") for one in told["addresses"])


# ---- changed


def test_edit(api: Api, guest: Guest, records: Records) -> None:
    """Name, notes, tags and PVE's own options; what it answers is how it is then, and it stands in the log."""
    answer = patch(api, {"notes": "a runner\nof ours", "tags": ["b", "a", "a"], "options": {"nameserver": "10.0.0.53"}})
    assert answer.status == 200, answer.body
    view = answer.json()
    assert view["config"]["tags"] == "a;b" and view["pending"]["nameserver"] == "10.0.0.53"
    shown = read(api)
    assert shown["tags"] == ["a", "b"] and shown["notes"].rstrip("\n") == "a runner\nof ours"
    assert shown["digest"] == view["digest"]
    trail = records(view["audit_id"])
    assert [record["event"] for record in trail] == ["guest:config", "guest:outcome"]
    assert trail[0]["data"]["options"]["tags"] == "a;b"
    view = patch(api, {"notes": None, "tags": [], "delete": ["nameserver"]}).json()
    assert not {"tags", "description", "nameserver"} & view["config"].keys()
    assert view["pending"].get("nameserver") is None


def test_pending(api: Api, guest: Guest) -> None:
    """What waits for the next start is told as such."""
    view = patch(api, {"options": {"nameserver": "10.0.0.54"}}).json()
    assert view["pending"] == {"nameserver": "10.0.0.54"} and "nameserver" not in view["config"]
    assert read(api)["pending"] == view["pending"]
    assert api.request("POST", f"/guests/{VMID}/reboot?timeout=5&wait=30").status == 200
    shown = read(api)
    assert shown["pending"] == {} and shown["config"]["nameserver"] == "10.0.0.54"


def test_two_at_once(api: Api, guest: Guest) -> None:
    """A digest, or If-Match, names the configuration that is meant: 409, or 412, and nothing changed."""
    before = read(api)
    assert patch(api, {"tags": ["first"]}, If_Match=f'"{before["digest"]}"').status == 200
    late = patch(api, {"tags": ["second"]}, If_Match=f'"{before["digest"]}"')
    assert (late.status, late.code) == (412, "precondition_failed")
    late = patch(api, {"tags": ["second"], "digest": before["digest"]})
    assert (late.status, late.code) == (409, "guest_changed")
    assert read(api)["tags"] == ["first"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"mp0": "/etc,mp=/mnt"}, "policy.bind_sources"),
        ({"dev0": "/dev/sda"}, "policy.devices"),
        ({"features": "keyctl=1"}, "policy.features"),
        ({"hookscript": "local:snippets/x.sh"}, "policy.hookscripts"),
        ({"lxc_x": "1"}, "policy.raw_keys"),
        ({"mp0": "dir:7101/vm-7101-disk-0.raw,mp=/mnt"}, None),
    ],
)
def test_node_policy(api: Api, guest: Guest, options: dict[str, str], what: str | None) -> None:
    """C11: what the node's configuration does not allow is refused for every token, and PVE is not asked."""
    before = read(api)["digest"]
    answer = patch(api, {"options": options})
    assert (answer.status, answer.code) == (403, "policy_refused")
    assert answer.json()["refused"][0]["key"] == what
    assert read(api)["digest"] == before


def test_root_only(api: Api, guest: Guest, as_token: Callable[..., Api], gateway: Gateway) -> None:
    """What PVE lets root@pam alone set needs guest:root-config as well, and goes alone."""
    narrow = as_token("guest:config", str(VMID))
    answer = patch(narrow, {"options": {"dev0": "/dev/null"}})
    assert (answer.status, answer.code, answer.json()["action"]) == (403, "forbidden", "guest:root-config")
    assert answer.json()["audit_id"] == gateway.records(event="request:denied")[-1]["audit_id"]
    mixed = patch(api, {"tags": ["x"], "options": {"dev0": "/dev/null"}})
    assert (mixed.status, mixed.json()["errors"][0]["code"]) == (422, "mixed")
    answer = patch(api, {"options": {"dev0": "/dev/null,mode=0660"}})
    assert answer.status == 200, answer.body
    view = answer.json()
    assert "dev0" in {**view["config"], **view["pending"]}
    assert gateway.records(audit_id=view["audit_id"])[0]["event"] == "guest:root-config"


def test_nesting_of_an_unprivileged_guest(api: Api, guest: Guest) -> None:
    """The one feature that PVE lets a token set."""
    answer = patch(api, {"options": {"features": "nesting=1"}})
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, ""),
        ({"tags": ["no good"]}, "tags.0"),
        ({"name": "-x"}, "name"),
        ({"memory": 1}, "memory"),
        ({"options": {"lock": "backup"}}, "options"),
        ({"options": {"Net0": "x"}}, "options.Net0"),
        ({"options": {"net0": {}}}, "options.net0"),
        ({"delete": ["digest"]}, "delete"),
        ({"options": {"tty": 1}, "delete": ["tty"]}, "delete.tty"),
        ({"digest": "abc"}, "digest"),
        ({"what": 1}, "what"),
    ],
)
def test_bad_values(api: Api, guest: Guest, body: Any, path: str) -> None:
    """422 with the field's path; nothing is changed."""
    before = read(api)["digest"]
    answer = patch(api, body)
    assert (answer.status, answer.code) == (422, "invalid_request"), answer.body
    assert answer.json()["errors"][0]["path"] == path
    assert read(api)["digest"] == before


def test_value_that_pve_rejects(api: Api, guest: Guest) -> None:
    """409 that names PVE's parameter."""
    answer = patch(api, {"options": {"cores": "many"}})
    assert (answer.status, answer.code) == (409, "pve_rejected"), answer.body
    assert answer.json()["errors"][0]["path"] == "cores"


def test_secrets_are_not_recorded(api: Api, gateway: Gateway, guest: Guest) -> None:
    """A value that is secret stands in no record and in no log."""
    patch(api, {"options": {"env": "TOKEN=s3cret-of-a-guest"}})
    assert "s3cret-of-a-guest" not in gateway.audit_log.read_text() + gateway.log("web")


# ---- destroyed


def test_delete_needs_its_confirmation(api: Api, guest: Guest) -> None:
    """400 without `?confirm=` or with another's; nothing is done."""
    for query in ("", f"?confirm={SECOND}", "?purge=true"):
        answer = api.request("DELETE", f"/guests/{VMID}{query}")
        assert (answer.status, answer.code) == (400, "confirmation_missing")
    assert guest.state() == "RUNNING"


def test_delete(api: Api, make_guest: Callable[..., Guest], records: Records) -> None:
    """It is gone with all that was its own: the same answer as for one that never was."""
    made = make_guest(SECOND, start=False)
    answer = api.request("DELETE", f"/guests/{SECOND}?confirm={SECOND}&purge=true&wait=30")
    assert answer.status == 200, answer.body
    assert api.get(f"/guests/{SECOND}").code == "guest_not_found"
    assert not made.rootfs.exists() and not config.pve_path(SECOND).exists()
    assert [record["event"] for record in records(answer.json()["audit_id"])] == ["guest:delete", "guest:outcome"]


def test_delete_of_what_may_not_go(api: Api, guest: Guest, make_guest: Callable[..., Guest]) -> None:
    """One that runs, that PVE protects, that HA manages: 409 with a code each, and it stays."""
    answer = api.request("DELETE", f"/guests/{VMID}?confirm={VMID}&wait=20")
    assert (answer.status, answer.code) == (409, "guest_running"), answer.body
    make_guest(SECOND, start=False)
    assert patch(api, {"protection": True}, SECOND).status == 200
    answer = api.request("DELETE", f"/guests/{SECOND}?confirm={SECOND}&wait=20")
    assert (answer.status, answer.code) == (409, "guest_protected"), answer.body
    assert patch(api, {"protection": False}, SECOND).status == 200
    ha.manage("lxc", SECOND, "stopped")
    try:
        answer = api.request("DELETE", f"/guests/{SECOND}?confirm={SECOND}&wait=20")
        assert (answer.status, answer.code) == (409, "guest_ha_managed"), answer.body
        assert config.pve_path(SECOND).exists()
    finally:
        ha.manage("lxc", SECOND, None)
    answer = api.request("DELETE", f"/guests/{PROTECTED}?confirm={PROTECTED}")
    assert (answer.status, answer.code) == (404, "guest_not_found")


def test_purge_of_what_ha_manages(api: Api, make_guest: Callable[..., Guest]) -> None:
    """HA forgets it, and it is gone."""
    make_guest(SECOND, start=False)
    ha.manage("lxc", SECOND, "stopped")
    try:
        answer = api.request("DELETE", f"/guests/{SECOND}?confirm={SECOND}&purge=true&wait=30")
        assert answer.status == 200, answer.body
        assert not config.pve_path(SECOND).exists() and not ha.is_managed("lxc", SECOND)
    finally:
        ha.manage("lxc", SECOND, None)


def test_changes_of_many_at_once(api: Api, guest: Guest) -> None:
    """Each is made whole, one after another, or told that the guest is locked: no change is lost."""

    def tag(number: int) -> None:
        answers[number] = patch(api, {"tags": [f"t{number}"]})

    answers: dict[int, Any] = {}
    threads = [threading.Thread(target=tag, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    good = {number for number, answer in answers.items() if answer.status == 200}
    assert good and {answer.code for answer in answers.values()} <= {None, "guest_locked"}
    assert read(api)["tags"] in [[f"t{number}"] for number in good]


# ---- resized, moved, made a template


@pytest.mark.parametrize("size", ["12X", "-4G", "0G", "", "4 G", "4GB"])
def test_bad_sizes(api: Api, guest: Guest, size: str) -> None:
    """A size with a wrong unit, or a smaller one, is 422."""
    answer = api.request("POST", f"/guests/{VMID}/resize", {"disk": "rootfs", "size": size})
    assert (answer.status, answer.json()["errors"][0]["path"]) == (422, "size")


def test_migrate_to_nowhere(api: Api, guest: Guest, pve: PveProcess) -> None:
    """A node that the cluster does not have is 404, and PVE is not asked: it would look the name up in DNS."""
    answer = api.request("POST", f"/guests/{VMID}/migrate", {"target": "attacker"})
    assert (answer.status, answer.code) == (404, "node_not_found")
    answer = api.request("POST", f"/guests/{VMID}/migrate", {"target": "../x"})
    assert answer.status == 422


def test_without_an_audit_log(api: Api, gateway: Gateway, guest: Guest) -> None:
    """No record, no action: 503 for every change, and nothing is done."""
    gateway.services.kill("audit", signal.SIGSTOP)
    try:
        for method, path, body in (
            ("POST", f"/guests/{VMID}/stop", None),
            ("PATCH", f"/guests/{VMID}", {"tags": ["x"]}),
            ("DELETE", f"/guests/{VMID}?confirm={VMID}&force=true", None),
        ):
            answer = api.request(method, path, body)
            assert (answer.status, answer.code) == (503, "audit_unavailable"), answer.body
    finally:
        gateway.services.kill("audit", signal.SIGCONT)
    assert guest.state() == "RUNNING" and read(api)["tags"] == []


# ---- what the cluster has beside guests


def test_next_vmid(api: Api, as_token: Callable[..., Api], guest: Guest) -> None:
    """The lowest free one within the grant; none where all are taken."""
    found = api.get("/nextid").json()["vmid"]
    assert 7100 <= found <= 7199 and found not in (VMID, PROTECTED)
    assert as_token("guest:create", f"{VMID}-{VMID + 8}").get("/nextid").json()["vmid"] > VMID
    answer = as_token("guest:create", str(VMID)).get("/nextid")
    assert (answer.status, answer.code) == (409, "no_free_vmid")
    assert as_token("guest:read", str(VMID)).get("/nextid").status == 403


def test_nodes_and_storages(api: Api, pve: PveProcess) -> None:
    """What there is; a node that is away is told as such."""
    nodes = api.get("/nodes").json()["nodes"]
    assert [(one["name"], one["online"]) for one in nodes] == [("pve1", True), ("pve2", True)]
    storages = api.get("/storages?content=vztmpl").json()["storages"]
    assert storages and all("vztmpl" in one["content"] and one["node"] == "pve1" for one in storages)
    assert api.get("/storages?node=attacker").code == "node_not_found"
    assert api.get("/storages?content=what").status == 422


def test_pools(api: Api, guest: Guest, as_token: Callable[..., Api], gateway: Gateway) -> None:
    """A pool shows those of its guests that the token may read; one without any is no pool of its."""
    with users.changing() as lines:
        users.set_line(lines, "pool", "guests-test", "", f"101,{VMID}", "", "")
    try:

        def mine(client: Api) -> list[Any]:
            return [one for one in client.get("/pools").json()["pools"] if one["name"] == "guests-test"]

        assert until(lambda: mine(api)) == [{"name": "guests-test", "comment": "", "guests": [VMID]}]
        assert mine(as_token("guest:read", "7130")) == []
        assert read(api)["pool"] == "guests-test"
        by_pool = gateway.api(gateway.token_for({"actions": ["guest:config"], "pools": ["guests-test"]}))
        assert read(by_pool)["vmid"] == VMID
        assert by_pool.get("/guests/7130").code == "guest_not_found"
        by_pool.close()
    finally:
        with users.changing() as lines:
            lines[:] = [line for line in lines if not line.startswith("pool:guests-test:")]

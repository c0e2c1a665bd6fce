"""Creating containers: whole or not at all, under a grant and node policy, with no secret anywhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.grants import Grant
from gateway.supervisor.changes.pvesh import call_at_once
from tests.auth.changes import root
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests.conftest import PRIVILEGES, SECRET, TOKEN_ID
from tests.guests.made import TEMPLATE, assert_nothing_left, known
from tests.pvesim import config, guests
from tests.pvesim.api import access, users
from tests.pvesim.api.process import Api as PveProcess

PASSWORD = "correct-horse-battery"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJr0Zb7sXhq2b0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5 alice@example"
pytestmark = pytest.mark.usefixtures("swept")
FIRST, LAST = 7200, 7229
NO_ADDRESS = "guest_without_address"
Records = Callable[[str], list[dict[str, Any]]]


def create(api: Api, wait: float = 60, **wish: Any) -> Answer:
    return api.request("POST", f"/guests?wait={wait:g}", {"template": TEMPLATE, **wish}, timeout=90)


def assert_no_secret(gateway: Gateway, *texts: bytes) -> None:
    """Neither in an answer, nor in the audit log, nor in what a service printed."""
    everything = [*texts, gateway.audit_log.read_bytes()]
    everything += [gateway.log(name).encode() for name in ("web", "supervisor", "audit")]
    for text in everything:
        assert PASSWORD.encode() not in text and KEY.split()[1].encode() not in text


# ---- it works


def test_create_start_and_address(api: Api, gateway: Gateway, records: Records) -> None:
    """One request makes a container, starts it and answers with its address; a command runs in it at once."""
    answer = create(
        api,
        name="web1",
        cores=1,
        memory=128,
        networks=[{"ipv4": "10.77.0.5/24", "gateway": "10.77.0.1", "vlan": 12}],
        mounts=[{"path": "/data", "size": "1G"}],
        ssh_public_keys=[KEY],
        password=PASSWORD,
        tags=["ci", "blue"],
        notes="made by a test",
        start=True,
        wait_for_address=30,
    )
    assert answer.status == 201, answer.body
    told = answer.json()
    vmid = told["vmid"]
    assert FIRST <= vmid <= LAST and told["state"] == "made" and told["type"] == "lxc"
    assert answer.headers["Location"] == f"/guests/{vmid}"
    assert "10.77.0.5" in [one["address"] for one in told["addresses"]]
    options = config.pve_path(vmid).read_text()
    for line in ("hostname: web1", "cores: 1", "memory: 128", "tags: blue;ci", "unprivileged: 1"):
        assert line in options.splitlines()
    assert "gw=10.77.0.1" in options and "tag=12" in options and "mp=/data" in options
    assert KEY in (guests.get(vmid).rootfs / "root/.ssh/authorized_keys").read_text()
    assert api.run(vmid, ["hostname"])["stdout"] == "web1\n"
    trail = records(told["audit_id"])
    assert [record["event"] for record in trail] == ["guest:create", "guest:outcome"]
    assert trail[0]["vmid"] == vmid and trail[0]["data"]["request"]["ssh_public_keys"] == ["alice@example"]
    assert trail[1]["data"]["reason"] == "ok"
    assert_no_secret(gateway, answer.body)


def test_without_wait(api: Api, records: Records) -> None:
    """202 once PVE has begun, with the task; it goes on without the client, and is recorded when it runs."""
    answer = create(api, wait=0, start=True)
    told = answer.json()
    assert (answer.status, told["state"]) == (202, "making")
    assert answer.headers["Location"] == f"/tasks/{told['upid']}"
    assert records(told["audit_id"])[-1]["data"]["reason"] == "ok"
    assert guests.get(told["vmid"]).state() == "RUNNING"


def test_client_that_leaves(api: Api, gateway: Gateway, pve: PveProcess, records: Records) -> None:
    """It is made, started and recorded all the same."""
    pve.faults.add("stall", "vzcreate", seconds=1, times=1)
    before = known()
    data = json.dumps({"template": TEMPLATE, "start": True}).encode()
    connection = api.connect()
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    connection.request("POST", "/guests?wait=60", data, headers)
    (vmid,) = until(lambda: known() - before)
    connection.close()
    assert records(gateway.records(event="guest:create")[-1]["audit_id"])[-1]["data"]["reason"] == "ok"
    assert guests.get(vmid).state() == "RUNNING"


@pytest.mark.parametrize("fault", [None, "no luck"])
def test_who_loses_the_guest_meanwhile_is_told_nothing_of_it(
    gateway: Gateway, pve: PveProcess, fault: str | None
) -> None:
    """Who waits for a guest that has left the token's grants is answered as if there were none, made or failed."""
    pve.faults.add("stall", "vzcreate", seconds=2, times=1)
    if fault is not None:
        pve.faults.add("task", "vzstart", text=fault, times=1)
    token = gateway.token("loser", actions="guest:create", guests=f"{FIRST}-{LAST}")
    client = gateway.api(token)
    before, answers = known(), list[Answer]()
    thread = threading.Thread(target=lambda: answers.append(create(client, start=True)))
    thread.start()
    until(lambda: known() - before)
    elsewhere = (Grant.from_json({"actions": ["guest:create"], "guests": "7999"}),)
    root(gateway.tokens()).edit(token.split(".")[0].removeprefix("pveg_"), {"grants": elsewhere}, None)
    thread.join(60)
    client.close()
    assert (answers[0].status, answers[0].code) == (404, "guest_not_found")
    assert b"no luck" not in answers[0].body


def test_next_vmid_within_the_grant(api: Api, gateway: Gateway, as_token: Callable[..., Api]) -> None:
    """The next free one is the lowest that the grant reaches; when all are taken it is said so."""
    narrow = as_token("guest:create", "7210-7211")
    assert [create(narrow).json()["vmid"] for _ in range(2)] == [7210, 7211]
    assert (create(narrow).status, create(narrow).code) == (409, "no_free_vmid")


def test_many_at_once(api: Api) -> None:
    """Each gets a vmid of its own."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(create(api))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [201] * 4, [answer.body for answer in answers]
    assert len({answer.json()["vmid"] for answer in answers}) == 4


@pytest.fixture
def pool(node: None) -> Iterator[str]:
    """A pool without members."""
    with users.changing() as lines:
        users.set_line(lines, "pool", "create-test", "", "", "", "")
    yield "create-test"
    with users.changing() as lines:
        lines[:] = [line for line in lines if not line.startswith("pool:create-test:")]


def test_pool(api: Api, gateway: Gateway, pool: str) -> None:
    """Who is in a pool is what other grants go by: a new guest is put into one that the grant names, or by who may make
    guests under any vmid. Nobody else gives it to those, or them to it, whether there is such a pool or not."""
    assert create(api, vmid=7215).status == 201
    makes = {"actions": ["guest:create"], "guests": f"{FIRST}-{LAST}"}
    for grants, status in (
        ([makes], 403),
        ([makes, {"actions": ["exec:run", "guest:config"], "pools": [pool]}], 403),
        ([{**makes, "pools": [f"{pool}/below"]}], 403),
        ([{**makes, "pools": [pool]}], 201),
        ([makes, {"actions": ["guest:create"], "pools": [pool]}], 201),
        ([{**makes, "guests": "all"}], 201),
    ):
        client = gateway.api(gateway.token_for(*grants))
        for path, wish in (("/guests", {"template": TEMPLATE}), ("/guests/7215/clone", {})):
            answer = client.request("POST", f"{path}?wait=60", {**wish, "vmid": 7216, "pool": pool}, timeout=90)
            assert answer.status == status, (grants, answer.body)
            if status == 201:
                assert api.get("/guests/7216").json()["pool"] == pool
                assert api.request("DELETE", "/guests/7216?confirm=7216&wait=30").status == 200
            else:
                other = client.request("POST", path, {**wish, "vmid": 7216, "pool": "no-such"})
                assert (answer.code, other.code) == ("forbidden", "forbidden") and 7216 not in known()
                assert gateway.records(audit_id=answer.json()["audit_id"])[0]["data"]["reason"] == "action_not_granted"
        client.close()


# ---- it fails, and nothing stays


@pytest.mark.parametrize(
    ("fault", "wish", "status", "code"),
    [
        ("bad template", {"template": "local:vztmpl/no-such.tar.gz"}, 404, "volume_not_found"),
        ("unknown storage", {"storage": "nowhere"}, 404, "storage_not_found"),
        ("unknown pool", {"pool": "nobody"}, 404, "pool_not_found"),
        ("full storage", {}, 507, "storage_full"),
        ("start fails", {"start": True}, 502, "task_failed"),
        ("no address", {"start": True, "wait_for_address": 1, "networks": [{"ipv4": None}]}, 504, NO_ADDRESS),
    ],
)  # fmt: skip
def test_nothing_stays_of_a_failure(
    api: Api,
    gateway: Gateway,
    pve: PveProcess,
    records: Records,
    fault: str,
    wish: dict[str, Any],
    status: int,
    code: str,
) -> None:
    """B1: no guest, no volume, no lock; the request stands in the answer, with what to do next and without secrets."""
    if fault == "full storage":
        pve.faults.fill("local")
    if fault == "start fails":
        pve.faults.add("task", "vzstart", text="startup for container failed", times=1)
    answer = create(api, vmid=7220, password=PASSWORD, ssh_public_keys=[KEY], name="doomed", **wish)
    problem = answer.json()
    assert (answer.status, answer.code) == (status, code), answer.body
    assert problem["request"]["name"] == "doomed" and problem["request"]["password"] == "(not repeated)"
    assert ";" in problem["detail"]
    assert_nothing_left(7220)
    trail = records(problem["audit_id"])
    assert trail[0]["event"] == "guest:create" and trail[-1]["event"] in ("guest:outcome", "guest:aborted")
    assert_no_secret(gateway, answer.body)


def test_volume_of_a_full_storage(api: Api, pve: PveProcess) -> None:
    """The root's storage is full, a mount point has been made on another: that does not stay either."""
    pve.faults.fill("local-lvm")
    mounts = [{"path": "/data", "size": "1G", "storage": "local"}]
    answer = create(api, vmid=7221, storage="local-lvm", mounts=mounts)
    assert (answer.status, answer.code, answer.json()["undone"]) == (507, "storage_full", True), answer.body
    assert_nothing_left(7221)


def test_kept_where_asked(api: Api, pve: PveProcess, records: Records) -> None:
    """`on_failure: keep` leaves the guest as it was made."""
    pve.faults.add("task", "vzstart", text="startup for container failed", times=1)
    answer = create(api, vmid=7222, start=True, on_failure="keep")
    assert answer.status == 502 and answer.json()["undone"] is False and "kept" in answer.json()["detail"]
    assert 7222 in known()
    assert records(answer.json()["audit_id"])[-1]["data"]["undone"] is False


def test_vmid_taken_in_between(api: Api, gateway: Gateway, pve: PveProcess, records: Records) -> None:
    """Without a `vmid` the next one is tried, and both tries are on record; with one it is a 409."""
    pve.faults.add(
        "status", "/nodes/[^/]+/lxc", method="POST", text=f"CT {FIRST} already exists on node 'pve1'", times=1
    )
    answer = create(api)
    assert answer.status == 201, answer.body
    assert answer.json()["vmid"] == FIRST + 1
    until(lambda: gateway.records(event="guest:aborted", vmid=FIRST))
    taken = create(api, vmid=FIRST + 1)
    assert (taken.status, taken.code) == (409, "guest_exists")
    assert FIRST + 1 in known()


def test_create_that_takes_too_long(api: Api, pve: PveProcess) -> None:
    """After `timeout` PVE's task is stopped, and nothing stays."""
    pve.faults.add("stall", "unpack", seconds=60, times=1)
    answer = create(api, vmid=7223, timeout=4)  # by then it unpacks, on a busy machine, too
    assert (answer.status, answer.code, answer.json()["undone"]) == (504, "task_unfinished", True), answer.body
    assert_nothing_left(7223)


def test_what_cannot_be_undone_is_told(api: Api, pve: PveProcess, records: Records) -> None:
    """A worker of PVE that is ended before it began leaves a locked guest, which no API unlocks: the answer says so."""
    pve.faults.add("stall", "vzcreate", seconds=60, times=1)
    answer = create(api, vmid=7223, timeout=0.5)
    assert (answer.status, answer.json()["undone"]) == (504, False), answer.body
    assert "pct unlock 7223" in answer.json()["detail"]
    assert records(answer.json()["audit_id"])[-1]["data"]["undone"] is False


@pytest.mark.parametrize(
    ("kind", "options", "status"),
    [
        ("status", {"status": 500}, 502),
        ("status", {"status": 595, "text": "no route to host"}, 503),
        ("garbage", {}, 201),
        ("drop", {}, 201),
        ("slow", {"seconds": 6}, 201),
    ],
)
def test_pve_that_answers_badly(api: Api, pve: PveProcess, kind: str, options: dict[str, Any], status: int) -> None:
    """B10: an answer that is lost is no guest that is lost: its task is found and followed. What failed is undone."""
    pve.faults.add(kind, "/nodes/[^/]+/lxc", method="POST", times=1, **options)
    answer = create(api, vmid=7224)
    assert answer.status == status, answer.body
    assert (7224 in known()) is (status == 201)


def test_no_quorum(api: Api, pve: PveProcess) -> None:
    """503 with the reason, nothing done."""
    pve.faults.lose_quorum()
    answer = create(api, vmid=7225)
    assert (answer.status, answer.code) == (503, "no_quorum"), answer.body
    pve.faults.clear()
    assert_nothing_left(7225)


# ---- it is refused


def test_out_of_the_grant(api: Api, gateway: Gateway, as_token: Callable[..., Api]) -> None:
    """404 before any look-up, the same for a vmid that is taken, free or protected; PVE is not asked."""
    narrow = as_token("guest:create", "7210-7211")
    bodies = []
    for vmid in (101, 7199, 7150):
        answer = create(narrow, vmid=vmid)
        assert answer.status == 404, answer.body
        bodies.append({k: v for k, v in answer.json().items() if k not in ("vmid", "request_id", "audit_id")})
    assert bodies[0] == bodies[1] == bodies[2]


@pytest.mark.parametrize(
    ("wish", "path"),
    [
        ({"vmid": 99}, "vmid"),
        ({"vmid": 1_000_000_000}, "vmid"),
        ({"disk": "8GB"}, "disk"),
        ({"disk": "8"}, "disk"),
        ({"memory": -1}, "memory"),
        ({"name": "under_score"}, "name"),
        ({"networks": [{"ipv4": "10.0.0.5"}]}, "networks.0.ipv4"),
        ({"networks": [{"ipv4": "10.0.0.0/24"}]}, "networks.0.ipv4"),
        ({"networks": [{"ipv4": "10.0.0.300/24"}]}, "networks.0.ipv4"),
        ({"networks": [{"gateway": "10.0.0.1"}]}, "networks.0.gateway"),
        ({"networks": [{"vlan": 4095}]}, "networks.0.vlan"),
        ({"networks": [{"bridge": "vmbr0,ip=1.2.3.4/8"}]}, "networks.0.bridge"),
        ({"mounts": [{"path": "/a/../b", "size": "1G"}]}, "mounts.0.path"),
        ({"mounts": [{"path": "/a,ro=0", "size": "1G"}]}, "mounts.0.path"),
        ({"mounts": [{"path": "/a"}]}, "mounts.0"),
        ({"tags": ["a;b"]}, "tags.0"),
        ({"ssh_public_keys": ["ssh-ed25519 AAAA\nssh-rsa B"]}, "ssh_public_keys.0"),
        ({"password": "abc"}, "password"),
        ({"features": ["all"]}, "features.0"),
        ({"storage": "../local"}, "storage"),
        ({"backup": "local:backup/vzdump-lxc-7200-2026_01_01-00_00_00.tar.zst"}, ""),
        ({"template": "no volume"}, "template"),
        ({"wait_for_address": 5}, "wait_for_address"),
        ({"lxc.mount.entry": "x"}, "lxc.mount.entry"),
    ],
)
def test_bad_input(api: Api, wish: dict[str, Any], path: str) -> None:
    """422 with the field's path, before anything is recorded, asked or made."""
    before = known()
    answer = create(api, **wish)
    assert (answer.status, answer.code) == (422, "invalid_request"), answer.body
    assert path in [error["path"] for error in answer.json()["errors"]]
    assert known() == before


@pytest.mark.parametrize(
    ("wish", "key"),
    [
        ({"mounts": [{"path": "/host", "source": "/etc"}]}, "policy.bind_sources"),
        ({"features": ["mknod"]}, "policy.features"),
        ({"features": ["mount=nfs"]}, "policy.features"),
        ({"privileged": True}, "policy.privileged"),
        ({"hookscript": "local:snippets/hook.sh"}, "policy.hookscripts"),
        ({"template": "/etc/passwd"}, "policy.template_paths"),
    ],
)
def test_node_policy(api: Api, wish: dict[str, Any], key: str) -> None:
    """C11: what the node's configuration does not name is refused for every token, by the key that could allow it."""
    answer = create(api, vmid=7226, **wish)
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
    assert key in [refused["key"] for refused in answer.json()["refused"]]
    assert 7226 not in known()


def test_root_options_need_their_action(as_token: Callable[..., Api]) -> None:
    """A token that may create, and not change as root@pam, is told so before policy is asked."""
    answer = create(as_token("guest:create", f"{FIRST}-{LAST}"), mounts=[{"path": "/host", "source": "/srv"}])
    assert (answer.status, answer.code, answer.json()["action"]) == (403, "forbidden", "guest:root-config")


# ---- a web that dies in the middle


def die_while_making(gateway: Gateway, api: Api, pve: PveProcess, vmid: int, **wish: Any) -> dict[str, Any]:
    """Begins to make a guest, kills web while PVE makes it, and returns when PVE has."""
    pve.faults.add("stall", "vzcreate", seconds=2, times=1)
    work: dict[str, Any] = create(api, wait=0, vmid=vmid, start=True, **wish).json()
    master = gateway.services.pid("web")
    workers = [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]
    gateway.services.kill("web")
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: config.pve_path(vmid).exists() and "lock" not in config.pve_path(vmid).read_text(), within=20)
    return work


def test_what_a_dead_web_was_making_is_removed(gateway: Gateway, api: Api, pve: PveProcess, records: Records) -> None:
    """Made by its task, never started: the next web leaves nothing of it, and its record says so."""
    work = die_while_making(gateway, api, pve, 7225)
    gateway.services.restart("web")
    end = records(work["audit_id"])[-1]["data"]
    assert (end["reason"], end["undone"], end["upid"]) == ("failed", True, work["upid"])
    assert "before it was made whole; nothing of it is left" in end["words"]
    assert_nothing_left(7225)


def test_what_has_been_used_since_is_left_alone(gateway: Gateway, api: Api, pve: PveProcess, records: Records) -> None:
    """Somebody started it, and stopped it, while no web was there: it stays, and the record says what is not known."""
    work = die_while_making(gateway, api, pve, 7226)
    for word in ("start", "stop"):
        path = f"/nodes/{socket.gethostname()}/lxc/7226/status/{word}"
        assert call_at_once(pve.pvesh, ["create", path]).exit_code == 0
    gateway.services.restart("web")
    end = records(work["audit_id"])[-1]["data"]
    assert end["reason"] == "unknown" and "is not known" in end["words"]
    assert 7226 in known()


def test_what_others_may_use_is_left_alone(gateway: Gateway, api: Api, pve: PveProcess, records: Records) -> None:
    """Without Sys.Audit PVE shows a token its own tasks alone: whether anybody has touched it is not known."""
    work = die_while_making(gateway, api, pve, 7228)
    access.add_token(TOKEN_ID, SECRET, privileges=[name for name in PRIVILEGES if name != "Sys.Audit"])
    try:
        gateway.services.restart("web")
        assert records(work["audit_id"])[-1]["data"]["reason"] == "unknown"
        assert 7228 in known()
    finally:
        access.add_token(TOKEN_ID, SECRET, privileges=PRIVILEGES)


def test_what_is_to_be_kept_is_kept(gateway: Gateway, api: Api, pve: PveProcess, records: Records) -> None:
    """With `on_failure: keep` it stays as its task made it."""
    work = die_while_making(gateway, api, pve, 7227, on_failure="keep")
    gateway.services.restart("web")
    assert records(work["audit_id"])[-1]["data"]["reason"] == "unknown"
    assert 7227 in known()

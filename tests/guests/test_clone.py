"""Cloning: linked and whole, one copy of a source at a time, nothing half-made, under grants and node policy."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.pve.client import PveApi
from tests.auth.changes import root
from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.guests import made
from tests.guests.conftest import SECRET, TOKEN_ID
from tests.guests.made import TEMPLATE, assert_nothing_left, known
from tests.pvesim import config, pmxcfs
from tests.pvesim.api import machines
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import Api as PveProcess

FIRST, LAST = 7230, 7259
SOURCE, BASE, MACHINE = 7230, 7231, 7250
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def sources(api: Api, pve: PveProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Guest 7230, stopped, on a storage with snapshots; and 7231, a template there."""
    for vmid in (SOURCE, BASE):
        wish = {"template": TEMPLATE, "vmid": vmid, "storage": "local-lvm", "name": f"source{vmid}", "tags": ["old"]}
        answer = api.request("POST", "/guests?wait=60", wish, timeout=90)
        assert answer.status == 201, answer.body
    token_file = tmp_path_factory.mktemp("token") / "pve.token"
    token_file.touch(0o600)
    token_file.write_text(f"{TOKEN_ID}={SECRET}\n")
    plain = PveApi(pve.url, token_file, Path("/etc/pve/pve-root-ca.pem"))
    plain.call("POST", ("nodes", "pve1", "lxc", BASE, "template"), {})
    until(lambda: "template: 1" in config.pve_path(BASE).read_text())
    yield
    made.sweep(FIRST, LAST)


@pytest.fixture(autouse=True)
def sweep(sources: None) -> Iterator[None]:
    """No test leaves a clone behind."""
    yield
    made.sweep(BASE + 1, LAST)


def clone(api: Api, source: int, wait: float = 60, **wish: Any) -> Answer:
    return api.request("POST", f"/guests/{source}/clone?wait={wait:g}", wish, timeout=90)


def test_linked_clone_starts(api: Api, records: Records) -> None:
    """B3: a linked clone of a template, started, with its address, set up as asked; a command runs in it at once."""
    answer = clone(
        api,
        BASE,
        name="runner1",
        tags=["ci"],
        memory=96,
        networks=[{"ipv4": "10.77.1.5/24"}],
        start=True,
        wait_for_address=30,
    )
    told = answer.json()
    assert answer.status == 201, answer.body
    vmid = told["vmid"]
    assert BASE < vmid <= LAST
    assert "10.77.1.5" in [one["address"] for one in told["addresses"]]
    lines = config.pve_path(vmid).read_text().splitlines()
    assert {"hostname: runner1", "tags: ci", "memory: 96"} <= set(lines) and "template: 1" not in lines
    assert api.run(vmid, ["hostname"])["stdout"] == "runner1\n"
    trail = records(told["audit_id"])
    assert [record["event"] for record in trail] == ["guest:clone", "guest:outcome"]
    assert trail[0]["data"]["source"] == BASE and trail[0]["vmid"] == vmid


def test_full_clone(api: Api) -> None:
    """Of a guest that is no template it is whole by default, on the storage that is asked for."""
    answer = clone(api, SOURCE, vmid=7240, full=True, storage="local", notes="copy")
    assert answer.status == 201, answer.body
    text = config.pve_path(7240).read_text()
    assert "rootfs: local:7240/vm-7240-disk-0" in text and "tags: old" in text and "#copy" in text


def test_parallel_clones_of_one_template(api: Api) -> None:
    """PVE refuses a second clone of a source while the first goes on; here they wait for each other."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(clone(api, BASE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [201] * 4, [answer.body for answer in answers]
    assert len({answer.json()["vmid"] for answer in answers}) == 4


def begin_and_queue(api: Api, other: Api, pve: PveProcess) -> tuple[list[Answer], list[threading.Thread]]:
    """A clone that goes on until faults are cleared; a second one of its source, by `other`, that waits for it."""
    pve.faults.add("stall", "copy", seconds=60, times=1)
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(clone(api, SOURCE, vmid=7255)))]
    threads[0].start()
    until(lambda: 7255 in known())
    pve.faults.add("slow", f"/nodes/[^/]+/lxc/{SOURCE}/config", method="GET", seconds=0, times=1)
    threads.append(threading.Thread(target=lambda: answers.append(clone(other, SOURCE, vmid=7256))))
    threads[1].start()
    until(lambda: all(rule["times"] == 0 for rule in json.loads(pve.faults.file.read_text())["rules"]))
    return answers, threads


def test_policy_is_asked_again_after_the_queue(api: Api, pve: PveProcess) -> None:
    """C11: what the source is given while a clone of it waits for its turn is not copied either."""
    answers, threads = begin_and_queue(api, api, pve)
    path = config.pve_path(SOURCE)
    text = path.read_text()
    path.write_text(f"{text.rstrip()}\ndev0: /dev/kmsg\n")
    pve.faults.clear()
    for thread in threads:
        thread.join()
    path.write_text(path.read_text().replace("dev0: /dev/kmsg\n", ""))
    assert {(answer.status, answer.code) for answer in answers} == {(201, None), (403, "policy_refused")}
    assert 7256 not in known()


def test_token_is_asked_again_after_the_queue(api: Api, gateway: Gateway, pve: PveProcess) -> None:
    """A token that was revoked while its clone waited for its turn makes nothing."""
    text = gateway.token("short", actions="guest:create", guests=f"{FIRST}-{LAST}")
    other = gateway.api(text)
    answers, threads = begin_and_queue(api, other, pve)
    root(gateway.tokens()).revoke(text.split(".")[0].removeprefix("pveg_"))  # by a command it takes its time
    pve.faults.clear()
    for thread in threads:
        thread.join()
    other.close()
    assert {(answer.status, answer.code) for answer in answers} == {(201, None), (401, "unauthenticated")}
    assert clone(api, SOURCE, vmid=7257).status == 201  # which came after it
    assert 7256 not in known()


def test_clone_that_takes_too_long(api: Api, pve: PveProcess) -> None:
    """B3: after `timeout` its task is stopped, no half clone is left, and the source is as before."""
    pve.faults.add("stall", "copy", seconds=60, times=1)
    answer = clone(api, SOURCE, vmid=7241, timeout=4)
    assert (answer.status, answer.code, answer.json()["undone"]) == (504, "task_unfinished", True), answer.body
    assert_nothing_left(7241)
    assert clone(api, SOURCE, vmid=7241).status == 201


def test_start_that_fails(api: Api, pve: PveProcess) -> None:
    """Nothing of the clone stays, and the template is not touched."""
    pve.faults.add("task", "vzstart", text="startup failed", times=1)
    answer = clone(api, BASE, vmid=7242, start=True)
    assert (answer.status, answer.json()["undone"]) == (502, True), answer.body
    assert_nothing_left(7242)
    assert BASE in known()


def test_running_source(api: Api) -> None:
    """A full clone of a guest that runs is a 409 that says what to do; nothing is made."""
    assert api.request("POST", f"/guests/{SOURCE}/start?wait=30").status == 200
    answer = clone(api, SOURCE, vmid=7245)
    assert (answer.status, answer.code) == (409, "guest_running") and "stop it first" in answer.json()["detail"]
    assert api.request("POST", f"/guests/{SOURCE}/stop?wait=30").status == 200
    assert_nothing_left(7245)


def test_full_storage(api: Api, pve: PveProcess) -> None:
    """507, and nothing stays."""
    pve.faults.fill("local")
    answer = clone(api, SOURCE, vmid=7243, full=True, storage="local")
    assert (answer.status, answer.code, answer.json()["undone"]) == (507, "storage_full", True), answer.body
    assert_nothing_left(7243)


@pytest.mark.parametrize("fault", ["drop", "garbage"])
def test_lost_answer(api: Api, pve: PveProcess, fault: str) -> None:
    """B10: PVE has begun and its answer is lost: the task is found among the source's, and followed."""
    pve.faults.add(fault, f"/nodes/[^/]+/lxc/{BASE}/clone", method="POST", times=1)
    answer = clone(api, BASE, vmid=7244)
    assert answer.status == 201, answer.body
    assert answer.json()["upid"].split(":")[5:7] == ["vzclone", str(BASE)] and 7244 in known()


def test_refused(api: Api, as_token: Callable[..., Api], gateway: Gateway) -> None:
    """Source and copy both need guest:create: otherwise 404, before any look-up; the one that it is about is named, in
    the log too."""
    only_new = as_token("guest:create", "7245-7249")
    assert (clone(only_new, BASE).status, clone(only_new, BASE).code) == (404, "guest_not_found")
    only_source = as_token("guest:create", str(BASE))
    absent, present = clone(only_source, BASE, vmid=7245), clone(only_source, BASE, vmid=SOURCE)
    assert (absent.code, absent.json()["vmid"]) == ("guest_not_found", 7245)
    assert without_ids(present.json()) == {**without_ids(absent.json()), "vmid": SOURCE}
    (denial,) = gateway.records(audit_id=absent.json()["audit_id"])
    assert (denial["vmid"], denial["data"]["named_vmid"]) == (BASE, 7245)
    assert clone(only_source, BASE).code == "no_free_vmid"
    assert clone(api, 7259).status == 404
    assert clone(api, BASE, vmid=SOURCE).code == "guest_exists"
    assert clone(api, SOURCE, snapshot="nosuch").code == "snapshot_not_found"
    assert clone(api, BASE, full=False, storage="local", vmid=7246).code == "storage_unsuitable"
    assert 7246 not in known()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("dev0: /dev/kmsg", "policy.devices"),
        ("mp0: /etc,mp=/host", "policy.bind_sources"),
        ("features: mknod=1", "policy.features"),
        ("hookscript: local:snippets/x.sh", "policy.hookscripts"),
        ("lxc.mount.entry: /etc host none bind", "policy.raw_keys"),
    ],
)
def test_node_policy(api: Api, line: str, key: str) -> None:
    """C11: a copy has what its source has, so policy looks at that before anything is made."""
    path = config.pve_path(SOURCE)
    text = path.read_text()
    path.write_text(f"{text.rstrip()}\n{line}\n")
    try:
        answer = clone(api, SOURCE, vmid=7247)
        assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
        assert key in [refused["key"] for refused in answer.json()["refused"]]
        assert 7247 not in known()
    finally:
        path.write_text(text)


def test_privileged_source(api: Api) -> None:
    """A source that is privileged by its administrator's hand is not multiplied either."""
    path = config.pve_path(SOURCE)
    text = path.read_text()
    path.write_text(text.replace("unprivileged: 1\n", ""))
    try:
        assert clone(api, SOURCE, vmid=7248).code == "policy_refused"
    finally:
        path.write_text(text)


def test_locked_source(api: Api) -> None:
    """A source under another operation: 423, nothing made."""
    path = config.pve_path(SOURCE)
    text = path.read_text()
    path.write_text(f"{text.rstrip()}\nlock: backup\n")
    try:
        answer = clone(api, SOURCE, vmid=7249)
        assert (answer.status, answer.code, answer.json()["lock"]) == (423, "guest_locked", "backup")
        assert_nothing_left(7249)
    finally:
        path.write_text(text)


def test_a_run_in_an_ephemeral_guest(api: Api) -> None:
    """B3: cloned, started, its secret on stdin, a detached run read to its end by id, destroyed."""
    vmid = clone(api, BASE, start=True).json()["vmid"]
    begun = api.post(
        vmid,
        {"command": "read token; echo got ${#token}; exit 3", "stdin": "0123456789\n"},
        headers={"Prefer": "respond-async"},
    )
    assert begun.status == 202
    view = api.get(f"/execs/{begun.json()['id']}?wait=20").json()
    assert (view["state"], view["exit_code"]) == ("ended", 3)
    assert api.get(f"/execs/{view['id']}/stdout").body == b"got 10\n"
    assert api.request("POST", f"/guests/{vmid}/stop?wait=30").status == 200
    gone = api.request("DELETE", f"/guests/{vmid}?confirm={vmid}&wait=30")
    assert gone.status == 200, gone.body
    assert_nothing_left(vmid)


# ---- machines


@pytest.fixture
def machine(node: None) -> Iterator[Machine]:
    """A machine that runs."""
    running = machines.create(MACHINE)
    yield running
    running.destroy()


def test_clone_of_a_machine(api: Api, machine: Machine) -> None:
    """The same request, in a machine's words; what is for containers alone is refused by name."""
    answer = clone(api, MACHINE, vmid=7251, name="copy", full=True, memory=256, tags=["ci"])
    assert answer.status == 201, answer.body
    text = (pmxcfs.ROOT / "local/qemu-server/7251.conf").read_text()
    assert "name: copy" in text and "memory: 256" in text and "tags: ci" in text
    refused = clone(api, MACHINE, vmid=7252, networks=[{}])
    assert (refused.status, refused.json()["errors"][0]["path"]) == (422, "networks"), refused.body
    assert 7252 not in known()


@pytest.mark.parametrize("line", ["hostpci0: 0000:01:00.0", "args: -device x", "usb0: host=1-2", "serial0: /dev/ttyS0"])
def test_what_a_machine_has_of_the_node(api: Api, machine: Machine, line: str) -> None:
    """C11: a copy of a machine would have it, too."""
    machine.config.write_text(f"{machine.config.read_text().rstrip()}\n{line}\n")
    answer = clone(api, MACHINE, vmid=7253)
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
    assert 7253 not in known()


def test_a_copy_is_made_where_its_source_is(api: Api, pve: PveProcess, records: Records) -> None:
    """A guest of another node is copied there; should that fail half-way, it is undone there."""
    source = machines.create(MACHINE, start=False)
    there = pmxcfs.ROOT / "nodes/pve2/qemu-server"
    there.mkdir(parents=True, exist_ok=True)
    try:
        source.config.rename(there / source.config.name)
        pmxcfs.register(MACHINE, node="pve2", kind="qemu")
        pve.faults.add("status", r".*/qemu/7254/config", method="PUT", text="injected")
        answer = clone(api, MACHINE, vmid=7254, memory=256)
        assert (answer.status, answer.json()["undone"]) == (502, True), answer.body
        assert 7254 not in known() and not list(pmxcfs.ROOT.glob("nodes/*/qemu-server/7254.conf"))
        assert {record["node"] for record in records(answer.json()["audit_id"])} == {"pve2"}
        pve.faults.clear()
        assert clone(api, MACHINE, vmid=7254, memory=256).json()["node"] == "pve2"
    finally:
        for vmid in (MACHINE, 7254):
            (there / f"{vmid}.conf").unlink(missing_ok=True)
            pmxcfs.unregister(vmid)


def without_ids(problem: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in problem.items() if name not in ("request_id", "audit_id")}

"""The table of PVE's failures: each line of it, and each trap of its API, becomes the error that the client acts on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests
import requests_mock

from gateway import errors_pve as pve
from gateway.errors import GatewayError, GuestNotFound, GuestNotRunning, InvalidRequest
from gateway.errors_all import all_errors, from_wire
from gateway.exec.order import GuestKind
from gateway.pve.client import PveApi
from gateway.pve.ids import parse_upid
from gateway.pve.models import GuestRef
from gateway.pve.problems import MEANINGS, clean, translate
from gateway.pve.service import Pve
from gateway.pve.tasks import Task

URL = "https://pve.example:8006/api2/json"
GUEST = GuestRef(101, GuestKind.LXC, "pve1")
LXC = f"{URL}/nodes/pve1/lxc/101"
UPID = "UPID:pve1:0000C350:0012D687:6920A1B2:vzstart:101:gateway@pve!web:"
TASK = f"{URL}/nodes/pve1/tasks/{UPID.replace(':', '%3A').replace('@', '%40').replace('!', '%21')}"


@pytest.fixture
def pve_mock() -> Iterator[requests_mock.Mocker]:
    """PVE's API, as told by the test."""
    with requests_mock.Mocker() as mocker:
        yield mocker


@pytest.fixture
def client(tmp_path: Path) -> Pve:
    """The client, with a token; no connection is made."""
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("gateway@pve!web=5ec7e7\n")
    ca = Path(certifi.where())
    return Pve(PveApi(URL, token, ca))


def answer(status: int, message: str, **more: Any) -> dict[str, Any]:
    """What pveproxy sends for a failure: the status line's first line, and JSON."""
    return {
        "status_code": status,
        "reason": message.split("\n")[0],
        "json": {"data": None, "message": message, **more},
        "headers": {"Content-Type": "application/json;charset=UTF-8"},
    }


def data(value: Any) -> dict[str, Any]:
    return {"json": {"data": value}, "headers": {"Content-Type": "application/json;charset=UTF-8"}}


WORDS: list[tuple[int, str, type[GatewayError], dict[str, Any]]] = [
    (401, "Authentication failed!\n", pve.PveTokenRefused, {}),
    (401, "permission denied - invalid PVE token", pve.PveTokenRefused, {}),
    (
        403,
        "Permission check failed (configuring device passthrough is only allowed for root@pam)\n",
        pve.PveRootOnly,
        {},
    ),
    (403, "Permission check failed (mount point type bind is only allowed for root@pam)\n", pve.PveRootOnly, {}),
    (500, "only root can set 'hookscript' config\n", pve.PveRootOnly, {}),
    (403, "Permission check failed (pool 'ci' does not exist)\n", pve.PoolNotFound, {"pool": "ci"}),
    (
        403,
        "Permission check failed (/vms/101, VM.PowerMgmt)\n",
        pve.PveDenied,
        {"privilege": "VM.PowerMgmt", "path": "/vms/101"},
    ),
    (
        403,
        "Permission check failed (/storage/local, Datastore.Audit|Datastore.AllocateSpace)",
        pve.PveDenied,
        {"privilege": "Datastore.Audit|Datastore.AllocateSpace"},
    ),
    (403, "Permission check failed\n", pve.PveDenied, {}),
    (403, "no\n", pve.PveDenied, {}),
    (500, "cluster not ready - no quorum?\n", pve.NoQuorum, {}),
    (500, "cfs-lock 'file-user_cfg' error: no quorum!\n", pve.NoQuorum, {}),
    (
        500,
        "unable to open file '/etc/pve/nodes/pve1/lxc/101.conf.tmp.4711' - Permission denied\n",
        pve.NoQuorum,
        {},
    ),
    (500, "ipcc_send_rec[1] failed: Connection refused\n", pve.PveUnavailable, {}),
    (500, "ipcc_send_rec[4] failed: Transport endpoint is not connected\n", pve.PveUnavailable, {}),
    (
        500,
        "RPCEnvironment init request failed: Unable to load access control list: Connection refused\n",
        pve.PveUnavailable,
        {},
    ),
    (595, "No route to host", pve.NodeUnreachable, {}),
    (595, "Connection refused", pve.NodeUnreachable, {}),
    (500, "hostname lookup 'pve9' failed - failed to get address info for: pve9\n", pve.NodeNotFound, {}),
    (500, "no such cluster node 'pve9'\n", pve.NodeNotFound, {}),
    (500, "CT is locked (mounted)\n", pve.GuestLocked, {"lock": "mounted"}),
    (500, "CT is locked (backup)\n", pve.GuestLocked, {"lock": "backup"}),
    (500, "VM is locked (snapshot-delete)\n", pve.GuestLocked, {"lock": "snapshot-delete"}),
    (500, "can't lock file '/run/lock/lxc/pve-config-101.lock' - got timeout\n", pve.GuestLocked, {}),
    (500, "cfs-lock 'storage-local' error: got lock request timeout\n", pve.GuestLocked, {}),
    (500, "got lock timeout - aborting command\n", pve.GuestLocked, {}),
    (500, "detected modified configuration - file changed by other user? Try again.\n", pve.GuestChanged, {}),
    (500, "unable to remove CT 101 - used in HA resources and purge parameter not set.\n", pve.GuestHaManaged, {}),
    (500, "unable to create template, because VM contains snapshots\n", pve.PveRejected, {}),
    (500, "migration aborted: non-migratable snapshot exists", pve.PveRejected, {}),
    (500, "VM is paused - cannot shutdown\n", pve.PveRejected, {}),
    (500, "lxc live migration is currently not implemented\n", pve.PveRejected, {}),
    (500, "Cannot suspend HA managed VM to disk\n", pve.PveRejected, {}),
    (500, "Linked clone feature is not supported for drive 'scsi0'\n", pve.StorageUnsuitable, {}),
    (500, "can't clone to non-shared storage 'local'\n", pve.StorageUnsuitable, {}),
    (500, "can't clone CT to node 'pve2' (CT uses local storage)\n", pve.StorageUnsuitable, {}),
    (500, "cannot migrate local bind mount point 'mp0'\n", pve.StorageUnsuitable, {}),
    (
        500,
        "can't migrate local disk 'local:iso/x.iso': can't migrate local cdrom 'local:iso/x.iso'\n",
        pve.StorageUnsuitable,
        {"volume": "local:iso/x.iso"},
    ),
    (500, "can't clone VM to node 'pve2' (VM uses local storage)\n", pve.StorageUnsuitable, {}),
    (500, "Can't connect to destination address using public key\n", pve.NodeUnreachable, {}),
    (500, "unable to parse directory volume name 'backup/vzdump.tar'\n", pve.VolumeNotFound, {}),
    (500, "unable to parse volume ID 'local'\n", pve.VolumeNotFound, {}),
    (500, "disk 'scsi7' does not exist\n", pve.VolumeNotFound, {}),
    (500, "shrinking disks is not supported\n", pve.PveRejected, {}),
    (500, "unable to delete required option 'rootfs'\n", pve.PveRejected, {}),
    (500, "unable to rollback to incomplete snapshot (snapstate = prepare)\n", pve.PveRejected, {}),
    (500, "can't remove CT 101 - protection mode enabled\n", pve.GuestProtected, {}),
    (500, "cannot remove protected volume 'backup/x.tar.zst' on 'local'\n", pve.GuestProtected, {}),
    (500, "snapshot 'before' does not exist\n", pve.SnapshotNotFound, {"snapshot": "before"}),
    (500, "snapshot name 'before' already used\n", pve.SnapshotExists, {"snapshot": "before"}),
    (500, "snapshot feature is not available\n", pve.StorageUnsuitable, {}),
    (500, "Linked clone feature for 'local:101/x.raw' is not available\n", pve.StorageUnsuitable, {}),
    (500, "write failed: No space left on device\n", pve.StorageFull, {}),
    (500, "not enough free space (1024 < 4096)\n", pve.StorageFull, {}),
    (500, "zfs error: cannot create 'tank/x': out of space\n", pve.StorageFull, {}),
    (
        500,
        "lvcreate error: Volume group pve has insufficient free space (12 extents): 256 required.",
        pve.StorageFull,
        {},
    ),
    (500, "CT 101 already exists on node 'pve2'\n", pve.GuestExists, {}),
    (500, "unable to create VM 101: config file already exists\n", pve.GuestExists, {}),
    (500, "Configuration file 'nodes/pve1/lxc/101.conf' does not exist\n", GuestNotFound, {}),
    (500, "Configuration file 'nodes/pve1/qemu-server/301.conf' does not exist\n", GuestNotFound, {}),
    (500, "you can't start a CT if it's a template\n", pve.GuestIsTemplate, {}),
    (500, "CT 101 not running\n", GuestNotRunning, {}),
    (500, "VM 301 is not running\n", GuestNotRunning, {}),
    (500, "CT 101 already running\n", pve.GuestRunning, {}),
    (500, "unable to destroy CT 101 - container is running\n", pve.GuestRunning, {}),
    (500, "VM 301 is running - destroy failed\n", pve.GuestRunning, {}),
    (500, "Full clone of a running container is only possible from a snapshot\n", pve.GuestRunning, {}),
    (500, "restoring 'mp0' to bind mount is only possible for root\n", pve.PveRootOnly, {}),
    (500, "unable to create image: no space left on storage 'local'\n", pve.StorageFull, {}),
    (500, "unable to rollback vm 101: vm is running\n", pve.GuestRunning, {}),
    (500, "you can't convert a CT to template if the CT is running\n", pve.GuestRunning, {}),
    (500, "can't overwrite running container\n", pve.GuestRunning, {}),
    (500, "storage 'nas' does not exist\n", pve.StorageNotFound, {"storage": "nas"}),
    (500, "base volume 'base-100-disk-0' is still in use by linked clones\n", pve.VolumeInUse, {}),
    (500, "storage 'nas' is not available on node 'pve1'\n", pve.StorageUnsuitable, {}),
    (500, "storage 'nas' is disabled\n", pve.StorageUnsuitable, {}),
    (500, "storage 'nas' is not online\n", pve.StorageUnsuitable, {}),
    (500, "storage 'local' does not support containers\n", pve.StorageUnsuitable, {}),
    (500, "content type 'rootdir' is not available on storage 'local'\n", pve.StorageUnsuitable, {}),
    (500, "volume 'local:vztmpl/none.tar.zst' does not exist\n", pve.VolumeNotFound, {}),
    (400, "Parameter verification failed.\n upid: no such task", pve.TaskNotFound, {}),
    (400, "Parameter verification failed.\n", pve.PveRejected, {}),
    (500, "unable to shrink disk size\n", pve.PveRejected, {}),
    (501, "Method 'POST /nodes/pve1/lxc/101/exec' not implemented", pve.PveUnsupported, {}),
    (500, "Can't locate object method\n", pve.PveFailed, {}),
    (500, "", pve.PveFailed, {}),
]


@pytest.mark.parametrize(
    ("status", "words", "error", "named"), WORDS, ids=[words.strip()[:50] for _, words, *_ in WORDS]
)
def test_words(status: int, words: str, error: type[GatewayError], named: dict[str, Any]) -> None:
    """What PVE says decides; its words and what to do next are in the detail."""
    found = translate(status, words, {"vmid": 101, "node": "pve1"})
    assert type(found) is error
    assert found.evidence == {"vmid": 101, "node": "pve1", **found.evidence, **named}
    assert clean(words) in found.detail and "; " in found.detail
    assert found.status in (404, 409, 423, 429, 502, 503, 504, 507)


def test_every_line_of_the_table_is_held() -> None:
    """No line stands there untested: each is the first that fits one of the words above."""
    fitting = {
        next(
            number
            for number, meaning in enumerate(MEANINGS)
            if meaning.status in (None, status) and meaning.words.search(clean(words))
        )
        for status, words, error, _ in WORDS
        if error is not pve.PveFailed
    }
    assert fitting == set(range(len(MEANINGS)))


def test_errors_of_pve_have_codes_of_their_own() -> None:
    """Each is another code, of a status that the API promises for PVE's failures, and crosses our own sockets."""
    ours = [cls for cls in all_errors() if cls.__module__ == pve.__name__]
    others = {cls.code for cls in all_errors() if cls not in ours}
    assert len({cls.code for cls in ours} - others) == len(ours) > 25
    for cls in ours:
        assert cls.status in (404, 409, 423, 429, 502, 503, 504, 507) and re.fullmatch(r"[a-z_]+", cls.code)
        assert type(from_wire(cls("x", vmid=1).to_wire())) is cls


def test_words_are_cleaned() -> None:
    """Nothing of PVE's, or of a guest's that PVE repeats, can colour a terminal or fill a page."""
    found = translate(500, "bad \x1b[31m\x00\u2028\x9b" + "x" * 5000, {})
    assert re.search(r"[\x00-\x1f\x7f-\x9f\u2028]", found.detail) is None
    assert len(found.detail) < 700


# ---- through the client


def test_missing_guest_is_404(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """PVE's 500 for a guest that is not there."""
    pve_mock.get(
        f"{LXC}/status/current", **answer(500, "Configuration file 'nodes/pve1/lxc/101.conf' does not exist\n")
    )
    with pytest.raises(GuestNotFound) as missing:
        client.guests.status(GUEST)
    assert missing.value.evidence == {"vmid": 101, "node": "pve1"}


def test_bad_parameters_are_named(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """PVE's 400 says which of its parameters."""
    pve_mock.put(
        f"{LXC}/config", **answer(400, "Parameter verification failed.\n", errors={"memory": "type check failed\n"})
    )
    with pytest.raises(pve.PveRejected, match="memory: type check failed") as rejected:
        client.guests.set_config(GUEST, {"memory": "much"})
    assert rejected.value.evidence["errors"] == [
        {"path": "memory", "code": "pve_rejected", "message": "type check failed"}
    ]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"exc": requests.exceptions.ReadTimeout("slow")}, id="no answer in 30 s"),
        pytest.param({"exc": requests.exceptions.ConnectionError("reset")}, id="connection broken"),
        pytest.param({"text": "<html>", "headers": {"Content-Type": "text/html"}}, id="garbage"),
        pytest.param({"text": '{"data":', "headers": {"Content-Type": "application/json"}}, id="cut JSON"),
        pytest.param({"status_code": 596, "text": "", "reason": "Connection timed out"}, id="596"),
        pytest.param({"status_code": 599, "text": "", "reason": "Too many redirections"}, id="599"),
        pytest.param(data("nonsense"), id="no task"),
        pytest.param(data(None), id="null"),
    ],
)
def test_change_without_an_answer_is_unknown(
    client: Pve, pve_mock: requests_mock.Mocker, broken: dict[str, Any]
) -> None:
    """It may have been made, or may be made yet: 504, not to be repeated blindly."""
    pve_mock.post(f"{LXC}/status/start", **broken)
    pve_mock.get(f"{URL}/nodes/pve1/tasks", **data([]))
    with pytest.raises(pve.OutcomeUnknown) as unknown:
        client.guests.start(GUEST)
    assert (unknown.value.status, unknown.value.retryable) == (504, False)
    assert unknown.value.evidence == {"vmid": 101, "node": "pve1"}


def test_unknown_change_names_its_task(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """If PVE shows a task of our token for the guest since, that is the one to look at; another's is not."""
    pve_mock.post(f"{LXC}/status/start", exc=requests.exceptions.ReadTimeout)
    others = UPID.replace("gateway@pve!web", "root@pam")
    listed = pve_mock.get(f"{URL}/nodes/pve1/tasks", **data([{"upid": others}, {"upid": UPID, "status": "RUNNING"}]))
    with pytest.raises(pve.OutcomeUnknown, match="vzstart") as unknown:
        client.guests.start(GUEST)
    assert unknown.value.evidence["upid"] == UPID
    assert listed.last_request is not None
    assert listed.last_request.qs["vmid"] == ["101"] and listed.last_request.qs["source"] == ["all"]


def test_question_without_an_answer_may_be_asked_again(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """Nothing was changed by it."""
    pve_mock.get(f"{LXC}/status/current", exc=requests.exceptions.ReadTimeout)
    with pytest.raises(pve.PveTimeout) as silent:
        client.guests.status(GUEST)
    assert silent.value.retryable
    pve_mock.get(f"{LXC}/status/current", text="<html>", headers={"Content-Type": "text/html"})
    with pytest.raises(pve.PveNonsense):
        client.guests.status(GUEST)
    pve_mock.get(f"{LXC}/status/current", **data(["not an object"]))
    with pytest.raises(pve.PveNonsense):
        client.guests.status(GUEST)


def test_no_connection_means_nothing_was_done(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """What never left can be sent again."""
    pve_mock.post(f"{LXC}/status/start", exc=requests.exceptions.ConnectTimeout)
    with pytest.raises(pve.PveUnavailable, match="nothing was done"):
        client.guests.start(GUEST)


def test_start_that_fails_in_its_task(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """200 with a UPID is no success: the task's end decides, and its log is told."""
    pve_mock.post(f"{LXC}/status/start", **data(UPID))
    pve_mock.get(f"{TASK}/status", **data({"status": "stopped", "exitstatus": "CT is locked (backup)", "upid": UPID}))
    pve_mock.get(
        f"{TASK}/log", **data([{"n": 1, "t": "CT is locked"}, {"n": 2, "t": "TASK ERROR: CT is \x1b[1mlocked"}])
    )
    upid = client.guests.start(GUEST)
    task = client.watcher.wait(upid, 5)
    assert task is not None and not task.ok
    with pytest.raises(pve.GuestLocked) as locked:
        client.tasks.require_ok(task)
    assert locked.value.evidence["log"] == ["CT is locked", "TASK ERROR: CT is [1mlocked"]
    assert locked.value.evidence["exitstatus"] == "CT is locked (backup)"
    assert locked.value.evidence["upid"] == UPID and locked.value.evidence["lock"] == "backup"


@pytest.mark.parametrize(
    ("exitstatus", "error"),
    [
        ("startup for container '101' failed", pve.TaskFailed),
        ("unexpected status", pve.TaskFailed),
        ("snapshot name 'a1' already used", pve.SnapshotExists),
        ("command 'tar' failed: No space left on device", pve.StorageFull),
    ],
)
def test_ends_of_tasks(client: Pve, pve_mock: requests_mock.Mocker, exitstatus: str, error: type[GatewayError]) -> None:
    """What a task died of is read by the same table; a log that cannot be had hides nothing."""
    pve_mock.get(f"{TASK}/log", **answer(500, "oops\n"))
    failure = client.tasks.failure(Task(upid=parse_upid(UPID), exitstatus=exitstatus, ended_at=None))
    assert type(failure) is error and failure.evidence["log"] == []


def test_warnings_are_a_success(client: Pve) -> None:
    """`WARNINGS: n` did what it was to do."""
    done = Task(upid=parse_upid(UPID), exitstatus="WARNINGS: 2", ended_at=1)
    assert client.tasks.require_ok(done) is done


def test_booleans_and_numbers_go_as_pve_takes_them(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """True would be a 400: 0 and 1 are sent, and what is not given is not."""
    sent = pve_mock.post(f"{LXC}/clone", **data(UPID))
    client.guests.clone(GUEST, 102, full=False, name="copy")
    assert sent.last_request is not None
    assert sent.last_request.json() == {"newid": 102, "hostname": "copy", "full": 0}


def test_nextid_is_a_text(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """PVE sends "102"; a taken one is a 400 of its own kind."""
    pve_mock.get(f"{URL}/cluster/nextid", **data("102"))
    assert client.inventory.next_vmid() == 102
    pve_mock.get(
        f"{URL}/cluster/nextid",
        **answer(400, "Parameter verification failed.\n", errors={"vmid": "VM 101 already exists"}),
    )
    with pytest.raises(pve.GuestExists):
        client.inventory.next_vmid(101)


def test_interfaces_of_a_stopped_container_are_null(client: Pve, pve_mock: requests_mock.Mocker) -> None:
    """No address, no failure."""
    pve_mock.get(f"{LXC}/interfaces", **data(None))
    assert client.guests.addresses(GUEST) == []


@pytest.mark.parametrize("vmid", [99, 10**9, "../../../version", "101/../102", True, -1])
def test_impossible_vmids_reach_no_url(client: Pve, pve_mock: requests_mock.Mocker, vmid: Any) -> None:
    """Nothing is asked."""
    with pytest.raises(InvalidRequest):
        client.guests.status(GuestRef(vmid, GuestKind.LXC, "pve1"))
    assert pve_mock.call_count == 0

"""Guests made, copied and restored on another node of the cluster, through the PVE API that reaches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.guests.made import TEMPLATE, assert_nothing_left, known
from tests.pvesim import pmxcfs
from tests.pvesim.api.process import Api as PveProcess

pytestmark = pytest.mark.usefixtures("swept")
FIRST, LAST = 7320, 7339
Records = Callable[[str], list[dict[str, Any]]]


def post(api: Api, path: str, **wish: Any) -> Answer:
    return api.request("POST", f"{path}?wait=60", wish, timeout=90)


def create(api: Api, **wish: Any) -> Answer:
    return post(api, "/guests", **{"template": TEMPLATE, "node": "pve2", **wish})


def node_of(vmid: int) -> str:
    (file,) = (pmxcfs.ROOT / "nodes").glob(f"*/*/{vmid}.conf")
    return file.parent.parent.name


def test_container(api: Api, records: Records) -> None:
    """Made, set up and started there; answer, record and resource name that node."""
    answer = create(api, name="far", networks=[{"ipv4": "10.77.4.5/24"}], start=True, wait_for_address=30)
    told = answer.json()
    assert answer.status == 201, answer.body
    assert (told["node"], node_of(told["vmid"])) == ("pve2", "pve2") and told["upid"].startswith("UPID:pve2:")
    assert "10.77.4.5" in [one["address"] for one in told["addresses"]]
    assert api.get(f"/guests/{told['vmid']}").json()["status"] == "running"
    trail = records(told["audit_id"])
    assert [(record["node"], record["vmid"]) for record in trail] == [("pve2", told["vmid"])] * 2
    assert trail[-1]["data"]["reason"] == "ok"
    assert api.request("POST", f"/guests/{told['vmid']}/stop?wait=30").status == 200


def test_machine(api: Api) -> None:
    """The same of a virtual machine."""
    answer = post(
        api, "/guests", type="qemu", node="pve2", disks=[{"size": "1G"}], networks=[{"ipv4": "10.77.4.6/24"}],
        start=True, wait_for_address=30,
    )  # fmt: skip
    assert answer.status == 201, answer.body
    assert node_of(answer.json()["vmid"]) == "pve2"
    assert [one["address"] for one in answer.json()["addresses"]] == ["10.77.4.6"]


def test_clone(api: Api) -> None:
    """A copy on another node is on a storage that both have; one of a disk that only its node has is refused."""
    assert create(api, node="pve1", vmid=7322, storage="shared").status == 201
    answer = post(api, "/guests/7322/clone", vmid=7323, node="pve2", full=True, name="copy", start=True)
    assert answer.status == 201, answer.body
    assert (answer.json()["node"], node_of(7323)) == ("pve2", "pve2") and ":vzclone:7322:" in answer.json()["upid"]
    for kind, vmid in (("lxc", 7324), ("qemu", 7325)):
        wish = {"type": "qemu", "disks": [{"size": "1G"}]} if kind == "qemu" else {"template": TEMPLATE}
        assert post(api, "/guests", vmid=vmid, storage="local-lvm", **wish).status == 201
        answer = post(api, f"/guests/{vmid}/clone", vmid=7326, node="pve2", full=True)
        assert (answer.status, answer.code) == (409, "storage_unsuitable"), answer.body
        assert_nothing_left(7326)


def test_restore(api: Api) -> None:
    """A backup on a storage that both have becomes a guest of the other node."""
    assert create(api, node="pve1", vmid=7327, tags=["old"]).status == 201
    answer = api.request("POST", "/guests/7327/backups?wait=60", {"storage": "shared"}, timeout=90)
    assert answer.status == 200, answer.body
    volume = answer.json()["volume"]
    answer = post(api, "/guests", vmid=7328, node="pve2", backup=volume, storage="local")
    assert answer.status == 201, answer.body
    assert node_of(7328) == "pve2" and "old" in api.get("/guests/7328").json()["tags"]


@pytest.mark.parametrize(("origin", "vmid"), [("template", 7329), ("clone", 7331)])
def test_nothing_stays_of_a_failure(api: Api, pve: PveProcess, origin: str, vmid: int) -> None:
    """Made there, and it does not start: it is destroyed there."""
    assert create(api, node="pve1", vmid=7322, storage="shared").status == 201
    pve.faults.add("task", "vzstart", text="startup for container failed", times=1)
    path = "/guests" if origin == "template" else "/guests/7322/clone"
    wish = {"template": TEMPLATE} if origin == "template" else {"full": True}
    answer = post(api, path, vmid=vmid, node="pve2", start=True, **wish)
    assert (answer.status, answer.code, answer.json()["undone"]) == (502, "task_failed", True), answer.body
    assert_nothing_left(vmid)


def test_nodes_that_cannot_be(api: Api, pve: PveProcess, gateway: Gateway) -> None:
    """Unknown, offline, and no name at all: each its own answer, nothing is recorded as begun, nothing is made."""
    before = known()
    assert create(api, node="pve1", vmid=7330, storage="shared").status == 201
    pve.faults.lose_node("pve2")
    begun = len(gateway.records(event="guest:create"))
    for path, wish in (("/guests", {"template": TEMPLATE}), ("/guests/7330/clone", {"full": True})):
        for node, status, code in (
            ("pve9", 404, "node_not_found"),
            ("pve2", 503, "node_unreachable"),
            ("../x", 422, "invalid_request"),
            ("pve2.", 422, "invalid_request"),
        ):
            answer = post(api, path, node=node, **wish)
            assert (answer.status, answer.code) == (status, code), (path, node, answer.body)
            assert answer.json().get("node", node) == node
    assert known() - before == {7330} and len(gateway.records(event="guest:create")) == begun


def test_what_only_root_may_give(api: Api) -> None:
    """This gateway is root on its own node: what needs that is refused by name, with whom to ask."""
    for wish, name in (
        ({"features": ["nesting", "fuse"]}, "features"),
        ({"mounts": [{"path": "/a", "source": "/srv"}]}, "mp0"),
        ({"hookscript": "local:snippets/x.sh"}, "hookscript"),
        ({"template": "/srv/x.tar.gz"}, "ostemplate"),
    ):
        answer = create(api, **wish)
        assert (answer.status, answer.code) == (409, "pve_root_only"), answer.body
        assert name in answer.json()["detail"] and "ask the gateway of pve2" in answer.json()["detail"]


def test_what_a_path_is_there(api: Api, gateway: Gateway) -> None:
    """A device that this node's policy allows is another one there: no copy, no rollback and no change of a guest of
    another node gets one by this gateway."""
    assert create(api, node="pve1", vmid=7332, storage="shared").status == 201
    path = pmxcfs.ROOT / "nodes/pve1/lxc/7332.conf"
    plain = path.read_text()
    pmxcfs.write(path, plain + "dev0: /dev/null\n")
    asked = [post(api, "/guests/7332/clone", vmid=7333, node="pve2", full=True)]
    assert post(api, "/guests/7332/clone", vmid=7334, full=True).status == 201
    pmxcfs.write(path, plain)
    assert create(api, vmid=7335, storage="local-lvm").status == 201
    assert api.request("POST", "/guests/7335/snapshots?wait=60", {"name": "before"}, timeout=90).status == 200
    far = pmxcfs.ROOT / "nodes/pve2/lxc/7335.conf"
    pmxcfs.write(far, far.read_text().replace("[before]\n", "[before]\ndev0: /dev/null\n"))
    asked.append(api.request("POST", "/guests/7335/snapshots/before/rollback?wait=60", timeout=90))
    asked.append(api.request("PATCH", "/guests/7335", {"options": {"dev0": "/dev/null"}}))
    for answer in asked:
        assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
        assert [one["key"] for one in answer.json()["refused"]] == [None] and "pve2" in answer.json()["detail"]
    assert 7333 not in known()
    assert api.request("PATCH", "/guests/7335", {"cores": 2, "options": {"mp0": "local-lvm:1,mp=/x"}}).status == 200

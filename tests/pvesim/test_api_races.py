"""Many at once: one wins, the others are told, and nothing is half; and what an API shows that is not so any more."""

from __future__ import annotations

import fcntl
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.exec.waiting import until
from tests.pvesim import pmxcfs
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api, running_api
from tests.pvesim.conftest import LXC, TEMPLATE, MakeContainer
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node


def test_one_vmid_for_many(pve: Pve, container: MakeContainer) -> None:
    """Of many creates with the vmid that `nextid` gave to all one is accepted; the others are a 500 at once."""
    asked = {"vmid": 7040, "ostemplate": TEMPLATE, "storage": "local-lvm"}
    with ThreadPoolExecutor(5) as pool:
        replies = list(pool.map(lambda _: pve.ask("POST", LXC, **asked), range(5)))
    accepted = [reply for reply in replies if reply.status == 200]
    assert len(accepted) == 1 and pve.finish(accepted[0].data).exitstatus == "OK"
    for reply in replies:
        assert reply in accepted or reply.reason.endswith("CT 7040 already exists on node 'pve1'")


def test_one_digest_for_many(pve: Pve, container: MakeContainer) -> None:
    """Of many changes with one digest exactly one is made."""
    path = f"{LXC}/{container()}/config"
    digest = pve.do("GET", path)["digest"]
    with ThreadPoolExecutor(5) as pool:
        replies = list(pool.map(lambda n: pve.ask("PUT", path, cores=n, digest=digest), range(1, 6)))
    assert sorted(reply.status for reply in replies) == [200, 500, 500, 500, 500]
    winner = next(number for number, reply in enumerate(replies, 1) if reply.status == 200)
    assert pve.do("GET", path)["cores"] == winner


def test_many_guests_at_once(pve: Pve, container: MakeContainer) -> None:
    """Creates side by side all succeed and are all listed, with volumes of their own."""
    vmids = range(7041, 7047)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: pve.run("POST", LXC, vmid=n, ostemplate=TEMPLATE, storage="local-lvm"), vmids))
    listed = json.loads((pmxcfs.ROOT / ".vmlist").read_text())["ids"]
    assert {str(vmid) for vmid in vmids} <= listed.keys()
    for vmid in vmids:
        assert pve.do("GET", f"{LXC}/{vmid}/config")["rootfs"].startswith(f"local-lvm:vm-{vmid}-disk-0,")


def test_waiting_for_a_lock_is_said(api: Api, container: MakeContainer) -> None:
    """pvesh says on stderr that it waits, which proxmoxer takes for a failure though the change is made."""
    vmid = container()
    with Path(f"/run/lock/lxc/pve-config-{vmid}.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        command = [str(api.pvesh), "set", f"{LXC}/{vmid}/config", "-cores", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "trying to acquire lock...\n"
            fcntl.flock(held, fcntl.LOCK_UN)
            assert process.stderr.read() == " OK\n"
            assert process.wait() == 0
    assert "cores: 2" in (pmxcfs.ROOT / f"lxc/{vmid}.conf").read_text()


def test_resources_lag(pve: Pve, container: MakeContainer) -> None:
    """With PVE's own age of figures a new guest is `unknown`, and a started one still `stopped`, for a while."""
    vmid = container()
    with running_api(status_age=1.0) as slow:
        late = Pve(slow.port, headers=pve.headers)

        def state() -> str:
            return str(
                next(one for one in late.do("GET", "/cluster/resources", type="vm") if one["vmid"] == vmid)["status"]
            )

        assert state() == "unknown"
        until(lambda: state() == "stopped")
        late.run("POST", f"{LXC}/{vmid}/status/start")
        assert late.do("GET", f"{LXC}/{vmid}/status/current")["status"] == "running"
        until(lambda: state() == "running")


def test_suspend_to_disk(pve: Pve, container: MakeContainer) -> None:
    """By CRIU: where it cannot, the task fails and the container runs on; where it can, it is stopped meanwhile."""
    vmid = container(start=1)
    path = f"{LXC}/{vmid}/status"
    until(lambda: pve.do("GET", f"{path}/current")["status"] == "running")
    assert pve.fail("POST", f"{path}/suspend").startswith("command 'lxc-checkpoint")
    assert pve.do("GET", f"{path}/current")["status"] == "running"
    with running_api(can_checkpoint=True) as able:
        other = Pve(able.port, headers=pve.headers)
        other.run("POST", f"{path}/suspend")
        assert other.do("GET", f"{path}/current")["status"] == "stopped"
        other.run("POST", f"{path}/resume")
        assert other.do("GET", f"{path}/current")["status"] == "running"

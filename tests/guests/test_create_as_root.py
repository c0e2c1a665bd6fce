"""What PVE allows to root@pam alone, in a new container: where node policy names it and the token may, it is there."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.guests.conftest import PRIVILEGES, SECRET, TOKEN_ID
from tests.guests.made import TEMPLATE, assert_nothing_left, known
from tests.pvesim import config
from tests.pvesim.api import access, archives, storages
from tests.pvesim.api.process import Api as PveProcess

pytestmark = pytest.mark.usefixtures("swept")
FIRST, LAST = 7280, 7289


@pytest.fixture(scope="module")
def shared(node: None) -> Iterator[Path]:
    """A directory of the node that guests may have: none of pytest's, which any other pytest that begins in the same
    /tmp closes to all but root (getbasetemp), the guest's root on the node too."""
    with tempfile.TemporaryDirectory(prefix="shared-", dir="/var/tmp") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "greeting").write_text("from the node\n")
        shutil.copy(storages.find("local").place("vztmpl") / archives.BUSYBOX, path / archives.BUSYBOX)
        yield path


@pytest.fixture(scope="module")
def gateway(
    make_gateway: Callable[..., Gateway], pve: PveProcess, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    """A gateway whose policy lets guests have that directory, a feature and a template of it."""
    token = tmp_path_factory.mktemp("token") / "pve.token"
    access.store_token(token, TOKEN_ID, SECRET, privileges=PRIVILEGES)
    return make_gateway(
        pve={"api": pve.url, "token_file": str(token), "pvesh": str(pve.pvesh)},
        policy={"bind_sources": [str(shared)], "features": ["nesting", "fuse"], "template_paths": [str(shared)]},
    )


def create(api: Api, **wish: object) -> Answer:
    return api.request("POST", "/guests?wait=100", {"template": TEMPLATE, **wish}, timeout=120)


def test_directory_of_the_node(api: Api, gateway: Gateway, shared: Path) -> None:
    """A mount point and a feature that only root@pam may give: set before it starts, and the guest has them."""
    mounts = [{"path": "/shared", "source": str(shared), "read_only": True}]
    answer = create(api, mounts=mounts, features=["nesting", "fuse"], password="not-in-any-argv", start=True)
    assert answer.status == 201, answer.body
    vmid = answer.json()["vmid"]
    text = config.pve_path(vmid).read_text()
    assert f"mp0: {shared},mp=/shared,ro=1" in text and "fuse=1" in text
    assert api.run(vmid, ["cat", "/shared/greeting"])["stdout"] == "from the node\n"
    events = [record["event"] for record in gateway.records(vmid=vmid) if record["event"].startswith("guest:")]
    assert events[:2] == ["guest:create", "guest:root-config"]


def test_set_up_that_fails(api: Api, pve: PveProcess, shared: Path) -> None:
    """It was made, and what comes after cannot be done: nothing stays."""
    away = pve.pvesh.rename(pve.pvesh.with_name("away"))
    try:
        answer = create(api, vmid=7285, mounts=[{"path": "/shared", "source": str(shared)}])
    finally:
        away.rename(pve.pvesh)
    assert (answer.status, answer.code, answer.json()["undone"]) == (503, "pve_unavailable", True), answer.body
    assert_nothing_left(7285)


def test_template_of_a_path(api: Api, gateway: Gateway, shared: Path) -> None:
    """A file of the node is a template where policy names its directory: pvesh makes the guest."""
    answer = create(api, vmid=7286, template=f"{shared}/{archives.BUSYBOX}", start=True)
    assert answer.status == 201, answer.body
    assert api.run(7286, ["true"])["exit_code"] == 0
    assert create(api, template=f"{shared}/x.tar.gz", password="secret").code == "invalid_request"


def test_without_the_action(gateway: Gateway, shared: Path) -> None:
    """A token without guest:root-config is refused, and nothing is made."""
    before = known()
    client = gateway.api(gateway.token("plain", actions="guest:create", guests=f"{FIRST}-{LAST}"))
    for wish in ({"mounts": [{"path": "/x", "source": str(shared)}]}, {"template": f"{shared}/{archives.BUSYBOX}"}):
        answer = create(client, **wish)
        assert (answer.status, answer.code, answer.json()["action"]) == (403, "forbidden", "guest:root-config")
    client.close()
    assert known() == before


def test_keys_of_a_guest_that_root_makes(api: Api, gateway: Gateway, shared: Path) -> None:
    """Several are passed on, a line each; no record tells one."""
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIJr0Zb7sXhq2b0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5"
    keys = [f"ssh-ed25519 {key} me@{number}" for number in range(2)]
    answer = create(api, template=str(shared / archives.BUSYBOX), ssh_public_keys=keys, start=True)
    assert answer.status == 201, answer.body
    vmid = answer.json()["vmid"]
    assert api.run(vmid, ["cat", "/root/.ssh/authorized_keys"])["stdout"].split("\n")[:2] == keys
    records = gateway.records(vmid=vmid)
    assert {"guest:create", "guest:root-config"} <= {record["event"] for record in records}
    assert key not in json.dumps(records)

"""`pvesh` and proxmoxer: what only root@pam may do, by the program that proxmoxer's local backend runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import requests
import urllib3
from proxmoxer import ProxmoxAPI, ResourceException

from tests.pvesim import pmxcfs
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, MakeContainer
from tests.pvesim.test_node import inside_a_node

pytestmark = [inside_a_node, pytest.mark.filterwarnings("ignore:Unverified HTTPS request")]


def pvesh(api: Api, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([api.pvesh, *arguments], check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def local(api: Api, monkeypatch: pytest.MonkeyPatch) -> ProxmoxAPI:
    """proxmoxer as it runs on the node itself."""
    monkeypatch.setenv("PATH", f"{api.pvesh.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    return ProxmoxAPI(backend="local", timeout=60)


def test_acts_as_root(local: ProxmoxAPI, pve: Pve, container: MakeContainer) -> None:
    """A device that no token may pass through; the change is seen by the API at once."""
    vmid = container()
    local.nodes("pve1").lxc(vmid).config.put(dev0="/dev/null,mode=0666")
    assert pve.do("GET", f"{LXC}/{vmid}/config")["dev0"] == "/dev/null,mode=0666"
    assert local.version.get()["release"] == "9.2"
    local.nodes("pve1").lxc(vmid).status.start.post()
    mode = subprocess.run(
        ["lxc-attach", "-n", str(vmid), "--", "stat", "-c", "%a %t,%T", "/dev/null"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert mode.stdout == "666 1,3\n"


def test_waits_for_its_tasks(api: Api, container: MakeContainer) -> None:
    """The log comes before the UPID, and a failed task still exits 0."""
    vmid = container()
    done = pvesh(api, "create", f"{LXC}/{vmid}/status/start", "--output-format", "json")
    log, upid = done.stdout.splitlines()
    assert (done.returncode, log) == (0, "TASK OK") and json.loads(upid).startswith("UPID:pve1:")
    failed = pvesh(api, "create", f"{LXC}/7098/status/start", "--output-format", "json")
    assert failed.returncode == 0 and failed.stdout.startswith("TASK ERROR: Configuration file")


def test_failures_go_to_stderr(api: Api, local: ProxmoxAPI) -> None:
    """400 with its parameters, a plain text for the rest; proxmoxer makes a status of either."""
    bad = pvesh(api, "set", f"{LXC}/103/config", "-cores", "x")
    assert bad.returncode == 255
    assert bad.stderr.splitlines() == [
        "400 Parameter verification failed.",
        "cores: type check ('integer') failed - got 'x'",
    ]
    missing = pvesh(api, "get", f"{LXC}/7098/config")
    assert (missing.returncode, missing.stderr) == (
        2, "Configuration file 'nodes/pve1/lxc/7098.conf' does not exist\n")  # fmt: skip
    with pytest.raises(ResourceException) as refused:
        local.nodes("pve1").lxc(103).config.put(cores="x")
    assert refused.value.status_code == 400
    assert pvesh(api, "frobnicate", "/version").returncode == 255


def over_https(api: Api, pve: Pve, verify: str | bool) -> ProxmoxAPI:
    secret = pve.headers["Authorization"].rpartition("=")[2]
    return ProxmoxAPI(
        f"127.0.0.1:{api.port}", user="suite@pve", token_name="all", token_value=secret, timeout=30, verify_ssl=verify
    )


def test_ca_of_pve(api: Api, pve: Pve) -> None:
    """proxmoxer takes the cluster's CA, unless Python 3.13 and urllib3 2.4 ask for a keyUsage that it does not have.

    Debian 13 has urllib3 2.3.
    """
    remote = over_https(api, pve, str(pmxcfs.ROOT / "pve-root-ca.pem"))
    if sys.version_info >= (3, 13) and tuple(map(int, urllib3.__version__.split(".")[:2])) >= (2, 4):
        with pytest.raises(requests.exceptions.SSLError, match="key usage"):
            remote.version.get()
    else:
        assert remote.version.get()["release"] == "9.2"


def test_proxmoxer_over_https(api: Api, pve: Pve) -> None:
    """With a token; the traps come through as they are: a text for a number, 400 for True, 500 for what is missing."""
    remote = over_https(api, pve, False)
    assert isinstance(remote.cluster.nextid.get(), str)
    with pytest.raises(ResourceException) as refused:
        remote.nodes("pve1").lxc.post(vmid=7096, ostemplate="x", onboot=True)
    assert refused.value.status_code == 400
    with pytest.raises(ResourceException) as missing:
        remote.nodes("pve1").lxc(7098).config.get()
    assert missing.value.status_code == 500 and "does not exist" in str(missing.value)


def test_a_path_leaves_its_place(api: Api, pve: Pve) -> None:
    """Whoever builds a URL of what he was given asks something else: `../` reaches another method."""
    assert over_https(api, pve, False).nodes("pve1").lxc("../../../version").get()["release"] == "9.2"

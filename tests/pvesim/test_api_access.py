"""Tokens, tickets and privileges; and what only root@pam may do, which no token is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.pvesim.api import access
from tests.pvesim.api.client import Pve
from tests.pvesim.api.process import Api
from tests.pvesim.conftest import LXC, TEMPLATE, MakeContainer
from tests.pvesim.test_node import inside_a_node

pytestmark = inside_a_node
DENIED = "Permission check failed"

# what, of which container (103 is privileged, 104 is not), and PVE's words for refusing it
ROOT_ONLY = [
    (103, {"dev0": "/dev/null"}, "configuring device passthrough is only allowed for root@pam"),
    (104, {"mp0": "/srv,mp=/srv"}, "mount point type bind is only allowed for root@pam"),
    (104, {"mp0": "/dev/sda,mp=/srv"}, "mount point type device is only allowed for root@pam"),
    (103, {"features": "nesting=1"}, "changing feature flags for privileged container is only allowed for root@pam"),
    (104, {"features": "fuse=1"}, "changing feature flags (except nesting) is only allowed for root@pam"),
    (104, {"hookscript": "local:snippets/x.sh"}, "changing the hookscript is only allowed for root@pam"),
]


@pytest.mark.parametrize(("vmid", "change", "words"), ROOT_ONLY)
def test_no_token_is_root(api: Api, pve: Pve, vmid: int, change: dict[str, str], words: str) -> None:
    """Neither a token with every privilege nor one of root's own without separation may: 403, nothing changed."""
    access.add_token("root@pam!own", "own-secret", separated=False)
    before = pve.do("GET", f"{LXC}/{vmid}/config", current=1)
    for user in (pve, Pve(api.port, "root@pam!own=own-secret")):
        reply = user.ask("PUT", f"{LXC}/{vmid}/config", **change)
        assert (reply.status, reply.reason) == (403, f"{DENIED} ({words})")
    assert pve.do("GET", f"{LXC}/{vmid}/config", current=1) == before


def test_root_may(root: Pve, container: MakeContainer) -> None:
    """root@pam itself passes: devices, bind mounts, features, skiplock."""
    path = f"{LXC}/{container()}"
    root.do("PUT", f"{path}/config", dev0="/dev/null", mp0="/srv,mp=/srv", features="fuse=1")
    shown = root.do("GET", f"{path}/config")
    assert (shown["dev0"], shown["mp0"], shown["features"]) == ("/dev/null", "/srv,mp=/srv", "fuse=1")
    root.run("POST", f"{path}/status/start", skiplock=1)


def test_creating_and_skiplock_are_no_way_round(pve: Pve) -> None:
    """The same at a create; `skiplock` and a file's path as a template are refused in their own ways."""
    for change, words in (({"dev0": "/dev/null"}, ROOT_ONLY[0][2]), ({"mp0": "/,mp=/host"}, ROOT_ONLY[1][2])):
        reply = pve.ask("POST", LXC, vmid=7090, ostemplate=TEMPLATE, rootfs="local-lvm:1", **change)
        assert (reply.status, reply.reason) == (403, f"{DENIED} ({words})")
    reply = pve.ask("POST", LXC, vmid=7090, ostemplate="/etc/passwd")
    assert (reply.status, reply.reason) == (500, "Only root can pass arbitrary filesystem paths.")
    assert pve.ask("POST", f"{LXC}/103/status/start", skiplock=1).errors == {
        "skiplock": "Only root may use this option."
    }


def test_token_has_no_more_than_its_own_lists(as_token: Callable[..., Pve]) -> None:
    """Privileges hold on their path and below; what may not be seen is not listed."""
    user = as_token("VM.Audit", path="/vms/101")
    assert user.ask("GET", f"{LXC}/101/status/current").status == 200
    assert user.ask("GET", f"{LXC}/102/status/current").reason == f"{DENIED} (/vms/102, VM.Audit)"
    assert user.ask("POST", f"{LXC}/101/status/start").reason == f"{DENIED} (/vms/101, VM.PowerMgmt)"
    assert [entry["vmid"] for entry in user.do("GET", LXC)] == [101]
    assert [entry["vmid"] for entry in user.do("GET", "/cluster/resources", type="vm")] == [101]


def test_token_has_no_more_than_its_owner(root: Pve, api: Api) -> None:
    """A token's own list is worth nothing for what its user may not do; without separation it is as its user."""
    root.do("POST", "/access/users", userid="owner@pve")
    tokens = {}
    for name, separated in (("apart", 1), ("same", 0)):
        made = root.do("POST", f"/access/users/owner@pve/token/{name}", privsep=separated)
        tokens[name] = Pve(api.port, f"{made['full-tokenid']}={made['value']}")
    try:
        root.do("PUT", "/access/acl", path="/vms/101", roles="PVEVMUser", tokens="owner@pve!apart")
        assert [tokens[name].ask("GET", f"{LXC}/101/config").status for name in tokens] == [403, 403]
        root.do("PUT", "/access/acl", path="/vms", roles="PVEVMUser", users="owner@pve")
        assert [tokens[name].ask("GET", f"{LXC}/101/config").status for name in tokens] == [200, 200]
        assert [tokens[name].ask("GET", f"{LXC}/102/config").status for name in tokens] == [403, 200]
        root.do("DELETE", "/access/users/owner@pve/token/same")
        assert tokens["same"].ask("GET", "/version").reason == "Authentication failed!"
    finally:
        root.do("DELETE", "/access/users/owner@pve")
    assert tokens["apart"].ask("GET", "/version").status == 401


@pytest.mark.parametrize("what", ["expired", "disabled"])
def test_tokens_end(root: Pve, api: Api, what: str) -> None:
    """A token whose time is over, or whose user is disabled, is a 401 like any other."""
    root.do("POST", "/access/users", userid="ended@pve", enable=int(what != "disabled"))
    try:
        made = root.do("POST", "/access/users/ended@pve/token/one", **({"expire": 1} if what == "expired" else {}))
        token = Pve(api.port, f"{made['full-tokenid']}={made['value']}")
        assert (token.ask("GET", "/version").status, token.ask("GET", "/version").reason) == (
            401,
            "Authentication failed!",
        )
    finally:
        root.do("DELETE", "/access/users/ended@pve")


def test_pool_gives_its_members(root: Pve, as_token: Callable[..., Pve]) -> None:
    """A privilege on a pool holds for the guests in it."""
    user = as_token("VM.Audit", path="/pool/sim-a")
    root.do("POST", "/pools", poolid="sim-a")
    try:
        assert user.ask("GET", f"{LXC}/102/config").status == 403
        root.do("PUT", "/pools/sim-a", vms="102")
        assert user.ask("GET", f"{LXC}/102/config").status == 200
        assert root.ask("DELETE", "/pools/sim-a").reason == (
            "delete pool failed: pool 'sim-a' is not empty (contains VM 102)"
        )
    finally:
        root.do("PUT", "/pools/sim-a", vms="102", delete=1)
        root.do("DELETE", "/pools/sim-a")


def test_bridge_and_privileged_need_more(as_token: Callable[..., Pve]) -> None:
    """A network needs SDN.Use on its bridge, a privileged container Sys.Modify: both easily forgotten."""
    most = ("VM.Allocate", "VM.Config.Network", "VM.Config.Disk", "Datastore.AllocateSpace", "Datastore.Audit")
    user = as_token(*most)
    asked = {"vmid": 7090, "ostemplate": TEMPLATE, "storage": "local-lvm"}
    reply = user.ask("POST", LXC, **asked, net0="name=eth0,bridge=vmbr0")
    assert reply.reason == f"{DENIED} (/sdn/zones/localnetwork/vmbr0, SDN.Use)"
    assert user.ask("POST", LXC, **asked, unprivileged=0).reason == f"{DENIED} (/, Sys.Modify)"


def test_tickets_need_their_csrf_token(root: Pve, api: Api) -> None:
    """A ticket alone reads; what changes something needs the token beside it; a wrong password is a slow 401."""
    plain = Pve(api.port, headers={"Cookie": root.headers["Cookie"]})
    assert plain.ask("GET", "/version").status == 200
    reply = plain.ask("PUT", f"{LXC}/103/config", tags="x")
    assert (reply.status, reply.reason) == (401, "Permission denied - invalid csrf token")
    assert Pve(api.port).ask("POST", "/access/ticket", username="root@pam", password="wrong").status == 401
    assert (
        Pve(api.port, headers={"Cookie": "PVEAuthCookie=PVE:root@pam:6B01E7DE::x"}).ask("GET", "/version").status == 401
    )

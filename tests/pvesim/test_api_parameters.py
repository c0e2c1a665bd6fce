"""Parameters are checked as PVE::JSONSchema checks them: 400, with PVE's words by parameter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pvesim.api import facts, formats
from tests.pvesim.api.client import Pve
from tests.pvesim.conftest import LXC, TEMPLATE
from tests.pvesim.test_node import inside_a_node

GOOD: dict[str, Any] = {"vmid": "7099", "ostemplate": TEMPLATE}
CREATE = facts.load()["POST", "/nodes/{node}/lxc"]


@pytest.mark.parametrize(
    ("given", "name", "words"),
    [
        ({"vmid": "99"}, "vmid", "invalid format - value does not look like a valid VM ID\n"),
        ({"vmid": "0100"}, "vmid", "invalid format - value does not look like a valid VM ID\n"),
        ({"cores": "x"}, "cores", "type check ('integer') failed - got 'x'"),
        ({"cores": "0"}, "cores", "value must have a minimum value of 1"),
        ({"cores": "8193"}, "cores", "value must have a maximum value of 8192"),
        ({"onboot": "True"}, "onboot", "type check ('boolean') failed - got 'True'"),
        ({"onboot": "true"}, "onboot", "type check ('boolean') failed - got 'true'"),
        ({"password": "1234"}, "password", "value must be at least 5 characters long"),
        ({"description": "x" * 8193}, "description", "value may only be 8192 characters long"),
        ({"cmode": "x"}, "cmode", "value 'x' does not have a value in the enumeration 'shell, console, tty'"),
        ({"hostname": "a_b"}, "hostname", "invalid format - value does not look like a valid DNS name\n"),
        ({"tags": "ok;not ok!"}, "tags", "invalid format - invalid characters in tag\n"),
        ({"mp0": "local:1"}, "mp0", "invalid format - format error\nmp: property is missing and it is not optional\n"),
        ({"rootfs": "local:1,size=8X"}, "rootfs",
         "invalid format - format error\nsize: invalid format - value does not look like a valid disk size: 8X\n\n"),
        ({"net0": "name=eth0,bogus=1"}, "net0",
         "invalid format - invalid key in comma-separated list property: bogus\n"),
        ({"features": "nesting=1,nesting=1"}, "features",
         "invalid format - duplicate key in comma-separated list property: nesting\n"),
        ({"env": "=x"}, "env", "value does not match the regex pattern"),
        ({"bogus": "1"}, "bogus",
         "property is not defined in schema and the schema does not allow additional properties"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_words(given: dict[str, str], name: str, words: str) -> None:
    """The same words as PVE's, in `errors` under the parameter's name."""
    with pytest.raises(facts.Failure) as refused:
        facts.check(CREATE, {**GOOD, **given, "node": "pve1"})
    assert (refused.value.status, refused.value.message) == (400, "Parameter verification failed.\n")
    assert refused.value.errors == {name: words}


@pytest.mark.parametrize(
    ("net", "fits"),
    [
        ("name=eth0,bridge=vmbr0,ip=10.0.0.1/8,gw=10.0.0.2,tag=5", True),
        ("name=eth0,ip=dhcp,ip6=auto", True),
        ("name=eth0,ip=10.0.0.1", False),
        ("name=eth0,ip=10.0.0.1/33", False),
        ("name=eth0,ip=10.0.0.300/24", False),
        ("name=eth0,hwaddr=01:00:00:00:00:00", False),
        ("name=eth0,tag=4095", False),
        ("bridge=vmbr0", False),
    ],
)
def test_networks_are_looked_into(net: str, fits: bool) -> None:
    """Addresses need their length, a multicast MAC is none, a VLAN has its range."""
    assert (facts.mistake(CREATE["parameters"]["net[n]"], net) is None) is fits


def test_values_come_as_their_types() -> None:
    """Integers and booleans are numbers for a method, all else is text, and null is not given."""
    taken = facts.check(CREATE, {**GOOD, "node": "pve1", "cores": "2", "onboot": True, "swap": 0, "hostname": None})
    assert (taken["vmid"], taken["cores"], taken["onboot"], taken["swap"]) == (7099, 2, 1, 0)
    assert "hostname" not in taken


@pytest.mark.parametrize(("text", "size"), [("8G", 8 << 30), ("512M", 512 << 20), ("1.5G", 3 << 29), ("4096", 4096)])
def test_sizes(text: str, size: int) -> None:
    """Read and written as PVE does."""
    assert formats.parse_size(text) == size
    assert formats.parse_size(formats.print_size(size)) == size


@inside_a_node
def test_all_mistakes_come_at_once(pve: Pve) -> None:
    """One reply names every bad parameter, and privileges are looked at before them."""
    reply = pve.ask("POST", LXC, vmid="99", cores="x", bogus="1")
    assert (reply.status, reply.reason) == (400, "Parameter verification failed.")
    assert reply.errors.keys() == {"vmid", "cores", "bogus", "ostemplate"}
    assert reply.data is None


@inside_a_node
def test_node_of_the_url(pve: Pve) -> None:
    """`localhost` is the node itself; an unknown node is a 500; one in the body must agree with the URL's."""
    assert pve.ask("GET", "/nodes/localhost/lxc").status == 200
    assert pve.ask("GET", "/nodes/pve9/lxc").status == 500
    assert pve.ask("POST", LXC, node="pve2", **GOOD).errors.keys() == {"node"}
    assert pve.ask("GET", "/nodes/pve1/nothing").status == 501

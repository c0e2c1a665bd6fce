"""Edits of configurations, decided without any node: which way each goes, and what of it is recorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.api.handlers.guests import describe_edit, edit_guest
from gateway.api.models.guests import GuestPatch
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.config import PolicyConfig
from gateway.errors import InvalidRequest, PolicyRefused
from gateway.exec.order import GuestKind
from gateway.guests.addresses import are_ready
from gateway.guests.edit import Edit
from gateway.guests.listing import ALL, page_of, pools_within
from gateway.policy.node import NodePolicy
from gateway.pve.models import Address, Guest, GuestConfig, GuestRef
from gateway.pve.resources import Pool

CONFIG = GuestConfig(options={}, digest="", pending={})
UNPRIVILEGED = {"unprivileged": "1", "features": "nesting=1,keyctl=1"}


@pytest.mark.parametrize(
    ("options", "delete", "config", "root"),
    [
        ({"memory": 512}, (), {}, False),
        ({"dev0": "/dev/null"}, (), {}, True),
        ({}, ("dev3",), {}, True),
        ({"hookscript": "local:snippets/x"}, (), {}, True),
        ({"mp0": "/srv,mp=/x"}, (), {}, True),
        ({"mp0": "volume=/srv,mp=/x"}, (), {}, True),
        ({"mp0": "local:8,mp=/x"}, (), {}, False),
        ({}, ("mp0",), {}, False),
        ({"features": "nesting=1"}, (), {"unprivileged": "1"}, False),
        ({"features": "nesting=1"}, (), {}, True),
        ({"features": "keyctl=1"}, (), {"unprivileged": "1"}, True),
        ({"features": "nesting=0,keyctl=1"}, (), UNPRIVILEGED, False),
        ({}, ("features",), UNPRIVILEGED, True),
        ({}, ("features",), {"unprivileged": "1", "features": "nesting=1"}, False),
    ],
)
def test_who_makes_it(options: Any, delete: tuple[str, ...], config: Any, root: bool) -> None:
    """PVE's own line between what its API lets a token do, and what root@pam alone may."""
    assert Edit(kind=GuestKind.LXC, options=options, delete=delete).for_root(config) is root


def test_both_at_once() -> None:
    """They would be two changes: refused."""
    with pytest.raises(InvalidRequest):
        Edit(kind=GuestKind.LXC, options={"dev0": "/dev/null", "memory": 512}).for_root({})


def test_secrets_are_left_out() -> None:
    """The record names them, and no more."""
    edit = Edit(kind=GuestKind.QEMU, options={"cipassword": "s3cret", "sshkeys": "ssh-rsa x", "cores": 2})
    assert edit.show() == {"options": {"cipassword": None, "sshkeys": None, "cores": 2}}


@pytest.mark.parametrize(
    ("addresses", "ready"),
    [
        ([], False),
        (["fe80::1"], False),
        (["fe80::1%eth0"], False),
        (["169.254.1.1"], False),
        (["127.0.0.1", "::1"], False),
        (["nonsense"], False),
        (["fe80::1", "10.0.0.5"], True),
        (["2001:db8::5"], True),
    ],
)
def test_addresses_that_others_reach(addresses: list[str], ready: bool) -> None:
    """A guest is there when somebody else could speak to it."""
    found = [Address(interface="eth0", mac=None, address=text, prefix=24, family="inet") for text in addresses]
    assert are_ready(found) is ready


def make_guest(vmid: int) -> Guest:
    found = Guest.read({"vmid": vmid, "node": "pve1", "type": "lxc"})
    assert found is not None
    return found


def test_pages() -> None:
    """Every guest within reach once, none beyond it, in pages of any size; no page behind the last."""
    guests = [make_guest(vmid) for vmid in range(100, 160)]
    reach = ((105, 109), (120, 145))
    within = [vmid for vmid in range(100, 160) if 105 <= vmid <= 109 or 120 <= vmid <= 145]
    for limit in (1, 2, 5, 30, 31, 100):
        seen: list[int] = []
        after: int | None = 0
        while after is not None:
            page, after = page_of(guests, reach, after, limit)
            assert len(page) <= limit and (after is None or len(page) == limit)
            seen += [guest.vmid for guest in page]
        assert seen == within


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        ((GuestKind.LXC, GuestKind.QEMU), {"net0": "virtio"}),
        ((GuestKind.QEMU, GuestKind.LXC), {"net0": "name=eth0,bridge=vmbr0"}),
    ],
)
def test_another_guest_in_between(kinds: tuple[GuestKind, ...], options: dict[str, Any]) -> None:
    """Node policy decides about the guest that is changed: what is nothing in a container, a card without a bridge, is
    QEMU's own network in the machine that has its vmid a moment later."""
    found = iter(GuestRef(7121, kind, "pve1") for kind in kinds)
    changed: list[GuestKind] = []

    def set_config(guest: GuestRef, *_: Any, **__: Any) -> None:
        changed.append(guest.kind)

    def make(asker: Any, change: Any, act: Any) -> Any:
        act()
        return SimpleNamespace(audit_id="au_1")

    services: Any = SimpleNamespace(
        guests=SimpleNamespace(find=lambda vmid: next(found)),
        policy=NodePolicy(PolicyConfig()),
        config=SimpleNamespace(node="pve1"),
        pve=SimpleNamespace(guests=SimpleNamespace(set_config=set_config, config=lambda *_, **__: CONFIG)),
        changes=SimpleNamespace(make=make),
    )
    call: Any = SimpleNamespace(
        vmid=7121,
        body=GuestPatch(options=options),
        environ={},
        event=Event.GUEST_CONFIG,
        action=Action.GUEST_CONFIG,
        actor=SimpleNamespace(token_id="tk_1", token_name="one"),
        remote="::1",
        request_id="req_1",
    )
    services.policy.require(describe_edit(services, call))
    if kinds[1] is GuestKind.LXC:
        edit_guest(services, call)
        assert changed == [GuestKind.LXC]
    else:
        with pytest.raises(PolicyRefused):
            edit_guest(services, call)
        assert changed == []


def test_pools() -> None:
    """Those with somebody within reach, and all of them for one who reaches everybody."""
    pools = [Pool(name="empty", comment=""), Pool(name="web", comment="")]
    members = {"web": frozenset((101, 205))}
    assert [(pool.name, vmids) for pool, vmids in pools_within(pools, members, ((100, 199),))] == [("web", [101])]
    assert [pool.name for pool, _ in pools_within(pools, members, ((300, 399),))] == []
    assert [pool.name for pool, _ in pools_within(pools, members, ALL)] == ["empty", "web"]


@pytest.mark.parametrize("end", ["\n", "\r", "\x0b", "\x85", "\u2028"])
def test_an_option_is_one_line(end: str) -> None:
    """PVE's configuration files have a line for each, and PVE takes names of domains on several; a description has as
    many as it likes, each of them a comment there."""
    with pytest.raises(InvalidRequest):
        Edit(kind=GuestKind.LXC, options={"searchdomain": f"a.example{end}b.example"})
    Edit(kind=GuestKind.LXC, options={"description": f"one{end}two", "env": "A=1\0B=2"})


def test_a_change_is_no_larger_than_its_record() -> None:
    """What the audit log cannot hold is refused as what it is, and not as a log that is away."""
    with pytest.raises(InvalidRequest):
        Edit(kind=GuestKind.QEMU, options={f"net{number}": "x" * 8192 for number in range(64)})

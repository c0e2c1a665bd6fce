"""Where a guest is, by the cluster's own file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.errors import GuestNotFound, NodeNotReady
from gateway.exec.order import GuestKind
from gateway.pve.guests import GuestMap
from gateway.pve.models import GuestRef


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    known = {
        "100": {"node": "pve1", "type": "lxc", "version": 4},
        "301": {"node": "pve2", "type": "qemu", "version": 5},
        "302": {"node": "pve2", "type": "openvz", "version": 5},
    }
    (tmp_path / ".vmlist").write_text(json.dumps({"version": 6, "ids": known}))
    return tmp_path


def test_find(etc: Path) -> None:
    """On this node or another, of either kind."""
    guests = GuestMap(etc, "pve1")
    assert guests.find(100) == GuestRef(100, GuestKind.LXC, "pve1")
    assert guests.find(301) == GuestRef(301, GuestKind.QEMU, "pve2")


@pytest.mark.parametrize("vmid", [101, 302])
def test_no_guest(etc: Path, vmid: int) -> None:
    """Unknown, or of a kind that PVE no longer has."""
    with pytest.raises(GuestNotFound):
        GuestMap(etc, "pve1").find(vmid)


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"ids": []}', '{"version": 1}'])
def test_no_file(tmp_path: Path, text: str | None) -> None:
    """Without pmxcfs nobody knows: that is no 404."""
    if text is not None:
        (tmp_path / ".vmlist").write_text(text)
    with pytest.raises(NodeNotReady):
        GuestMap(tmp_path, "pve1").find(100)

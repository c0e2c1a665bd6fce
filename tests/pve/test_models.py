"""What PVE tells, read: names before URLs, 0/1 booleans, texts for numbers, tags, members that are missing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.errors import InvalidRequest
from gateway.exec.order import GuestKind
from gateway.pve import ids
from gateway.pve.answer import read_json
from gateway.pve.models import Guest, GuestConfig, GuestStatus, Snapshot
from gateway.pve.resources import Pool, Storage, Volume
from gateway.pve.scalars import flag, number

UPID = "UPID:pve1:0000C350:0012D687:6920A1B2:vzstart:101:gateway@pve!web:"


@pytest.mark.parametrize(
    ("parse", "good"),
    [
        (ids.parse_vmid, [100, 999_999_999, "101"]),
        (ids.parse_node, ["pve1", "a", "A-1", "x" * 63]),
        (ids.parse_storage, ["local", "local-lvm", "a.b_c"]),
        (ids.parse_snapshot, ["a1", "Before_it-all", "x" * 40]),
        (ids.parse_pool, ["ci", "ci/one/two", "a.b"]),
        (ids.parse_tag, ["prod", "v1.2", "a+b", "_x", "Prod"]),
        (ids.parse_volume, ["local:vztmpl/debian-13.tar.zst", "local-lvm:vm-101-disk-0", "nas:101/vm-101-disk-0.raw"]),
        (ids.parse_upid, [UPID, UPID.replace("0012D687", "10012D687"), UPID.replace(":101:", "::")]),
    ],
)
def test_good_names(parse: Any, good: list[Any]) -> None:
    """They are what they were; a number stays one."""
    for name in good:
        assert str(parse(name)) == str(name)


@pytest.mark.parametrize(
    ("parse", "bad"),
    [
        (ids.parse_vmid, [99, 10**9, -1, 0, True, None, 1.5, "0101", "1e3", "101 ", "../version", "१०१"]),
        (ids.parse_node, ["", "-a", "a-", "a.b", "a/b", "..", "x" * 64, None, "a\n"]),
        (ids.parse_storage, ["", "1a", "a/b", "..", "a:b", "a b", None]),
        (ids.parse_snapshot, ["", "1a", "a", "current", "vzdump", "a/b", "x" * 41, "a b", "..", None]),
        (ids.parse_pool, ["", "/", "a/", "a//b", "a/b/c/d", "..", "a b", None]),
        (ids.parse_tag, ["", "-a", "a b", "a;b", "a,b", "ä", None]),
        (ids.parse_volume, ["", "local", "local:", "local:../x", "local:a/../b", "local:a//b", "local:/x", "/etc/x"]),
        (ids.parse_volume, ["a:b c", "local:a?b", "local:a%2e", None]),
        (ids.parse_upid, ["", "UPID:", UPID[:-1], UPID + "x", UPID.replace("pve1", "../x"), "x" + UPID, None, 7]),
        (ids.parse_upid, [UPID.replace("vzstart", "a/b"), UPID.replace("gateway", "gate way")]),
    ],
)  # fmt: skip
def test_impossible_names(parse: Any, bad: list[Any]) -> None:
    """Nothing else passes, and the error says what would."""
    for name in bad:
        with pytest.raises(InvalidRequest) as refused:
            parse(name)
        (field,) = refused.value.evidence["errors"]
        assert field["message"] and field["path"]


def test_upid_says_what_it_names() -> None:
    """Node, time, kind, guest and who began it."""
    upid = ids.parse_upid(UPID)
    assert (upid.node, upid.pid, upid.start, upid.type, upid.vmid, upid.user) == (
        "pve1", 0xC350, 0x6920A1B2, "vzstart", 101, "gateway@pve!web",
    )  # fmt: skip
    assert ids.parse_upid(UPID.replace(":101:", "::")).vmid is None
    assert ids.parse_upid(UPID.replace(":101:", ":backup:")).vmid is None


def test_guest_of_the_list() -> None:
    """Numbers that are texts, 0/1, joined tags; what an offline node does not know is None."""
    guest = Guest.read({
        "id": "lxc/101", "type": "lxc", "vmid": "101", "node": "pve1", "name": 7, "status": "running",
        "template": "0", "tags": "prod;web, x", "maxcpu": "2", "maxmem": "1073741824", "uptime": 12.7,
        "hastate": "started", "cpu": "0.25",
    })  # fmt: skip
    assert guest is not None
    assert (guest.vmid, guest.kind, guest.name, guest.template) == (101, GuestKind.LXC, "7", False)
    assert guest.tags == ("prod", "web", "x") and guest.memory == 1 << 30 and guest.uptime == 12
    assert guest.ha_state == "started" and guest.cpu_used == 0.25 and guest.pool is None and guest.lock is None
    bare = Guest.read({"type": "qemu", "vmid": 102, "node": "pve2"})
    assert bare is not None and (bare.status, bare.tags, bare.memory) == ("unknown", (), None)
    others: list[dict[str, Any]] = [
        {},
        {"type": "storage", "vmid": 1, "node": "a"},
        {"type": "lxc", "node": "a"},
        {"type": []},
    ]
    assert [Guest.read(odd) for odd in others] == [None] * 4


@pytest.mark.parametrize("value", [None, "", [], {}, "x", "1e999", "inf", "nan"])
def test_what_is_no_number(value: Any) -> None:
    """None, never an error."""
    assert number(value) is None
    assert flag(value) is False


def test_status() -> None:
    """HA, locks, a machine that is paused."""
    status = GuestStatus.read(301, {"status": "running", "qmpstatus": "paused", "ha": {"managed": 1}, "lock": "backup"})
    assert (status.running, status.paused, status.ha_managed, status.lock) == (True, True, True, "backup")
    assert GuestStatus.read(301, {"ha": None}).ha_managed is False


def test_config_with_pending() -> None:
    """What waits for the next start: new values, and options that will be gone."""
    config = GuestConfig.read(
        {"hostname": "a", "memory": 512, "tags": "x;y", "digest": "d", "lxc": [["lxc.x", "y"]], "description": "n\n"},
        [
            {"key": "memory", "value": 512, "pending": 1024},
            {"key": "onboot", "value": 1, "delete": 1},
            {"key": "cores"},
        ],
    )
    assert config.options == {"hostname": "a", "memory": "512", "tags": "x;y", "description": "n\n"}
    assert (config.name, config.notes, config.tags, config.digest) == ("a", "n\n", ("x", "y"), "d")
    assert config.pending == {"memory": "1024", "onboot": None}


def test_others() -> None:
    """Snapshots without `current`, volumes, storages, pools with members of other kinds."""
    assert Snapshot.read({"name": "current"}) is None
    snapshot = Snapshot.read({"name": "a1", "snaptime": "17", "vmstate": 1})
    assert snapshot is not None and (snapshot.made_at, snapshot.with_memory) == (17, True)
    volume = Volume.read({"volid": "local:backup/x", "vmid": "101", "subtype": "lxc", "protected": 1, "ctime": 3})
    assert volume is not None and (volume.vmid, volume.kind, volume.protected) == (101, GuestKind.LXC, True)
    storage = Storage.read("pve1", {"storage": "local", "content": "vztmpl,backup", "active": "1", "avail": "5"})
    assert storage is not None and storage.content == ("backup", "vztmpl") and storage.available == 5
    members = [{"type": "lxc", "vmid": 101}, {"type": "storage", "storage": "local"}, {"type": "x"}, "odd"]
    pool = Pool.read({"poolid": "ci", "members": members})
    assert pool is not None and (pool.guests, pool.storages) == ((101,), ("local",))


def test_thousand_guests_are_quickly_read() -> None:
    """A list of 1,000 guests, read and typed, takes a few times what JSON alone does, never hundreds of ms."""
    row = {
        "type": "lxc",
        "node": "pve1",
        "status": "running",
        "tags": "a;b",
        "maxmem": 1 << 30,
        "cpu": 0.1,
        "uptime": 9,
    }
    data = json.dumps({"data": [{**row, "vmid": vmid, "name": f"guest-{vmid}"} for vmid in range(100, 1100)]}).encode()

    def cost(work: Any) -> float:
        times = []
        for _ in range(7):
            begun = time.process_time()
            work()
            times.append(time.process_time() - begun)
        return min(times)

    took = cost(lambda: [Guest.read(row) for row in read_json([data], 16 << 20)["data"]])
    assert took < 0.05 + 3 * cost(lambda: json.loads(data))


@pytest.mark.parametrize("members", [1, True, 1.5, "7101", {"vmid": 7101}, [1, None]])
def test_members_of_a_pool_that_are_none(members: Any) -> None:
    """What is no list of objects is no member, and no fault of ours."""
    found = Pool.read({"poolid": "web", "members": members})
    assert found is not None and found.guests == ()

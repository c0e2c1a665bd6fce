"""Making virtual machines: of empty disks, of images, of backups; whole or not at all, under grants and node policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.gateways import Gateway
from tests.guests.made import assert_nothing_left, known
from tests.pvesim import pmxcfs
from tests.pvesim.api import storages
from tests.pvesim.api.process import Api as PveProcess

pytestmark = pytest.mark.usefixtures("swept")
FIRST, LAST = 7300, 7319
PASSWORD = "correct-horse-battery"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJr0Zb7sXhq2b0a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5 alice@example"
IMAGE, CD = "local:import/cloud-13.qcow2", "local:iso/debian-13.iso"
Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def images(pve: PveProcess) -> Iterator[None]:
    """An image of 1 GiB, one that policy does not name, and a CD."""
    paths = [storages.parse(name).path for name in (IMAGE, "local:import/other.qcow2", CD)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(1 << 30)
    yield
    for path in paths:
        path.unlink()


def create(api: Api, wait: float = 60, **wish: Any) -> Answer:
    return api.request("POST", f"/guests?wait={wait:g}", {"type": "qemu", **wish}, timeout=90)


def config(vmid: int, node: str = "pve1") -> set[str]:
    return set((pmxcfs.ROOT / "nodes" / node / "qemu-server" / f"{vmid}.conf").read_text().splitlines())


def back_up(api: Api, vmid: int) -> str:
    answer = api.request("POST", f"/guests/{vmid}/backups?wait=60", {"storage": "local"}, timeout=90)
    assert answer.status == 200, answer.body
    volume: str = answer.json()["volume"]
    return volume


def assert_no_secret(gateway: Gateway, *texts: bytes) -> None:
    everything = [*texts, gateway.audit_log.read_bytes()]
    everything += [gateway.log(name).encode() for name in ("web", "supervisor", "audit")]
    for text in everything:
        assert PASSWORD.encode() not in text and KEY.split()[1].encode() not in text


# ---- it works


def test_cloud_image(api: Api, gateway: Gateway, records: Records) -> None:
    """One request makes a machine of a cloud image, tells it user, keys, password and address, starts it and answers
    with the address that its agent tells; a command runs in it at once."""
    answer = create(
        api, name="web1", cores=2, memory=1024, cpu="host", storage="local-lvm",
        disks=[{"image": IMAGE, "size": "8G"}, {"size": "2G", "storage": "local"}],
        networks=[{"ipv4": "10.77.3.5/24", "gateway": "10.77.3.1", "vlan": 12, "mac": "BC:24:11:00:00:07"}],
        user="debian", ssh_public_keys=[KEY], password=PASSWORD, nameservers=["10.77.3.1"], search_domain="example.org",
        tags=["ci", "blue"], notes="made by a test", serial_console=True, onboot=True, start=True, wait_for_address=30,
    )  # fmt: skip
    told = answer.json()
    assert answer.status == 201, answer.body
    vmid = told["vmid"]
    assert FIRST <= vmid <= LAST and (told["state"], told["type"]) == ("made", "qemu")
    assert [one["address"] for one in told["addresses"]] == ["10.77.3.5"]
    lines = config(vmid)
    assert {
        "name: web1", "cores: 2", "memory: 1024", "cpu: host", "agent: 1", "tags: blue;ci", "onboot: 1",
        f"scsi0: local-lvm:vm-{vmid}-disk-0,size=8G", f"scsi1: local:{vmid}/vm-{vmid}-disk-0.raw,size=2G",
        f"ide3: local-lvm:vm-{vmid}-cloudinit,media=cdrom,size=4M", "boot: order=scsi0", "scsihw: virtio-scsi-single",
        "serial0: socket", "vga: serial0", "ciuser: debian", "nameserver: 10.77.3.1", "searchdomain: example.org",
        "ipconfig0: gw=10.77.3.1,ip=10.77.3.5/24", "net0: virtio=BC:24:11:00:00:07,bridge=vmbr0,tag=12",
    } <= lines  # fmt: skip
    assert any(line.startswith("sshkeys: ssh-ed25519%20AAAA") for line in lines)
    assert api.run(vmid, ["echo", "up"])["stdout"] == "up\n"
    trail = records(told["audit_id"])
    assert [record["event"] for record in trail] == ["guest:create", "guest:outcome"]
    assert trail[0]["data"]["request"]["ssh_public_keys"] == ["alice@example"]
    assert trail[0]["data"]["then"] == ["set-up", "start"] and trail[1]["data"]["reason"] == "ok"
    assert PASSWORD.encode() not in api.get(f"/guests/{vmid}").body
    assert_no_secret(gateway, answer.body)


def test_to_be_installed(api: Api) -> None:
    """Empty disks, firmware, a CD that it starts from when there is nothing on them; no cloud-init unless asked."""
    answer = create(api, disks=[{"size": "32G"}], cd=CD, firmware="uefi", networks=[{}], agent=False)
    assert answer.status == 201, answer.body
    lines = config(answer.json()["vmid"])
    assert {f"ide2: {CD},media=cdrom", "boot: order=scsi0;ide2", "bios: ovmf", "machine: q35", "agent: 0"} <= lines
    assert any(line.startswith("efidisk0: local:") for line in lines)
    assert not [line for line in lines if line.startswith(("ide3", "ci", "ipconfig", "serial"))]


def test_cloud_init_untold(api: Api) -> None:
    """The drive alone: what it finds there is DHCP and the image's own user."""
    answer = create(api, disks=[{"image": IMAGE}], cloud_init=True, vmid=7310)
    assert answer.status == 201, answer.body
    assert "ide3: local:7310/vm-7310-cloudinit.qcow2,media=cdrom,size=4M" in config(7310)
    assert any("size=1G" in line for line in config(7310) if line.startswith("scsi0"))


def test_what_they_are_made_of(api: Api) -> None:
    """Images and CDs are listed as requests take them."""
    for content, name in (("import", IMAGE), ("iso", CD)):
        listed = api.get(f"/templates?content={content}").json()["templates"]
        assert name in [one["volume"] for one in listed] and all(f":{content}/" in one["volume"] for one in listed)


def test_without_wait(api: Api, records: Records) -> None:
    """202 once PVE has begun; it goes on without the client, and its outcome is recorded."""
    answer = create(api, wait=0, disks=[{"size": "1G"}])
    assert (answer.status, answer.json()["state"]) == (202, "making") and ":qmcreate:" in answer.json()["upid"]
    assert records(answer.json()["audit_id"])[-1]["data"]["reason"] == "ok"


def test_restore(api: Api, records: Records) -> None:
    """A backup comes back under another vmid, on another storage, with what is asked for changed; backups of machines
    and of containers are not taken for each other."""
    assert create(api, vmid=7301, name="kept", disks=[{"size": "2G"}], cd=CD, cloud_init=True).status == 201
    volume = back_up(api, 7301)
    answer = create(api, vmid=7302, backup=volume, storage="local-lvm", name="again", memory=256, start=True)
    assert answer.status == 201, answer.body
    brought = {"scsi0: local-lvm:vm-7302-disk-0,size=2G", f"ide2: {CD},media=cdrom"}
    assert {"name: again", "memory: 256", *brought} <= config(7302)
    trail = records(answer.json()["audit_id"])
    assert trail[0]["event"] == "guest:restore" and ":qmrestore:" in answer.json()["upid"]
    answer = create(api, vmid=7303, backup=volume, type="lxc")
    assert (answer.status, answer.json()["errors"][0]["path"]) == (422, "type"), answer.body
    assert 7303 not in known()


# ---- it fails, and nothing stays


@pytest.mark.parametrize(
    ("fault", "wish", "status", "code"),
    [
        ("no such image", {"disks": [{"size": "1G"}, {"image": "local:import/cloud-0"}]}, 404, "volume_not_found"),
        ("unknown storage", {"storage": "nowhere"}, 404, "storage_not_found"),
        ("unknown pool", {"pool": "nobody"}, 404, "pool_not_found"),
        ("full storage", {"storage": "local-lvm"}, 507, "storage_full"),
        ("start fails", {"start": True}, 502, "task_failed"),
        ("smaller than its image", {"disks": [{"image": IMAGE, "size": "500M"}]}, 409, "pve_rejected"),
        ("no agent answers", {"start": True, "wait_for_address": 1}, 504, "guest_without_address"),
    ],
)
def test_nothing_stays_of_a_failure(
    api: Api,
    gateway: Gateway,
    pve: PveProcess,
    records: Records,
    fault: str,
    wish: dict[str, Any],
    status: int,
    code: str,
) -> None:
    """B1 for machines: no guest, no volume; the request stands in the answer, without its secrets."""
    if fault == "full storage":
        pve.faults.fill("local-lvm")
    if fault == "start fails":
        pve.faults.add("task", "qmstart", text="start failed: QEMU exited with code 1", times=1)
    if fault == "no agent answers":
        quiet = Path("/var/run/qemu-server/7304.quirks.json")
        quiet.parent.mkdir(exist_ok=True)
        quiet.write_text(json.dumps({"away": True}))
    asked = {"disks": [{"size": "1G"}], "password": PASSWORD, "ssh_public_keys": [KEY], "name": "doomed", **wish}
    answer = create(api, vmid=7304, **asked)
    problem = answer.json()
    assert (answer.status, answer.code) == (status, code), answer.body
    assert problem["request"]["name"] == "doomed" and problem["request"]["password"] == "(not repeated)"
    assert_nothing_left(7304)
    assert records(problem["audit_id"])[0]["event"] == "guest:create"
    assert_no_secret(gateway, answer.body)


def test_answer_that_is_lost(api: Api, pve: PveProcess) -> None:
    """B10: PVE began and its answer was lost: the task is found and followed, nothing is made twice."""
    pve.faults.add("drop", "/nodes/[^/]+/qemu", method="POST", times=1)
    answer = create(api, vmid=7305, disks=[{"size": "1G"}])
    assert answer.status == 201 and 7305 in known(), answer.body


# ---- it is refused


@pytest.mark.parametrize(
    ("wish", "path"),
    [
        ({"type": "vm"}, "type"),
        ({"disks": [{}]}, "disks.0"),
        ({"disks": [{"size": "8"}]}, "disks.0.size"),
        ({"disks": [{"image": "/etc/shadow"}]}, "disks.0.image"),
        ({"disks": [{"image": "local:101/vm-101-disk-0.raw"}]}, "disks.0.image"),
        ({"disks": [{"image": "local:import/x.ova/disk.vmdk"}]}, "disks.0.image"),
        ({"disks": [{"image": "local:import/x,size=1"}]}, "disks.0.image"),
        ({"cd": "local:iso/../x.iso"}, "cd"),
        ({"cd": "local:import/x.iso"}, "cd"),
        ({"networks": [{"model": "virtio,bridge=vmbr1"}]}, "networks.0.model"),
        ({"networks": [{"ipv4": "10.0.0.5"}]}, "networks.0.ipv4"),
        ({"user": "root:x"}, "user"),
        ({"user": "debian", "cloud_init": False}, "user"),
        ({"start": True, "wait_for_address": 5, "agent": False}, "agent"),
        ({"template": "local:vztmpl/x.tar.gz"}, "template"),
        ({"features": ["nesting"]}, "features"),
        ({"hookscript": "local:snippets/x.sh"}, "hookscript"),
        ({"args": "-device x"}, "args"),
        ({"backup": "local:backup/vzdump-qemu-7301-2026_01_01-00_00_00.vma.zst", "disks": [{"size": "1G"}]}, "disks"),
    ],
)
def test_bad_input(api: Api, wish: dict[str, Any], path: str) -> None:
    """422 with the field's path, before anything is recorded, asked or made."""
    before = known()
    answer = create(api, **wish)
    assert (answer.status, answer.code) == (422, "invalid_request"), answer.body
    assert path in [error["path"] for error in answer.json()["errors"]]
    assert known() == before


def test_node_policy(api: Api) -> None:
    """C11: an image that the node's policy does not name is refused by its key; so is what a backup brings along."""
    answer = create(api, vmid=7306, disks=[{"image": "local:import/other.qcow2"}])
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
    assert answer.json()["refused"][0]["key"] == "policy.images"
    assert create(api, vmid=7306, disks=[{"size": "1G"}]).status == 201
    path = pmxcfs.ROOT / "nodes/pve1/qemu-server/7306.conf"
    pmxcfs.write(path, path.read_text() + "args: -device x\nhostpci0: 01:00\n")
    answer = create(api, vmid=7307, backup=back_up(api, 7306))
    assert (answer.status, answer.code) == (403, "policy_refused"), answer.body
    assert {"option 'args'", "option 'hostpci0'"} == {refused["what"] for refused in answer.json()["refused"]}
    assert 7307 not in known()


def test_out_of_the_grant(api: Api, as_token: Callable[..., Api]) -> None:
    """404 before any look-up, for a vmid and for whose backup it is alike."""
    narrow = as_token("guest:create", "7318-7319")
    for wish in ({"vmid": 7301}, {"backup": "local:backup/vzdump-qemu-7301-2026_01_01-00_00_00.vma.zst"}):
        answer = create(narrow, **wish)
        assert (answer.status, answer.code) == (404, "guest_not_found"), answer.body

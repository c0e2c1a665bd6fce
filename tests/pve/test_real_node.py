"""The whole client against a PVE node: the real one that PVE_TEST_URL and PVE_TEST_TOKEN name, else the simulated one.

| variable | what it says |
|---|---|
| PVE_TEST_URL | `https://pve1:8006/api2/json`; with PVE_TEST_TOKEN, `USER@REALM!NAME=SECRET`, of what `setup` grants |
| PVE_TEST_CA | the file of the CA that signed its certificate; default /etc/pve/pve-root-ca.pem |
| PVE_TEST_NODE | the node that guests are made on; default the first that is online |
| PVE_TEST_STORAGE | where their disks go, with snapshots; default local-lvm |
| PVE_TEST_BACKUPS | where backups go, and the template is; default local |
| PVE_TEST_TEMPLATE | the template, `local:vztmpl/NAME`; default the first that is there |
| PVE_TEST_VMIDS | the vmids that it takes, of which it makes three at most at a time; default 99000-99099 |

It makes guests of 1 to 2 GiB under free ones of these vmids, with the tag `pve-exec-gateway-test`, backs one up, and
destroys all of it; also, before it begins, what a run that was broken off has left under these vmids with this tag. It
touches nothing else.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from gateway import errors_pve as errors
from gateway.errors import GuestNotFound, GuestNotRunning
from gateway.exec.order import GuestKind
from gateway.guests.machine import DiskSpec, MachineRequest
from gateway.guests.network import CardSpec
from gateway.guests.origins import describe_restored
from gateway.pve.caller import Options
from gateway.pve.ids import parse_upid, parse_volume
from gateway.pve.models import GuestRef
from gateway.pve.tasks import Task
from gateway.pve.token import read_token
from tests.pve.nodes import TAG, VMIDS, Real, real_node, simulated_node
from tests.pvesim.api.process import running_api

_TASK_SECONDS = 300


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """The node, by a token that may what the web's may."""
    file = tmp_path_factory.mktemp("token") / "pve.token"
    url, token = os.environ.get("PVE_TEST_URL"), os.environ.get("PVE_TEST_TOKEN")
    if url and token:
        with real_node(url, token, file) as node:
            yield node
        return
    request.getfixturevalue("node")
    with running_api() as api, simulated_node(api, file) as node:
        yield node


@pytest.fixture
def guest(real: Real) -> Iterator[GuestRef]:
    """A stopped container, destroyed afterwards."""
    made = real.make("gateway-test")
    yield made
    real.destroy(made)


def test_what_there_is(real: Real) -> None:
    """Nodes, storages, templates and pools are told with their types."""
    (node,) = [node for node in real.pve.inventory.nodes() if node.name == real.node]
    assert node.online and node.cpus and node.memory
    storages = {storage.name: storage for storage in real.pve.storages.on_node(real.node)}
    assert {"rootdir"} <= set(storages[real.storage].content) and storages[real.storage].active
    assert real.template in {volume.volume for volume in real.pve.storages.volumes(real.node, real.backups)}
    assert isinstance(real.pve.inventory.pools(), list)
    assert real.pve.storages.appliances(real.node)
    assert 100 <= real.pve.inventory.next_vmid() <= 999_999_999
    assert real.free_vmid() in VMIDS


def test_life(real: Real, guest: GuestRef) -> None:
    """Made, changed, started, seen, stopped."""
    pve = real.pve
    (listed,) = [found for found in pve.inventory.guests(tag=TAG) if found.vmid == guest.vmid]
    assert (listed.ref, listed.name, listed.template) == (guest, "gateway-test", False)
    before = pve.guests.config(guest)
    pve.guests.set_config(guest, {"description": "ä\nb", "memory": 80, "onboot": False}, digest=before.digest)
    after = pve.guests.config(guest)
    assert after.notes.rstrip() == "ä\nb" and after.options["memory"] == "80" and after.digest != before.digest
    with pytest.raises(errors.GuestChanged):
        pve.guests.set_config(guest, {"memory": 90}, digest=before.digest)
    pve.guests.set_config(guest, {"tags": f"{TAG};second"})
    assert set(pve.guests.config(guest).tags) == {TAG, "second"}
    real.done(pve.guests.start(guest))
    assert pve.guests.status(guest).running
    assert isinstance(pve.guests.addresses(guest), list)
    with pytest.raises(errors.GuestRunning):
        real.done(pve.guests.start(guest))
    with pytest.raises(errors.GuestRunning):
        real.done(pve.guests.delete(guest))
    real.done(pve.guests.stop(guest))
    assert not pve.guests.status(guest).running
    with pytest.raises(GuestNotRunning):
        real.done(pve.guests.stop(guest))


def test_snapshots(real: Real, guest: GuestRef) -> None:
    """Made, listed, gone back to, removed; names that are taken or unknown are told."""
    pve = real.pve
    real.done(pve.snapshots.create(guest, "before", description="as it was"))
    assert [(found.name, found.description) for found in pve.snapshots.list(guest)] == [("before", "as it was")]
    with pytest.raises(errors.SnapshotExists):
        real.done(pve.snapshots.create(guest, "before"))
    pve.guests.set_config(guest, {"memory": 96})
    real.done(pve.snapshots.rollback(guest, "before"))
    assert pve.guests.config(guest).options["memory"] == "64"
    with pytest.raises(errors.SnapshotNotFound):
        real.done(pve.snapshots.rollback(guest, "never"))
    real.done(pve.snapshots.delete(guest, "before"))
    assert pve.snapshots.list(guest) == []


def test_clone_and_template(real: Real, guest: GuestRef) -> None:
    """A full copy of a guest, a linked one of a template, which does not start."""
    pve = real.pve
    copy = real.free_vmid()
    real.done(pve.guests.clone(guest, copy, name="gateway-copy", full=True))
    template = pve.inventory.find(copy)
    linked: GuestRef | None = None
    try:
        real.done(pve.guests.make_template(template))
        assert pve.guests.status(template).template or pve.guests.config(template).options.get("template") == "1"
        with pytest.raises(errors.GuestIsTemplate):
            real.done(pve.guests.start(template))
        vmid = real.free_vmid()
        real.done(pve.guests.clone(template, vmid, name="gateway-linked"))
        linked = pve.inventory.find(vmid)
        assert pve.guests.config(linked).name == "gateway-linked"
    finally:
        if linked is not None:
            real.destroy(linked)
        real.destroy(template)


def test_backup_and_restore(real: Real, guest: GuestRef) -> None:
    """Backed up, listed, restored under another vmid, removed."""
    pve = real.pve
    real.done(pve.storages.back_up(guest, real.backups, mode="stop", notes="by a test"))
    backup = pve.storages.backups(guest, real.backups)[0]
    assert (backup.vmid, backup.content) == (guest.vmid, "backup") and backup.notes.strip() == "by a test"
    name = parse_volume(backup.volume)
    try:
        vmid = real.free_vmid()
        real.done(pve.guests.restore(real.node, GuestKind.LXC, vmid, name, {"storage": real.storage}))
        restored = pve.inventory.find(vmid)
        assert pve.guests.config(restored).name == "gateway-test"
        real.destroy(restored)
    finally:
        removal = pve.storages.delete_volume(real.node, name)
        if removal is not None:
            real.done(removal)
    assert name not in [found.volume for found in pve.storages.backups(guest, real.backups)]


def test_machine(real: Real) -> None:
    """A virtual machine as POST /guests makes it: made, started, changed, resized, backed up, restored."""
    pve, vmid = real.pve, real.free_vmid()
    wish = MachineRequest(
        type="qemu", name="gateway-vm", storage=real.storage, memory=64, cores=1, tags=[TAG], serial_console=True,
        disks=[DiskSpec(size="1G")], networks=[CardSpec(ipv4="192.0.2.9/24")], user="ops", agent=False,
    )  # fmt: skip
    real.done(pve.guests.create(real.node, GuestKind.QEMU, vmid, wish.options()))
    machine = pve.inventory.find(vmid)
    options = pve.guests.config(machine).options
    assert machine.kind is GuestKind.QEMU and options["ipconfig0"] == "ip=192.0.2.9/24" and options["ciuser"] == "ops"
    real.done(pve.guests.resize(machine, "scsi0", "2G"))
    real.done(pve.guests.start(machine))
    assert pve.guests.status(machine).running
    with pytest.raises(errors.GuestRunning):
        real.done(pve.guests.start(machine))
    real.done(pve.guests.stop(machine))
    real.done(pve.storages.back_up(machine, real.backups, mode="stop"))
    name = parse_volume(pve.storages.backups(machine, real.backups)[0].volume)
    try:
        copy = real.free_vmid()
        restore = MachineRequest(type="qemu", backup=name, storage=real.storage, name="gateway-again", memory=128)
        assert describe_restored(pve, real.node, restore).raw_keys == ()
        real.done(pve.guests.restore(real.node, GuestKind.QEMU, copy, name, restore.options()))
        restored = pve.inventory.find(copy)
        options = pve.guests.config(restored).options
        assert (options["name"], options["memory"]) == ("gateway-again", "128") and "size=2G" in options["scsi0"]
        real.destroy(restored)
    finally:
        removal = pve.storages.delete_volume(real.node, name)
        if removal is not None:
            real.done(removal)
        real.destroy(machine)


def test_resize(real: Real, guest: GuestRef) -> None:
    """Larger by what was asked; smaller never."""
    real.done(real.pve.guests.resize(guest, "rootfs", "+1G"))
    assert "size=2G" in real.pve.guests.config(guest).options["rootfs"]
    with pytest.raises(errors.PveRejected):
        real.done(real.pve.guests.resize(guest, "rootfs", "1G"))


def test_what_is_not_there(real: Real) -> None:
    """Each of PVE's 500s is the 404 or 409 that it means."""
    pve, vmid = real.pve, real.free_vmid()
    nobody = GuestRef(vmid, GuestKind.LXC, real.node)
    with pytest.raises(GuestNotFound):
        pve.guests.status(nobody)
    with pytest.raises(GuestNotFound):
        pve.guests.config(nobody)
    with pytest.raises(GuestNotFound):
        real.done(pve.guests.start(nobody))
    with pytest.raises(GuestNotFound):
        pve.inventory.find(vmid)
    with pytest.raises(errors.NodeNotFound):
        pve.guests.status(GuestRef(vmid, GuestKind.LXC, "nosuchnode"))
    with pytest.raises((errors.StorageNotFound, errors.PveDenied)):
        pve.storages.volumes(real.node, "nosuchstorage")
    with pytest.raises(errors.TaskNotFound):
        pve.tasks.status(parse_upid(f"UPID:{real.node}:0000C350:0012D687:6920A1B2:vzstart:101:root@pam:"))
    bad: Options = {"ostemplate": real.template, "rootfs": "nosuchstorage:1", "unprivileged": True}
    with pytest.raises((errors.StorageNotFound, errors.PveDenied)):
        real.done(pve.guests.create(real.node, GuestKind.LXC, vmid, bad))
    missing: Options = {
        "ostemplate": f"{real.backups}:vztmpl/none.tar.zst",
        "rootfs": f"{real.storage}:1",
        "unprivileged": True,
    }
    with pytest.raises(errors.VolumeNotFound):
        real.done(pve.guests.create(real.node, GuestKind.LXC, vmid, missing))


def test_taken_vmid(real: Real, guest: GuestRef) -> None:
    """Nothing happens to the guest that has it."""
    options: Options = {"ostemplate": real.template, "rootfs": f"{real.storage}:1", "unprivileged": True}
    with pytest.raises(errors.GuestExists):
        real.done(real.pve.guests.create(real.node, GuestKind.LXC, guest.vmid, options))
    with pytest.raises(errors.GuestExists):
        real.pve.inventory.next_vmid(guest.vmid)
    assert real.pve.guests.config(guest).name == "gateway-test"


def test_what_only_root_may(real: Real, guest: GuestRef) -> None:
    """A token is told that it is for root@pam."""
    with pytest.raises(errors.PveRootOnly):
        real.pve.guests.set_config(guest, {"dev0": "/dev/null"})
    with pytest.raises(errors.PveRootOnly):
        real.pve.guests.set_config(guest, {"mp0": "/tmp,mp=/mnt"})


def test_tasks(real: Real, guest: GuestRef) -> None:
    """A task's state, log and place in the list."""
    pve = real.pve
    task = real.done(pve.guests.start(guest))
    assert task.ok and pve.tasks.status(task.upid).ok
    listed = pve.tasks.recent(real.node, vmid=guest.vmid, limit=10)
    assert str(task.upid) in [str(found.upid) for found in listed]
    lines = pve.tasks.log(task.upid)
    assert lines and lines[0].number == 1
    assert pve.tasks.log(task.upid, start=len(lines)) == []
    assert pve.tasks.tail(task.upid)[-1].startswith("TASK OK")
    pve.tasks.stop(task.upid)


def test_waits_cost_little(real: Real, guest: GuestRef) -> None:
    """Thirty who wait for one task are told at once, and have cost ten requests a second at most."""
    upid = real.pve.guests.start(guest)
    ends: list[Task | None] = []
    threads = [
        threading.Thread(target=lambda: ends.append(real.pve.watcher.wait(upid, _TASK_SECONDS))) for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 30 and all(task is not None and task.ok for task in ends)


def test_calls_add_little(real: Real, guest: GuestRef) -> None:
    """A call takes at most 15 ms (p50) longer than the same on a bare connection that is kept."""
    line = real.api._connect()._lines
    ours, bare = [], []
    for _ in range(30):
        begun = time.perf_counter()
        real.pve.guests.status(guest)
        ours.append(time.perf_counter() - begun)
        with line.take() as held:
            begun = time.perf_counter()
            token = read_token(real.api._token_file, "the token")
            headers = {"Authorization": f"PVEAPIToken={token.user}!{token.name}={token.secret}"}
            url = f"{real.api._url}/nodes/{guest.node}/lxc/{guest.vmid}/status/current"
            held.session.get(url, headers=headers, timeout=30).raise_for_status()
            bare.append(time.perf_counter() - begun)
            held.whole = True
    added = statistics.median(ours) - statistics.median(bare)
    assert added <= 0.015, f"{added * 1000:.1f} ms"

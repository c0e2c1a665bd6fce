"""What PVE does wrong, on the simulated node: nothing is lost, invented or asked twice, and each failure is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gateway import errors_pve as errors
from gateway.exec.order import GuestKind
from gateway.pve.caller import Options
from gateway.pve.client import PveApi
from gateway.pve.ids import parse_upid
from gateway.pve.models import GuestRef
from gateway.pve.service import Pve
from tests.pve.nodes import Real, simulated_node
from tests.pvesim import pmxcfs
from tests.pvesim.api import access, ha
from tests.pvesim.api.faults import Faults
from tests.pvesim.api.process import Api, running_api


@pytest.fixture(scope="module")
def simulated(node: None) -> Iterator[Api]:
    """An API with a second node."""
    with running_api(peers=["zfar"]) as api:
        yield api


@pytest.fixture(scope="module")
def real(simulated: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with simulated_node(simulated, tmp_path_factory.mktemp("faults") / "pve.token") as made:
        yield made


@pytest.fixture(scope="module")
def shared_guest(real: Real) -> Iterator[GuestRef]:
    made = real.make("gateway-faults")
    yield made
    real.destroy(made)


@pytest.fixture
def guest(real: Real, shared_guest: GuestRef, faults: Faults) -> GuestRef:
    """A stopped container."""
    if real.pve.guests.status(shared_guest).running:
        real.done(real.pve.guests.stop(shared_guest))
    return shared_guest


@pytest.fixture
def faults(simulated: Api) -> Iterator[Faults]:
    """None but what the test adds."""
    simulated.faults.clear()
    yield simulated.faults
    simulated.faults.clear()


@pytest.mark.parametrize("kind", ["drop", "garbage"])
def test_lost_answer_to_a_start(real: Real, guest: GuestRef, faults: Faults, kind: str) -> None:
    """PVE has started it and nobody heard: that is unknown, and the task to look at is named."""
    faults.add(kind, ".*/status/start", method="POST", times=1)
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        real.pve.guests.start(guest)
    task = real.done(parse_upid(unknown.value.evidence["upid"]))
    assert task.upid.type == "vzstart" and real.pve.guests.status(guest).running


@pytest.mark.parametrize(("kind", "error"), [("drop", errors.PveTimeout), ("garbage", errors.PveNonsense)])
def test_lost_answer_to_a_question(
    real: Real, guest: GuestRef, faults: Faults, kind: str, error: type[errors.PveTimeout | errors.PveNonsense]
) -> None:
    """It may be asked again."""
    faults.add(kind, ".*/config", method="GET", times=2)
    with pytest.raises(error) as lost:
        real.pve.guests.config(guest, pending=False)
        real.pve.guests.config(guest, pending=False)
    assert lost.value.retryable
    faults.clear()
    assert real.pve.guests.config(guest).name == "gateway-faults"


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (500, "got lock timeout - aborting command", errors.GuestLocked),
        (595, "No route to host", errors.NodeUnreachable),
        (596, "Connection timed out", errors.OutcomeUnknown),
        (599, "Too many redirections", errors.OutcomeUnknown),
        (500, "something nobody has heard of", errors.PveFailed),
    ],
)
def test_statuses(
    real: Real, guest: GuestRef, faults: Faults, status: int, text: str, error: type[errors.PveFailed]
) -> None:
    """pveproxy's own, and words of PVE's."""
    faults.add("status", ".*/config", method="PUT", status=status, text=text)
    with pytest.raises(error):
        real.pve.guests.set_config(guest, {"memory": 96})


def test_node_that_is_away(real: Real, faults: Faults) -> None:
    """A guest there cannot be reached; those here can."""
    faults.lose_node("zfar", 595)
    with pytest.raises(errors.NodeUnreachable):
        real.pve.guests.status(GuestRef(999_999, GuestKind.LXC, "zfar"))
    faults.lose_node("zfar", 596)
    with pytest.raises(errors.PveTimeout):
        real.pve.guests.status(GuestRef(999_999, GuestKind.LXC, "zfar"))
    assert real.pve.inventory.guests() is not None


def test_no_quorum(real: Real, guest: GuestRef, faults: Faults) -> None:
    """Nothing is changed, and reading goes on."""
    faults.lose_quorum()
    with pytest.raises(errors.NoQuorum):
        vmid = real.pve.inventory.next_vmid()
        options: Options = {"ostemplate": real.template, "rootfs": f"{real.storage}:1", "unprivileged": True}
        real.done(real.pve.guests.create(real.node, GuestKind.LXC, vmid, options))
    assert real.pve.guests.config(guest).name == "gateway-faults"


def test_full_storage(real: Real, guest: GuestRef, faults: Faults) -> None:
    """No room is a 507, in a task's end too; nothing stays of the guest."""
    faults.fill(real.storage)
    vmid = real.pve.inventory.next_vmid()
    options: Options = {"ostemplate": real.template, "rootfs": f"{real.storage}:1", "unprivileged": True}
    with pytest.raises(errors.StorageFull):
        real.done(real.pve.guests.create(real.node, GuestKind.LXC, vmid, options))
    assert vmid not in [found.vmid for found in real.pve.inventory.guests()]


def test_task_that_fails(real: Real, guest: GuestRef, faults: Faults) -> None:
    """200 with a task that fails is a failure, with why and the log's end."""
    faults.add("task", "vzstart", text="startup for container failed", times=1)
    upid = real.pve.guests.start(guest)
    with pytest.raises(errors.TaskFailed, match="startup for container failed") as failed:
        real.done(upid)
    assert failed.value.evidence["upid"] == str(upid) and failed.value.evidence["log"]


def test_locked_guest(real: Real, guest: GuestRef, faults: Faults) -> None:
    """The start's task fails, the change at once; both are 423 and say which lock."""
    config = pmxcfs.ROOT / f"nodes/{real.node}/lxc/{guest.vmid}.conf"
    whole = config.read_text()
    try:
        pmxcfs.write(config, whole + "lock: backup\n")
        with pytest.raises(errors.GuestLocked) as locked:
            real.done(real.pve.guests.start(guest))
        assert locked.value.evidence["lock"] == "backup"
        with pytest.raises(errors.GuestLocked):
            real.done(real.pve.snapshots.create(guest, "locked"))
    finally:
        pmxcfs.write(config, whole)


def test_ha_managed_guest(real: Real, guest: GuestRef, faults: Faults) -> None:
    """Its start only asks the HA manager, and says so; it is destroyed with purge alone."""
    ha.manage("lxc", guest.vmid, "stopped")
    try:
        assert real.pve.guests.status(guest).ha_managed
        with pytest.raises(errors.GuestHaManaged):
            real.done(real.pve.guests.delete(guest))
        task = real.done(real.pve.guests.start(guest))
        assert task.only_requested and task.upid.type == "hastart"
    finally:
        ha.manage("lxc", guest.vmid, None)


def test_protected_guest(real: Real, guest: GuestRef, faults: Faults) -> None:
    """PVE's own protection stands."""
    real.pve.guests.set_config(guest, {"protection": True})
    try:
        with pytest.raises(errors.GuestProtected):
            real.done(real.pve.guests.delete(guest))
    finally:
        real.pve.guests.set_config(guest, {}, delete=["protection"])


def test_poor_and_revoked_tokens(
    real: Real, simulated: Api, guest: GuestRef, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Which privilege is missing is named; a token that is gone is told from one that may too little."""
    file = tmp_path_factory.mktemp("poor") / "pve.token"
    access.store_token(file, "poor-gateway@pve!a1", "secret", privileges=["VM.Audit"])
    api = PveApi(simulated.url, file, pmxcfs.ROOT / "pve-root-ca.pem")
    pve = Pve(api)
    assert pve.guests.status(guest).vmid == guest.vmid
    with pytest.raises(errors.PveDenied) as denied:
        pve.guests.start(guest)
    assert denied.value.evidence["privilege"] == "VM.PowerMgmt"
    assert denied.value.evidence["path"] == f"/vms/{guest.vmid}"
    access.set_secret("poor-gateway@pve!a1", None)
    with pytest.raises(errors.PveTokenRefused, match="setup"):
        pve.guests.status(guest)
    api.close()

"""What only root@pam may do: who gets there, what pvesh is run with, what is recorded, and what its failures become."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import errors_pve
from gateway.errors import (
    AuditUnavailable,
    GatewayError,
    GuestNotFound,
    InvalidRequest,
    NodeNotReady,
    PolicyRefused,
    SupervisorUnavailable,
    Unauthenticated,
)
from gateway.exec.origin import Origin
from gateway.policy.root import RootChange
from gateway.pve.root import Again, change_as_root
from gateway.supervisor.changes.pvesh import Said, call_at_once
from gateway.supervisor.link.client import SupervisorClient
from tests.exec.faults import stopped
from tests.exec.gateways import Gateway
from tests.exec.sockets import connect, socket_of
from tests.exec.waiting import BUSY, until
from tests.pvesim import pmxcfs
from tests.pvesim.api.process import running_api

NODE = "pve1"
VMID = 8801
ORIGIN = Origin("tk_1", "ci", (), (), "10.0.0.1", "req_1", root_guests=((100, 200),))
UPID = "UPID:pve1:0000C350:0012D687:6920A1B2:vzcreate:150:root@pam:"
NULL = {"dev0": "/dev/null,mode=0660"}


def same(_: str) -> Origin:
    """A token that may still, when its turn comes."""
    return ORIGIN


_SCRIPT = """#!/bin/sh
cd "$(dirname "$0")"
for word in "$@"; do printf '%s\\n' "$word" >> argv; done
env > environment
if [ -e wait ]; then : > waits; read -r _ < go; fi
[ -e out ] && cat out
[ -e err ] && cat err >&2
exit "$(cat code 2>/dev/null || echo 0)"
"""


class FakePvesh:
    """A program in pvesh's place: it notes what it is given, and says what it is told to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "pvesh"
        self.path.write_text(_SCRIPT)
        self.path.chmod(0o755)

    def reset(self) -> None:
        for path in self.directory.iterdir():
            if path != self.path:
                path.unlink()

    def say(self, *, code: int = 0, out: str = "", err: str = "") -> None:
        for name, text in (("code", str(code)), ("out", out), ("err", err)):
            (self.directory / name).write_text(text)

    @property
    def argv(self) -> list[str]:
        path = self.directory / "argv"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def shared_pvesh(tmp_path_factory: pytest.TempPathFactory) -> FakePvesh:
    return FakePvesh(tmp_path_factory.mktemp("pvesh"))


@pytest.fixture
def pvesh(shared_pvesh: FakePvesh) -> FakePvesh:
    shared_pvesh.reset()
    return shared_pvesh


@pytest.fixture(scope="module")
def root_gateway(make_gateway: Callable[..., Gateway], shared_pvesh: FakePvesh) -> Gateway:
    """A gateway whose policy allows /dev/null and a directory, and keeps guest 199 out of reach."""
    return make_gateway(
        pve={"pvesh": str(shared_pvesh.path)},
        policy={"devices": ["/dev/null"], "bind_sources": ["/srv"], "features": ["nesting", "fuse"]},
        guests={"protected": [199]},
    )


@pytest.fixture
def supervisor(root_gateway: Gateway) -> Iterator[SupervisorClient]:
    with contextlib.closing(SupervisorClient(socket_of(root_gateway), None)) as client:  # type: ignore[arg-type]
        yield client


def node_of(gateway: Gateway) -> str:
    return str(yaml.safe_load(gateway.services.config.read_text())["node"])


def change(gateway: Gateway, vmid: int = 150, **more: Any) -> RootChange:
    return RootChange(**{"node": node_of(gateway), "vmid": vmid, "options": NULL, **more})


def test_change_is_made_and_recorded(root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh) -> None:
    """pvesh gets what the model says and nothing of ours; intent and outcome stand in the log under one id."""
    made = change(root_gateway, delete=("mp1",), digest="a" * 40)
    assert change_as_root(supervisor, made, ORIGIN, same) is None
    assert pvesh.argv == [
        "--noproxy", "set", f"/nodes/{made.node}/lxc/150/config", "--dev0=/dev/null,mode=0660", "--delete=mp1",
        f"--digest={'a' * 40}", "--output-format=json",
    ]  # fmt: skip
    environment = dict(line.split("=", 1) for line in (pvesh.directory / "environment").read_text().splitlines())
    assert environment.keys() <= {"PATH", "HOME", "LC_ALL", "PWD", "_", "SHLVL", "OLDPWD"}
    intent = root_gateway.records(event="guest:root-config")[-1]
    assert intent["data"] == made.to_wire() and intent["vmid"] == 150 and intent["actor"]["token_id"] == "tk_1"
    (outcome,) = until(lambda: root_gateway.records(event="guest:outcome", audit_id=intent["audit_id"]))
    assert outcome["data"]["exit_code"] == 0 and outcome["data"]["reason"] == "ok"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dev0": "/dev/sda"}, PolicyRefused),
        ({"mp0": "/etc,mp=/mnt"}, PolicyRefused),
        ({"features": "keyctl=1"}, PolicyRefused),
        ({"hookscript": "local:snippets/x.sh"}, PolicyRefused),
        ({"dev0": "/dev/null --delete=x"}, PolicyRefused),
    ],
)
def test_node_policy_is_asked_again(
    root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh, options: dict[str, str], error: Any
) -> None:
    """What the configuration does not name is refused by the supervisor itself, whatever the web let through."""
    with pytest.raises(error):
        change_as_root(supervisor, change(root_gateway, options=options), ORIGIN, same)
    assert pvesh.argv == []


@pytest.mark.parametrize("vmid", [99999, 201, 199])
def test_grants_are_asked_again(
    root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh, vmid: int
) -> None:
    """A guest beyond guest:root-config, or a protected one, does not exist."""
    with pytest.raises(GuestNotFound):
        change_as_root(supervisor, change(root_gateway, vmid), ORIGIN, same)
    assert pvesh.argv == []


def test_another_nodes_guest(root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh) -> None:
    """It is never reached by ssh."""
    with pytest.raises(NodeNotReady, match="pve9"):
        change_as_root(supervisor, RootChange(node="pve9", vmid=150, options=NULL), ORIGIN, same)
    assert pvesh.argv == []


@pytest.mark.parametrize(
    ("err", "error"),
    [
        ("Configuration file 'nodes/pve1/lxc/150.conf' does not exist\n", GuestNotFound),
        ("CT is locked (backup)\n", errors_pve.GuestLocked),
        ("400 Parameter verification failed.\nfeatures: invalid\n", errors_pve.PveRejected),
        ("detected modified configuration - file changed by other user? Try again.\n", errors_pve.GuestChanged),
        ("ipcc_send_rec[1] failed: Connection refused\n", errors_pve.PveUnavailable),
        ("Can't locate PVE/API2.pm in @INC\n", errors_pve.PveFailed),
        ("", errors_pve.PveFailed),
    ],
)
def test_failures_are_those_of_the_api(
    root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh, err: str, error: type[GatewayError]
) -> None:
    """pvesh's words are read by the table that reads the API's; the record of it has them."""
    pvesh.say(code=255, err=err)
    with pytest.raises(error) as failed:
        change_as_root(supervisor, change(root_gateway), ORIGIN, same)
    audit_id = failed.value.evidence["audit_id"]
    (outcome,) = until(lambda: root_gateway.records(event="guest:outcome", audit_id=audit_id))
    assert outcome["data"]["reason"] == "failed"
    assert outcome["data"]["exit_code"] == 255 and outcome["data"]["words"] == err.strip()


def test_creation_tells_its_task(root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh) -> None:
    """pvesh prints the task's log and then its name."""
    pvesh.say(out=f'extracting archive\nUPID:not one\n"{UPID}"\n')
    created = change(root_gateway, create=True, options={"ostemplate": "local:vztmpl/x.tar.zst", "unprivileged": True})
    upid = change_as_root(supervisor, created, ORIGIN, same)
    assert str(upid) == UPID
    assert "--unprivileged=1" in pvesh.argv and "--vmid=150" in pvesh.argv


def test_client_that_leaves(root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh) -> None:
    """The change is finished and its outcome recorded all the same."""
    (pvesh.directory / "wait").touch()
    os.mkfifo(pvesh.directory / "go")
    header = {"op": "root_change", "origin": ORIGIN.to_wire(), "change": change(root_gateway).to_wire()}
    text = json.dumps(header).encode()
    before = len(root_gateway.records(event="guest:outcome"))
    with connect(socket_of(root_gateway)) as sock:
        sock.sendall(struct.pack(">II", len(text), 0) + text)
        until((pvesh.directory / "waits").exists)
    (pvesh.directory / "go").write_text("go\n")
    until(lambda: len(root_gateway.records(event="guest:outcome")) == before + 1)
    assert root_gateway.records(event="guest:outcome")[-1]["data"]["exit_code"] == 0


def test_no_record_no_change(root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh) -> None:
    """C4: while the audit log takes nothing, pvesh is not even run, and the refusal is there in time; it recovers."""
    with stopped(root_gateway, Path()):
        began = time.monotonic()
        with pytest.raises(AuditUnavailable):
            change_as_root(supervisor, change(root_gateway), ORIGIN, same)
        assert time.monotonic() - began < 2 + BUSY
    assert pvesh.argv == []

    def works() -> bool:
        with contextlib.suppress(AuditUnavailable):
            change_as_root(supervisor, change(root_gateway), ORIGIN, same)
            return True
        return False

    until(works, why="it recovers")
    assert pvesh.argv[1] == "set"


def test_killed_supervisor(make_gateway: Callable[..., Gateway], pvesh: FakePvesh) -> None:
    """A supervisor that is killed while pvesh works leaves no announcement without an outcome: it is unknown."""
    gateway = make_gateway(pve={"pvesh": str(pvesh.path)}, policy={"devices": ["/dev/null"]})
    (pvesh.directory / "wait").touch()
    os.mkfifo(pvesh.directory / "go")
    header = {"op": "root_change", "origin": ORIGIN.to_wire(), "change": change(gateway).to_wire()}
    text = json.dumps(header).encode()
    with connect(socket_of(gateway)) as sock:
        sock.sendall(struct.pack(">II", len(text), 0) + text)
        until((pvesh.directory / "waits").exists)
        gateway.services.kill("supervisor")
    (pvesh.directory / "go").write_text("go\n")
    (intent,) = gateway.records(event="guest:root-config")
    gateway.services.restart("supervisor")
    gateway.services.restart("web")
    (outcome,) = until(lambda: gateway.records(event="guest:outcome"))
    assert outcome["audit_id"] == intent["audit_id"] and outcome["data"]["reason"] == "unknown"


def test_many_at_once(root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh) -> None:
    """They take turns, and each gets its own answer."""
    done: list[object] = []
    threads = [
        threading.Thread(target=lambda: done.append(change_as_root(supervisor, change(root_gateway), ORIGIN, same)))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [None] * 10 and pvesh.argv.count("set") == 10


class Waiting:
    """A change that waits for its turn, behind as many as are made at once: they wait for `free`."""

    def __init__(self, gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh, again: Again) -> None:
        (pvesh.directory / "wait").touch()
        os.mkfifo(pvesh.directory / "go")
        self._pvesh = pvesh
        self._pool = ThreadPoolExecutor(3)
        before = [self._pool.submit(change_as_root, supervisor, change(gateway), ORIGIN, same) for _ in range(2)]
        until(lambda: pvesh.argv.count("set") == 2, why="both are being made")
        self._before = before
        late = change(gateway, 151)
        connections = sockets_of(gateway)
        self.result = self._pool.submit(change_as_root, supervisor, late, ORIGIN, again)
        until(lambda: sockets_of(gateway) > connections, why="the supervisor has its connection")
        for _ in range(2):  # what is asked now is answered behind what it has read by then
            supervisor.health()

    def free(self) -> None:
        """Lets those before it end."""
        (self._pvesh.directory / "wait").unlink()
        until(self._have_gone_on, why="pvesh goes on")
        self._pool.shutdown(wait=False)

    def _have_gone_on(self) -> bool:
        with contextlib.suppress(OSError):  # nobody reads at this moment
            fd = os.open(self._pvesh.directory / "go", os.O_WRONLY | os.O_NONBLOCK)
            os.write(fd, b"go\n")
            os.close(fd)
        return all(one.done() for one in self._before)


def sockets_of(gateway: Gateway) -> int:
    """How many the supervisor has."""
    found = 0
    for path in Path(f"/proc/{gateway.services.pid('supervisor')}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += os.readlink(path).startswith("socket:")
    return found


def refuse(error: Exception) -> Again:
    def decide(_: str) -> Origin:
        raise error

    return decide


@pytest.mark.parametrize(
    ("again", "error"),
    [
        (refuse(Unauthenticated("no more")), Unauthenticated),
        (lambda _: replace(ORIGIN, root_guests=((100, 150),)), GuestNotFound),
        (lambda _: replace(ORIGIN, token_id="another"), errors_pve.OutcomeUnknown),
    ],
    ids=["revoked", "narrowed", "another's"],
)
def test_what_waits_is_decided_again(
    root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh, again: Again, error: type[Exception]
) -> None:
    """A change whose token may not any more when its turn comes is not made, and leaves no record; the turn goes on."""
    waiting = Waiting(root_gateway, supervisor, pvesh, again)
    waiting.free()
    with pytest.raises(error):
        waiting.result.result(30)
    assert not [word for word in pvesh.argv if "/151/" in word]
    assert not root_gateway.records(event="guest:root-config", vmid=151)
    assert change_as_root(supervisor, change(root_gateway), ORIGIN, same) is None


def test_what_waits_and_may_still_is_made(
    root_gateway: Gateway, supervisor: SupervisorClient, pvesh: FakePvesh
) -> None:
    """By a token that has another name now, which the record tells."""
    asked: list[str] = []

    def decide(name: str) -> Origin:
        asked.append(name)
        return replace(ORIGIN, token_name="renamed")

    waiting = Waiting(root_gateway, supervisor, pvesh, decide)
    assert asked == []
    waiting.free()
    assert waiting.result.result(30) is None and asked == [""]
    (record,) = root_gateway.records(event="guest:root-config", vmid=151)
    assert record["actor"]["name"] == "renamed"


def test_what_waits_over_a_reload(make_gateway: Callable[..., Gateway], pvesh: FakePvesh) -> None:
    """It waits no more in the next image of the supervisor, which decides it again before it is made, once."""
    gateway = make_gateway(pve={"pvesh": str(pvesh.path)}, policy={"devices": ["/dev/null"]})
    asked: list[str] = []

    def decide(name: str) -> Origin:
        asked.append(name)
        return ORIGIN

    with contextlib.closing(SupervisorClient(socket_of(gateway), None)) as client:  # type: ignore[arg-type]
        waiting = Waiting(gateway, client, pvesh, decide)
        with ThreadPoolExecutor(1) as pool:
            reloaded = pool.submit(gateway.services.reload, "supervisor")
            until(lambda: not listens(gateway), why="it waits for what it makes before it becomes another image")
            waiting.free()
            reloaded.result(30)
        assert waiting.result.result(20) is None
        assert asked == [""] and len([word for word in pvesh.argv if "/151/" in word]) == 1


def listens(gateway: Gateway) -> bool:
    """Whether the supervisor takes new connections."""
    with contextlib.closing(SupervisorClient(socket_of(gateway), None)) as client:  # type: ignore[arg-type]
        try:
            client.health()
        except SupervisorUnavailable:
            return False
    return True


def test_what_waits_when_the_supervisor_stops(make_gateway: Callable[..., Gateway], pvesh: FakePvesh) -> None:
    """It is told that nothing was done, and the log has nothing of it."""
    gateway = make_gateway(pve={"pvesh": str(pvesh.path)}, policy={"devices": ["/dev/null"]})
    with contextlib.closing(SupervisorClient(socket_of(gateway), None)) as client:  # type: ignore[arg-type]
        waiting = Waiting(gateway, client, pvesh, same)
        gateway.services.kill("supervisor", signal.SIGTERM)
        with pytest.raises(NodeNotReady, match="nothing of this change"):
            waiting.result.result(30)
        waiting.free()
    assert not gateway.records(event="guest:root-config", vmid=151)


# ---- with the simulated node's pvesh


@pytest.fixture(scope="module")
def simulated(node: None) -> Iterator[Path]:
    """The pvesh of a simulated PVE API, with a stopped container of ours."""
    with running_api() as api:
        template = call_at_once(
            api.pvesh, ["get", f"/nodes/{socket.gethostname()}/storage/local/content", "--content=vztmpl"]
        )
        options = [f"--vmid={VMID}", f"--ostemplate={template.data()[0]['volid']}", "--rootfs=local-lvm:1"]
        made = call_at_once(api.pvesh, ["create", f"/nodes/{socket.gethostname()}/lxc", *options, "--unprivileged=1"])
        assert made.exit_code == 0 and made.upid, made
        yield api.pvesh
        call_at_once(api.pvesh, ["delete", f"/nodes/{socket.gethostname()}/lxc/{VMID}"])


def test_on_a_node(make_gateway: Callable[..., Gateway], simulated: Path) -> None:
    """A device and a feature that no token could give arrive in the configuration; PVE's refusals come back."""
    gateway = make_gateway(
        pve={"pvesh": str(simulated)}, policy={"devices": ["/dev/null"], "features": ["nesting", "fuse"]}
    )
    origin = Origin("tk_1", "ci", (), (), "10.0.0.1", "req_1", root_guests=((VMID, VMID + 1),))
    with contextlib.closing(SupervisorClient(socket_of(gateway), None)) as client:  # type: ignore[arg-type]
        options = {"dev0": "/dev/null,mode=0660", "features": "fuse=1,nesting=1"}
        change_as_root(client, change(gateway, VMID, options=options), origin, same)
        config = pmxcfs.ROOT / f"nodes/{socket.gethostname()}/lxc/{VMID}.conf"
        lines = config.read_text().splitlines()
        assert "dev0: /dev/null,mode=0660" in lines and any(line.startswith("features: ") for line in lines)
        change_as_root(client, change(gateway, VMID, options={}, delete=("dev0",)), origin, same)
        assert "dev0" not in config.read_text()
        with pytest.raises(errors_pve.GuestChanged):
            change_as_root(client, change(gateway, VMID, digest="0" * 40), origin, same)
        with pytest.raises(GuestNotFound):
            change_as_root(client, change(gateway, VMID + 1), origin, same)


# ---- the model


@pytest.mark.parametrize(
    "wrong",
    [
        {"options": {}},
        {"options": {"memory": "1"}},
        {"options": {"dev256": "/dev/null"}},
        {"options": {"--delete": "x"}},
        {"options": {"lxc.mount.entry": "/"}},
        {"options": {"features": "a\x00b"}},
        {"options": {"features": "x" * 9000}},
        {"options": {"features": ["a"]}},
        {"delete": ("hostname",)},
        {"delete": ("mp0,protection",)},
        {"digest": "x"},
        {"vmid": 99},
        {"vmid": True},
        {"node": "../pve"},
        {"create": True, "options": {"password": "geheim"}},
        {"create": True, "options": {"env": "A=B"}},
        {"create": True, "options": {"skiplock": 1}},
        {"create": True, "delete": ("mp0",)},
        {"create": True, "options": {"ostemplate": "pbs:backup/ct/101/x", "restore": 1, "unprivileged": 1}},
        {"create": True, "options": {"ostemplate": "pbs:backup/ct/101/x", "restore": "0", "unprivileged": 1}},
        {"create": True, "options": {"hostname": "x", "force": True}},
        {"create": True, "options": {"unprivileged": "0\n"}},
        {"create": True, "options": {"entrypoint": "/sbin/init\nlxc.hook.start: /x"}},
        {"create": True, "options": {"tags": "a\tb"}},
        {"options": {"hookscript": "local:snippets/x.sh\n"}},
        {"options": {"dev0": "/dev/null\n--delete=x"}},
    ],
)
def test_only_what_the_model_knows(wrong: dict[str, Any]) -> None:
    """Nothing else can be asked of pvesh, secrets least of all; and no value stands in the error."""
    with pytest.raises(InvalidRequest) as refused:
        RootChange(**{"node": NODE, "vmid": 150, "options": NULL, **wrong})
    assert "geheim" not in refused.value.detail


def test_wire_form() -> None:
    """It comes back the same; anything else is refused."""
    made = RootChange(node=NODE, vmid=150, options=NULL, delete=("mp1",), digest="a" * 40)
    assert RootChange.from_wire(json.loads(json.dumps(made.to_wire()))) == made
    others: list[object] = [None, [], {}, {**made.to_wire(), "more": 1}, {**made.to_wire(), "delete": "mp1"}]
    for broken in others:
        with pytest.raises(ValueError, match=r"root change|names"):
            RootChange.from_wire(broken)


def test_what_pvesh_says() -> None:
    """Its status, its words, its answer."""
    assert Said(255, "", "403 Permission check failed\n").status == 403
    assert Said(255, "", "CT is locked\n").status == 500
    waited = Said(255, "", "trying to acquire lock...\n OK\n400 Parameter verification failed.\n")
    assert (waited.status, waited.words) == (400, "400 Parameter verification failed.")
    assert Said(255, "", "trying to acquire lock...\ncan't lock file 'x' - got timeout\n").words.startswith("trying")
    assert Said(0, '{"a": 1}\n', "").data() == {"a": 1}
    assert Said(0, "\n", "").data() is None
    assert Said(0, "x\n", "").upid is None


def test_command_line_call(pvesh: FakePvesh) -> None:
    """The administrator's commands run it the same way."""
    pvesh.say(code=2, err="no\n")
    said = call_at_once(pvesh.path, ["get", "/version"])
    assert (said.exit_code, said.words) == (2, "no")
    assert pvesh.argv == ["--noproxy", "get", "/version", "--output-format=json"]

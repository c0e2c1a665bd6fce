"""A supervisor that is killed or restarted: nothing runs unowned, no end is invented, survivors live on."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.supervisor.kernel.procfs import read_stat
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, exec_cgroups, kill_all, living, new_mark
from tests.exec.streams import detach
from tests.exec.test_trees import HOSTILE, neighbours
from tests.exec.waiting import until
from tests.pvesim import guests


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway()


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    yield opened
    opened.close()


def answer_of(connection: Any) -> bytes:
    """The reply on a raw connection, read to its end or for as long as its body lasts."""
    data = b""
    while not data.rstrip().endswith(b"}"):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
    return data


@pytest.mark.parametrize("placement", ["own", "guest"])
def test_killed_supervisor_leaves_nothing_running(api: Api, gateway: Gateway, small_vmid: int, placement: str) -> None:
    """SIGKILL: the client is told at once; after the restart nothing of the exec runs, and it is told as lost."""
    mark = new_mark()
    command = HOSTILE.replace("MARK", mark) if placement == "own" else f"sleep {mark}"
    body = {"command": command, "labels": {"test": mark}, "placement": placement, "timeout": 600}
    with api.begin(small_vmid, body) as connection:
        exec_id = begun(api, mark, mark)
        gateway.services.kill("supervisor", signal.SIGKILL)
        said = answer_of(connection)
        assert b" 503 " in said.split(b"\r\n")[0], said
        assert b'"supervisor_unavailable"' in said
    assert api.post(small_vmid, {"command": ["true"]}).code == "supervisor_unavailable"
    gateway.services.restart("supervisor")
    until(lambda: not living(mark), why="nothing of it runs")
    view = api.get(f"/execs/{exec_id}").json()
    assert (view["state"], view["reason"]) in (("ended", "gateway_lost"), ("unknown", None))
    assert view["exit_code"] is None
    assert not [path for path in exec_cgroups(small_vmid) if path.name == exec_id]
    outcome = until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"), why="its outcome")[0]
    assert outcome["data"]["reason"] in ("gateway_lost", "unknown")
    assert api.run(small_vmid, ["echo", "again"])["stdout"] == "again\n"


def test_end_that_nobody_saw_is_unknown(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """A command that ended by itself while no supervisor ran: its exit code is lost, and no end is invented for it."""
    mark = new_mark()
    gate = guests.get(small_vmid).rootfs / f"gate-{mark}"
    exec_id = detach(api, small_vmid, f"while [ ! -e /{gate.name} ]; do sleep 0.02; done; exit 5")
    until(lambda: living(mark))
    gateway.services.kill("supervisor", signal.SIGKILL)
    gate.touch()
    until(lambda: not living(mark), why="it has ended")
    gateway.services.restart("supervisor")
    view = api.get(f"/execs/{exec_id}").json()
    assert (view["state"], view["reason"], view["exit_code"]) == ("unknown", None, None)
    outcome = until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"), why="its outcome")[0]
    assert outcome["data"]["reason"] == "unknown"


def test_process_with_the_pid_of_a_lost_command_is_left_alone(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """A command in the guest's own cgroup is known by pid and start: who has its pid by now lives on."""
    mark = new_mark()
    exec_id = detach(api, small_vmid, ["sleep", mark], placement="guest")
    (pid,) = until(lambda: living(mark, alone=True))
    gateway.services.kill("supervisor", signal.SIGKILL)
    start = read_stat(Path(f"/proc/{pid}")).start
    for path in (gateway.spool / "journal").iterdir():
        text = path.read_bytes()
        path.write_bytes(text.replace(b'"start":%d' % start, b'"start":%d' % (start - 1)))
    gateway.services.restart("supervisor")
    assert api.get(f"/execs/{exec_id}").json()["state"] == "unknown"
    assert read_stat(Path(f"/proc/{pid}")).start == start, "it lives on"
    kill_all(mark)


def test_leftovers_that_nobody_knows_are_ended(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """What runs in a cgroup of ours, of which the spool knows nothing, is killed at the next start."""
    assert api.run(small_vmid, ["true"])["exit_code"] == 0
    place = Path(f"/sys/fs/cgroup/lxc/{small_vmid}/pveg-{gateway.instance}/ex_{'0' * 26}")
    gateway.services.kill("supervisor", signal.SIGKILL)
    place.mkdir()
    with subprocess.Popen(["sleep", new_mark()]) as process:
        (place / "cgroup.procs").write_text(str(process.pid))
        gateway.services.restart("supervisor")
        try:
            until(lambda: process.poll() is not None, why="it is ended")
        finally:
            process.kill()
    until(lambda: not place.exists(), why="its cgroup is removed")


def test_finished_execs_are_still_known(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """What had ended before a SIGKILL is read afterwards as it was, output included."""
    result = api.run(small_vmid, "echo kept; echo too >&2; exit 9", labels={"a": "b"})
    gateway.services.kill("supervisor", signal.SIGKILL)
    gateway.services.restart("supervisor")
    view = api.get(f"/execs/{result['id']}").json()
    assert view == {name: result[name] for name in view}
    assert api.get(f"/execs/{result['id']}/stdout").body == b"kept\n"
    assert api.get(f"/execs/{result['id']}/stderr").body == b"too\n"


def test_survivors_outlive_a_killed_supervisor(api: Api, gateway: Gateway, vmid: int) -> None:
    """What `detach` left behind lives on over SIGKILL and restart, may write again, and is let go of in the end."""
    mark = new_mark()
    script = (
        f"(trap 'touch /run/go-{mark}' HUP; while [ ! -e /run/go-{mark} ]; do sleep 0.02; done;"
        f" i=0; while [ $i -lt 300 ]; do echo more; echo more >&2; i=$((i+1)); done; exec sleep {mark}) & echo ok"
    )
    result = api.run(vmid, script)
    assert result["survivors"] >= 1
    gateway.services.kill("supervisor", signal.SIGKILL)
    gateway.services.restart("supervisor")
    assert api.run(vmid, ["touch", f"/run/go-{mark}"])["exit_code"] == 0
    until(lambda: living(mark, alone=True), why="it could write and lives")
    assert api.get(f"/execs/{result['id']}").json()["reason"] == "exited"
    assert api.request("DELETE", f"/execs/{result['id']}").status == 409
    assert living(mark, alone=True)
    kill_all(mark)
    until(lambda: not [path for path in exec_cgroups(vmid) if path.name == result["id"]], why="its cgroup is removed")


def test_neighbours_of_the_guest_outlive_it_all(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """Another gateway's execs and the guest's own processes are not touched by a recovery."""
    other = Gateway()
    try:
        theirs = other.api()
        with neighbours(theirs, small_vmid):
            mark = new_mark()
            with api.begin(small_vmid, {"command": ["sleep", mark], "labels": {"test": mark}}):
                begun(api, mark, mark)
                gateway.services.kill("supervisor", signal.SIGKILL)
            gateway.services.restart("supervisor")
            until(lambda: not living(mark))
        theirs.close()
    finally:
        other.close()


def test_stopped_supervisor_says_what_became_of_its_execs(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """SIGTERM ends the execs as `gateway_lost`, and tells their clients before it goes."""
    mark = new_mark()
    with api.begin(small_vmid, {"command": ["sleep", mark], "labels": {"test": mark}}) as connection:
        exec_id = begun(api, mark, mark)
        gateway.services.restart("supervisor")
        said = answer_of(connection)
    assert b'"reason":"gateway_lost"' in said, said
    assert not living(mark)
    assert api.get(f"/execs/{exec_id}").json()["reason"] == "gateway_lost"


def test_guest_that_stopped_meanwhile_is_cleaned_up(make_guest: Callable[..., Any], api: Api, gateway: Gateway) -> None:
    """The guest of a lost exec stopped while no supervisor ran: it starts again, and the exec is accounted for."""
    guest = make_guest(906)
    mark = new_mark()
    with api.begin(906, {"command": ["sleep", mark], "labels": {"test": mark}}):
        exec_id = begun(api, mark, mark)
        gateway.services.kill("supervisor", signal.SIGKILL)
    guest.stop(kill=True)
    gateway.services.restart("supervisor")
    guest.start()
    view = api.get(f"/execs/{exec_id}").json()
    assert (view["state"], view["reason"]) in (("ended", "gateway_lost"), ("unknown", None))
    assert api.run(906, ["echo", "again"])["stdout"] == "again\n"


def test_leftovers_of_a_stopped_guest_are_removed(make_guest: Callable[..., Any], api: Api, gateway: Gateway) -> None:
    """A cgroup of ours in the tree of a guest that does not run keeps it from starting: it goes, and whatever runs
    in it."""
    guest = make_guest(906)
    guest.stop(kill=True)
    tree = Path("/sys/fs/cgroup/lxc/906")
    place = tree / f"pveg-{gateway.instance}" / f"ex_{'0' * 26}"
    gateway.services.kill("supervisor", signal.SIGKILL)
    place.mkdir(parents=True)
    with subprocess.Popen(["sleep", new_mark()]) as process:
        (place / "cgroup.procs").write_text(str(process.pid))
        gateway.services.restart("supervisor")
        try:
            until(lambda: process.poll() is not None, why="it is ended")
            until(lambda: not place.parent.exists(), why="our directories are removed")
        finally:
            process.kill()
    tree.rmdir()
    guest.start()
    assert api.run(906, ["echo", "again"])["stdout"] == "again\n"


def test_killed_web_worker_takes_its_execs_along_or_not(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """SIGKILL of the web: `kill` ends the exec as one whose client has gone; `continue` runs to its end."""
    kept, lost = new_mark(), new_mark()
    with (
        api.begin(small_vmid, {"command": ["sleep", lost], "labels": {"test": lost}, "kill_grace": 0.2}),
        api.begin(
            small_vmid,
            {"command": f"sleep 1.5; echo {kept}", "labels": {"test": kept}, "on_disconnect": "continue"},
        ),
    ):
        lost_id, kept_id = begun(api, lost, lost), begun(api, kept)
        gateway.services.kill("web")
    gateway.services.restart("web")
    assert api.get(f"/execs/{lost_id}?wait=20").json()["reason"] == "client_gone"
    assert api.get(f"/execs/{kept_id}?wait=20").json()["reason"] == "exited"
    assert api.get(f"/execs/{kept_id}/stdout").body == f"{kept}\n".encode()

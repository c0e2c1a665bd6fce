"""A1 to A4: ending an exec ends its whole tree, and touches nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.supervisor.kernel.procfs import read_stat
from tests.conftest import Run, every_guest, needs_debian
from tests.exec.api import Api
from tests.exec.inside import begun, ended, exec_cgroups, kill_all, labelled, living, new_mark
from tests.exec.streams import detach
from tests.exec.waiting import BUSY, until
from tests.pvesim import guests

HOSTILE = r"""
trap '' TERM HUP INT USR1
export HOP='trap "" TERM; setsid /bin/sh -c "$HOP" hop-MARK & exit 0'
/bin/sh -c "$HOP" hop-MARK &
setsid /bin/sh -c "$HOP" hop-MARK &
( ( trap '' TERM; exec env -i /bin/sleep MARK ) & )
setsid env -i /bin/sh -c 'trap "" TERM; ( /bin/sleep MARK & ); exec /bin/sleep MARK' &
i=0
while [ $i -lt 40 ]; do ( setsid env -i /bin/sleep MARK & ); i=$((i+1)); done
nohup /bin/sleep MARK > /dev/null 2>&1 &
echo up
while :; do /bin/sleep MARK; done
"""


@contextmanager
def neighbours(api: Api, vmid: int) -> Iterator[None]:
    """An exec, a process of the guest's own and its init, which all must outlive what happens meanwhile."""
    guest = guests.get(vmid)
    init, mark, gate = guest.init_pid(), new_mark(), f"/run/gate-{new_mark()}"
    script = f"echo begun; while [ ! -e {gate} ]; do sleep 0.05; done; echo fine"
    other = ["/bin/sh", "-c", f"setsid /bin/sleep {mark} > /dev/null 2>&1 < /dev/null & echo ok"]
    assert guest.attach(other).stdout == b"ok\n"
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.run, vmid, script, labels={"test": mark})
        begun(api, mark)
        try:
            yield
        finally:
            guest.attach(["touch", gate])
        result = running.result(30)
    assert (result["reason"], result["exit_code"], result["stdout"]) == ("exited", 0, "begun\nfine\n")
    assert living(mark), "a process of the guest's own was ended"
    assert guest.init_pid() == init
    kill_all(mark)


def gone(mark: str, vmid: int, exec_id: str) -> bool:
    return not living(mark) and not [path for path in exec_cgroups(vmid) if path.name == exec_id]


def test_timeout_ends_a_shell_that_waits(run: Run, vmid: int) -> None:
    """A1: the reply to `sh -c 'sleep 999; true'` comes within timeout + grace + 0.5 s, and nothing is left."""
    mark = new_mark()
    began = time.monotonic()
    result = run(vmid, ["sh", "-c", f"sleep {mark}; true"], timeout=1, kill_grace=0.5)
    took = time.monotonic() - began
    assert (result["reason"], result["exit_code"]) == ("timeout", 124)
    assert 1 <= took < 1 + 0.5 + 0.5 + BUSY
    assert result["killed"] >= 1
    assert gone(mark, vmid, result["id"])


def test_timeout_leaves_what_was_printed(run: Run, vmid: int) -> None:
    """The output up to a timeout is in the result, also what the command says to its TERM."""
    script = "trap 'echo bye; exit 3' TERM; echo hello; while :; do sleep 0.1; done"
    result = run(vmid, script, timeout=1.5, kill_grace=20)
    assert (result["reason"], result["exit_code"], result["signal"]) == ("timeout", 124, None)
    assert result["stdout"] == "hello\nbye\n"
    assert result["timing"]["run_ms"] < 10_000


def test_first_reason_stays(api: Api, small_vmid: int) -> None:
    """An exec that its output's limit is ending is ended by that, whoever deletes it meanwhile."""
    asked, gate = (guests.get(small_vmid).rootfs / f"{word}-{new_mark()}" for word in ("asked", "gate"))
    script = f"trap 'echo > /{asked.name}' TERM; echo over; while [ ! -e /{gate.name} ]; do sleep 0.05; done"
    exec_id = detach(api, small_vmid, script, kill_grace=60, output={"limit": 0, "on_limit": "kill"})
    until(asked.exists, why="it is asked to end")
    assert api.request("DELETE", f"/execs/{exec_id}").status == 202
    gate.touch()
    view = ended(api, exec_id)
    assert (view["reason"], view["exit_code"]) == ("output_limit", 0)


def test_stopped_command_hears_that_it_is_to_end(api: Api, small_vmid: int) -> None:
    """A command that a signal has stopped goes on for its TERM, so that it can end by itself within the grace."""
    mark = new_mark()
    script = f"trap 'echo bye; exit 3' TERM; kill -STOP $$; : {mark}"
    exec_id = detach(api, small_vmid, script, kill_grace=60)
    until(lambda: [pid for pid in living(mark) if read_stat(Path(f"/proc/{pid}")).state == b"T"], why="it is stopped")
    assert api.request("DELETE", f"/execs/{exec_id}").status in (200, 202)
    view = ended(api, exec_id)
    assert (view["reason"], view["exit_code"]) == ("cancelled", 3)
    assert api.get(f"/execs/{exec_id}/stdout").body == b"bye\n"


@pytest.mark.parametrize("way", ["timeout", "delete", "client_gone"])
def test_hostile_tree_is_ended_whole(api: Api, vmid: int, way: str) -> None:
    """A2: double forks, setsid, ignored TERM, empty environments, pid hopping: gone within 2 s, others live on."""
    mark = new_mark()
    body = {
        "command": HOSTILE.replace("MARK", mark),
        "timeout": 1.5 if way == "timeout" else 60,
        "kill_grace": 0.3,
        "labels": {"test": mark},
    }
    with neighbours(api, vmid):
        connection = api.begin(vmid, body)
        try:
            exec_id = begun(api, mark, mark)
            until(lambda: b"up" in api.get(f"/execs/{exec_id}/stdout").body, why="the tree is up")
            assert len(living(mark)) > 40
            if way == "delete":
                answer = api.request("DELETE", f"/execs/{exec_id}")
                assert answer.status in (200, 202)
            elif way == "client_gone":
                connection.close()
            else:
                until(lambda: (labelled(api, mark) or {})["state"] == "ended", why="the timeout")
            until(lambda: gone(mark, exec_id=exec_id, vmid=vmid), within=2 + BUSY, why="the tree is gone")
        finally:
            connection.close()
        view = ended(api, exec_id)
        assert view["reason"] == {"delete": "cancelled"}.get(way, way)
        assert view["killed"] > 40
        assert view["survivors"] == 0


@pytest.mark.parametrize("vmid", every_guest()[:2])
def test_neighbour_is_never_touched(api: Api, vmid: int) -> None:
    """A3: 100 times exec A is ended while B runs in the same guest; B runs to its end."""
    with neighbours(api, vmid), ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda _: api.run(vmid, "sleep 600", timeout=0.02, kill_grace=0), range(100)))
    assert {end["reason"] for end in ends} <= {"timeout"}
    until(lambda: not exec_cgroups(vmid), why="nor is anything left")  # of others, too


def test_detached_background_lives_on_and_may_write(api: Api, vmid: int) -> None:
    """A4: `detach` answers at once, and what was left behind writes for as long as it likes without a SIGPIPE."""
    mark = new_mark()
    script = (
        f"(trap 'exit 1' TERM; i=0; while [ $i -lt 200 ]; do echo again; sleep 0.01; i=$((i+1)); done;"
        f" exec sleep {mark}) & echo ok"
    )
    began = time.monotonic()
    result = api.run(vmid, script)
    assert time.monotonic() - began < 10, "it waited for what goes on for ever"
    assert (result["reason"], result["exit_code"], result["stdout"].count("ok\n")) == ("exited", 0, 1)
    assert result["survivors"] >= 1
    answer = api.request("DELETE", f"/execs/{result['id']}")
    assert (answer.status, answer.code) == (409, "exec_ended")
    until(lambda: living(mark, alone=True), within=15, why="the background process gets to its end alive")
    kill_all(mark)
    until(lambda: gone(mark, vmid, result["id"]), why="its cgroup is removed after the last process")


def test_waited_background_holds_the_answer(api: Api, vmid: int) -> None:
    """A4: `wait` answers when the last process has ended, with the command's own exit code and all output."""
    began = time.monotonic()
    result = api.run(vmid, "(sleep 0.7; echo late) & echo ok; exit 3", background="wait")
    assert time.monotonic() - began >= 0.7
    assert (result["reason"], result["exit_code"], result["stdout"]) == ("exited", 3, "ok\nlate\n")
    assert result["survivors"] == 0


def test_waited_background_is_under_the_timeout(api: Api, small_vmid: int) -> None:
    """A4: with `wait` the timeout holds for what was left behind, too."""
    mark = new_mark()
    result = api.run(small_vmid, f"sleep {mark} & echo ok", background="wait", timeout=1.5, kill_grace=0)
    assert (result["reason"], result["exit_code"], result["stdout"]) == ("timeout", 124, "ok\n")
    assert not living(mark)


def test_killed_background_is_gone_with_the_answer(api: Api, vmid: int) -> None:
    """A4: `kill` answers at once, with the command's own end, and nothing is left."""
    mark = new_mark()
    began = time.monotonic()
    result = api.run(vmid, f"setsid sleep {mark} & (sleep {mark} &) ; echo ok; exit 5", background="kill")
    assert time.monotonic() - began < 10, "it waited for what goes on for ever"
    assert (result["reason"], result["exit_code"], result["stdout"]) == ("exited", 5, "ok\n")
    assert result["killed"] >= 1
    assert result["survivors"] == 0
    assert gone(mark, vmid, result["id"])


def test_silent_client_that_leaves_ends_its_exec(api: Api, small_vmid: int) -> None:
    """on_disconnect `kill`, the default: a client that closes its TLS connection takes a silent command with it."""
    mark = new_mark()
    connection = api.begin(small_vmid, {"command": ["sleep", mark], "labels": {"test": mark}, "kill_grace": 0.2})
    exec_id = begun(api, mark, mark)
    connection.close()
    until(lambda: gone(mark, small_vmid, exec_id), within=2 + BUSY, why="its tree is gone")
    assert ended(api, exec_id)["reason"] == "client_gone"


def test_command_goes_on_without_its_client(api: Api, small_vmid: int) -> None:
    """on_disconnect `continue`: the command runs to its end, and its result is there for who asks."""
    mark = new_mark()
    script = f"sleep 0.8; echo {mark} done; exit 4"
    connection = api.begin(small_vmid, {"command": script, "labels": {"test": mark}, "on_disconnect": "continue"})
    exec_id = begun(api, mark)
    connection.close()
    view = ended(api, exec_id)
    assert (view["reason"], view["exit_code"]) == ("exited", 4)
    assert api.get(f"/execs/{exec_id}/stdout").body == f"{mark} done\n".encode()


def test_output_limit_can_end_the_command(api: Api, vmid: int) -> None:
    """output.on_limit `kill` ends a command that prints without end, soon after the limit."""
    began = time.monotonic()
    result = api.run(vmid, ["yes"], output={"limit": 10_000, "on_limit": "kill"}, kill_grace=0.5)
    assert time.monotonic() - began < 10, "it printed on"
    assert result["reason"] == "output_limit"
    count = result["output"]["stdout"]
    assert count["bytes"] > 10_000
    assert count["bytes"] - count["dropped"] == len(result["stdout"]) == 10_000


@pytest.mark.parametrize("kill", [False, True], ids=["shutdown", "hard-stop"])
@pytest.mark.parametrize("template", ["busybox", pytest.param("debian13", marks=needs_debian)])
@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_guest_that_stops_ends_its_execs_by_name(
    make_guest: Callable[..., guests.Guest], api: Api, template: str, unprivileged: bool, kill: bool
) -> None:
    """A9: an exec whose guest is stopped ends as `container_stopped`, and the guest starts again afterwards."""
    guest = make_guest(902, template, unprivileged=unprivileged)
    mark = new_mark()
    with ThreadPoolExecutor(1) as pool:
        running: Future[Any] = pool.submit(api.run, 902, f"echo up; sleep {mark}", labels={"test": mark})
        exec_id = begun(api, mark, mark)
        guest.stop(kill=kill)
        result = running.result(20)
    assert (result["id"], result["reason"], result["stdout"]) == (exec_id, "container_stopped", "up\n")
    assert api.post(902, {"command": ["true"]}).code == "guest_not_running"
    assert not list(guest.cgroup.glob("pveg-*"))
    guest.start()
    assert api.run(902, ["echo", "again"])["stdout"] == "again\n"

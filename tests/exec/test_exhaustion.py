"""A node that runs out of descriptors or of room for the spool: a clear answer, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, ended, exec_cgroups, kill_all, living, new_mark
from tests.exec.sockets import connect, socket_of
from tests.exec.streams import detach
from tests.exec.waiting import until
from tests.pvesim import guests


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 2 MiB for a spool."""
    place = tmp_path_factory.mktemp("spool")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], room: Path) -> Gateway:
    """A gateway with that spool, which runs three execs at once."""
    return make_gateway(spool={"directory": str(room / "s"), "min_free": 0}, exec={"max_running": 3})


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    yield opened
    opened.close()


@contextlib.contextmanager
def filled(place: Path) -> Iterator[None]:
    """No byte is free in the file system of `place`."""
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    try:
        yield
    finally:
        filler.unlink()


def test_full_spool_refuses_before_anything_runs(api: Api, room: Path) -> None:
    """Without room for the exec's file nothing is run, and it is told; with room again it runs."""
    mark = new_mark()
    with filled(room):
        answer = api.post(101, {"command": ["touch", f"/root/{mark}"]})
    assert (answer.status, answer.code) == (507, "spool_full")
    assert not (guests.get(101).rootfs / "root" / mark).exists()
    assert api.run(101, ["true"])["reason"] == "exited"


def test_spool_that_fills_up_meanwhile_loses_no_answer(api: Api, room: Path) -> None:
    """A command that ends on a full disk is answered with its output and its end all the same."""
    mark = new_mark()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.run, 101, f"yes {mark} | head -c 300000; sleep 0.5; exit 3", labels={"test": mark})
        exec_id = begun(api, mark)
        with filled(room):
            result = running.result(20)
            assert (result["id"], result["reason"], result["exit_code"]) == (exec_id, "exited", 3)
            assert len(result["stdout"]) == 300_000
            view = api.get(f"/execs/{exec_id}").json()
            assert (view["state"], view["exit_code"]) in (("ended", 3), ("unknown", None))
    assert api.run(101, ["true"])["reason"] == "exited"


def test_little_free_space_costs_the_oldest_results_first(
    make_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """At spool.min_free the oldest ended execs are forgotten one by one, before output is dropped or a command is
    refused; what runs keeps all of its own."""
    place, mark, size = tmp_path_factory.mktemp("spool"), new_mark(), 3 << 20
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(place)], check=True)
    try:
        gateway = make_gateway(spool={"directory": str(place / "s"), "min_free": 8 << 20})
        with contextlib.closing(gateway.api()) as api:
            running = detach(api, 101, f"head -c {size} /dev/zero; sleep {mark}")
            until(lambda: (place / f"s/output/{running}/stdout").stat().st_size == size, why="it has printed")
            ids = []
            for _ in range(12):
                ids.append(detach(api, 101, f"head -c {size} /dev/zero"))
                output = ended(api, ids[-1])["output"]["stdout"]
                assert (output["bytes"], output["dropped"]) == (size, 0)

            def exists(exec_id: str) -> bool:
                return api.get(f"/execs/{exec_id}").status == 200

            known = [exists(exec_id) for exec_id in ids]
            assert known == sorted(known) and 3 <= sum(known) <= 6, known
            oldest = ids[known.index(True)]
            with (place / "ballast").open("wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(place).free - (6 << 20))
            until(lambda: api.run(101, ["true"])["id"] and not exists(oldest), why="it goes for a command")
            assert exists(ids[-1])
            assert api.get(f"/execs/{running}").json()["state"] == "running"
            assert len(api.get(f"/execs/{running}/stdout").body) == size
            api.request("DELETE", f"/execs/{running}")
    finally:
        kill_all(mark)
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_out_of_descriptors_at_every_step(api: Api, gateway: Gateway) -> None:
    """With 0 to 24 descriptors left: a result or a problem, never a hang; then all is as it was."""
    api.run(101, ["true"])
    pid = gateway.services.pid("supervisor")
    number = len(os.listdir(f"/proc/{pid}/fd"))
    seen = set()
    for left in range(25):
        with descriptors_left(pid, left):
            answer = api.post(101, {"command": ["true"], "timeout": 5, "queue_timeout": 0}, timeout=20)
        seen.add(answer.status)
        assert answer.status in (200, 409, 503, 507), (left, answer.body[:500])
        if answer.status == 200:
            assert answer.json()["reason"] in ("exited", "spawn_failed"), (left, answer.json())
    assert 200 in seen
    for _ in range(5):
        assert api.run(101, ["true"], queue_timeout=0)["reason"] == "exited"
    assert api.get("/execs?state=running").json()["execs"] == []
    until(lambda: not exec_cgroups(101), why="no cgroup is left")
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= number + 1, why="descriptors are back")
    intents = {record["audit_id"] for record in gateway.records(event="exec:intent")}

    def settled() -> bool:
        ends = [record for record in gateway.records() if record["event"] in ("exec:outcome", "exec:aborted")]
        return intents <= {record["audit_id"] for record in ends}

    until(settled, why="every intent has its outcome or was taken back")


@pytest.mark.parametrize("background", ["wait", "detach"])
def test_time_limit_holds_without_descriptors(api: Api, gateway: Gateway, background: str) -> None:
    """What does not listen to TERM is ended when its time is over, with no descriptor left; that its end cannot be
    read meanwhile is told, too."""
    mark = new_mark()
    script = f"trap '' TERM; while :; do sleep {mark}; done & while :; do sleep {mark}; done"
    exec_id = detach(api, 101, script, timeout=2, kill_grace=0.2, background=background)
    until(lambda: len(living(mark, alone=True)) == 2, why="both of it run")
    assert api.get(f"/execs/{exec_id}").json()["state"] == "running"  # the web keeps the connection that this made
    pid = gateway.services.pid("supervisor")
    with descriptors_left(pid, 0):
        until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"), why="it has ended")
        assert not living(mark) and not exec_cgroups(101)
    with descriptors_left(pid, 0):  # those of the exec have come back meanwhile
        assert api.get(f"/execs/{exec_id}").code == "supervisor_unavailable"
    assert ended(api, exec_id)["reason"] == "timeout"


def test_survivors_are_let_go_of_when_there_is_a_descriptor(api: Api, gateway: Gateway) -> None:
    """The end of a command whose survivors cannot be watched, for want of a descriptor, is told when there is one."""
    mark = new_mark()
    exec_id = detach(api, 101, f"sleep {mark} & read line", stdin_open=True)
    headers = {"Content-Type": "application/octet-stream"}
    said = gateway.log("supervisor").count("cannot end it yet")
    assert api.get(f"/execs/{exec_id}").json()["state"] == "running"  # the web keeps the connection that this made
    with descriptors_left(gateway.services.pid("supervisor"), 0):
        answer = api.request("PUT", f"/execs/{exec_id}/stdin?offset=0", raw=b"go on\n", headers=headers)
        assert answer.status in (200, 204), (answer.body, gateway.log("supervisor")[-3000:])
        until(lambda: gateway.log("supervisor").count("cannot end it yet") > said, why="it has ended")
    assert ended(api, exec_id)["survivors"] == 1
    kill_all(mark)


def test_a_signal_is_not_taken_for_the_end_of_the_guest(api: Api, gateway: Gateway) -> None:
    """Where nothing of the guest can be looked at, for want of a descriptor, no end is invented."""
    mark = new_mark()
    exec_id = detach(api, 101, f"sleep {mark} & read line; kill -9 $$", stdin_open=True, background="kill")
    until(lambda: living(mark, alone=True), why="it runs")
    assert api.get(f"/execs/{exec_id}").json()["state"] == "running"  # the web keeps the connection that this made
    headers = {"Content-Type": "application/octet-stream"}
    with descriptors_left(gateway.services.pid("supervisor"), 0):
        answer = api.request("PUT", f"/execs/{exec_id}/stdin?offset=0", raw=b"go on\n", headers=headers)
        assert answer.status in (200, 204), answer.body
        until(lambda: len(living(mark)) < 2, why="the command has ended")
    view = ended(api, exec_id)
    assert (view["reason"], view["signal"]) == ("signaled", "SIGKILL")


def test_peers_wait_for_a_descriptor(api: Api, gateway: Gateway) -> None:
    """With no descriptor left new connections wait, without burning CPU, and are served when there are some again."""
    pid = gateway.services.pid("supervisor")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir(f"/proc/{pid}/fd"))) + 1
    said = gateway.log("supervisor").count("cannot accept")
    with contextlib.ExitStack() as peers, ThreadPoolExecutor(8) as pool:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        try:
            for _ in range(used):  # more than there can be free numbers below
                peers.enter_context(connect(socket_of(gateway)))
            until(lambda: gateway.log("supervisor").count("cannot accept") > said, why="it has run out")
            spent = cpu_seconds(pid)
            running = [pool.submit(api.post, 101, {"command": ["true"]}, timeout=20) for _ in range(8)]
            until(lambda: gateway.log("supervisor").count("cannot accept") > said + 1, why="it tries again")
            assert cpu_seconds(pid) - spent < 0.5
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert {one.result(30).status for one in running} <= {200, 503, 507}
        last = peers.enter_context(connect(socket_of(gateway)))
        last.sendall(struct.pack(">II", 15, 0) + b'{"op":"health"}')
        assert b'"ok"' in last.recv(65536)
    assert api.run(101, ["true"])["reason"] == "exited"


@contextlib.contextmanager
def descriptors_left(pid: int, left: int) -> Iterator[None]:
    """The process can open so many files more: the numbers that it has free below its limit."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}
    limit = next(islice((number for number in count() if number not in used), left, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def cpu_seconds(pid: int) -> float:
    """The CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

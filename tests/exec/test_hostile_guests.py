"""What a guest's root can do with the processes, sockets and names at hand: its own exec ends, the node goes on.

The programs are in `hostile/`; each says at its top what it does.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, ended, exec_cgroups, kill_all, living, new_mark
from tests.exec.streams import detach
from tests.exec.waiting import until
from tests.pvesim import guests
from tests.pvesim.guests import Guest

SOURCES = Path(__file__).parent / "hostile"
OTHER = 102
"""A guest that has nothing to do with it."""
SOON = 6.0
"""Seconds within which whoever has nothing to do with it is answered, on a busy machine: less than a spawn may take."""
SPAWN_TIMEOUT = 8.0

MakeGuest = Callable[..., Guest]


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway(exec={"spawn_timeout": SPAWN_TIMEOUT})


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def one_place(make_gateway: Callable[..., Gateway]) -> Iterator[Api]:
    """A gateway that runs one exec at a time."""
    opened = make_gateway(exec={"max_running": 1, "max_running_per_token": 1}).api()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the built programs."""
    built = tmp_path_factory.mktemp("hostile")
    for source in SOURCES.glob("*.c"):
        flags = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-static"]
        subprocess.run(["gcc", *flags, "-o", str(built / source.stem), str(source)], check=True)
    return built


@pytest.fixture
def hostile(make_guest: MakeGuest, programs: Path) -> MakeGuest:
    """Makes guests that have the programs in /usr/local/bin."""

    def make(vmid: int, *, unprivileged: bool = False, prepare: Callable[[Path], None] | None = None) -> Guest:
        def fill(rootfs: Path) -> None:
            shutil.copytree(programs, rootfs / "usr/local/bin", dirs_exist_ok=True)
            if prepare is not None:
                prepare(rootfs)

        return make_guest(vmid, unprivileged=unprivileged, prepare=fill)

    return make


def forge(guest: Guest, what: str) -> None:
    """From now on `forger` runs in the guest instead of the launcher, and does `what`."""
    (guest.rootfs / "forge").write_text(f"{what}\n")
    script = "mount -t tmpfs none /proc && mkdir -p /proc/self/fd && cp /usr/local/bin/forger /proc/self/fd/5"
    done = guest.attach(["/bin/sh", "-c", script])
    assert done.returncode == 0, done.stderr


def assert_others_are_served(api: Api, times: int = 4) -> None:
    """Another guest's commands run as if nothing were the matter."""
    for _ in range(times):
        began = time.monotonic()
        assert api.run(OTHER, ["true"])["exit_code"] == 0
        took = time.monotonic() - began
        assert took < SOON, f"{took:.1f} s"


def assert_starts_again(gateway: Gateway, api: Api) -> None:
    """A killed supervisor starts, fails at nothing, and serves the other guest."""
    said = len(gateway.log("supervisor"))
    gateway.services.kill("supervisor", signal.SIGKILL)
    gateway.services.restart("supervisor")
    assert_others_are_served(api, 1)
    assert "Traceback" not in gateway.log("supervisor")[said:]


@contextmanager
def gate(guest: Guest, name: str) -> Iterator[str]:
    """A FIFO in the guest, by its path there; who reads it waits until the test opens it for writing."""
    path = guest.rootfs / name
    os.mkfifo(path)
    try:
        yield f"/{name}"
    finally:
        path.unlink()


def image(gateway: Gateway) -> bytes:
    """Names the program image that the supervisor's process runs: each execve gets random addresses (getauxval(3))."""
    return Path(f"/proc/{gateway.services.pid('supervisor')}/auxv").read_bytes()


def begin_reload(gateway: Gateway) -> None:
    """SIGHUP; returns when the supervisor has seen that the new program starts, and so becomes it next."""
    config = str(gateway.services.config).encode()

    def check() -> Path | None:
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if config in words and b"--check" in words:
                    return entry
        return None

    gateway.services.kill("supervisor", signal.SIGHUP)
    process = until(check, why="the new program is tried")
    until(lambda: process is not None and not process.exists(), why="it is reaped")


@contextmanager
def reloading(gateway: Gateway, api: Api) -> Iterator[None]:
    """The body runs while the supervisor becomes its new image; afterwards it has, and answers."""
    before = image(gateway)
    begin_reload(gateway)
    yield
    until(lambda: image(gateway) != before, why="the new image runs")
    until(lambda: api.get("/health/ready").status == 200, why="it answers")


# ---- processes


@pytest.mark.parametrize("way", ["itself", "timeout", "delete"])
def test_traced_command_ends(hostile: MakeGuest, one_place: Api, way: str) -> None:
    """A command that a process of the guest traces cannot be reaped; it ends all the same and gives its place back."""
    guest = hostile(911, prepare=lambda rootfs: os.mkfifo(rootfs / "traced"))
    mark = new_mark()
    script = f"setsid tracer {mark} > /dev/null 2>&1 < /dev/null & echo ok"
    assert guest.attach(["/bin/sh", "-c", script]).stdout == b"ok\n"
    command = ["traced", "exits" if way == "itself" else "stays", mark]
    limits = {"timeout": 1 if way == "timeout" else 30, "kill_grace": 0.2}
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(one_place.run, 911, command, labels={"test": mark}, **limits)
        if way == "delete":
            exec_id = begun(one_place, mark)
            until(lambda: one_place.get(f"/execs/{exec_id}/stdout").body == b"traced\n", why="it is traced")
            assert one_place.request("DELETE", f"/execs/{exec_id}").status in (200, 202)
        result = running.result(20)
    assert time.monotonic() - began < 15, "it ended by its own time limit"
    assert result["stdout"] == "traced\n"
    assert result["reason"] == {"itself": "exited", "delete": "cancelled"}.get(way, way)
    assert result["exit_code"] == {"itself": None, "timeout": 124}.get(way, result["exit_code"])
    assert one_place.run(OTHER, ["true"], queue_timeout=0)["exit_code"] == 0
    assert not exec_cgroups(911)
    kill_all(mark)


def test_traced_command_that_ended_after_a_reload_takes_nothing_along(
    hostile: MakeGuest, api: Api, gateway: Gateway
) -> None:
    """Its end could not be seen, and is told much later: then its number is nobody's, and nothing is closed twice."""
    guest = hostile(919, prepare=lambda rootfs: os.mkfifo(rootfs / "traced"))
    mark, tracer, other = new_mark(), new_mark(), new_mark()
    script = f"setsid tracer {tracer} > /dev/null 2>&1 < /dev/null & echo ok"
    assert guest.attach(["/bin/sh", "-c", script]).stdout == b"ok\n"
    exec_id = detach(api, 919, ["traced", "stays", mark], kill_grace=0.2)
    until(lambda: api.get(f"/execs/{exec_id}/stdout").body == b"traced\n", why="it is traced")
    with reloading(gateway, api):
        pass
    assert api.request("DELETE", f"/execs/{exec_id}").status in (200, 202)
    view = ended(api, exec_id)
    assert view["reason"] == "cancelled"
    others = [detach(api, OTHER, f"sleep 1; echo {other}; exit 4") for _ in range(6)]
    kill_all(tracer)
    for one in others:
        assert ended(api, one)["exit_code"] == 4
        assert api.get(f"/execs/{one}/stdout").body == f"{other}\n".encode()
    assert api.get(f"/execs/{exec_id}").json() == view
    assert_others_are_served(api)
    assert "Traceback" not in gateway.log("supervisor")


@pytest.mark.parametrize("how", ["die", "bequeath"])
def test_launcher_that_is_killed_has_run_nothing(hostile: MakeGuest, api: Api, how: str) -> None:
    """Killed between its last word and its go: that is a spawn that failed, never a command that a signal ended; also
    while somebody else holds its socket, which the nursery does where it has not had its turn yet."""
    forge(hostile(920), how)
    for _ in range(50):
        result = api.run(920, ["true"])
        assert (result["reason"], result["signal"], result["exit_code"]) == ("spawn_failed", None, 126), result


def test_forged_claim_takes_no_exec_along(hostile: MakeGuest, api: Api) -> None:
    """Who says that another exec's command is its own ends alone; the other ends as it would have."""
    guest = hostile(912)
    mark = new_mark()
    script = f"echo $$; : < /{mark}; exit 5"
    with gate(guest, mark), ThreadPoolExecutor(1) as pool:
        victim = pool.submit(api.run, 912, script, labels={"test": mark})
        exec_id = begun(api, mark)
        pid = until(lambda: api.get(f"/execs/{exec_id}/stdout").body, why="it says its pid").decode().strip()
        forge(guest, f"claim {pid}")
        forger = api.run(912, ["true"])
        assert (forger["reason"], forger["killed"] >= 1) == ("spawn_failed", True)
        assert api.get(f"/execs/{exec_id}").json()["state"] == "running"
        with (guest.rootfs / mark).open("wb"):
            result = victim.result(30)
    assert (result["reason"], result["exit_code"], result["stdout"]) == ("exited", 5, f"{pid}\n")
    assert not exec_cgroups(912)


def test_forged_claim_to_be_a_child_of_ours(hostile: MakeGuest, api: Api, gateway: Gateway) -> None:
    """Nor is a process the command that another exec has made a child of the supervisor: it is in that one's cgroup."""
    guest, mark = hostile(912), new_mark()
    exec_id = detach(api, 912, ["sibling", mark])
    pid = until(lambda: api.get(f"/execs/{exec_id}/stdout").body, why="there are two").decode().strip()
    said = len(gateway.log("supervisor"))
    forge(guest, f"claim {pid}")
    forger = api.run(912, ["true"])
    assert forger["reason"] == "spawn_failed"
    assert "is not the command" in gateway.log("supervisor")[said:]
    assert len(living(mark)) == 2, "they go on"
    assert api.request("DELETE", f"/execs/{exec_id}?wait=20").json()["reason"] == "cancelled"
    until(lambda: not living(mark) and not exec_cgroups(912), why="both are gone")


def test_flooded_handshake_holds_nobody_up(hostile: MakeGuest, api: Api) -> None:
    """Eight processes that say the same word for ever end their own exec; another guest is served meanwhile.

    Mostly before it began; but one whose second word comes only after it was told to go is the command by then, and
    exits when nobody listens any more.
    """
    forge(hostile(913), "flood 8")
    with ThreadPoolExecutor(3) as pool:
        attacks = [pool.submit(api.run, 913, ["true"]) for _ in range(3)]
        assert_others_are_served(api)
        results = [attack.result(20) for attack in attacks]
    for result in results:
        ended = (result["reason"], result["exit_code"])
        assert ended in [("spawn_failed", 126), ("exited", 0)], result
    until(lambda: not exec_cgroups(913), why="nothing of them is left")


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_storm_of_siblings_holds_nobody_up(hostile: MakeGuest, api: Api, unprivileged: bool) -> None:
    """A command that by CLONE_PARENT gives the supervisor children without end costs others little; all end with it."""
    hostile(914, unprivileged=unprivileged)
    mark = new_mark()
    with ThreadPoolExecutor(1) as pool:
        body = {"labels": {"test": mark}, "timeout": 20, "kill_grace": 0}
        storm = pool.submit(api.run, 914, ["siblings", "2", mark], **body)
        exec_id = begun(api, mark)
        try:
            until(lambda: api.get(f"/execs/{exec_id}/stdout").body == b"on\n", why="the storm is on")
            assert_others_are_served(api, 5)
            assert len(living(mark)) >= 3
        finally:
            answer = api.request("DELETE", f"/execs/{exec_id}")
        assert answer.status in (200, 202)
        assert storm.result(15)["reason"] == "cancelled"
    until(lambda: not living(mark), why="the storm is over")
    assert not exec_cgroups(914)


REAP = """
import asyncio, os
from gateway.supervisor.kernel.children import Children

CHILDREN = 150

def left():
    return len(open(f"/proc/self/task/{os.getpid()}/children").read().split())

async def main():
    for _ in range(CHILDREN):
        pid = os.posix_spawn("/bin/true", ["true"], {})
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    children = Children(asyncio.get_running_loop())
    counts = [left()]
    children.reap()
    while counts[-1]:
        counts.append(left())
        await asyncio.sleep(0)
    print(*counts)

asyncio.run(main())
"""


def test_dead_children_are_reaped_in_turns() -> None:
    """However many children have ended, no more than 100 are reaped before everybody else gets a turn."""
    done = subprocess.run(
        [sys.executable, "-c", REAP], check=True, capture_output=True, text=True, timeout=20, cwd=SOURCES.parents[2]
    )
    counts = [int(word) for word in done.stdout.split()]
    assert (counts[0], counts[-1]) == (150, 0)
    assert max(before - after for before, after in itertools.pairwise(counts)) <= 100


# ---- cgroups and names


def test_cgroups_below_an_exec_are_refused(hostile: MakeGuest, api: Api, gateway: Gateway) -> None:
    """A privileged guest's root cannot hide in cgroups below its exec's: a timeout ends it, and so does a restart."""
    hostile(915)
    mark = new_mark()
    result = api.run(915, ["nested", mark], timeout=2, kill_grace=0)
    assert (result["reason"], result["stdout"]) == ("timeout", "0 11\n")  # 11: EAGAIN, cgroup.max.depth
    assert not living(mark)
    with api.begin(915, {"command": ["nested", mark], "labels": {"test": mark}}):
        begun(api, mark, mark)
        assert_starts_again(gateway, api)
    assert not living(mark)
    assert not exec_cgroups(915)


def test_socket_with_bytes_for_a_name_stops_nothing(api: Api, gateway: Gateway) -> None:
    """A user without rights holds an abstract socket whose name is no UTF-8: guests are found anyway."""
    assert api.run(OTHER, ["true"])["exit_code"] == 0
    with socket.socket(socket.AF_UNIX) as held:
        os.seteuid(65534)
        try:
            held.bind(b"\0\xff")
        finally:
            os.seteuid(0)
        assert b" @\xff\n" in Path("/proc/net/unix").read_bytes()
        assert_starts_again(gateway, api)
        assert api.run(101, ["true"])["exit_code"] == 0


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\x0bSigPnd:\tffff"], ids=["no-utf-8", "a-line-of-status"])
def test_names_of_processes_are_bytes(hostile: MakeGuest, api: Api, gateway: Gateway, name: bytes) -> None:
    """Whatever init and a command call themselves: ends are told as they are, all is ended, the supervisor starts."""

    def prepare(rootfs: Path) -> None:
        (rootfs / "name").write_bytes(name)
        (rootfs / "sbin/init").unlink()
        shutil.copy(rootfs / "usr/local/bin/renamed", rootfs / "sbin/init")

    guest = hostile(916, prepare=prepare)
    comm = Path(f"/proc/{guest.init_pid()}/comm")
    until(lambda: comm.read_bytes() == name + b"\n", why="init has its name")
    result = api.run(916, "kill -9 $$")
    assert (result["reason"], result["signal"]) == ("signaled", "SIGKILL")
    mark = new_mark()
    result = api.run(916, ["renamed", mark], placement="guest", timeout=2, kill_grace=0)
    assert (result["reason"], result["stdout"]) == ("timeout", "renamed\n")
    assert not living(mark)
    with api.begin(916, {"command": ["renamed", mark], "labels": {"test": mark}}):
        begun(api, mark, mark)
        assert_starts_again(gateway, api)
    assert not living(mark)
    assert api.run(916, ["true"])["exit_code"] == 0


# ---- reloads


def test_ended_exec_with_survivors_is_found_after_a_reload(api: Api, gateway: Gateway) -> None:
    """An exec that left processes behind is told after a reload as before, its output too, and they live on."""
    mark = new_mark()
    result = api.run(101, f"sleep {mark} & echo kept; echo too >&2")
    assert result["survivors"] == 1
    path = f"/execs/{result['id']}"
    before = api.get(path)
    with reloading(gateway, api):
        pass
    after = api.get(path)
    assert (after.status, after.json()) == (200, before.json())
    assert (api.get(f"{path}/stdout").body, api.get(f"{path}/stderr").body) == (b"kept\n", b"too\n")
    assert living(mark)
    kill_all(mark)
    until(lambda: not [one for one in exec_cgroups(101) if one.name == result["id"]], why="its cgroup is removed")
    assert api.get(f"{path}/stdout").body == b"kept\n"


def test_failed_reload_leaves_all_as_it_was(hostile: MakeGuest, api: Api, gateway: Gateway) -> None:
    """The new image cannot be run, and a client left meanwhile: who runs goes on, who asks is served, the next works.

    An exec that a guest holds in its spawn makes the reload wait for `spawn_timeout`; its client leaves in that time.
    """
    hostile_guest, other, mark = hostile(917), guests.get(OTHER), new_mark()
    forge(hostile_guest, "silent")
    with gate(other, mark), ThreadPoolExecutor(1) as pool, ExitStack() as undo:
        running = pool.submit(api.run, OTHER, f": < /{mark}; exit 5", labels={"test": mark})
        begun(api, mark)
        before, label = image(gateway), new_mark()
        client = undo.enter_context(api.begin(917, {"command": ["true"], "labels": {"test": label}}))
        exec_id = begun(api, label)
        begin_reload(gateway)
        client.close()
        with gateway.without_python():
            until(lambda: "not reloaded" in gateway.log("supervisor"), why="the reload has failed")
        assert image(gateway) == before
        assert_others_are_served(api, 2)
        assert ended(api, exec_id)["reason"] in ("spawn_failed", "client_gone")
        assert not running.done()
        with reloading(gateway, api):
            pass
        with (other.rootfs / mark).open("wb"):
            result = running.result(30)
    assert (result["reason"], result["exit_code"]) == ("exited", 5)


def test_reload_loses_nothing(api: Api, gateway: Gateway) -> None:
    """50 execs print before, during and after a reload: all is there, exit codes too; meanwhile nobody is refused."""
    count, guest, mark = 50, guests.get(101), new_mark()
    script = (
        'say() { i=0; while [ $i -lt 100 ]; do echo "$1 $i"; i=$((i+1)); done; };'
        f'say before; : < /{mark}-1; say during; say during >&2; : < /{mark}-2; say after; exit "$0"'
    )
    parts = {part: "".join(f"{part} {i}\n" for i in range(100)) for part in ("before", "during", "after")}
    stdout, stderr = "".join(parts.values()), parts["during"]
    over = threading.Event()

    def ask() -> list[dict[str, Any]]:
        answers = []
        while not over.is_set():
            answers.append(api.run(OTHER, ["echo", "hello"]))
        return answers

    with gate(guest, f"{mark}-1"), gate(guest, f"{mark}-2"), ThreadPoolExecutor(count + 2) as pool, ExitStack() as undo:
        undo.callback(over.set)
        label = {"labels": {"test": mark}}
        runs = [pool.submit(api.run, 101, ["sh", "-c", script, str(code)], **label) for code in range(count)]
        listing = f"/execs?label=test={mark}&state=running&limit=100"
        until(lambda: len(api.get(listing).json()["execs"]) == count, within=20, why="all run")
        asking = [pool.submit(ask) for _ in range(2)]
        with reloading(gateway, api):
            undo.enter_context((guest.rootfs / f"{mark}-1").open("wb"))
        assert not any(run.done() for run in runs)
        undo.enter_context((guest.rootfs / f"{mark}-2").open("wb"))
        results = [run.result(20) for run in runs]
        over.set()
        answers = [answer for one in asking for answer in one.result(30)]
    ends = {(result["reason"], result["stdout"], result["stderr"]) for result in results}
    assert ends == {("exited", stdout, stderr)}
    assert [result["exit_code"] for result in results] == list(range(count))
    hashes = {(result["output"]["stdout"]["sha256"], result["output"]["stderr"]["sha256"]) for result in results}
    assert hashes == {(hashlib.sha256(stdout.encode()).hexdigest(), hashlib.sha256(stderr.encode()).hexdigest())}
    assert answers
    assert {(answer["exit_code"], answer["stdout"]) for answer in answers} == {(0, "hello\n")}

"""The nursery of a running supervisor: it may die, it is never left behind, and a reload brings a new one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.launcher.harness import lxc_library
from tests.pvesim import guests


@pytest.fixture
def own(node: None) -> Iterator[Gateway]:
    """A gateway whose processes may be killed."""
    gateway = Gateway(exec={"spawn_timeout": 5})
    yield gateway
    gateway.close()


@pytest.fixture
def own_api(own: Gateway) -> Iterator[Api]:
    opened = own.api()
    yield opened
    opened.close()


def nurseries(supervisor: int) -> list[int]:
    """The living children of a supervisor that are nurseries."""
    children = map(int, Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split())
    return [pid for pid in children if command_line(pid) == b"nursery\0"]


def command_line(pid: int) -> bytes:
    """Empty for one that has ended, reaped or not."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_dead_nursery_is_replaced(own: Gateway, own_api: Api) -> None:
    """When it is killed the next exec starts another one, and nothing is told of it to anybody but the log."""
    supervisor = own.services.pid("supervisor")
    (first,) = nurseries(supervisor)
    os.kill(first, signal.SIGKILL)
    until(lambda: not nurseries(supervisor), why="it is reaped")
    assert own_api.run(101, ["echo", "on"])["stdout"] == "on\n"
    (second,) = nurseries(supervisor)
    assert second != first
    assert Path(f"/proc/{second}/environ").read_bytes() == b"", "who goes into guests has nothing of the supervisor's"
    assert "nursery had ended" in own.log("supervisor")


def test_a_launch_that_it_held_fails(own: Gateway, own_api: Api) -> None:
    """A launch that had not begun when the nursery died ends as `spawn_failed`, and nothing of it has run."""
    (nursery,) = nurseries(own.services.pid("supervisor"))
    os.kill(nursery, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(own_api.run, 101, ["touch", "/held"])
        until(lambda: own_api.get("/execs?state=running").json()["execs"], why="it is on its way")
        os.kill(nursery, signal.SIGKILL)
        result = held.result(30)
    assert (result["reason"], result["spawn_error"]["stage"]) == ("spawn_failed", "attach")
    assert not (guests.get(101).rootfs / "held").exists()


def test_a_launch_that_comes_late_is_nobodys(own: Gateway, own_api: Api) -> None:
    """A nursery that is held up for longer than a spawn may take runs nothing afterwards."""
    (nursery,) = nurseries(own.services.pid("supervisor"))
    os.kill(nursery, signal.SIGSTOP)
    result = own_api.run(101, ["touch", "/late"])
    assert (result["reason"], result["spawn_error"]["errno"]) == ("spawn_failed", "ETIMEDOUT")
    os.kill(nursery, signal.SIGCONT)
    assert own_api.run(101, ["echo", "on"])["stdout"] == "on\n"
    assert not (guests.get(101).rootfs / "late").exists()


def test_a_lost_library_is_told(own: Gateway, own_api: Api) -> None:
    """While LXC's library is gone an exec ends as `spawn_failed`, and the log says why; once it is back they go on."""
    subprocess.run(["mount", "--bind", "/dev/null", lxc_library()], check=True)
    try:
        result = own_api.run(101, ["true"])
    finally:
        subprocess.run(["umount", "-l", lxc_library()], check=True)
    assert (result["reason"], result["spawn_error"]["errno"]) == ("spawn_failed", "ELIBACC")
    assert "cannot be started: /" in own.log("supervisor")
    assert own_api.run(101, ["echo", "on"])["stdout"] == "on\n"


def test_a_signal_waits_for_the_command(own: Gateway, own_api: Api) -> None:
    """Sent to an exec that is still on its way it reaches the command, not the launcher, and is not refused."""
    (nursery,) = nurseries(own.services.pid("supervisor"))
    os.kill(nursery, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(own_api.run, 101, ["sleep", "60"])
        (view,) = until(lambda: own_api.get("/execs?state=running").json()["execs"], why="it is on its way")
        sent = pool.submit(own_api.request, "POST", f"/execs/{view['id']}/signal", {"signal": "TERM"})
        until(lambda: own.records(exec_id=view["id"], event="exec:signal"), why="it is recorded")
        assert not sent.done()
        os.kill(nursery, signal.SIGCONT)
        assert sent.result(30).status in (200, 202)
        result = held.result(30)
    assert (result["reason"], result["signal"]) == ("signaled", "SIGTERM")


def test_a_reload_has_one_of_its_own(own: Gateway, own_api: Api) -> None:
    """The new image has one nursery, the old one's has ended, and commands that ran go on."""
    supervisor = own.services.pid("supervisor")
    before = nurseries(supervisor)
    own.services.kill("supervisor", signal.SIGHUP)
    until(lambda: nurseries(supervisor) not in (before, []), why="reloaded")
    assert own_api.run(101, ["echo", "on"])["stdout"] == "on\n"
    assert len(nurseries(supervisor)) == 1


def test_it_ends_with_a_killed_supervisor(own: Gateway) -> None:
    """SIGKILL of the supervisor ends it, too."""
    (nursery,) = nurseries(own.services.pid("supervisor"))
    own.services.kill("supervisor")
    until(lambda: not Path(f"/proc/{nursery}").exists(), why="it has ended")

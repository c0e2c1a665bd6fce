"""A reload of the supervisor that comes at a bad moment, or cannot be: nothing is lost by it, nobody waits for ever."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, ended, living, new_mark
from tests.exec.streams import detach
from tests.exec.test_hostile_guests import begin_reload, image, reloading
from tests.exec.test_nursery import nurseries
from tests.exec.waiting import until
from tests.launcher.harness import lxc_library
from tests.pvesim import guests
from tests.pvesim.services import REPOSITORY


@pytest.fixture
def gateway(make_gateway: Callable[..., Gateway]) -> Gateway:
    return make_gateway(exec={"spawn_timeout": 20})


@pytest.fixture
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    yield opened
    opened.close()


def test_interpreter_that_is_away_harms_nobody(api: Api, gateway: Gateway) -> None:
    """While Python itself is being replaced a reload fails, and all that runs goes on; the next one works."""
    mark = new_mark()
    exec_id = detach(api, 101, ["sleep", mark], labels={"test": mark})
    before = image(gateway)
    with gateway.without_python():
        gateway.services.kill("supervisor", signal.SIGHUP)
        until(lambda: "not reloaded" in gateway.log("supervisor"), why="the reload has failed")
        assert api.run(102, ["echo", "on"])["stdout"] == "on\n"
    assert image(gateway) == before
    with reloading(gateway, api):
        pass
    assert api.get(f"/execs/{exec_id}").json()["state"] == "running"
    assert living(mark)


def test_limits_hold_over_a_reload(api: Api, gateway: Gateway) -> None:
    """The new image ends what has had its time, and kills what had its grace, from before."""
    mark = new_mark()
    timed = detach(api, 101, ["sleep", mark], timeout=3, kill_grace=0.2)
    deaf = detach(api, 101, f"trap '' TERM; echo up; while :; do sleep 0.1; done; : {mark}", kill_grace=3)
    until(lambda: api.get(f"/execs/{deaf}/stdout").body, why="it is deaf")
    assert api.request("DELETE", f"/execs/{deaf}").status == 202
    with reloading(gateway, api):
        pass
    assert ended(api, timed)["reason"] == "timeout"
    assert ended(api, deaf)["reason"] == "cancelled"
    assert not living(mark)


@pytest.mark.parametrize("when", ["at-once", "in-the-middle", "in-a-storm"])
def test_stop_is_not_lost_in_a_reload(api: Api, gateway: Gateway, when: str) -> None:
    """A stop that comes with a reload, or with hundreds, or while one waits for a spawn, is obeyed: what runs ends as
    gateway_lost."""
    mark, held = new_mark(), new_mark()
    exec_id = detach(api, 101, ["sleep", mark], labels={"test": mark})
    begun(api, mark, mark)
    supervisor = gateway.services.pid("supervisor")
    (nursery,) = nurseries(supervisor)
    with ThreadPoolExecutor(1) as pool:
        if when == "at-once":
            gateway.services.kill("supervisor", signal.SIGSTOP)
            gateway.services.kill("supervisor", signal.SIGHUP)
            gateway.services.kill("supervisor", signal.SIGTERM)
            gateway.services.kill("supervisor", signal.SIGCONT)
        elif when == "in-a-storm":
            storm = subprocess.Popen(
                ["sh", "-c", f"while kill -HUP {supervisor}; do :; done"], stderr=subprocess.DEVNULL
            )
            begin_reload(gateway)
            gateway.services.kill("supervisor", signal.SIGTERM)
            pool.submit(storm.wait)
        else:
            os.kill(nursery, signal.SIGSTOP)
            pool.submit(api.post, 102, {"command": ["true"], "labels": {"test": held}})
            begun(api, held)
            begin_reload(gateway)
            gateway.services.kill("supervisor", signal.SIGTERM)
            until(lambda: "it is being stopped" in gateway.log("supervisor"), within=12, why="it waits for no spawn")
            os.kill(nursery, signal.SIGCONT)
        gateway.services.wait_end("supervisor", 30)
    assert not living(mark)
    gateway.services.restart("supervisor")
    assert api.get(f"/execs/{exec_id}").json()["reason"] == "gateway_lost"


def test_program_of_another_state_version_is_not_become(gateway: Gateway) -> None:
    """The new program says beforehand whether it can go on with what the running one leaves."""
    command = [sys.executable, "-m", "gateway", "--config", str(gateway.services.config), "supervise", "--check"]
    for version, code in (("1", 1), ("2", 0)):
        environment = {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY), "PVE_EXEC_GATEWAY_STATE_VERSION": version}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
        assert (done.returncode != 0, "restart the service" in done.stderr) == (code != 0, code != 0), done.stderr


@pytest.mark.parametrize("words", [[], ["--check"]], ids=["start", "reload"])
def test_starts_with_lxc_alone(gateway: Gateway, words: list[str]) -> None:
    """Without LXC's library a supervisor does not start and no running one becomes a new image: both say why."""
    command = [sys.executable, "-m", "gateway", "--config", str(gateway.services.config), "supervise", *words]
    hidden = f"mount --bind /dev/null {lxc_library()} && exec {shlex.join(command)}"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", hidden], env=environment, capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 2, done.stderr
    assert "liblxc.so.1" in done.stderr
    assert "exec.driver" in done.stderr


def test_storm_of_reloads(api: Api, gateway: Gateway) -> None:
    """SIGHUP after SIGHUP while execs begin and end: each ends as it would have, and nothing is left behind."""
    mark, count = new_mark(), 40
    path = guests.get(101).rootfs / "root" / mark
    command = ["sh", "-c", f"cat > /dev/null; echo $0 >> /root/{mark}; echo $0; exit 3"]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(api.run, 101, [*command, str(number)], stdin="x" * 300_000) for number in range(count)]
        while not all(run.done() for run in runs):
            gateway.services.kill("supervisor", signal.SIGHUP)
            wait(runs, timeout=0.02)
        results = [run.result(30) for run in runs]
    assert [(one["reason"], one["exit_code"], one["stdout"]) for one in results] == [
        ("exited", 3, f"{number}\n") for number in range(count)
    ]
    assert sorted(map(int, path.read_text().split())) == list(range(count))
    with reloading(gateway, api):
        pass
    assert len(nurseries(gateway.services.pid("supervisor"))) == 1
    said = gateway.log("supervisor")
    assert "Traceback" not in said, said[said.index("Traceback") - 200 :]


def test_guest_that_stops_while_the_new_image_starts(
    api: Api, gateway: Gateway, make_guest: Callable[..., guests.Guest]
) -> None:
    """Its cgroup is gone before the new image looks: that is the end of this guest, and of nothing else."""
    guest, mark = make_guest(922), new_mark()
    assert api.run(922, ["true"])["exit_code"] == 0
    kept = detach(api, 101, ["sleep", mark], labels={"test": mark})
    before = image(gateway)
    begin_reload(gateway)
    until(lambda: image(gateway) != before, why="the new image begins")
    gateway.services.kill("supervisor", signal.SIGSTOP)
    try:
        guest.stop(kill=True)
    finally:
        gateway.services.kill("supervisor", signal.SIGCONT)
    until(lambda: api.get("/health/ready").status == 200, why="it answers")
    assert api.get(f"/execs/{kept}").json()["state"] == "running"
    assert living(mark)
    assert "Traceback" not in gateway.log("supervisor")
    guest.start()
    assert api.run(922, ["echo", "again"])["stdout"] == "again\n"


def test_memory_that_was_promised_stays_so(make_gateway: Callable[..., Gateway]) -> None:
    """What running execs may hold counts after the reload as before: exec.memory is no less bounded by it."""
    small = make_gateway(exec={"memory": 16 << 20})
    asking, mark = small.api(), new_mark()
    large = {"output": {"limit": 8 << 20}, "labels": {"test": mark}}

    def asked() -> str | None:
        return asking.post(102, {"command": ["true"], **large}).code

    try:
        with asking.begin(101, {"command": ["sleep", mark], **large}):
            begun(asking, mark, mark)
            assert asked() == "too_many_execs"
            with reloading(small, asking):
                pass
            assert asked() == "too_many_execs"
        until(lambda: asked() is None, why="it has ended with its client, and its memory is free")
    finally:
        asking.close()

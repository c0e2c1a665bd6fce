"""The `pct` driver: what holds for lxc-attach holds for the stock tool, and its stray exits are told apart.

The tests imported here run again, with this module's gateway.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Run, every_guest
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, ended, exec_cgroups, living, new_mark
from tests.exec.test_endings import (  # noqa: F401
    test_death_by_a_signal_is_told_from_an_exit,
    test_exit_code_is_the_commands_own,
    test_stderr_is_the_commands_alone,
    test_stopped_guest_is_refused_at_once,
    test_unknown_guest_is_not_found,
    test_what_cannot_begin_says_why,
)
from tests.exec.test_identity import (  # noqa: F401
    test_argv_arrives_as_sent,
    test_argv_arrives_as_sent_whatever_it_is,
    test_cwd_is_the_home_or_what_was_asked,
    test_dangerous_variables_reach_the_command_alone,
    test_descriptors_signals_and_limits_are_a_new_logins,
    test_environment_is_clean_and_complete,
    test_many_large_arguments_come_back_as_a_result,
    test_no_stdin_is_an_empty_one,
    test_no_stdin_is_no_file_of_the_node,
    test_stdin_arrives_byte_for_byte,
    test_user_is_honoured_with_its_groups,
    test_what_no_guest_can_take_is_refused,
)
from tests.exec.test_output import (  # noqa: F401
    test_bytes_come_back_as_they_were,
    test_gigabyte_is_counted_and_hashed_in_little_memory,
    test_kept_part_is_the_one_asked_for,
)
from tests.exec.test_terminal import (  # noqa: F401
    shell,
    terminal,
    test_ctrl_c_interrupts_the_foreground,
    test_it_is_a_terminal,
    test_leaving_ends_the_terminal,
    test_size_and_resize,
)
from tests.exec.test_trees import (  # noqa: F401
    test_detached_background_lives_on_and_may_write,
    test_hostile_tree_is_ended_whole,
    test_killed_background_is_gone_with_the_answer,
    test_neighbour_is_never_touched,
    test_timeout_ends_a_shell_that_waits,
    test_timeout_leaves_what_was_printed,
    test_waited_background_holds_the_answer,
)
from tests.exec.waiting import until
from tests.pvesim import config
from tests.pvesim.guests import Guest
from tests.pvesim.pct import PMXCFS_DOWN, SECONDS


@pytest.fixture(scope="module")
def gateway(node: None) -> Iterator[Gateway]:
    """A gateway that enters containers by pct, with variables in its environment that pct would hand on."""
    canaries = {"PVE_CANARY": "CANARY", "LC_CANARY": "CANARY", "SSL_CERT_FILE": "CANARY"}
    running = Gateway(environment=canaries, exec={"driver": "pct"})
    yield running
    running.close()


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def terminals(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api(gateway.token("terminals", actions="exec:terminal,exec:run"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def run(api: Api) -> Run:
    return api.run


@pytest.fixture(params=[every_guest()[0], every_guest()[2]])
def vmid(request: pytest.FixtureRequest) -> int:
    """Of each distribution one: what differs between the others is none of pct's business."""
    number: int = request.param
    return number


@pytest.fixture
def small_vmid() -> int:
    return 104


@pytest.fixture
def switch() -> Iterator[Callable[[Path, str], None]]:
    """Turns a switch of the stand-in for as long as the test."""
    turned: list[Path] = []

    def turn(file: Path, text: str = "") -> None:
        turned.append(file)
        file.write_text(text)

    yield turn
    for file in turned:
        file.unlink()


def test_command_has_a_place_of_its_own(gateway: Gateway, run: Run, small_vmid: int) -> None:
    """pct puts it among the guest's own processes; before it begins it is in its own cgroup, and counted there."""
    result = run(small_vmid, "cat /proc/self/cgroup; i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")
    assert f"0::/../pveg-{gateway.instance}/{result['id']}" in result["stdout"]
    assert result["usage"]["cpu_ms"] >= 5


def test_placement_in_the_guest_stays_there(run: Run, small_vmid: int) -> None:
    """Who asks for the guest's own cgroup gets it."""
    assert "pveg-" not in run(small_vmid, ["cat", "/proc/self/cgroup"], placement="guest")["stdout"]


def test_pmxcfs_that_is_down_is_named(run: Run, switch: Callable[..., None]) -> None:
    """pct knows no guest without pmxcfs: exit 111 and its words become a reason, and nothing ran."""
    switch(PMXCFS_DOWN)
    result = run(101, ["true"])
    assert (result["reason"], result["exit_code"]) == ("spawn_failed", 126)
    assert (result["spawn_error"]["stage"], result["spawn_error"]["errno"]) == ("attach", "ECONNREFUSED")
    assert "pmxcfs" in result["spawn_error"]["message"]
    assert result["stdout"] == result["stderr"] == ""


def test_container_without_a_configuration_is_named(
    run: Run, make_guest: Callable[..., Guest], switch: Callable[..., None]
) -> None:
    """A configuration that goes away while pct starts: exit 2 is not the command's."""
    vmid = make_guest(911).vmid
    switch(SECONDS, "0.5")
    path = config.pve_path(vmid)
    text = path.read_text()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, vmid, ["true"])
        until(lambda: on_its_way(vmid), why="pct is on its way")
        path.unlink()
        result = running.result(20)
    path.write_text(text)
    assert (result["reason"], result["spawn_error"]["errno"]) == ("spawn_failed", "ENOENT")


def test_container_that_stops_on_the_way_is_named(
    run: Run, make_guest: Callable[..., Guest], switch: Callable[..., None]
) -> None:
    """A guest that stops while pct starts: exit 255 is not the command's, and no cgroup keeps it from starting."""
    guest = make_guest(912, unprivileged=True)
    switch(SECONDS, "5")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, guest.vmid, ["true"])
        until(lambda: on_its_way(guest.vmid), why="pct is on its way")
        guest.stop(kill=True)
        result = running.result(20)
    assert result["reason"] in ("spawn_failed", "container_stopped")
    assert result["reason"] == "container_stopped" or result["spawn_error"]["errno"] == "ESRCH"
    SECONDS.write_text("0")
    guest.start()
    assert run(guest.vmid, ["true"])["reason"] == "exited"


def test_tool_that_is_missing_is_named(make_gateway: Callable[..., Gateway]) -> None:
    """A node without pct is not ready, and says so; a command there has not begun."""
    other = make_gateway(exec={"driver": "pct"}, lxc={"pct": "/bin/true"})
    config_file = other.services.config
    config_file.write_text(config_file.read_text().replace('"/bin/true"', '"/no/such/pct"'))
    other.services.restart("supervisor")
    opened = other.api()
    assert opened.get("/health/ready").status == 503
    assert opened.post(101, {"command": ["true"]}).json()["reason"] == "spawn_failed"
    opened.close()


def test_time_limit_is_the_commands(run: Run, switch: Callable[..., None]) -> None:
    """The seconds that pct takes are not the command's: a short limit still lets it run."""
    switch(SECONDS, "2")
    result = run(101, "echo ran; sleep 60", timeout=1.5, kill_grace=0)
    assert (result["reason"], result["stdout"]) == ("timeout", "ran\n")
    assert result["timing"]["spawn_ms"] >= 2000


def test_client_that_leaves_while_pct_starts_runs_nothing(
    api: Api, small_vmid: int, switch: Callable[..., None]
) -> None:
    """An exec that is ended on its way never begins, and nothing of it stays behind."""
    switch(SECONDS, "15")
    mark = new_mark()
    began = time.monotonic()
    connection = api.begin(small_vmid, {"command": ["sleep", mark], "labels": {"test": mark}})
    exec_id = begun(api, mark)
    connection.close()
    assert ended(api, exec_id)["reason"] == "client_gone"
    assert time.monotonic() - began < 10, "pct was waited for"
    until(lambda: not any(exec_id in str(path) for path in exec_cgroups(small_vmid)))
    assert not living(mark)


def test_supervisors_reload_keeps_the_command(api: Api, gateway: Gateway, small_vmid: int) -> None:
    """A command that pct has brought in is handed over like any other, and ended whole afterwards."""
    mark = new_mark()
    script = f"sleep {mark} & setsid sleep {mark} & echo begun; wait; :"
    with api.begin(small_vmid, {"command": script, "labels": {"test": mark}}):
        exec_id = begun(api, mark, mark)
        gateway.services.reload("supervisor")
        assert len(living(mark, alone=True)) == 2
        assert api.request("DELETE", f"/execs/{exec_id}").status in (200, 202)
        assert ended(api, exec_id)["reason"] == "cancelled"
    until(lambda: not living(mark))


def test_stand_in_behaves_as_pct_does(node: None) -> None:
    """The simulated pct leaks the environment, damages arguments and leaves with stray exit codes, as the real one."""

    def pct(*arguments: str, **environment: str) -> tuple[int, bytes, bytes]:
        command = [str(Path(__file__).parents[1] / "pvesim/pct.py"), *arguments]
        given = {"PATH": "/usr/bin:/bin", **environment}
        done = subprocess.run(command, check=False, env=given, capture_output=True, timeout=20)
        return done.returncode, done.stdout, done.stderr

    utf8 = {"LC_ALL": "C.UTF-8"}
    assert b"LEAK=1" in pct("exec", "101", "--", "env", LEAK="1", **utf8)[1]
    assert b"PATH=/sbin:/bin:/usr/sbin:/usr/bin\n" in pct("exec", "101", "--", "env", **utf8)[1]
    assert b"LEAK" not in pct("exec", "101", "--keep-env", "0", "--", "env", LEAK="1", **utf8)[1]
    assert pct("exec", "101", "--", "echo", "é", **utf8)[1] == "é\n".encode()
    assert pct("exec", "101", "--", "echo", "é", LANG="C")[1] == "\ufffd\ufffd\n".encode()
    assert pct("exec", "101", "--", "sh", "-c", "exit 3", **utf8)[0] == 3
    name = socket.gethostname()
    assert pct("exec", "999", "--", "true")[::2] == (
        2,
        f"Configuration file 'nodes/{name}/lxc/999.conf' does not exist\n".encode(),
    )
    assert pct("exec", "103", "--", "true")[::2] == (255, b"container '103' not running!\n")
    assert pct("exec", "x", "--", "true")[0] == 255
    assert pct("exec", "101", "--", "/no/such")[0] == 127


def on_its_way(vmid: int) -> bool:
    """Whether a pct has been started for a guest."""
    words = f"\0exec\0{vmid}\0".encode()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if words in file.read_bytes():
                return True
    return False

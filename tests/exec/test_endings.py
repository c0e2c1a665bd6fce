"""A8: every way in which an exec can end, or not begin, is told apart, in every kind of guest."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.waiting import BUSY
from tests.pvesim import guests, pmxcfs
from tests.pvesim.guests import Guest

SHELL_WITHOUT_SH = ["/bin/busybox", "sh", "-c"]


@pytest.mark.parametrize("code", [0, 1, 2, 124, 125, 126, 127, 128, 137, 143, 255])
def test_exit_code_is_the_commands_own(run: Run, vmid: int, code: int) -> None:
    """A program that exits with 124, 126, 127 or 137 exited; nothing is read into the number."""
    result = run(vmid, ["/bin/sh", "-c", f"echo out; echo err >&2; exit {code}"])
    assert (result["state"], result["reason"], result["exit_code"]) == ("ended", "exited", code)
    assert (result["signal"], result["spawn_error"]) == (None, None)
    assert (result["stdout"], result["stderr"]) == ("out\n", "err\n")


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (15, "SIGTERM"), (1, "SIGHUP"), (6, "SIGABRT")])
def test_death_by_a_signal_is_told_from_an_exit(run: Run, vmid: int, number: int, name: str) -> None:
    """A command that a signal ended is `signaled`, with the code that a shell gives."""
    began = time.monotonic()
    result = run(vmid, ["/bin/sh", "-c", f"echo last words >&2; kill -{number} $$; sleep 9"])
    assert (result["reason"], result["exit_code"], result["signal"]) == ("signaled", 128 + number, name)
    assert result["stderr"] == "last words\n"
    assert time.monotonic() - began < 8, "the shell went on"


@pytest.mark.parametrize(
    ("spec", "stage", "errno", "exit_code"),
    [
        pytest.param({"command": ["/no/such/program"]}, "exec", "ENOENT", 127, id="missing-program"),
        pytest.param({"command": ["no-such-program"]}, "exec", "ENOENT", 127, id="missing-in-PATH"),
        pytest.param({"command": ["/etc/group"]}, "exec", "EACCES", 126, id="not-executable"),
        pytest.param({"command": ["/etc"]}, "exec", "EACCES", 126, id="a-directory"),
        pytest.param({"command": ["/etc/hostname/x"]}, "exec", "ENOTDIR", 126, id="below-a-file"),
        pytest.param({"command": ["true"], "cwd": "/no/such/place"}, "cwd", "ENOENT", 126, id="missing-cwd"),
        pytest.param({"command": ["true"], "cwd": "/etc/hostname"}, "cwd", "ENOTDIR", 126, id="cwd-is-a-file"),
        pytest.param(
            {"command": ["true"], "cwd": "/root", "user": "www-data"}, "cwd", "EACCES", 126, id="cwd-not-allowed"
        ),
        pytest.param({"command": ["true"], "user": "nobody-here"}, "user", "ENOENT", 126, id="missing-user"),
        pytest.param({"command": "echo", "shell": ["/bin/no-shell", "-c"]}, "exec", "ENOENT", 127, id="missing-shell"),
    ],
)
def test_what_cannot_begin_says_why(
    api: Api, vmid: int, spec: dict[str, Any], stage: str, errno: str, exit_code: int
) -> None:
    """A command that cannot begin is `spawn_failed` with stage and errno: never an exit, never words on its stderr."""
    answer = api.post(vmid, spec)
    assert answer.status == 200, answer.body
    result = answer.json()
    assert (result["reason"], result["exit_code"], result["signal"]) == ("spawn_failed", exit_code, None)
    assert (result["spawn_error"]["stage"], result["spawn_error"]["errno"]) == (stage, errno)
    assert (result["stdout"], result["stderr"]) == ("", "")


def test_stderr_is_the_commands_alone(run: Run, vmid: int) -> None:
    """Bytes on stderr come back as written, none added, none lost, although lxc-attach has a stderr too."""
    said = "lxc-attach: 101: attach.c: no such thing\n\ttab \u00e9\u20ac\U0001f600 \r end"
    result = run(vmid, ["/bin/sh", "-c", "cat >&2; exit 1"], stdin=said)
    assert (result["stderr"], result["stdout"], result["exit_code"]) == (said, "", 1)


def test_stopped_guest_is_refused_at_once(api: Api) -> None:
    """A stopped guest is 409 within a second, and nothing is started in it."""
    began = time.monotonic()
    answer = api.post(103, {"command": ["true"]})
    assert (answer.status, answer.code) == (409, "guest_not_running")
    assert time.monotonic() - began < 1 + BUSY
    assert not list((guests.get(103).cgroup).glob("pveg-*"))


def test_end_before_the_beginning_raises_no_suspicion(run: Run, gateway: Gateway, small_vmid: int) -> None:
    """Time limits that pass while the command is on its way into its guest: `timeout`, and the guest is not accused."""
    said = len(gateway.log("supervisor"))
    for ms in range(1, 40, 3):
        assert run(small_vmid, ["sleep", "9"], timeout=ms / 1000, kill_grace=0)["reason"] == "timeout"
    assert gateway.log("supervisor")[said:] == ""


def test_unknown_guest_is_not_found(api: Api) -> None:
    """A vmid that no guest has is 404, and so is one that could be no vmid."""
    assert (api.post(999, {"command": ["true"]}).status, api.post(999, {"command": ["true"]}).code) == (
        404,
        "guest_not_found",
    )
    assert api.post(12, {"command": ["true"]}).status == 404


def test_guest_of_another_node_is_refused_by_name(api: Api) -> None:
    """A guest that the cluster has elsewhere is a 409 that names its node, as long as nothing forwards."""
    pmxcfs.register(777, node="pve2")
    try:
        answer = api.post(777, {"command": ["true"]})
        assert (answer.status, answer.code) == (409, "guest_unsupported")
        assert answer.json()["node"] == "pve2"
    finally:
        pmxcfs.unregister(777)


def make_fifo(rootfs: Path) -> None:
    _without(rootfs)
    os.mkfifo(rootfs / "etc/passwd")


def make_link(rootfs: Path) -> None:
    _without(rootfs)
    (rootfs / "etc/passwd").symlink_to("/root/passwd")
    (rootfs / "root/passwd").write_text("app:x:1000:1000::/:/bin/sh\n")


def make_giant(rootfs: Path) -> None:
    _without(rootfs)
    with (rootfs / "etc/passwd").open("wb") as file:
        file.truncate(1 << 30)


def _without(rootfs: Path) -> None:
    """No /bin/sh, no /tmp, no /etc/passwd."""
    (rootfs / "bin/sh").unlink()
    (rootfs / "etc/passwd").unlink()
    (rootfs / "tmp").rmdir()


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
@pytest.mark.parametrize("prepare", [make_fifo, make_link, make_giant])
def test_hostile_guest_ends_as_clearly_as_any(
    make_guest: Callable[..., Guest], api: Api, prepare: Callable[[Path], None], unprivileged: bool
) -> None:
    """Without /bin/sh and with /etc/passwd a FIFO, a link or 1 GiB, numbers still work and names fail at once."""
    make_guest(901, unprivileged=unprivileged, prepare=prepare)
    began = time.monotonic()
    for code in (0, 1, 126, 127, 255):
        result = api.run(901, [*SHELL_WITHOUT_SH, f"echo here; echo there >&2; exit {code}"])
        assert (result["reason"], result["exit_code"]) == ("exited", code)
        assert (result["stdout"], result["stderr"]) == ("here\n", "there\n")
    by_number = api.run(901, ["busybox", "grep", "^Uid", "/proc/self/status"], user="1234:55")
    assert (by_number["reason"], by_number["stdout"].split()[1:]) == ("exited", ["1234"] * 4)
    by_name = api.run(901, ["busybox", "true"], user="app")
    assert (by_name["reason"], by_name["spawn_error"]["stage"]) == ("spawn_failed", "user")
    by_string = api.run(901, "echo never")
    assert (by_string["reason"], by_string["spawn_error"]["errno"]) == ("spawn_failed", "ENOENT")
    killed = api.run(901, [*SHELL_WITHOUT_SH, "kill -9 $$"])
    assert (killed["reason"], killed["signal"]) == ("signaled", "SIGKILL")
    assert time.monotonic() - began < 9  # less than a spawn may take

"""What processes give up as they begin: tried by a process that holds on to uid 0 alone, without a capability."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# Root as the units leave it: the bounding set is empty, so what is executed has no capability.
_POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
_PRIVATE = "from gateway.confinement import keep_memory_private as begin; begin()"
_APART = "from gateway.confinement import stay_apart as begin; begin()"
_HAS_SCOPES = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6  # landlock_create_ruleset(2), its version


def run(*program: str) -> str:
    """What a Python program says that is run by root without a capability."""
    command = [*_POWERLESS, sys.executable, "-c", "\n".join(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@pytest.mark.parametrize(("first", "opened"), [("", "True"), (_PRIVATE, "False")])
def test_memory_is_nobody_elses(first: str, opened: str) -> None:
    """Another process of the same uid and as few capabilities cannot open its memory, as it could before."""
    waits = [*_POWERLESS, sys.executable, "-c", f"{first}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(waits, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        tried = f"try:\n open('/proc/{holder.pid}/mem', 'rb+', 0)\n print(True)\nexcept OSError:\n print(False)"
        assert run(tried) == opened
        holder.communicate(b"\n", timeout=30)


def test_memory_is_dumped_into_no_core() -> None:
    """A core would hold keys, input and output."""
    assert run(_PRIVATE, "import ctypes; print(ctypes.CDLL(None).prctl(3))") == "0"  # PR_GET_DUMPABLE


def test_sockets_without_a_path_are_out_of_reach(tmp_path: Path) -> None:
    """LXC obeys uid 0 on such a socket; those that have a path are the unit's matter."""
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
        abstract.bind(f"\0pveg-test-{os.getpid()}")
        named.bind(str(tmp_path / "socket"))
        abstract.listen()
        named.listen()
        connect = (
            "import socket",
            "def reach(name):",
            " try: socket.socket(socket.AF_UNIX).connect(name)",
            " except PermissionError: return False",
            " return True",
            f"print(reach('\\0pveg-test-{os.getpid()}'), reach({str(tmp_path / 'socket')!r}))",
        )
        assert run(*connect) == "True True"
        assert run(_APART, *connect) == f"{not _HAS_SCOPES} True"


def test_others_are_signalled_by_nobody() -> None:
    """uid 0 may signal uid 0; its own children it still may."""
    signals = (
        "import os, signal",
        "def reach(pid):",
        " try: os.kill(pid, 0)",
        " except PermissionError: return False",
        " return True",
        "child = os.fork()",
        "if child == 0: signal.pause()",
        f"print(reach({os.getpid()}), reach(child))",
        "os.kill(child, signal.SIGKILL)",
    )
    assert run(*signals) == "True True"
    assert run(_APART, *signals) == f"{not _HAS_SCOPES} True"


def test_number_one_finds_what_systemd_has_for_it() -> None:
    """In a pid namespace of its own it is called by another number, and hears SIGTERM all the same."""
    program = (
        "import os, signal",
        "from gateway.confinement import begin_as_first",
        "begin_as_first()",
        "print(os.getpid(), os.environ['LISTEN_PID'], os.environ['WATCHDOG_PID'], flush=True)",
        "signal.pause()",
    )
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", "\n".join(program)]
    environment = {**os.environ, "LISTEN_PID": "4711", "WATCHDOG_PID": "4711"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as outside:
        assert outside.stdout is not None
        assert outside.stdout.readline() == "1 1 1\n"
        children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
        os.kill(int(children.read_text()), signal.SIGTERM)
        assert outside.wait(timeout=30) == 128 + signal.SIGTERM


def test_other_numbers_keep_what_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """LISTEN_PID names another process: its descriptors are not ours (sd_listen_fds(3))."""
    program = (
        "from gateway.confinement import begin_as_first; begin_as_first(); import os; print(os.environ['LISTEN_PID'])"
    )
    monkeypatch.setenv("LISTEN_PID", "4711")
    assert run(program) == "4711"

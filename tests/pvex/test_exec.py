"""`pvex exec`: streams, exit codes, signals and failures are those of a command that runs here."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exec.inside import ended, labelled, living, new_mark
from tests.exec.waiting import until
from tests.pvex.client import Pvex


def test_a_command(pvex: Pvex) -> None:
    """Its output is ours, each stream its own, and its exit code."""
    done = pvex("exec", "101", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


@pytest.mark.parametrize(
    "words",
    [
        ["101", "echo", "-n", "a  b", "$(id)"],
        ["101", "--", "echo", "-n", "a  b", "$(id)"],
        ["--", "101", "echo", "-n", "a  b", "$(id)"],
        ["101", "-e", "X=1", "--", "echo", "-n", "a  b", "$(id)"],
    ],
)
def test_words(pvex: Pvex, words: list[str]) -> None:
    """Options stand before the guest, or before `--`; what follows is the command's, untouched."""
    done = pvex("exec", *words)
    assert (done.returncode, done.stdout) == (0, b"a  b $(id)"), done


def test_bytes_both_ways(pvex: Pvex) -> None:
    """All 256 values and more than a piece of input go through unchanged; without -i there is no input."""
    data = bytes(range(256)) * 3000
    done = pvex("exec", "-i", "101", "--", "cat", stdin=data)
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")
    assert pvex("exec", "101", "--", "cat", stdin=data).stdout == b""


def test_input_as_it_comes(pvex: Pvex) -> None:
    """A conversation: each line is answered before the next is sent."""
    with pvex.start("exec", "-i", "101", "--", "sh", "-c", "while read x; do echo got $x; done") as talk:
        assert talk.stdin and talk.stdout
        for word in (b"one", b"two"):
            talk.stdin.write(word + b"\n")
            talk.stdin.flush()
            assert talk.stdout.readline() == b"got " + word + b"\n"
        talk.stdin.close()
        assert talk.wait(30) == 0


def test_circumstances(pvex: Pvex) -> None:
    """User, directory and environment; -e NAME takes our own value."""
    done = pvex(
        "exec", "-u", "1000:1000", "-w", "/tmp", "-e", "A=1", "-e", "OURS", "101",
        "--", "sh", "-c", "id -u; pwd; echo $A $OURS", OURS="kept",
    )  # fmt: skip
    assert done.stdout == b"1000\n/tmp\n1 kept\n"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--timeout", "0.2", "101", "--", "sleep", "9"], 124, b"its time was over"),
        (["101", "--", "/no/such"], 127, b"did not begin"),
        (["101", "--", "/etc"], 126, b"did not begin"),
        (["101", "--", "sh", "-c", "kill -9 $$"], 137, b""),
        (["103", "--", "true"], 125, b"`pvex start` starts it"),
        (["999", "--", "true"], 125, b"`pvex ls` lists"),
        (["101"], 2, b"give a command"),
        (["-d", "-i", "101", "--", "true"], 2, b"takes no -i"),
        (["-d", "101", "--", "/no/such"], 127, b"did not begin"),
        (["-x", "101", "--", "true"], 2, b"`pvex exec --help` tells more"),
        (["-e", "=1", "101", "--", "true"], 2, b"--env takes NAME=VALUE"),
        (["101", "--", b"\xff"], 2, b"UTF-8"),
    ],
)
def test_exit_codes(pvex: Pvex, words: list[str], code: int, told: bytes) -> None:
    """As docker has them: the command's own, 124 to 128+n, 125 for what is not the command's, 2 for a wrong call."""
    done = pvex("exec", *words)
    assert (done.returncode, told in done.stderr) == (code, True), done
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"\n") <= 1


def test_an_environment_file(pvex: Pvex, tmp_path: Path) -> None:
    """Values as they stand, a name alone has our own value, # begins a comment; -e goes over it."""
    (tmp_path / "env").write_text("# a comment\n\nA=b  c\nOURS\nNOBODYS\nX=old\n")
    words = ("exec", "--env-file", str(tmp_path / "env"), "-e", "X=new", "101", "--", "sh", "-c")
    assert pvex.lines(*words, 'echo "$A|$OURS|${NOBODYS-unset}|$X"', OURS="kept") == ["b  c|kept|unset|new"]


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_streams_that_are_closed(pvex: Pvex, closed: tuple[int, ...]) -> None:
    """They are /dev/null: no connection gets their number, and the exit code is the command's."""

    def close() -> None:
        for fd in closed:
            os.close(fd)

    script = "cat; echo out; echo err >&2; exit 3"
    with pvex.start("exec", "-i", "101", "--", "sh", "-c", script, preexec_fn=close) as running:
        out, err = running.communicate(timeout=20)
    assert (running.returncode, out, err) == (3, b"out\n" * (1 not in closed), b"err\n" * (2 not in closed))


def test_a_full_disk(pvex: Pvex) -> None:
    """What cannot be written ends the command, and is told."""
    mark = new_mark()
    with (
        open("/dev/full", "wb") as full,
        pvex.start("exec", "101", "--", "sh", "-c", f"echo out; sleep {mark}", stdout=full) as running,
    ):
        _, told = running.communicate(timeout=20)
    assert (running.returncode, told) == (
        125,
        b"pvex: cannot write stdout: No space left on device; the command was ended\n",
    )
    until(lambda: not living(mark))


def test_detached(pvex: Pvex) -> None:
    """-d prints an id; the same Idempotency-Key gives the same one."""
    words = ["exec", "-d", "--idempotency-key", new_mark(), "101", "--", "true"]
    (exec_id,) = pvex.lines(*words)
    assert pvex.lines(*words) == [exec_id]


def test_looked_after(pvex: Pvex) -> None:
    """ps lists it, logs shows and follows it, a signal reaches it, kill ends it and what it has started."""
    mark = new_mark()
    script = f"echo out; echo err >&2; sleep {mark}"
    (exec_id,) = pvex.lines("exec", "-d", "-l", f"test={mark}", "101", "--", "sh", "-c", script)
    assert pvex.lines("ps", "101", "-q", "-l", f"test={mark}") == [exec_id]
    with pvex.start("logs", "-f", exec_id) as following:
        assert following.stdout and following.stderr
        assert (following.stdout.readline(), following.stderr.readline()) == (b"out\n", b"err\n")
        pvex.lines("kill", "-s", "USR1", exec_id)
        assert following.wait(30) == 128 + signal.SIGUSR1
    assert " signaled " in pvex.lines("ps", "-a", "-l", f"test={mark}")[1]
    assert pvex("logs", exec_id).stdout == b"out\n"
    done = pvex("kill", exec_id)
    assert (done.returncode, b"[exec_ended]" in done.stderr) == (125, True)
    (exec_id,) = pvex.lines("exec", "-d", "101", "--", "sh", "-c", f"sleep {mark} & sleep {mark}")
    assert pvex.lines("kill", exec_id) == [exec_id]
    assert not living(mark, alone=True)


def run_to_end(pvex: Pvex, script: str) -> str:
    """The id of a command that has run to its end."""
    (exec_id,) = pvex.lines("exec", "-d", "101", "--", "sh", "-c", script)
    pvex.lines("inspect", exec_id, "--wait", "30")
    return exec_id


def test_last_lines(pvex: Pvex) -> None:
    """Of both streams together, as they came; what has no newline yet is a line; more than there are is all."""
    script = "for n in 1 2 3; do echo out $n; sleep 0.3; echo err $n >&2; sleep 0.3; done; printf rest"
    exec_id = run_to_end(pvex, script)
    shown = {count: pvex.inside("logs", exec_id, "-n", str(count)) for count in (0, 1, 3, 7, 8)}
    assert (shown[0].stdout, shown[0].stderr) == (b"", b"")
    assert (shown[1].stdout, shown[1].stderr) == (b"rest", b"")
    assert (shown[3].stdout, shown[3].stderr) == (b"out 3\nrest", b"err 3\n")
    assert (shown[7].stdout, shown[7].stderr) == (b"out 1\nout 2\nout 3\nrest", b"err 1\nerr 2\nerr 3\n")
    assert shown[8].stdout == shown[7].stdout
    assert pvex.lines("logs", run_to_end(pvex, "true"), "-n", "5") == []
    for wrong in ("-1", "x"):
        assert pvex.inside("logs", exec_id, "--tail", wrong).returncode == 2


def test_last_lines_of_many(pvex: Pvex) -> None:
    """Of a megabyte of lines the last ones are found, few or many."""
    exec_id = run_to_end(pvex, "seq 1 150000")
    for count in (1, 3, 100_000):
        assert pvex.lines("logs", "-n", str(count), exec_id) == [str(n) for n in range(150_001 - count, 150_001)]


def test_last_lines_and_what_follows(pvex: Pvex) -> None:
    """With -f it goes on from there, and its exit code is the command's."""
    script = "trap 'echo 3; exit 4' USR1; echo 1; echo 2; while :; do sleep 0.05; done"
    (exec_id,) = pvex.lines("exec", "-d", "101", "--", "sh", "-c", script)
    until(lambda: pvex.lines("logs", exec_id) == ["1", "2"])
    with pvex.start("logs", "-f", "--tail", "1", exec_id) as following:
        assert following.stdout and following.stdout.readline() == b"2\n"
        with contextlib.closing(pvex.gateway.api(pvex.token)) as api:
            assert api.request("POST", f"/execs/{exec_id}/signal", {"signal": "USR1"}).status == 200
        assert following.stdout.read() == b"3\n"
        assert following.wait(30) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_whole_tree(pvex: Pvex, number: signal.Signals) -> None:
    """What would end a job here ends it there, the shell's child included; the exit code tells of it."""
    mark = new_mark()
    with pvex.start("exec", "101", "--", "sh", "-c", f"sleep {mark}; exit 5") as running:
        until(lambda: living(mark, alone=True))
        running.send_signal(number)
        assert running.wait(30) == 128 + number
    until(lambda: not living(mark))


def test_a_signal_that_is_caught(pvex: Pvex) -> None:
    """The command decides what it makes of it."""
    script = "trap 'echo caught; exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    with pvex.start("exec", "101", "--", "sh", "-c", script) as running:
        assert running.stdout and running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGUSR1)
        assert running.stdout.read() == b"caught\n"
        assert running.wait(30) == 7


def test_a_reader_that_leaves(pvex: Pvex) -> None:
    """`pvex exec ... yes | head -1` ends, and so does yes."""
    mark = new_mark()
    with pvex.start("exec", "-l", f"test={mark}", "101", "--", "yes") as running:
        assert running.stdout and running.stdout.readline() == b"y\n"
        running.stdout.close()
        assert running.wait(30) == 141
    with contextlib.closing(pvex.gateway.api(pvex.token)) as own:
        view = labelled(own, mark)
        assert view and ended(own, view["id"])["reason"] == "cancelled"


def test_it_starts_quickly(pvex: Pvex) -> None:
    """--help imports nothing that takes long, and is done in a fraction of a second of processor time."""
    code = "import sys, pvex.cli; print([m for m in ('requests', 'yaml', 'ssl', 'gateway') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert pvex("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1

"""`pvex exec -it` in a pseudo-terminal: as a local one, and back to what it was whatever happens."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import string
from dataclasses import replace

import pytest

from pvex.terminal import Keys
from tests.exec.inside import ended, living, new_mark
from tests.exec.waiting import until
from tests.pvex.client import Pvex
from tests.pvex.proxy import Proxy
from tests.pvex.pty import Screen
from tests.pvex.test_cuts import HANDSHAKE

SHELL = ("exec", "-it", "-e", "PS1=READY> ", "101", "--", "sh")
PROMPT = "READY> "


def test_a_shell(pvex: Pvex) -> None:
    """Size, its changes, Ctrl-C, UTF-8 and the exit code are as in a local terminal."""
    with Screen(pvex, *SHELL, rows=30, cols=100) as screen:
        screen.until(PROMPT)
        screen.type("stty size; echo $TERM\n")
        assert "30 100\r\nxterm\r\n" in screen.until(PROMPT)
        screen.resize(50, 132)
        mark = new_mark()
        screen.type(f"sleep {mark}\n")
        until(lambda: living(mark, alone=True))
        screen.type("\x03")
        screen.until(PROMPT)
        screen.type("stty size; printf 'gr\\303\\274\\303\\237e'\n")
        shown = screen.until("grüße")
        assert "50 132" in shown
        screen.type("exit 7\n")
        assert screen.end() == 7


def test_a_paste(pvex: Pvex) -> None:
    """A MiB at once, faster than the guest reads it: every byte arrives, none twice."""
    letters = random.Random(7)
    lines = "".join("".join(letters.choices(string.ascii_letters, k=63)) + "\n" for _ in range(1 << 14))
    with Screen(pvex, *SHELL) as screen:
        screen.until(PROMPT)
        screen.type("stty -echo; echo go\n")
        screen.until("go\r\n")
        screen.until(PROMPT)
        screen.type("sha256sum\n")
        screen.type(lines)
        screen.type("\x04")
        shown = screen.until(PROMPT, within=30)
        assert hashlib.sha256(lines.encode()).hexdigest() in shown
        screen.type("\x04")
        assert screen.end() == 0


def test_detach_and_attach(pvex: Pvex) -> None:
    """The detach keys leave it running; attach comes back to the same shell, and what was shown is shown again."""
    with Screen(pvex, *SHELL) as screen:
        screen.until(PROMPT)
        screen.type("x=kept; echo $x-1\n")
        screen.until("kept-1")
        screen.type("\x10\x11")
        (exec_id,) = re.findall(r"pvex attach (ex_\w+)", screen.until("ends it"))
        assert screen.end() == 0
    with Screen(pvex, "attach", exec_id) as screen:
        screen.type("echo $x-2; exit 3\n")  # before it is there
        screen.until("kept-1")
        screen.until("kept-2")
        assert screen.end() == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_of_the_terminal(pvex: Pvex, number: signal.Signals) -> None:
    """A window that is closed ends the whole tree, and leaves the terminal as it was."""
    mark = new_mark()
    with Screen(pvex, *SHELL) as screen:
        screen.until(PROMPT)
        screen.type(f"sleep {mark}\n")
        until(lambda: living(mark))
        os.kill(screen.process.pid, number)
        assert screen.end() == 128 + number
    until(lambda: not living(mark))


@pytest.mark.parametrize(("words", "code"), [(["true"], 0), (["/no/such"], 127), (["sh", "-c", "kill -9 $$"], 137)])
def test_what_ends_at_once(pvex: Pvex, words: list[str], code: int) -> None:
    """It may have ended before we attach; output and exit code come all the same."""
    with Screen(pvex, "exec", "-it", "101", "--", *words) as screen:
        assert screen.end() == code


def test_attach_to_what_has_no_terminal(pvex: Pvex) -> None:
    """It takes no input: how to follow it instead, and it goes on."""
    (exec_id,) = pvex.lines("exec", "-d", "101", "--", "sleep", new_mark())
    with Screen(pvex, "attach", exec_id) as screen:
        screen.until(f"`pvex logs -f {exec_id}` follows it")
        assert screen.end() == 125
    assert pvex.lines("kill", exec_id) == [exec_id]


def test_no_terminal(pvex: Pvex) -> None:
    """-it without one is a wrong call; -t alone gives the command one, and ours stays as it is."""
    done = pvex("exec", "-it", "101", "--", "sh")
    assert (done.returncode, done.stderr) == (2, b"pvex: stdin is no terminal: leave -t out\n")
    done = pvex("exec", "-t", "101", "--", "sh", "-c", "test -t 1 && echo yes")
    assert done.stdout == b"yes\r\n"


def test_a_web_service_that_dies(pvex: Pvex) -> None:
    """The session goes on where it was, input and output."""
    with Screen(pvex, *SHELL) as screen, contextlib.closing(pvex.gateway.api(pvex.token)) as api:
        screen.until(PROMPT)
        screen.type("x=kept; echo $$-first\n")
        screen.until("-first\r\n")
        exec_id = api.get("/execs?state=running&vmid=101").json()["execs"][0]["id"]
        pvex.gateway.services.restart("web")
        screen.type("echo $x-second\n")
        screen.until("kept-second\r\n", within=30)
        screen.type("exit\n")
        assert screen.end() == 0
        assert ended(api, exec_id)["exit_code"] == 0


@pytest.mark.parametrize(
    ("given", "typed", "sent", "detached"),
    [
        ("ctrl-p,ctrl-q", b"a\x10\x11b", b"a", True),
        ("ctrl-p,ctrl-q", b"a\x10b", b"a\x10b", False),
        ("ctrl-p,ctrl-q", b"\x10\x10\x11", b"\x10", True),
        ("~,.", b"x~.", b"x", True),
        ("", b"\x10\x11", b"\x10\x11", False),
    ],
)
def test_detach_keys(given: str, typed: bytes, sent: bytes, detached: bool) -> None:
    """They are found in one read and over several; what only looked like them is sent."""
    assert Keys(given).feed(typed) == (sent, detached)
    keys = Keys(given)
    single = [keys.feed(bytes([byte])) for byte in typed[: -1 if detached and typed.endswith(b"b") else None]]
    assert b"".join(out for out, _ in single) == sent
    assert any(found for _, found in single) is detached


@pytest.fixture
def only_terminals(pvex: Pvex) -> Pvex:
    """pvex with a token that may open terminals in guest 101, and nothing else."""
    token = pvex.gateway.token("only-terminals", actions="exec:terminal", guests="101")
    return replace(pvex, token=token)


def test_a_token_for_terminals_alone(only_terminals: Pvex) -> None:
    """Size, its changes, input and exit code all the same; a guest that is not its own is refused as ever."""
    with Screen(only_terminals, *SHELL, rows=30, cols=100) as screen:
        screen.until(PROMPT)
        screen.resize(50, 132)
        screen.type("while ! stty size | grep '50 132'; do :; done; exit 7\n")
        screen.until("50 132\r\n")
        assert screen.end() == 7
    with Screen(only_terminals, "exec", "-it", "102", "--", "sh") as screen:
        screen.until("`pvex ls` lists")
        assert screen.end() == 125
    done = only_terminals.inside("exec", "101", "--", "true")
    assert (done.returncode, b"may not exec:run" in done.stderr) == (125, True)


def test_it_begins_once(only_terminals: Pvex) -> None:
    """Cut before it has heard what it began, it finds that again: one shell, all shown once."""
    mark = new_mark()
    cuts = iter([1 << 30, *(HANDSHAKE + 100 * count for count in range(-4, 4))])
    words = ("exec", "-it", "-l", f"test={mark}", "101", "--", "sh", "-c", "stty -echo; echo go; cat")
    with (
        Proxy(only_terminals.gateway.services.port, cuts) as proxy,
        Screen(only_terminals, *words, GATEWAY_URL=proxy.url) as screen,
    ):
        assert screen.until("go\r\n") == "go\r\n"
        screen.type("typed\n\x04")
        assert screen.until("typed\r\n") == "typed\r\n"
        assert screen.end() == 0
        assert proxy.broken == 8
    with contextlib.closing(only_terminals.gateway.api(only_terminals.token)) as api:
        assert len(api.get(f"/execs?label=test={mark}").json()["execs"]) == 1


def test_it_comes_back_to_its_terminal(only_terminals: Pvex) -> None:
    """Cut, it attaches again and goes on; detached, it comes back; and it ends what it has begun."""
    cuts = iter([1 << 30, *(HANDSHAKE + 700 * count for count in range(1, 4))])
    words = ("exec", "-it", "101", "--", "sh", "-c", "stty -echo; echo go; cat")
    with (
        Proxy(only_terminals.gateway.services.port, cuts) as proxy,
        Screen(only_terminals, *words, GATEWAY_URL=proxy.url) as screen,
    ):
        screen.until("go\r\n")
        for number in range(100):
            screen.type(f"{number:050}\n")
            assert screen.until("\r\n") == f"{number:050}\r\n"
        assert proxy.broken == 3
        screen.type("\x10\x11")
        told = screen.until("ends it")
        assert screen.end() == 0
    exec_id = re.findall(r"pvex attach (ex_\w+)", told)[0]
    assert only_terminals.lines("ps", "-q") == [exec_id]
    with Screen(only_terminals, "attach", exec_id) as screen:
        screen.until(f"{99:050}")
        assert only_terminals.lines("kill", exec_id) == [exec_id]
        assert screen.end() == 143

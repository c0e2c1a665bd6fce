"""Terminals over WebSocket, in real guests: as in a local terminal (A22), and whoever else attaches."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import ended, living, new_mark
from tests.exec.waiting import until
from tests.exec.websocket import STDERR, STDOUT, NotUpgraded, Session

Open = Callable[..., Session]
PROMPT = "READY> "


@pytest.fixture(scope="session")
def terminals(gateway: Gateway) -> Iterator[Api]:
    """The API as a token that may open terminals, and attach to what it started."""
    api = gateway.api(gateway.token("terminals", actions="exec:terminal,exec:run"))
    yield api
    api.close()


@pytest.fixture
def terminal(terminals: Api) -> Iterator[Open]:
    """Opens a WebSocket for a terminal in a guest: `terminal(101)`; closed and ended after the test."""
    opened: list[Session] = []

    def open_(vmid: int, **options: Any) -> Session:
        opened.append(Session(terminals, f"/exec/{vmid}/terminal", **options))
        return opened[-1]

    yield open_
    for socket in opened:
        socket.close()
        if socket.exec_id:
            terminals.request("DELETE", f"/execs/{socket.exec_id}")
            ended(terminals, socket.exec_id)


@pytest.fixture
def attach(terminals: Api) -> Iterator[Open]:
    """Attaches to an exec: `attach(id, "write=1")`; closed after the test."""
    opened: list[Session] = []

    def open_(exec_id: str, query: str = "") -> Session:
        opened.append(Session(terminals, f"/execs/{exec_id}/attach?{query}"))
        return opened[-1]

    yield open_
    for socket in opened:
        socket.close()


@pytest.fixture
def shell(terminal: Open) -> Open:
    """A shell in a terminal, at its first prompt."""

    def open_(vmid: int, rows: int = 30, cols: int = 100, **spec: Any) -> Session:
        socket = terminal(vmid)
        env = {"PS1": PROMPT} | spec.pop("env", {})
        socket.start(["/bin/sh"], tty={"rows": rows, "cols": cols}, env=env, **spec)
        socket.until_shown(PROMPT)
        return socket

    return open_


def run(socket: Session, line: str) -> str:
    """Types a line; what is shown between its echo and the next prompt."""
    socket.type(line + "\n")
    socket.until_shown("\r\n")
    return socket.until_shown(PROMPT).decode().removesuffix(PROMPT).replace("\r\n", "\n").strip("\n")


# ---- as in a local terminal


def test_size_and_resize(shell: Open, vmid: int) -> None:
    """The size is the one asked for from the first moment; a change reaches the program, and as SIGWINCH."""
    socket = shell(vmid, rows=30, cols=100)
    assert run(socket, "stty size") == "30 100"
    socket.type('sh -c \'trap "echo chan"ged WINCH; echo wait"ing"; while :; do sleep 0.05; done\'\n')
    socket.until_shown("waiting")
    socket.say("resize", rows=50, cols=132)
    socket.until_shown("changed")
    socket.type("\x03")
    socket.until_shown(PROMPT)
    assert run(socket, "stty size") == "50 132"


def test_it_is_a_terminal(shell: Open, vmid: int) -> None:
    """`tty` names one, it is the controlling terminal, TERM is set, all three descriptors are it."""
    socket = shell(vmid)
    assert run(socket, "tty").startswith("/dev/pts/")
    assert run(socket, "echo x >/dev/tty; echo $TERM") == "x\nxterm-256color"
    assert run(socket, "test -t 0 && test -t 1 && test -t 2 && echo all") == "all"
    assert run(socket, "echo err >&2") == "err"


def test_ctrl_c_interrupts_the_foreground(shell: Open, vmid: int) -> None:
    """A command in the foreground dies of it, the shell lives on."""
    socket = shell(vmid)
    mark = new_mark()
    socket.type(f"sleep {mark}\n")
    until(lambda: living(mark))
    socket.type("\x03")
    socket.until_shown(PROMPT)
    assert run(socket, "echo $?") == "130"
    assert not living(mark)


def test_ctrl_z_stops_and_fg_goes_on(shell: Open) -> None:
    """Job control works: the shell is the leader of its session."""
    socket = shell(101)
    mark = new_mark()
    socket.type(f"sleep {mark}\n")
    until(lambda: living(mark))
    socket.type("\x1a")
    socket.until_shown(PROMPT)
    assert mark in run(socket, "jobs")
    (pid,) = living(mark)
    socket.type("fg\n")
    until(lambda: "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text(), why="it goes on, in the foreground")
    socket.type("\x03")
    socket.until_shown(PROMPT)
    assert not living(mark)


def test_ctrl_d_ends_the_shell(shell: Open, vmid: int) -> None:
    """The end of input at an empty line, and the exit code of the last command."""
    socket = shell(vmid)
    run(socket, "(exit 5)")
    socket.type("\x04")
    end = socket.message("end")
    assert (end["reason"], end["exit_code"]) == ("exited", 5)
    assert socket.until_closed() == (1000, "exited")


def test_stdin_eof_is_ctrl_d(shell: Open) -> None:
    """To a terminal the message is the key; what was typed before comes first."""
    socket = shell(101)
    socket.type("printf 'g%s' o; cat\n")
    socket.until_shown("go")
    socket.type("line\n")
    socket.until_shown("line\r\nline\r\n")
    socket.say("stdin_eof")
    socket.until_shown(PROMPT)


@pytest.mark.parametrize(("line", "reason", "code"), [("exit 7", "exited", 7), ("kill -9 $$", "signaled", 137)])
def test_exit_code(shell: Open, line: str, reason: str, code: int) -> None:
    """The last message tells how it ended; then the close."""
    socket = shell(104)
    socket.type(line + "\n")
    end = socket.message("end")
    assert (end["reason"], end["exit_code"], end["exec"]["state"]) == (reason, code, "ended")
    assert socket.until_closed() == (1000, reason)


def test_utf8(shell: Open, vmid: int) -> None:
    """Characters of two, three and four bytes come back as they were typed, echo and output."""
    socket = shell(vmid)
    text = "grüße ⇒ 漢字 😀"
    socket.type(f"printf '%s\\n' '{text}'\n")
    shown = socket.until_shown(PROMPT).decode()
    assert shown.count(text) == 2


def test_vi(shell: Open, small_vmid: int) -> None:
    """A full-screen editor draws itself in the size of the window, and saves what was typed."""
    socket = shell(small_vmid, rows=20, cols=60)
    path = f"/tmp/vi-{new_mark()}"
    socket.type(f"vi {path}\n")
    drawn = socket.until_shown(b"\x1b[20;1H")
    assert drawn.count(b"~") == 18
    socket.type("ihello\nworld")
    socket.until_shown("world")
    socket.type("\x1b")
    socket.until_shown(b"\x1b[2;5H")
    socket.type(":wq\n")
    socket.until_shown(PROMPT)
    assert run(socket, f"cat {path}; rm {path}") == "hello\nworld"


def test_paste_of_a_mebibyte(shell: Open, vmid: int) -> None:
    """A megabyte of lines, faster than any program reads it: every byte arrives, none twice."""
    letters = random.Random(22)
    lines = "".join("".join(letters.choices(string.ascii_letters, k=63)) + "\n" for _ in range(1 << 14))
    socket = shell(vmid)
    run(socket, "stty -echo")
    socket.type("sha256sum\n")
    socket.type(lines)
    socket.type("\x04")
    shown = socket.until_shown(PROMPT, within=30).decode()
    assert hashlib.sha256(lines.encode()).hexdigest() in shown
    assert socket.acknowledged == socket.sent


def test_raw_mode_takes_every_byte(shell: Open) -> None:
    """All 256 values, without echo or line editing, in both directions."""
    data = os.urandom(1 << 20) + bytes(range(256))
    socket = shell(101)
    socket.type(f"stty raw -echo; echo go; head -c {len(data)} | tee /tmp/raw | sha256sum; cat /tmp/raw; stty sane\n")
    socket.until_shown("go\n")
    socket.type(data)
    socket.until_shown(hashlib.sha256(data).hexdigest(), within=30)
    socket.until_shown("-\n")
    socket.until(lambda: len(socket.shown[STDOUT]) >= len(data), within=30)
    assert bytes(socket.shown[STDOUT][: len(data)]) == data


def test_signal_reaches_a_command_that_reads_nothing(terminal: Open) -> None:
    """Input is stuck, a signal is not."""
    socket = terminal(101)
    socket.start(["sleep", "1000"], stdin_open=True)
    socket.type(b"x" * (1 << 20))
    socket.until(lambda: socket.acknowledged > 0)
    socket.say("signal", signal="TERM")
    assert socket.message("end")["signal"] == "SIGTERM"


def test_without_tty_streams_stay_apart(terminal: Open, small_vmid: int) -> None:
    """Plain streams over WebSocket: stdout and stderr each on its own channel, input until its end."""
    socket = terminal(small_vmid)
    socket.start("cat; echo err >&2; exit 3", stdin_open=True)
    data = os.urandom(3 << 20)
    socket.type(data)
    socket.say("stdin_eof")
    assert socket.message("end", within=30)["exit_code"] == 3
    assert bytes(socket.shown[STDOUT]) == data
    assert bytes(socket.shown[STDERR]) == b"err\n"


def test_window_stops_the_output(terminal: Open) -> None:
    """A client that acknowledges nothing gets its window and no more; after an ack as much again."""
    socket = terminal(101)
    socket.start("yes", window=100_000)
    socket.until(lambda: socket.cursor == 100_000)
    socket.say("signal", signal="CONT")  # something to do meanwhile: its answer comes over the same connection
    socket.say("resize", rows=1, cols=1)
    assert socket.message("error")["code"] == "not_a_terminal"
    assert socket.cursor == 100_000
    socket.ack()
    socket.until(lambda: socket.cursor == 200_000)


# ---- who else is there


def test_a_second_reader_sees_the_same(shell: Open, attach: Open) -> None:
    """All from the beginning, or from a place on; it cannot type, and its leaving changes nothing."""
    socket = shell(101)
    exec_id = socket.exec_id
    reader = attach(exec_id)
    assert reader.started() == exec_id
    run(socket, "echo shared")
    reader.until_shown("shared\r\n")
    reader.type("echo intruder\n")
    assert reader.message("error")["code"] == "forbidden"
    late = attach(exec_id, f"from={reader.cursor}")
    run(socket, "echo later")
    late.until_shown("later\r\n")
    assert b"shared" not in late.shown[STDOUT]
    reader.bye()
    late.close()
    assert run(socket, "echo still here") == "still here"


def test_one_writer(shell: Open, attach: Open) -> None:
    """While one holds the input another is refused by its close code; afterwards it may have it."""
    socket = shell(101, on_disconnect="continue")
    other = attach(socket.exec_id, "write=1")
    assert other.message("error")["code"] == "writer_taken"
    assert other.until_closed() == (4409, "writer_taken")
    assert run(socket, "echo untouched") == "untouched"
    socket.bye()
    heir = attach_as_writer(attach, socket.exec_id)
    heir.type("exit 9\n")
    assert heir.message("end")["exit_code"] == 9


def attach_as_writer(attach: Open, exec_id: str, query: str = "") -> Session:
    """The input's new holder, once the supervisor knows that the last one has gone."""

    def try_it() -> Session | None:
        socket: Session = attach(exec_id, f"write=1&{query}")
        return socket if socket.may_write() else None

    socket = until(try_it, why="the next writer is let in")
    assert socket is not None
    return socket


@pytest.mark.parametrize("goodbye", [True, False])
def test_leaving_ends_the_terminal(shell: Open, terminals: Api, goodbye: bool) -> None:
    """Closed or cut, the whole tree is gone and the record says client_gone."""
    socket = shell(101, kill_grace=0.2)
    exec_id = socket.exec_id
    mark = new_mark()
    socket.type(f"sleep {mark}\n")
    until(lambda: living(mark))
    if goodbye:
        socket.bye()
    else:
        socket.close()
    assert ended(terminals, exec_id)["reason"] == "client_gone"
    assert not living(mark)


def test_end_of_a_shell_needs_no_kill(shell: Open, terminals: Api, vmid: int) -> None:
    """An interactive shell ignores TERM, and a stopped job hears nothing: both end at once all the same."""
    socket = shell(vmid, kill_grace=60)
    mark = new_mark()
    socket.type(f"sleep {mark}\n")
    until(lambda: living(mark))
    socket.type("\x1a")
    socket.until_shown(PROMPT)
    assert terminals.request("DELETE", f"/execs/{socket.exec_id}").status in (200, 202)
    assert ended(terminals, socket.exec_id)["reason"] == "cancelled"
    assert not living(mark)


def test_resumed_after_a_cut(shell: Open, attach: Open) -> None:
    """With on_disconnect continue a new connection goes on at the place that was seen, output and input."""
    socket = shell(101, on_disconnect="continue")
    run(socket, "stty -echo")
    socket.type("echo one; read x; echo $x\n")
    socket.until_shown("one\r\n")
    cursor, sent = socket.cursor, socket.sent
    socket.close()
    again = attach_as_writer(attach, socket.exec_id, f"from={cursor}")
    assert again.acknowledged == sent
    again.type("two\n")
    assert again.until_shown(PROMPT).decode().startswith("two\r\n")


def test_web_that_dies_takes_no_terminal_with_it(shell: Open, attach: Open, gateway: Gateway) -> None:
    """Its client is cut without a goodbye, the exec goes on, and the next worker lets the client in where it was."""
    socket = shell(101)
    cursor = socket.cursor
    master = gateway.services.pid("web")
    (worker,) = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert socket.until_closed() == (1006, "")
    again = attach_as_writer(attach, socket.exec_id, f"from={cursor}")
    assert run(again, "echo alive") == "alive"
    again.type("exit\n")
    assert again.message("end")["reason"] == "exited"


def test_supervisor_that_reloads_goes_on(shell: Open, gateway: Gateway) -> None:
    """The new image of it has the same terminals; nobody is cut."""
    socket = shell(101)
    run(socket, "x=kept")
    gateway.services.reload("supervisor")
    assert run(socket, "echo $x") == "kept"
    socket.say("resize", rows=11, cols=22)
    assert run(socket, "stty size") == "11 22"


def test_attach_to_an_ended_exec(terminal: Open, attach: Open) -> None:
    """A reader gets the replay and the end; a writer is told that there is nothing to write to."""
    socket = terminal(101)
    exec_id = socket.start("echo out; echo err >&2; exit 4")
    socket.message("end")
    reader = attach(exec_id)
    assert reader.message("end")["exit_code"] == 4
    assert (bytes(reader.shown[STDOUT]), bytes(reader.shown[STDERR])) == (b"out\n", b"err\n")
    assert reader.until_closed() == (1000, "exited")
    assert attach(exec_id, "write=1").until_closed() == (4409, "exec_ended")
    assert attach(exec_id, "from=999").until_closed() == (4416, "range_not_satisfiable")


def test_attach_needs_an_open_stdin_to_write(terminal: Open, attach: Open) -> None:
    """An exec whose input is closed has no writer."""
    exec_id = terminal(101).start("sleep 60")
    assert attach(exec_id, "write=1").until_closed() == (4409, "stdin_closed")


def test_idle_close(make_gateway: Callable[..., Gateway]) -> None:
    """Where it is configured: no input and no output for that long, then 4408, and the exec is ended."""
    idle = make_gateway(web={"terminal_idle": 1.0})
    api = idle.api(idle.token("terminals", actions="exec:terminal,exec:run"))
    with Session(api, "/exec/101/terminal") as socket:
        exec_id = socket.start(["sh"], tty={}, kill_grace=0.2)
        assert socket.until_closed() == (4408, "idle")
    assert ended(api, exec_id)["reason"] == "client_gone"
    api.close()


# ---- who may, and what is no terminal


def test_ticket_of_a_browser(gateway: Gateway, terminals: Api) -> None:
    """One use, one path, from our own origin; it stands in no log."""
    browser = gateway.api("none")
    browser.token = None
    own = {"Origin": f"https://localhost:{gateway.services.port}"}

    def make_ticket() -> str:
        return str(terminals.request("POST", "/tickets", {"path": "/exec/101/terminal"}).json()["ticket"])

    ticket = make_ticket()
    offered = ("pvex.v1", f"pvex.ticket.{ticket}")
    with Session(browser, "/exec/101/terminal", subprotocols=offered, headers=own) as socket:
        socket.start("echo in", tty={})
        socket.until_shown("in")
    refused(401, "unauthenticated", browser, "/exec/101/terminal", subprotocols=offered, headers=own)
    other = make_ticket()
    refused(401, "unauthenticated", browser, f"/exec/104/terminal?ticket={other}")
    for service in ("web", "supervisor", "audit"):
        assert ticket not in gateway.log(service) and other not in gateway.log(service)


def test_foreign_origin(gateway: Gateway, terminals: Api) -> None:
    """A page of another site is refused with 403, whatever it shows, and the audit log says so."""
    refused(403, "origin_refused", terminals, "/exec/101/terminal", headers={"Origin": "https://evil.example"})
    assert gateway.records(event="request:denied")[-1]["data"]["reason"] == "foreign_origin"


def test_no_websocket(terminals: Api) -> None:
    """A plain GET is told to upgrade, another subprotocol what to offer, an unknown guest is 404 as everywhere."""
    answer = terminals.get("/exec/101/terminal")
    assert (answer.status, answer.code) == (426, "upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"
    for offered in (None, ("chat",)):
        refused(400, "malformed_request", terminals, "/exec/101/terminal", subprotocols=offered)
    refused(404, "guest_not_found", terminals, "/exec/999/terminal")


def refused(status: int, code: str, api: Api, path: str, **options: Any) -> None:
    """Opening a WebSocket is answered by this problem."""
    with pytest.raises(NotUpgraded) as caught:
        Session(api, path, **options)
    assert (caught.value.answer.status, caught.value.answer.code) == (status, code)


def test_refused_start(terminal: Open) -> None:
    """A stopped guest and a wrong field are close codes; a program that is not there is an end."""
    socket = terminal(103)
    socket.say("start", command=["sh"])
    assert socket.until_closed() == (4409, "guest_not_running")
    socket = terminal(101)
    socket.say("start", command=["sh"], tty={"rows": 0})
    assert socket.message("error")["errors"][0]["path"] == "tty.rows"
    assert socket.until_closed() == (4422, "invalid_request")
    socket = terminal(101)
    socket.start(["/no/such"], tty={})
    assert socket.message("end")["exit_code"] == 127


@pytest.mark.parametrize(
    ("break_it", "code"),
    [
        (lambda socket: socket.send_input(0, b"x" * (2 << 20)), 1009),
        (lambda socket: socket.sock.sendall(b"\x82\x01x"), 1002),
        (lambda socket: socket.say("nonsense"), 4400),
        (lambda socket: socket.send_input(0, b"x" * (1 << 20)) or socket.sock.sendall(b"\xff" * 100_000), 1002),
    ],
)
def test_who_breaks_the_protocol_harms_nobody(
    shell: Open, attach: Open, break_it: Callable[[Session], Any], code: int
) -> None:
    """The client gets its code, however much it goes on sending; the exec and its owner notice nothing."""
    owner = shell(101)
    other = attach(owner.exec_id)
    other.started()
    break_it(other)
    assert other.until_closed()[0] == code
    assert run(owner, "echo untouched") == "untouched"


def test_secrets_of_input_are_in_no_record(shell: Open, gateway: Gateway) -> None:
    """What is typed into a terminal stands in no audit record and no log."""
    socket = shell(101)
    secret = f"hunter{new_mark()}"
    run(socket, f"true {secret}")
    socket.type("exit\n")
    socket.message("end")
    assert secret not in gateway.audit_log.read_text()
    for service in ("web", "supervisor", "audit"):
        assert secret not in gateway.log(service)

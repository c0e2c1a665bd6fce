"""Acts of who runs commands: a secret in every way into one, and in what is typed, said and uploaded."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

from tests.canaries.acting import MACHINE, MADE, NOBODY, TOLD, Acts
from tests.canaries.words import Sink
from tests.exec.api import Answer
from tests.exec.streams import NDJSON, SSE
from tests.exec.websocket import NotUpgraded, Session

_QUIET = 'cat > /dev/null; sleep 0.2; test -n "$1"'


def run_commands(act: Acts) -> None:
    """In containers and in a machine, in every form of reply; that fail to begin; that are refused."""
    for vmid, headers in (
        (101, {}),
        (104, {"Accept": NDJSON}),
        (MADE, {"Accept": SSE}),
        (101, {"Prefer": "respond-async"}),
        (MACHINE, {}),
    ):
        spec = secret_spec(act, vmid)
        if vmid == MACHINE:
            act.ask("runExec", "POST", f"/exec/{vmid}", spec)
            del spec["env"]  # which an agent has no place for
        answer = act.ask("runExec", "POST", f"/exec/{vmid}", spec, headers=headers)
        assert answer.status in (200, 202), answer.body
        if answer.status == 202:
            act.exec_ids.append(answer.json()["id"])
    for vmid in (101, MACHINE):
        for spec in _that_cannot_be(act, *_seen_of(vmid)):
            act.ask("runExec", "POST", f"/exec/{vmid}", spec)
    act.ask("runExec", "POST", f"/exec/{NOBODY}", secret_spec(act, NOBODY))
    key = {"Idempotency-Key": act.put("runExec", "Idempotency-Key of a command that runs")}
    for more in ({}, {}, {"timeout": 9}):
        act.ask("runExec", "POST", "/exec/101", {"command": ["true"], **more}, headers=key)


def secret_spec(act: Acts, vmid: int, operation: str = "runExec") -> dict[str, Any]:
    """A command that is given a secret in every way there is."""
    seen = _seen_of(vmid)
    return {
        "command": [
            "sh", "-c", _QUIET, act.put(operation, "a word of a command", *TOLD, *seen),
            act.put(operation, "a marked argument", *seen),
        ],
        "env": {act.put(operation, "a name in env", *TOLD, *seen): act.put(operation, "a value in env", *seen)},
        "stdin": act.put(operation, "stdin"),
        "redact": [4],
        "labels": {"job": act.put(operation, "a label", *TOLD)},
    }  # fmt: skip


def _seen_of(vmid: int) -> tuple[Sink, ...]:
    """A simulated machine's commands are processes of the node."""
    return (Sink.ARGV, Sink.ENVIRON) if vmid == MACHINE else ()


def _that_cannot_be(act: Acts, *seen: Sink) -> list[dict[str, Any]]:
    def marked(carrier: str) -> str:
        return act.put("runExec", f"a marked {carrier}", *seen)

    def told(carrier: str) -> str:
        return act.put("runExec", carrier, *TOLD)

    secret = {name: act.put("runExec", f"{name} of what cannot be run") for name in ("env", "stdin")}
    more = {"env": {"A": secret["env"]}, "stdin": secret["stdin"]}
    return [
        {"command": [f"/no/such/{marked('program')}"], "redact": [0], **more},
        {"command": f"sleep 0.1; : {marked('string')}", "redact": [0], **more},
        {"command": f"exit 3 # {marked('string for a shell of its own')}", "redact": [0], "shell": ["sh", "-euc"]},
        {"command": ["true"], "cwd": f"/no/{told('cwd')}", **more},
        {"command": ["true"], "user": told("user"), **more},
        {"command": ["sh", "-c", "sleep 9", marked("argument of what takes too long")], "redact": [3], "timeout": 0.1},
        {"command": ["true", f"{marked('argument with NUL')}\0"], "redact": [1], **more},
        {"command": ["true"], "env": {"A": f"{marked('value with NUL')}\0"}},
        {"command": ["true", marked("argument that is too long") * 9000], "redact": [1], **more},
        {"command": ["true", marked("argument, wrongly")], "redact": [7], **more},
        {"command": ["true"], "stdin": f"{marked('stdin that is not base64')}!", "stdin_encoding": "base64"},
        {"command": ["true"], "tty": {}, "stdin": marked("stdin of a terminal that nobody sees")},
    ]


def open_terminals(act: Acts) -> None:
    """What is typed, what a start says, what a wrong one says, and tickets."""
    name = "openTerminal"
    path = "/exec/101/terminal"
    with Session(act.api, path) as session:
        spec = secret_spec(act, 101, name)
        session.start(spec.pop("command"), stdin_open=True, **spec)
        session.may_write()
        session.type(act.put(name, "what is typed"))
        session.say("stdin_eof")
        session.until_closed()
    with Session(act.api, path) as session:
        session.start("stty -echo; echo ready; read line", tty={})
        session.until_shown("ready")
        session.may_write()
        session.type(act.put(name, "what is typed and not shown") + "\n")
        session.until_closed()
    for said in _wrong_messages(act, name):
        with Session(act.api, path) as session, contextlib.suppress(OSError):
            _say(session, said)
            session.until_closed()
            _hear(act, name, session)
    ticket = act.ask(name, "POST", "/tickets", {"path": path}).json()["ticket"]
    act.canaries.watch(ticket, "a ticket", Sink.REPLY)
    stranger = act.connect(None)
    with Session(stranger, path, subprotocols=("pvex.v1", f"pvex.ticket.{ticket}")) as session:
        session.start(["true"])
        session.until_closed()
    for form in ("subprotocol", "query", "another subprotocol"):
        word = act.put(name, f"a ticket that is none ({form})")
        offered = {"subprotocol": f"pvex.ticket.{word}", "query": "pvex.v1", "another subprotocol": word}[form]
        query = f"?ticket={word}" if form == "query" else ""
        try:
            Session(stranger, path + query, subprotocols=("pvex.v1", offered)).close()
        except NotUpgraded as error:
            act.hear(name, error.answer)
    stranger.close()


def _wrong_messages(act: Acts, name: str) -> list[Any]:
    def word(carrier: str) -> str:
        return act.put(name, f"a message: {carrier}")

    return [
        {"type": "start", "command": ["true"], "env": {"A": [word("env is a list")]}},
        {"type": "start", "command": [word("nothing wrong but a member")], "nonsense": word("an unknown member")},
        {"type": "start", "command": ["true"], "stdin": word("stdin is no base64") + "!", "stdin_encoding": "base64"},
        {"type": word("its type")},
        word("no JSON"),
        json.dumps(word("a text")),
        word("bytes").encode(),
    ]  # fmt: skip


def _say(session: Session, said: Any) -> None:
    if isinstance(said, dict):
        session.say(said.pop("type"), **said)
    else:
        session.say_raw(said)


def _hear(act: Acts, name: str, session: Session) -> None:
    told = json.dumps([session.messages, session.closed and session.closed.reason]).encode()
    act.hear(name, Answer(400, http.client.HTTPMessage(), told))


def attach(act: Acts) -> None:
    """Who holds a command that was begun, and feeds it; and who says nonsense to it."""
    name = "attachExec"
    path = f"/execs/{_begin(act, name)}/attach?write=true"
    with Session(act.api, path) as session:
        session.may_write()
        session.type(act.put(name, "what is typed"))
        session.say(act.put(name, "the type of a message"))
        session.until_closed()
        _hear(act, name, session)
    _end(act, path.partition("/attach")[0])


def feed(act: Acts) -> None:
    """Input by PUT: where it belongs, where it does not, and when it is over."""
    name = "putStdin"
    path = f"/execs/{_begin(act, name)}"
    for carrier, query in (("input", "offset=0"), ("input elsewhere", "offset=99"), ("the last", "eof=true")):
        act.ask(name, "PUT", f"{path}/stdin?{query}", raw=act.put(name, carrier).encode())
    act.ask(name, "PUT", f"{path}/stdin", raw=act.put(name, "input behind the end").encode())
    _end(act, path)


def _begin(act: Acts, name: str) -> str:
    spec = {"command": "cat > /dev/null; sleep 600", "stdin_open": True}
    answer = act.ask(name, "POST", "/exec/101", spec, headers={"Prefer": "respond-async"})
    act.exec_ids.append(answer.json()["id"])
    return act.exec_ids[-1]


def _end(act: Acts, path: str) -> None:
    answer = act.ask("killExec", "DELETE", f"{path}?wait=20")
    assert answer.status == 200, answer.body


def ask_what_may_be(act: Acts) -> None:
    """A what-if with a whole command."""
    spec = secret_spec(act, 101, "askOwnToken")
    act.ask("askOwnToken", "POST", "/tokens/self/can", {"action": "exec:run", "vmid": 101, "exec": spec})

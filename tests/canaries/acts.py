"""Acts: what people do who have secrets to hand over; each puts canaries where secrets go."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from tests.canaries.words import Canaries, Sink
from tests.exec.api import Answer, Api
from tests.exec.streams import NDJSON, SSE
from tests.exec.websocket import NotUpgraded, Session
from tests.guests.made import TEMPLATE
from tests.pvesim.api.process import Api as PveProcess

FIRST, LAST = 7760, 7769
MADE, MADE_MACHINE, COPY, NEVER_MADE, MACHINE = range(FIRST, FIRST + 5)
"""A container and a machine that the acts make, a copy, what is not made, and a machine with an agent."""
NOBODY = LAST

_TOLD = (Sink.AUDIT, Sink.REPLY, Sink.PROBLEM, Sink.KEPT)
"""What stands in records and listings by design: names, labels, words of a command."""
_OUTPUT = (Sink.REPLY, Sink.KEPT)
_QUIET = 'cat > /dev/null; sleep 0.2; test -n "$1"'
_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{{}}{'A' * 26} {{}}"


@dataclass
class Acts:
    """Who acts, on what. `connect` makes clients with another token, or none; `hear` is told each reply."""

    api: Api
    connect: Callable[[str | None], Api]
    canaries: Canaries
    pve: PveProcess
    hear: Callable[[str, Answer], None]
    exec_ids: list[str] = field(default_factory=list)
    token_ids: list[str] = field(default_factory=list)

    def ask(self, operation: str, method: str, path: str, body: object = None, **options: Any) -> Answer:
        """One request; whatever comes of it is looked at."""
        answer = self.api.request(method, path, body, **options)
        self.hear(operation, answer)
        return answer

    def put(self, operation: str, carrier: str, *allowed: Sink) -> str:
        return self.canaries.put(operation, carrier, *allowed)


# ---- commands


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
            "sh", "-c", _QUIET, act.put(operation, "a word of a command", *_TOLD, *seen),
            act.put(operation, "a marked argument", *seen),
        ],
        "env": {act.put(operation, "a name in env", *_TOLD, *seen): act.put(operation, "a value in env", *seen)},
        "stdin": act.put(operation, "stdin"),
        "redact": [4],
        "labels": {"job": act.put(operation, "a label", *_TOLD)},
    }  # fmt: skip


def _seen_of(vmid: int) -> tuple[Sink, ...]:
    """A simulated machine's commands are processes of the node."""
    return (Sink.ARGV, Sink.ENVIRON) if vmid == MACHINE else ()


def _that_cannot_be(act: Acts, *seen: Sink) -> list[dict[str, Any]]:
    def marked(carrier: str) -> str:
        return act.put("runExec", f"a marked {carrier}", *seen)

    def told(carrier: str) -> str:
        return act.put("runExec", carrier, *_TOLD)

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


# ---- tokens


def ask_what_may_be(act: Acts) -> None:
    """A what-if with a whole command."""
    spec = secret_spec(act, 101, "askOwnToken")
    act.ask("askOwnToken", "POST", "/tokens/self/can", {"action": "exec:run", "vmid": 101, "exec": spec})


def make_tokens(act: Acts) -> None:
    """Tokens themselves, which stand in one reply each, and the names of such as are not made."""
    grant = {"actions": ["exec:run"], "guests": "101"}
    wish = {
        "name": act.put("createToken", "the name of a token", *_TOLD, Sink.PRINTED),
        "grants": [grant],
        "expires": "1h",
    }
    made = act.ask("createToken", "POST", "/tokens", wish)
    assert made.status == 201, made.body
    act.canaries.watch(made.json()["token"], "a token that was made", Sink.REPLY)
    act.token_ids.append(made.json()["id"])
    act.ask("createToken", "POST", "/tokens", {**wish, "name": act.put("createToken", "a name that is none") + "\n"})
    path = f"/tokens/{made.json()['id']}"
    rotated = act.ask("rotateToken", "POST", f"{path}/rotate", {"overlap": "1m"})
    act.canaries.watch(rotated.json()["token"], "a token that was rotated", Sink.REPLY)
    with contextlib.closing(act.connect(made.json()["token"])) as api:
        act.hear("runExec", api.post(101, {"command": ["true"]}))
        act.hear("runExec", api.post(104, {"command": ["true"]}))
        act.hear("listTokens", api.get("/tokens"))


# ---- files


def write_files(act: Acts) -> None:
    """Contents, whole and refused, of files and of archives; names stand in the log."""
    name = "writeFile"
    for vmid in (101, 104, MACHINE):
        place = "/tmp" if vmid == MACHINE else "/root"
        path = f"/guests/{vmid}/files?path={place}/{act.put(name, 'the name of a file', *_TOLD, Sink.ARGV)}"
        content = act.put(name, "the content of a file", Sink.REPLY)
        written = act.ask(name, "PUT", path, raw=content.encode() * 99)
        assert written.status == 201, written.body
        act.ask("readFile", "GET", path)
        wrong = {"Content-Digest": "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}
        act.ask(name, "PUT", path, raw=act.put(name, "content that is not as it says").encode(), headers=wrong)
        act.ask(name, "PUT", f"{path}/below", raw=act.put(name, "content for no place").encode())
        act.ask("deleteFile", "DELETE", path)
    tar = {"Content-Type": "application/x-tar"}
    for carrier, prefix in (("an archive", "."), ("an archive that is refused", "..")):
        data = _archive(f"{prefix}/{act.put(name, f'a name in {carrier}', *_TOLD)}", act.put(name, carrier, Sink.REPLY))
        act.ask(name, "PUT", "/guests/101/files?path=/root", raw=data, headers=tar)
    act.ask(name, "PUT", "/guests/101/files?path=/root", raw=act.put(name, "no archive").encode(), headers=tar)


def _archive(name: str, content: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content.encode()))
    return made.getvalue()


# ---- guests


def make_guests(act: Acts) -> None:
    """Passwords and keys: of containers and machines, made, failed, refused by PVE, and impossible."""
    name = "createGuest"
    base = {"storage": "local-lvm", "name": "canary"}
    container = {**base, "vmid": MADE, "template": TEMPLATE, "disk": "1G", "memory": 64, "start": True}
    machine = {**base, "type": "qemu", "vmid": MADE_MACHINE, "disks": [{"size": "1G"}], "memory": 64, "user": "debian"}
    for wish in (container, machine):
        made = act.ask(name, "POST", "/guests?wait=60", {**wish, **_secrets_of_a_guest(act, "a guest")}, timeout=90)
        assert made.status == 201, made.body
    act.ask(name, "POST", "/guests?wait=60", {**container, **_secrets_of_a_guest(act, "a guest whose vmid is taken")})
    never = {**container, "vmid": NEVER_MADE}
    for why, fault, where, method, allowed in (
        ("PVE repeats", "status", "/nodes/.*/lxc", "POST", ()),
        ("its task repeats", "task", "vzcreate", ".*", (Sink.REPLY,)),  # PVE's list of tasks is PVE's
    ):
        secret = _secrets_of_a_guest(act, f"a guest that {why}", *allowed)
        said = f"cannot set '{secret['password']}' and {secret['ssh_public_keys'][0]}"
        act.pve.faults.add(fault, where, text=said, times=1, method=method)
        act.ask(name, "POST", "/guests?wait=60", {**never, **secret}, timeout=90)
        act.pve.faults.clear()
    root = {**never, "template": "/no/such/template.tar", **_secrets_of_a_guest(act, "a guest of a path")}
    act.ask(name, "POST", "/guests?wait=60", root)
    bad = act.put(name, "a password with a control character")
    act.ask(name, "POST", "/guests", {**never, "password": f"{bad}\t"})


def _secrets_of_a_guest(act: Acts, of: str, *allowed: Sink) -> dict[str, Any]:
    name = "createGuest"
    # A machine's configuration shows its keys to who may read it.
    key = _KEY.format(
        act.put(name, f"an ssh key of {of}", Sink.REPLY), act.put(name, f"an ssh key's comment, of {of}", *_TOLD)
    )
    return {"password": act.put(name, f"the password of {of}", *allowed), "ssh_public_keys": [key]}


def edit_guests(act: Acts) -> None:
    """Options that are secrets, taken, refused by PVE, and impossible; notes stand in the log."""
    name = "editGuest"
    for vmid, option in ((MADE_MACHINE, "cipassword"), (MADE_MACHINE, "sshkeys"), (MADE, "env"), (MADE, "password")):
        word = act.put(name, f"option {option}", *((Sink.REPLY,) if option in ("env", "sshkeys") else ()))
        value = (
            quote(_KEY.format(word, "me"), safe="") if option == "sshkeys" else f"A={word}" if option == "env" else word
        )
        act.ask(name, "PATCH", f"/guests/{vmid}", {"options": {option: value}})
        act.ask("showGuest", "GET", f"/guests/{vmid}")
    notes = act.put(name, "notes", *_TOLD)
    act.ask(name, "PATCH", f"/guests/{MADE}", {"notes": notes}, headers={"If-Match": act.put(name, "If-Match")})
    act.ask(name, "PATCH", f"/guests/{MADE}", {"notes": notes})
    word = act.put(name, "option cipassword that PVE repeats")
    act.pve.faults.add("status", ".*/config", text=f"invalid format - '{word}'", times=1, method="(PUT|POST)")
    act.ask(name, "PATCH", f"/guests/{MADE_MACHINE}", {"options": {"cipassword": word}})
    act.pve.faults.clear()


def copy_guests(act: Acts) -> None:
    """Its notes are told."""
    wish = {"vmid": COPY, "notes": act.put("cloneGuest", "notes", *_TOLD), "full": True}
    act.ask("cloneGuest", "POST", f"/guests/{MADE_MACHINE}/clone?wait=60", wish, timeout=90)


def keep_guests(act: Acts) -> None:
    """The description of a snapshot and the notes of a backup, which are the guest's readers' to see."""
    said = {"name": "kept", "description": act.put("takeSnapshot", "description", *_TOLD)}
    act.ask("takeSnapshot", "POST", f"/guests/{MADE}/snapshots?wait=60", said, timeout=90)
    act.ask("listSnapshots", "GET", f"/guests/{MADE}/snapshots")
    wish = {"storage": "local", "notes": act.put("makeBackup", "notes", *_TOLD)}
    act.ask("makeBackup", "POST", f"/guests/{MADE_MACHINE}/backups?wait=60", wish, timeout=90)
    act.ask("listBackups", "GET", f"/guests/{MADE_MACHINE}/backups")


ACTS: dict[str, Callable[[Acts], None]] = {
    "createGuest": make_guests,
    "editGuest": edit_guests,
    "cloneGuest": copy_guests,
    "takeSnapshot": keep_guests,
    "makeBackup": keep_guests,
    "runExec": run_commands,
    "openTerminal": open_terminals,
    "attachExec": attach,
    "putStdin": feed,
    "askOwnToken": ask_what_may_be,
    "createToken": make_tokens,
    "rotateToken": make_tokens,
    "writeFile": write_files,
}
"""By the operation that is handed a secret, in the order in which they can be done."""
NOTHING_SECRET = frozenset(
    {
        "sendSignal",
        "resizeTerminal",
        "makeTicket",
        "editToken",
        "resizeGuestDisk",
        "migrateGuest",
        "downloadTemplate",
        "giveDevices",
        "giveMount",
    }
)
"""Operations with a body of names, numbers and choices alone."""

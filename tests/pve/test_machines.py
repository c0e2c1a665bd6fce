"""Commands in virtual machines through the whole gateway: same request, same result, honest about what cannot be."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.api.metrics import Scrape
from tests.exec.api import Api
from tests.exec.faults import stopped
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, living, new_mark
from tests.exec.waiting import BUSY, until
from tests.exec.websocket import Closed, WebSocket
from tests.pve.conftest import VMID
from tests.pvesim.api import machines
from tests.pvesim.api.machines import Machine
from tests.pvesim.api.process import Api as PveProcess
from tests.pvesim.api.vm import MAX_OUTPUT

pytestmark = pytest.mark.usefixtures("machine")


def detach(api: Api, command: str | list[str], **spec: Any) -> str:
    """The id of a detached exec."""
    answer = api.post(VMID, {"command": command, **spec}, headers={"Prefer": "respond-async"})
    assert answer.status == 202, answer.body
    exec_id: str = answer.json()["id"]
    return exec_id


def ended(api: Api, exec_id: str) -> dict[str, Any]:
    view: dict[str, Any] = api.get(f"/execs/{exec_id}?wait=20").json()
    return view


# ---- it works


def test_hello(api: Api) -> None:
    """The same request as for a container, the same result; what no agent tells is null."""
    result = api.run(VMID, ["echo", "hello"], labels={"a": "b"})
    assert (result["reason"], result["exit_code"], result["signal"]) == ("exited", 0, None)
    assert (result["stdout"], result["stderr"]) == ("hello\n", "")
    count = {"bytes": 6, "dropped": 0, "dropped_at": None, "sha256": hashlib.sha256(b"hello\n").hexdigest()}
    assert result["output"]["stdout"] == count
    assert result["usage"] == {"cpu_ms": None, "memory_peak": None, "oom_killed": None}
    assert (result["killed"], result["survivors"], result["vmid"]) == (0, 0, VMID)
    assert api.get(f"/execs/{result['id']}/stdout").body == b"hello\n"


def test_commands_grants_hold_in_machines(gateway: Gateway) -> None:
    """A token that may run certain commands alone is refused all others before the agent hears of anything (C6)."""
    grant = {"actions": ["exec:run"], "guests": str(VMID), "commands": [["/bin/echo", "*"]]}
    limited = gateway.api(gateway.token_for(grant))
    assert limited.run(VMID, ["/bin/echo", "x y"])["stdout"] == "x y\n"
    for command in (["/bin/sh", "-c", "echo x"], "echo x", ["echo", "x"], ["/bin/echo", "x", "y"], ["/bin/echo", "-n"]):
        assert limited.post(VMID, {"command": command}).code == "command_not_granted"
    assert limited.post(VMID, {"command": ["/bin/echo", "x"], "env": {"A": "b"}}).json()["field"] == "env"
    limited.close()


def test_no_record_no_command(api: Api, gateway: Gateway) -> None:
    """C4: while the audit log takes nothing, the agent hears of no command, waited for or not; it recovers."""
    path = f"/tmp/{new_mark()}"
    with stopped(gateway, Path()):
        for headers in ({}, {"Prefer": "respond-async"}):
            began = time.monotonic()
            assert api.post(VMID, {"command": ["touch", path]}, headers=headers).code == "audit_unavailable"
            assert time.monotonic() - began < 2 + BUSY
    until(lambda: api.post(VMID, {"command": ["true"]}).status == 200, why="it recovers")
    assert api.run(VMID, ["ls", path])["exit_code"] != 0


def test_exit_codes_and_signals(api: Api) -> None:
    """An exit code is passed on, a signal becomes 128 and its number, as for a container."""
    assert api.run(VMID, "exit 7")["exit_code"] == 7
    result = api.run(VMID, "kill -9 $$")
    assert (result["reason"], result["exit_code"], result["signal"]) == ("signaled", 137, "SIGKILL")


def test_arguments_arrive_as_sent(api: Api) -> None:
    """Empty arguments, blanks, quotes, newlines and what a form would have changed."""
    words = ["", "a b", "", "'\"$(id)`", "a\nb\tc", "&=;%41+", "\x01\x7f", "-n", ""]
    result = api.run(VMID, ["printf", "%s|", *words])
    assert result["stdout"] == "".join(f"{word}|" for word in words)


def test_every_byte_of_input_and_output_survives(api: Api) -> None:
    """stdin and both outputs are bytes, though PVE makes text of them."""
    data = bytes(range(256)) * 255
    result = api.run(VMID, "tee /dev/stderr", stdin=base64.b64encode(data).decode(), stdin_encoding="base64")
    assert result["encoding"] == {"stdout": "base64", "stderr": "base64"}
    assert base64.b64decode(result["stdout"]) == base64.b64decode(result["stderr"]) == data
    assert result["output"]["stderr"]["sha256"] == hashlib.sha256(data).hexdigest()
    assert api.run(VMID, ["cat"], stdin="zwölf €\0")["stdout"] == "zwölf €\0"
    assert api.run(VMID, "cat; echo eof")["stdout"] == "eof\n"


def test_largest_input(api: Api) -> None:
    """64 KiB of the costliest bytes fit into PVE's request."""
    result = api.run(VMID, ["sha256sum"], stdin="\0" * 65536)
    assert result["stdout"].split()[0] == hashlib.sha256(b"\0" * 65536).hexdigest()


def test_output_limit_keeps_both_ends(api: Api) -> None:
    """`output.limit` holds as for a container, with exact counts."""
    result = api.run(VMID, "seq 100000", output={"limit": 100})
    whole = "".join(f"{n}\n" for n in range(1, 100001)).encode()
    assert result["stdout"].encode() == whole[:50] + whole[-50:]
    count = result["output"]["stdout"]
    assert (count["bytes"], count["dropped"], count["dropped_at"]) == (len(whole), len(whole) - 100, 50)
    assert count["sha256"] == hashlib.sha256(whole).hexdigest()


def test_failed_starts(api: Api) -> None:
    """A program that cannot be started is `spawn_failed`, with the reason that the agent gave."""
    missing = api.run(VMID, ["/no/such"])
    assert (missing["reason"], missing["exit_code"]) == ("spawn_failed", 127)
    assert missing["spawn_error"] == {"stage": "exec", "errno": "ENOENT", "message": "No such file or directory"}
    denied = api.run(VMID, ["/etc/passwd"])
    assert (denied["exit_code"], denied["spawn_error"]["errno"]) == (126, "EACCES")
    assert api.run(VMID, ["sh", "-c", "exit 127"])["reason"] == "exited"


def test_detached(api: Api) -> None:
    """202 at once; listed while it runs, its output there when it has ended."""
    exec_id = detach(api, "sleep 2; echo out; echo err >&2; exit 3", labels={"job": "7"})
    assert api.get(f"/execs/{exec_id}").json()["state"] == "running"
    assert exec_id in [view["id"] for view in api.get(f"/execs?vmid={VMID}&label=job=7").json()["execs"]]
    view = ended(api, exec_id)
    assert (view["state"], view["reason"], view["exit_code"]) == ("ended", "exited", 3)
    assert api.get(f"/execs/{exec_id}/stdout").body == b"out\n"
    assert api.get(f"/execs/{exec_id}/stderr").body == b"err\n"
    events = [json.loads(line) for line in api.get(f"/execs/{exec_id}/events").body.splitlines()]
    assert [event["type"] for event in events] == ["start", "stdout", "stderr", "end"]


def test_many_at_once(api: Api) -> None:
    """The agent is asked one thing at a time; a slow command holds up no other."""
    begun = time.monotonic()
    slow = [detach(api, f"sleep 5; echo {number}") for number in range(8)]
    assert api.run(VMID, ["echo", "quick"])["stdout"] == "quick\n"
    assert time.monotonic() - begun < 5
    for number, exec_id in enumerate(slow):
        assert ended(api, exec_id)["exit_code"] == 0
        assert api.get(f"/execs/{exec_id}/stdout").body == f"{number}\n".encode()


# ---- what an agent cuts


@pytest.mark.parametrize(("limit", "filler"), [(None, "\0"), (16 << 20, "x")])
def test_truncated_output(patient: Api, limit: int | None, filler: str) -> None:
    """Past 16 MiB nobody knows how much there was: at least a byte is dropped, and there is no hash. NUL takes most."""
    spec = {} if limit is None else {"output": {"limit": limit, "keep": "head"}}
    size = MAX_OUTPUT + 1000
    result = patient.run(VMID, f"head -c {size} /dev/zero | tr '\\0' '\\{ord(filler):o}'; echo fine >&2", **spec)
    count = result["output"]["stdout"]
    kept = limit or (1 << 20) // 2
    assert (count["bytes"], count["dropped"], count["dropped_at"]) == (MAX_OUTPUT + 1, MAX_OUTPUT + 1 - kept, kept)
    assert count["sha256"] is None
    assert result["stdout"] == filler * kept
    assert (result["exit_code"], result["stderr"], result["output"]["stderr"]["dropped"]) == (0, "fine\n", 0)


def test_truncated_output_of_a_detached_exec(patient: Api) -> None:
    """All that the agent kept can be read, and the gap behind it is told."""
    exec_id = detach(patient, f"seq 10000000 | head -c {MAX_OUTPUT + 5}")
    count = ended(patient, exec_id)["output"]["stdout"]
    assert (count["bytes"], count["dropped"], count["dropped_at"]) == (MAX_OUTPUT + 1, 1, MAX_OUTPUT)
    head = patient.get(f"/execs/{exec_id}/stdout", headers={"Range": f"bytes=0-{MAX_OUTPUT - 1}"})
    assert head.body.startswith(b"1\n2\n3\n") and len(head.body) == MAX_OUTPUT
    events = [json.loads(line) for line in patient.get(f"/execs/{exec_id}/events").body.splitlines()]
    assert [(event["offset"], event["bytes"]) for event in events if event["type"] == "gap"] == [(MAX_OUTPUT, 1)]
    assert events[-1]["type"] == "end"


# ---- what an agent cannot do


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"env": {"A": "b"}}, "env"),
        ({"cwd": "/"}, "cwd"),
        ({"user": "root"}, "user"),
        ({"placement": "guest"}, "placement"),
        ({"background": "kill"}, "background"),
        ({"background": "wait"}, "background"),
        ({"on_disconnect": "kill"}, "on_disconnect"),
        ({"kill_grace": 1}, "kill_grace"),
        ({"output": {"on_limit": "kill"}}, "output.on_limit"),
        ({"stdin": "x" * 65537}, "stdin"),
        ({"command": ["echo", "ü"]}, "command"),
        ({"command": ["echo", *["x" * 100_000] * 6]}, "command"),
    ],
)
def test_impossible_fields_are_refused(api: Api, gateway: Gateway, spec: dict[str, Any], named: str) -> None:
    """Each by its name, with 422, before anything is recorded or run."""
    before = len(gateway.records(event="exec:intent"))
    answer = api.post(VMID, {"command": ["true"], **spec})
    assert (answer.status, answer.code) == (422, "driver_unsupported"), answer.body
    assert answer.json()["unsupported"] == [named]
    assert f"`{named}`" in answer.json()["detail"]
    assert len(gateway.records(event="exec:intent")) == before


def test_all_that_is_impossible_is_named_at_once(api: Api) -> None:
    """A caller need not find out one field after the other."""
    spec = {"command": "true", "tty": {}, "stdin_open": True, "cwd": "/", "env": {"A": ""}}
    answer = api.post(VMID, spec, headers={"Prefer": "respond-async"})
    assert answer.json()["unsupported"] == ["tty", "stdin_open", "env", "cwd"]


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
def test_streams_are_refused(api: Api, accept: str) -> None:
    """An agent tells nothing before the end, so there is nothing to stream."""
    answer = api.post(VMID, {"command": ["true"]}, headers={"Accept": accept})
    assert (answer.status, answer.json()["unsupported"]) == (422, ["streams"])


def test_terminals_are_refused(gateway: Gateway) -> None:
    """A WebSocket that wants a terminal in a machine is closed with the reason; attaching without input is possible."""
    api = gateway.api(gateway.token("terminal", actions="exec:run,exec:terminal"))
    with WebSocket(api, f"/exec/{VMID}/terminal") as terminal:
        terminal.say("start", command=["sh"], tty={})
        closed = terminal.receive()
        while not isinstance(closed, Closed):
            closed = terminal.receive()
    assert "driver_unsupported" in closed.reason, closed
    api.close()


def test_running_command_cannot_be_acted_upon(api: Api, gateway: Gateway) -> None:
    """No end, no signal, no size, no input: refused by name, unrecorded, and the command goes on."""
    exec_id = detach(api, "sleep 3; echo done")
    before = len(gateway.records())
    calls = [
        ("DELETE", "", None, "kill"),
        ("POST", "/signal", {"signal": "TERM"}, "signal"),
        ("POST", "/resize", {"rows": 10, "cols": 10}, "resize"),
        ("PUT", "/stdin?offset=0", {"a": 1}, "input"),
    ]
    for method, path, body, named in calls:
        answer = api.request(method, f"/execs/{exec_id}{path}", body)
        assert (answer.status, answer.code) == (422, "driver_unsupported"), (method, path, answer.body)
        assert answer.json()["unsupported"] == [named]
    assert len(gateway.records()) == before
    assert ended(api, exec_id)["exit_code"] == 0
    assert api.get(f"/execs/{exec_id}/stdout").body == b"done\n"
    assert api.request("DELETE", f"/execs/{exec_id}").code == "exec_ended"


def test_time_limit_is_honest(api: Api, machine: Machine, tmp_path: Any) -> None:
    """The caller gets its answer; the command is said to live on, and does."""
    mark = tmp_path / "mark"
    begun = time.monotonic()
    result = api.run(VMID, f"sleep 6; touch {mark}", timeout=0.4)
    assert time.monotonic() - begun < 0.5 + BUSY
    assert (result["reason"], result["exit_code"], result["killed"], result["survivors"]) == ("timeout", 124, 0, 1)
    until(mark.exists, why="it goes on in the machine")
    assert api.get(f"/execs/{result['id']}").json()["reason"] == "timeout"


@pytest.mark.parametrize("reload", [False, True], ids=["", "reload"])
def test_command_past_its_time_is_asked_after(
    api: Api, machine: Machine, gateway: Gateway, tmp_path: Path, reload: bool
) -> None:
    """The agent keeps what it wrote until somebody asks, so it is asked until it has told, over a reload too."""
    mark = new_mark()
    may_end = tmp_path / "may-end"
    waits = f"until [ -e {may_end} ]; do sleep 0.1; done; : {mark}"
    result = api.run(VMID, ["sh", "-c", waits], timeout=0.3)
    assert (result["reason"], result["survivors"]) == ("timeout", 1)
    pid = living(mark)[0]
    if reload:
        gateway.services.reload("supervisor")
    assert living(mark) and not is_let_go(gateway, result["id"])
    may_end.touch()
    until(lambda: is_let_go(gateway, result["id"]), why="the agent has told")
    assert not living(mark)
    assert "does not exist" in ask_agent(machine, pid)
    assert api.get(f"/execs/{result['id']}").json()["reason"] == "timeout"


def is_let_go(gateway: Gateway, exec_id: str) -> bool:
    """Whether the spool knows that nothing of an ended exec runs any more."""
    texts = [path.read_text() for path in (gateway.spool / "journal").iterdir()]
    lines = [line for text in texts for line in text.rpartition("\n")[0].splitlines()]  # the last may be half there
    told = [json.loads(line) for line in lines if not line.startswith("#")]  # such a one has been taken back
    return any(line["id"] == exec_id and line.get("gone") for line in told)


def ask_agent(machine: Machine, pid: int) -> str:
    """What the machine's agent itself says of a command."""
    with socket.socket(socket.AF_UNIX) as agent, agent.makefile("r") as answers:
        agent.connect(str(machine.pidfile.with_suffix(".qga")))
        agent.sendall(json.dumps({"execute": "guest-exec-status", "arguments": {"pid": pid}}).encode() + b"\n")
        return answers.readline()


def test_command_past_its_time_ends_with_its_machine(api: Api, machine: Machine, gateway: Gateway) -> None:
    """Nothing is asked after in a machine that has stopped."""
    result = api.run(VMID, ["sleep", "60"], timeout=0.3)
    assert not is_let_go(gateway, result["id"])
    machine.stop()
    until(lambda: is_let_go(gateway, result["id"]), why="nobody asks after it")
    machine.start()


def test_late_agent(api: Api, machine: Machine, gateway: Gateway) -> None:
    """Time that is up while the agent does not answer to the start is no promise that nothing runs."""
    machine.set_quirks(mute=["guest-exec"])
    result = api.run(VMID, ["true"], timeout=0.3)
    assert (result["reason"], result["survivors"]) == ("timeout", 1)
    until(lambda: is_let_go(gateway, result["id"]), why="there is nothing to ask after")


def test_waiting_command_is_cancelled(make_gateway: Callable[..., Gateway], pve: PveProcess, token_file: Path) -> None:
    """DELETE takes one out of the queue that could not be ended once it ran."""
    narrow = make_gateway(exec={"max_running": 1}, pve={"api": pve.url, "agent_token_file": str(token_file)}).api()
    mark = new_mark()
    with closing(narrow), narrow.begin(VMID, {"command": ["sleep", "5"], "labels": {"test": "first"}}):
        first = begun(narrow, "first")
        with narrow.begin(VMID, {"command": ["touch", f"/run/{mark}"], "labels": {"test": mark}, "queue_timeout": 30}):
            exec_id = begun(narrow, mark)
            assert narrow.get(f"/execs/{exec_id}").json()["state"] == "queued"
            assert narrow.request("DELETE", f"/execs/{exec_id}").json()["reason"] == "cancelled"
        assert narrow.request("DELETE", f"/execs/{first}").code == "driver_unsupported"
        assert ended(narrow, first)["exit_code"] == 0
    assert not Path("/run", mark).exists()


def test_leaving_client_ends_nothing(api: Api, gateway: Gateway, tmp_path: Any) -> None:
    """A client that goes away cannot take its command along; its end is remembered."""
    mark = tmp_path / "mark"
    label = new_mark()
    with api.begin(VMID, {"command": f"sleep 0.7; touch {mark}", "labels": {"gone": label}}):
        until(lambda: api.get(f"/execs?vmid={VMID}&label=gone={label}").json()["execs"])
    until(mark.exists)
    view = api.get(f"/execs?vmid={VMID}&label=gone={label}").json()["execs"][0]
    assert ended(api, view["id"])["reason"] == "exited"


# ---- agents and machines that go away


def test_agent_away_before(api: Api, machine: Machine, gateway: Gateway) -> None:
    """409 with its own code, nothing recorded; it works again when the agent does."""
    machine.set_quirks(away=True)
    before = len(gateway.records(event="exec:intent"))
    answer = api.post(VMID, {"command": ["true"]})
    assert (answer.status, answer.code) == (409, "guest_agent_unavailable")
    assert len(gateway.records(event="exec:intent")) == before
    machine.set_quirks()
    assert api.run(VMID, ["true"])["exit_code"] == 0


def test_agent_away_for_a_while(api: Api, machine: Machine) -> None:
    """An agent that does not answer in between loses nothing."""
    exec_id = detach(api, "sleep 1.5; echo kept")
    machine.set_quirks(away=True)
    assert api.get(f"/execs/{exec_id}?wait=3").json()["state"] == "running"
    machine.set_quirks()
    assert ended(api, exec_id)["exit_code"] == 0
    assert api.get(f"/execs/{exec_id}/stdout").body == b"kept\n"


def test_restarted_agent_knows_nothing(api: Api, machine: Machine, gateway: Gateway) -> None:
    """Nobody can know how the command ends: `unknown`, for the one who waits, too."""
    exec_id = detach(api, ["sleep", "5"])
    machine.restart_agent()
    view = ended(api, exec_id)
    assert (view["state"], view["reason"], view["exit_code"], view["output"]) == ("unknown", None, None, None)
    outcome = until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"))
    assert [record["data"]["reason"] for record in outcome] == ["unknown"]


def test_lost_answer_to_the_start(api: Api, machine: Machine) -> None:
    """PVE's time limit passes after the agent began: whether it ran is unknown, and it is not run again."""
    machine.set_quirks(mute=["guest-exec"])
    result = api.run(VMID, ["true"])
    assert (result["state"], result["reason"], result["stdout"]) == ("unknown", None, "")


def test_lost_answer_to_the_question(api: Api, machine: Machine) -> None:
    """The agent has told, once, and PVE did not hear it: the outcome is gone."""
    machine.set_quirks(mute=["guest-exec-status"])
    exec_id = detach(api, ["true"])
    assert api.get(f"/execs/{exec_id}?wait=4").json()["state"] == "running"  # asked twice at least: 1.5 s each
    machine.set_quirks()
    assert ended(api, exec_id)["state"] == "unknown"


def test_machine_that_stops(api: Api, machine: Machine) -> None:
    """Its commands end with it, at once; then it is 409 as for a container."""
    exec_id = detach(api, ["sleep", "60"])
    machine.stop()
    view = api.get(f"/execs/{exec_id}?wait=20").json()
    assert (view["reason"], view["exit_code"]) == ("container_stopped", None)
    assert api.post(VMID, {"command": ["true"]}).code == "guest_not_running"
    machine.start()
    assert api.run(VMID, ["echo", "again"])["stdout"] == "again\n"


def test_machine_without_an_agent(api: Api) -> None:
    """One whose configuration has no `agent` says so."""
    plain = machines.create(302, agent=False)
    try:
        answer = api.post(302, {"command": ["true"]})
        assert (answer.status, answer.code) == (409, "guest_agent_unavailable")
        assert "agent: 1" in answer.json()["detail"]
    finally:
        plain.destroy()


# ---- the supervisor's own lives


def test_reload_keeps_the_command(api: Api, gateway: Gateway) -> None:
    """SIGHUP: the new image goes on asking, and has every byte."""
    execs = [detach(api, f"echo before; sleep 1; echo {number}; exit {number}") for number in range(5)]
    before = gateway.log("supervisor")
    with api.begin(VMID, {"command": "sleep 1; echo sync", "labels": {"r": "1"}}) as connection:
        until(lambda: api.get(f"/execs?vmid={VMID}&label=r=1").json()["execs"])
        pid = gateway.services.pid("supervisor")
        started = reexec_count(pid)
        gateway.services.kill("supervisor", signal.SIGHUP)
        until(lambda: reexec_count(pid) != started, why="a new image")
        for number, exec_id in enumerate(execs):
            assert ended(api, exec_id)["exit_code"] == number
            assert api.get(f"/execs/{exec_id}/stdout").body == f"before\n{number}\n".encode()
        said = b""
        while b"sync" not in said:
            piece = connection.recv(65536)
            assert piece, said
            said += piece
    assert "not reloaded" not in gateway.log("supervisor")[len(before) :]


def test_calls_to_the_agent_are_counted(api: Api, gateway: Gateway) -> None:
    """As the supervisor's, by outcome; a reload loses no count."""
    token = gateway.token("monitoring", actions="metrics:read")

    def scrape() -> dict[str, float]:
        with closing(gateway.api(token)) as reader:
            found = Scrape(reader.request("GET", "/metrics").body.decode())
        names = {"ping and start": ("POST", "ok"), "questions": ("GET", "ok"), "refused": ("POST", "refused")}
        return {
            name: found.value("pve_api_requests_total", component="supervisor", method=method, outcome=outcome)
            for name, (method, outcome) in names.items()
        }

    before = scrape()
    assert api.run(VMID, ["echo", "counted"])["stdout"] == "counted\n"
    assert api.run(VMID, ["/no/such"])["reason"] == "spawn_failed"
    after = scrape()
    assert after["ping and start"] == before["ping and start"] + 3
    assert after["questions"] > before["questions"]
    assert after["refused"] == before["refused"] + 1
    pid = gateway.services.pid("supervisor")
    started = reexec_count(pid)
    gateway.services.kill("supervisor", signal.SIGHUP)
    until(lambda: reexec_count(pid) != started, within=15, why="a new image")
    until(lambda: scrape() == after)


def reexec_count(pid: int) -> bytes:
    """Changes with every execve of the process: the auxiliary vector's random bytes lie elsewhere then."""
    with open(f"/proc/{pid}/auxv", "rb") as file:
        return file.read()


def test_killed_supervisor_knows_nothing(api: Api, gateway: Gateway, tmp_path: Any) -> None:
    """SIGKILL: whatever became of the command, nobody can know it; it is not run again."""
    mark = tmp_path / "mark"
    exec_id = detach(api, f"sleep 1; echo x >> {mark}")
    gateway.services.kill("supervisor", signal.SIGKILL)
    gateway.services.restart("supervisor")
    view = api.get(f"/execs/{exec_id}").json()
    assert (view["state"], view["reason"]) == ("unknown", None)
    until(mark.exists)
    assert mark.read_text() == "x\n"
    outcome = until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"), why="the new supervisor records it")
    assert [record["data"]["reason"] for record in outcome] == ["unknown"]


def test_stopped_supervisor_says_unknown(api: Api, gateway: Gateway) -> None:
    """SIGTERM does not wait for what it cannot end, and invents no end for it."""
    exec_id = detach(api, ["sleep", "30"])
    begun = time.monotonic()
    gateway.services.restart("supervisor")
    assert time.monotonic() - begun < 20
    assert api.get(f"/execs/{exec_id}").json()["state"] == "unknown"


# ---- the record


def test_audit_trail(api: Api, gateway: Gateway) -> None:
    """Intent before, outcome after, as for a container; no input, no hidden argument."""
    secret = "s3cret-in-a-machine"
    result = api.run(VMID, ["echo", secret], stdin=secret, redact=[1])
    until(lambda: len(gateway.records(exec_id=result["id"])) == 2)
    trail = gateway.records(exec_id=result["id"])
    assert [record["event"] for record in trail] == ["exec:intent", "exec:outcome"]
    assert trail[0]["data"]["on_disconnect"] == "continue"
    assert trail[1]["data"]["exit_code"] == 0
    assert secret not in gateway.audit_log.read_text()
    assert secret not in gateway.log("supervisor") + gateway.log("web")

"""The audit trail: what is recorded tells everything but the secrets. (C4 is in test_fail_closed.)"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.audit.client import AuditClient
from tests.exec.api import Api
from tests.exec.full import in_full
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, living, new_mark
from tests.exec.waiting import until


@pytest.fixture(scope="module")
def gateway(gateway_on_disk: Gateway) -> Gateway:
    return gateway_on_disk


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    assert opened.run(101, ["true"])["reason"] == "exited"
    yield opened
    opened.close()


def test_running_exec_outlives_a_frozen_log(api: Api, gateway: Gateway, disk: Path) -> None:
    """A command that runs when the disk hangs ends and is answered; its outcome is written when the disk is back."""
    mark = new_mark()
    connection = api.begin(101, {"command": f"sleep 0.3; echo {mark}", "labels": {"test": mark}})
    try:
        exec_id = begun(api, mark)
        subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
        try:
            until(lambda: api.get(f"/execs/{exec_id}").json()["state"] == "ended", why="its end")
        finally:
            subprocess.run(["fsfreeze", "-u", str(disk)], check=True)
    finally:
        connection.close()
    until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"), why="its outcome is recorded")


@pytest.mark.parametrize(("event", "method"), [("exec:signal", "POST"), ("exec:cancel", "DELETE")])
def test_what_came_too_late_is_taken_back(api: Api, gateway: Gateway, disk: Path, event: str, method: str) -> None:
    """A signal or an end of which the record was not yet durable when the command ended by itself was never given:
    `aborted` says so, as the answer does."""
    view = api.post(101, {"command": "sleep 1"}, headers={"Prefer": "respond-async"}).json()
    place = f"/execs/{view['id']}"
    where, body = (f"{place}/signal", {"signal": "TERM"}) if method == "POST" else (place, None)
    subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
    try:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(api.request, method, where, body)
            until(lambda: api.get(place).json()["state"] == "ended", why="its end")
            subprocess.run(["fsfreeze", "-u", str(disk)], check=True)
            answer = asked.result()
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=False, capture_output=True)
    assert answer.code in ("exec_ended", "audit_unavailable")

    def taken_back() -> bool:
        announced = {record["audit_id"] for record in gateway.records(exec_id=view["id"], event=event)}
        aborted = gateway.records(exec_id=view["id"], event="exec:aborted")
        return announced <= {record["audit_id"] for record in aborted if record["data"]["aborted"] == event}

    until(taken_back, why="it is taken back")
    assert answer.code == "audit_unavailable" or gateway.records(exec_id=view["id"], event=event)


def test_intent_stands_before_the_outcome(api: Api, gateway: Gateway) -> None:
    """One intent and one outcome for an exec, in this order, with who, what, where and how it ended."""
    result = api.run(101, ["sh", "-c", "exit 3"], labels={"job": "deploy"}, cwd="/tmp", user="www-data")
    until(lambda: gateway.records(exec_id=result["id"], event="exec:outcome"))
    intent, outcome = gateway.records(exec_id=result["id"])
    assert (intent["event"], outcome["event"]) == ("exec:intent", "exec:outcome")
    for record in (intent, outcome):
        assert (record["audit_id"], record["vmid"], record["action"]) == (result["audit_id"], 101, "exec:run")
        assert record["actor"]["name"] == "all"
        assert record["remote"].startswith("127.0.0.1")
    assert intent["data"]["command"] == ["sh", "-c", "exit 3"]
    assert (intent["data"]["cwd"], intent["data"]["user"]) == ("/tmp", "www-data")
    assert (outcome["data"]["reason"], outcome["data"]["exit_code"]) == ("exited", 3)


def test_intent_is_durable_while_the_command_runs(api: Api, gateway: Gateway) -> None:
    """The command itself could read its own intent: the record is there before the process is."""
    mark = new_mark()
    with api.begin(101, {"command": ["sleep", mark], "labels": {"test": mark}}):
        exec_id = begun(api, mark, mark)
        assert [record["event"] for record in gateway.records(exec_id=exec_id)] == ["exec:intent"]


def test_one_durable_write_before_a_command_runs(make_gateway: Callable[..., Gateway]) -> None:
    """Its intent, which reserves its Idempotency-Key too, is all that the disk is waited for until it runs; its outcome
    is one more record."""
    alone = make_gateway()
    api, mark = alone.api(), new_mark()
    socket = Path(yaml.safe_load(alone.services.config.read_text())["audit"]["socket"])
    with contextlib.closing(api), contextlib.closing(AuditClient(socket)) as audit:
        before = audit.ping()
        keyed = {"Prefer": "respond-async", "Idempotency-Key": mark}
        exec_id = api.post(101, {"command": ["sleep", mark]}, headers=keyed).json()["id"]
        until(lambda: living(mark), why="it runs")
        running = audit.ping()
        assert [running[name] - before[name] for name in ("records", "syncs")] == [1, 1]
        assert api.request("DELETE", f"/execs/{exec_id}?wait=10").status == 200
        until(lambda: audit.ping()["records"] == before["records"] + 3, why="the cancel and the outcome are recorded")


def test_denials_are_recorded(api: Api, gateway: Gateway) -> None:
    """A command outside of the token's grant leaves a record with the id that its caller was given."""
    narrow = gateway.api(gateway.token("narrow", guests="102"))
    answer = narrow.post(101, {"command": ["true"]})
    narrow.close()
    assert (answer.status, answer.code) == (404, "guest_not_found")
    records = until(lambda: gateway.records(audit_id=answer.json()["audit_id"]))
    assert records[0]["event"].endswith(":denied")


SECRET_FIELDS: list[dict[str, Any]] = [
    {"command": ["sh", "-c", "echo $#", "sh", "SECRET"], "redact": [4]},
    {"command": "echo SECRET > /dev/null", "redact": [0]},
    {"command": ["sh", "-c", 'test -n "$TOKEN"'], "env": {"TOKEN": "SECRET"}},
    {"command": ["sh", "-c", "cat > /dev/null"], "stdin": "SECRET\n"},
    {"command": ["no-such-SECRET"], "redact": [0]},
    {"command": ["true"], "stdin": "SECRET", "stdin_encoding": "base64"},
    {"command": ["true"], "env": {"A": "SECRET"}, "timeout": "SECRET"},
    {"command": ["SECRET", "a\0b"]},
    {"command": ["true"], "env": {"SECRET=": "SECRET"}},
]


@pytest.mark.parametrize("body", SECRET_FIELDS, ids=range(len(SECRET_FIELDS)))
def test_secrets_stay_in_the_command(api: Api, gateway: Gateway, body: dict[str, Any]) -> None:
    """A7: values of env, stdin and marked arguments are in no answer, audit record, log or file of the spool."""
    secret = f"canary{new_mark()}"
    answer = api.request("POST", "/exec/101", raw=_encode(body).replace(b"SECRET", secret.encode()))
    exec_id = answer.json().get("id")
    assert secret.encode() not in answer.body
    if exec_id is not None:
        until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"))
        assert secret.encode() not in api.get(f"/execs/{exec_id}").body
    assert secret.encode() not in api.get("/execs").body
    for directory in (gateway.directory, gateway.audit_log.parent):
        for path in directory.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), path


def read_at_once(path: str) -> bytes:
    """A file of /proc by one read(2): of two, one may be before an execve and the other after it."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def test_secrets_are_in_no_command_line_or_environment(api: Api) -> None:
    """A7: over many execs with /proc sampled, no process but the command itself ever shows a secret."""
    seen: set[tuple[bool, str]] = set()
    node = os.readlink("/proc/self/ns/mnt")
    secret = f"canary{new_mark()}"
    body = {
        "command": ["/bin/busybox", "sh", "-c", "sleep 0.2; :", "sh", secret],
        "env": {"TOKEN": secret},
        "stdin": secret,
        "redact": [4],
    }
    with ThreadPoolExecutor(12) as pool:
        running = {pool.submit(api.post, 101, body) for _ in range(in_full(1000, else_=60))}
        while running:
            for pid in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    words, environment = (read_at_once(f"/proc/{pid}/{name}") for name in ("cmdline", "environ"))
                    in_node = os.readlink(f"/proc/{pid}/ns/mnt") == node
                    if secret.encode() in words:
                        seen.add((in_node, words.split(b"\0")[0].decode()))
                    if secret.encode() in environment:
                        seen.add((in_node, "environment"))
            running = {one for one in running if not one.done()}
    assert seen, "not even the command was seen: the sampling is too slow"
    assert seen <= {(False, "/bin/busybox"), (False, "environment")}
    assert not living(secret)


def test_spool_is_closed_to_others(api: Api, gateway: Gateway) -> None:
    """A7: every file of the spool is 0600 and every directory 0700."""
    api.run(101, "echo something; echo more >&2")
    for path in [gateway.spool, *gateway.spool.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


HOSTILE = "x\n<34>1 forged\r\x1b[2J\x00\u2028\u202e\x9b ERROR gateway: forged"


def test_no_text_of_a_caller_makes_a_line(api: Api, gateway: Gateway) -> None:
    """C8: whatever stands in labels, arguments, paths, queries and headers: logs stay printable, one line a message,
    and every line of the audit log is a record of the writer's, which verifies."""
    text = HOSTILE.replace("\0", "")
    ran = api.run(101, ["echo", text], labels={"job": text}, env={"A": text}, cwd="/tmp")
    api.run(101, ["true"], redact=[0], labels={"l": '","event":"audit:opened","seq":1'})
    for body in ({"command": ["true"], "user": HOSTILE}, {"command": ["true"], HOSTILE: 1}, {"command": HOSTILE}):
        api.post(101, body)
    quoted = urllib.parse.quote(HOSTILE)
    for path in (
        f"/execs/{quoted}",
        f"/exec/{quoted}",
        f"/{quoted}",
        f"/audit?token={quoted}",
        f"/execs?label=a={quoted}",
    ):
        api.get(path)
    plain = text.replace("\n", " ").replace("\r", "").encode("ascii", "ignore").decode()
    api.get("/execs", headers={"User-Agent": plain, "X-Request-Id": plain, "X-Forwarded-For": plain})
    with contextlib.closing(Api(api.port, gateway.services.ca, f"pveg_{plain}")) as stranger:
        stranger.get("/execs")
    until(lambda: gateway.records(exec_id=ran["id"], event="exec:outcome"))
    for line in gateway.audit_log.read_bytes().splitlines():
        assert line.isascii() and line.decode().isprintable() and json.loads(line)["seq"]
    gateway.services.command("audit", "verify")
    for service in ("web", "supervisor", "audit"):
        for logged in gateway.log(service).split("\n"):
            assert logged.replace("\t", " ").isprintable(), (service, logged)
            assert not logged.startswith(("<34>1 forged", "ERROR gateway: forged")), service


def test_reading_the_log_over_the_api(api: Api, gateway: Gateway) -> None:
    """GET /audit: what was done is found by its exec; who may read about other guests alone finds nothing of it."""
    ran = api.run(101, ["echo", "found"])
    until(lambda: gateway.records(exec_id=ran["id"], event="exec:outcome"))
    reader = gateway.api(gateway.token("reader", actions="audit:read", guests="all"))
    near = gateway.api(gateway.token("near", actions="audit:read", guests="101"))
    far = gateway.api(gateway.token("far", actions="audit:read", guests="102"))
    try:
        for allowed in (reader, near):
            page = allowed.get(f"/audit?exec_id={ran['id']}").json()
            assert [record["event"] for record in page["records"]] == ["exec:outcome", "exec:intent"]
            assert page["next"] is None
        assert far.get(f"/audit?exec_id={ran['id']}").json()["records"] == []
        assert {record.get("vmid") for record in near.get("/audit").json()["records"]} == {101}
        assert None in {record.get("vmid") for record in reader.get("/audit?order=oldest").json()["records"]}
        assert api.get("/audit").status == 403
    finally:
        for opened in (reader, near, far):
            opened.close()


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()

"""C4 and the audit trail: no record, no action; what is recorded tells everything but the secrets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.exec.api import Answer, Api
from tests.exec.full import in_full
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, living, new_mark
from tests.exec.waiting import until
from tests.pvesim import guests

PATIENCE = 2.0 + 0.7  # two seconds are promised; the rest is a busy machine's


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system of its own for an audit log, on a loop device."""
    image, place = tmp_path_factory.mktemp("disk") / "image", tmp_path_factory.mktemp("audit")
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    yield place
    subprocess.run(["fsfreeze", "-u", str(place)], check=False, capture_output=True)
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def gateway(make_gateway: Callable[..., Gateway], disk: Path) -> Gateway:
    """A gateway whose audit log is on that disk."""
    made = make_gateway(audit={"directory": str(disk / "log")})
    made.audit_log = disk / "log/audit.log"
    return made


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    opened = gateway.api()
    assert opened.run(101, ["true"])["reason"] == "exited"
    yield opened
    opened.close()


def touch(mark: str) -> dict[str, Any]:
    return {"command": ["touch", f"/root/ran-{mark}"]}


def has_run(mark: str) -> bool:
    """Whether the side effect of `touch` is there."""
    return (guests.get(101).rootfs / f"root/ran-{mark}").exists()


def assert_refused(api: Api) -> str:
    """A command is refused with 503 within two seconds and has not run; its mark, for looking again."""
    mark, began = new_mark(), time.monotonic()
    answer = api.post(101, touch(mark))
    took = time.monotonic() - began
    assert (answer.status, answer.code) == (503, "audit_unavailable"), answer.body[:300]
    assert answer.json()["retryable"] is True
    assert answer.headers["Retry-After"]
    assert took < PATIENCE
    assert not has_run(mark)
    return mark


def assert_recovers(api: Api) -> None:
    """Commands run again by themselves, soon."""

    def runs() -> bool:
        mark = new_mark()
        answer: Answer = api.post(101, touch(mark))
        assert has_run(mark) is (answer.status == 200)
        return answer.status == 200

    until(runs, within=10, why="the audit log works again")


def assert_all_told(gateway: Gateway) -> None:
    """Each intent in the log has an outcome or was taken back, and the log verifies."""

    def open_intents() -> set[str]:
        records = gateway.records()
        begun_ones = {record["audit_id"] for record in records if record["event"] == "exec:intent"}
        settled = {"exec:outcome", "exec:aborted"}
        return begun_ones - {record["audit_id"] for record in records if record["event"] in settled}

    until(lambda: not open_intents(), within=5, why="every intent is settled")
    gateway.services.command("audit", "verify")


def test_killed_writer(api: Api, gateway: Gateway) -> None:
    """The audit writer is gone: 503 at once, nothing runs; when it is back commands run, nobody else restarted."""
    gateway.services.kill("audit", signal.SIGKILL)
    marks = [assert_refused(api) for _ in range(3)]
    gateway.services.restart("audit")
    assert_recovers(api)
    assert not any(has_run(mark) for mark in marks)
    assert_all_told(gateway)


def test_stopped_writer(api: Api, gateway: Gateway) -> None:
    """The audit writer hangs: 503 within two seconds; what it wrote late is taken back by an `aborted` record."""
    gateway.services.kill("audit", signal.SIGSTOP)
    try:
        mark = assert_refused(api)
    finally:
        gateway.services.kill("audit", signal.SIGCONT)
    assert_recovers(api)
    assert not has_run(mark)
    assert_all_told(gateway)


def test_frozen_file_system(api: Api, gateway: Gateway, disk: Path) -> None:
    """The disk hangs in fsync: 503 within two seconds, every time; it goes on when the disk does."""
    subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
    try:
        marks = [assert_refused(api) for _ in range(2)]
        ready = api.get("/health/ready")
        assert ready.status == 503
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)
    assert_recovers(api)
    assert not any(has_run(mark) for mark in marks)
    assert_all_told(gateway)


def test_running_exec_outlives_a_frozen_log(api: Api, gateway: Gateway, disk: Path) -> None:
    """A command that runs when the disk hangs ends and is answered; its outcome is written when the disk is back."""
    mark = new_mark()
    connection = api.begin(101, {"command": f"sleep 0.3; echo {mark}", "labels": {"test": mark}})
    try:
        exec_id = begun(api, mark)
        subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
        try:
            until(lambda: api.get(f"/execs/{exec_id}").json()["state"] == "ended", within=3, why="its end")
        finally:
            subprocess.run(["fsfreeze", "-u", str(disk)], check=True)
    finally:
        connection.close()
    until(lambda: gateway.records(exec_id=exec_id, event="exec:outcome"), within=5, why="its outcome is recorded")


def test_full_disk(api: Api, gateway: Gateway, disk: Path) -> None:
    """No room for a record: 503, nothing runs; with room again commands run."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    with contextlib.suppress(OSError), (disk / "log/filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0")
    try:
        # The log's last block may have room for a few records still.
        until(lambda: api.post(101, {"command": ["true"]}).status == 503, within=10, why="the disk is full")
        mark = assert_refused(api)
    finally:
        filler.unlink()
        (disk / "log/filler").unlink(missing_ok=True)
    assert_recovers(api)
    assert not has_run(mark)
    assert_all_told(gateway)


def test_read_only_file_system(api: Api, gateway: Gateway, disk: Path) -> None:
    """The file system became read-only, as after an I/O error: 503, nothing runs; it recovers."""
    gateway.services.kill("audit", signal.SIGKILL)  # an open file would make the remount busy
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    gateway.services.restart("audit")
    try:
        mark = assert_refused(api)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert_recovers(api)
    assert not has_run(mark)
    assert_all_told(gateway)


def test_deleted_file(api: Api, gateway: Gateway) -> None:
    """The log was deleted: what runs is recorded in a file that exists, or is refused; soon it runs."""
    gateway.audit_log.unlink()
    mark = new_mark()
    answer = api.post(101, touch(mark))
    assert answer.status in (200, 503)
    assert has_run(mark) is (answer.status == 200)
    if answer.status == 200:
        assert gateway.records(exec_id=answer.json()["id"], event="exec:intent")
    assert_recovers(api)
    assert gateway.records(event="exec:intent")


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


def _encode(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()

"""The writer process over its socket: receipts, group commit, peers, anchors, endings."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.anchor import read_anchors
from gateway.audit.client import AuditClient
from gateway.audit.protocol import GOODBYE, MAX_FRAME, PATIENCE, FrameBuffer, encode_frame
from gateway.audit.queue import MAX_QUEUED, Entry, Queue
from gateway.audit.record import Event, build_record
from gateway.audit.settings import AuditSettings
from gateway.audit.verify import verify
from gateway.audit.writer import MAX_PEERS
from gateway.errors import AuditUnavailable, InternalError

from .live import BUSY, REPOSITORY, Writer, events, intent, keys_of, make_settings, read_log, wait_until


@contextlib.contextmanager
def connect(settings: AuditSettings) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        sock.connect(str(settings.socket))
        yield sock


def read_replies(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    frames = FrameBuffer()
    replies: list[dict[str, Any]] = []
    while len(replies) < count:
        data = sock.recv(65536)
        assert data, "closed by the writer"
        replies += frames.feed(data)
    return replies


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_receipt_names_a_durable_record(writer: Writer, client: AuditClient) -> None:
    """What the receipt says is what stands in the log, with the peer's uid and the writer's time."""
    record = intent(1)
    receipt = client.commit(record)
    sealed = read_log(writer.settings)[-1]
    assert (sealed.head.seq, sealed.head.mac) == (receipt.seq, receipt.mac) == (2, receipt.mac)
    assert receipt.audit_id == record["audit_id"] == sealed.record["audit_id"]
    assert sealed.record["peer"] == os.getuid() and sealed.record["ts"].endswith("Z")
    assert client.head() == {"seq": receipt.seq, "mac": receipt.mac}


def test_many_callers_share_fdatasyncs(writer: Writer, settings: AuditSettings) -> None:
    """10,000 records of 16 threads: each has its own receipt, the chain is whole, far fewer syncs than records."""
    client = AuditClient(settings.socket)
    receipts: list[tuple[str, str, int]] = []

    def work(thread: int) -> None:
        for number in range(625):
            record = intent(thread * 1000 + number)
            receipt = client.commit(record, timeout=20)
            receipts.append((record["audit_id"], receipt.audit_id, receipt.seq))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    status = client.ping()
    client.close()
    assert all(mine == theirs for mine, theirs, _ in receipts)
    assert len({seq for *_, seq in receipts}) == 10_000
    assert status["ok"] and status["records"] == 10_000 and status["syncs"] < 5_000
    verdict = verify(settings.directory, keys_of(settings))
    assert verdict.fault is None and verdict.records == 10_001


def test_one_connection_may_pipeline(writer: Writer, settings: AuditSettings) -> None:
    """200 requests sent in one piece come back, each under its own id."""
    with connect(settings) as sock:
        frames = [encode_frame({"id": number, "record": intent(number), "wait": True}) for number in range(200)]
        sock.sendall(b"".join(frames))
        replies = read_replies(sock, 200)
    assert sorted(reply["id"] for reply in replies) == list(range(200))
    assert all("receipt" in reply for reply in replies)


def test_a_malformed_record_is_refused_and_harms_nobody(writer: Writer, client: AuditClient) -> None:
    """The caller hears which field is wrong; the connection and the log go on."""
    with pytest.raises(InternalError, match="'vmid'"):
        client.commit({**intent(1), "vmid": "101; rm -rf /"})
    with pytest.raises(InternalError, match="'event'"):
        client.commit({**intent(1), "event": "audit:rotated"})
    assert client.commit(intent(2)).seq == 2


GARBAGE = [
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">I", MAX_FRAME + 1),
    struct.pack(">I", 0),
    struct.pack(">I", 4) + b"\xff\xfe{}",
    struct.pack(">I", 2) + b"[]",
    struct.pack(">I", 2) + b"{}",
    struct.pack(">I", 50_000) + b"[" * 50_000,
    encode_frame({"id": 1, "op": "shutdown"}),
    encode_frame({"id": "1", "record": {}}),
    encode_frame({"record": intent()}),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_closes_only_its_own_connection(
    writer: Writer, settings: AuditSettings, client: AuditClient, garbage: bytes
) -> None:
    """C12: whatever is no message of ours ends that connection, and nothing of it is in the log."""
    client.commit(intent(1))
    with connect(settings) as sock:
        sock.sendall(garbage)
        assert is_closed(sock)
    assert client.commit(intent(2)).seq == 3


def test_values_that_cannot_be_written_are_refused(writer: Writer, settings: AuditSettings) -> None:
    """A float too large for JSON, a deep nest, a number of 5,000 digits: no record, and the writer goes on."""
    with connect(settings) as sock:
        for number, value in enumerate([b"1e999", b"NaN", b"[" * 100 + b"]" * 100]):
            record = json.dumps(intent()).encode().replace(b'"root"', value)
            body = b'{"id":%d,"wait":true,"record":%s}' % (number, record)
            sock.sendall(struct.pack(">I", len(body)) + body)
            assert read_replies(sock, 1)[0]["error"]["code"] == "invalid_record"
        sock.sendall(encode_frame({"id": 9, "record": intent(), "wait": True}))
        assert read_replies(sock, 1)[0]["receipt"]["seq"] == 2


def test_no_time_of_sending_harms_the_writer(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """C12: a `sent` that no clock shows, a number that no float holds among them, costs its own record at most."""
    with connect(settings) as sock:
        for number, sent in enumerate([b"1" + b"0" * 400, b"-1" + b"0" * 400, b"NaN", b"Infinity", b"-1e400", b"true"]):
            body = b'{"id":%d,"wait":true,"sent":%s,"record":%s}' % (number, sent, json.dumps(intent(number)).encode())
            sock.sendall(struct.pack(">I", len(body)) + body)
            assert read_replies(sock, 1)[0]["id"] == number
    assert client.commit(intent(9)).seq > 1


def test_an_intent_that_came_too_late_is_never_written(writer: Writer, settings: AuditSettings) -> None:
    """Whose caller has stopped waiting by the time the writer reads it, as after a SIGSTOP, is refused and no record;
    a report for which nobody waits is written all the same."""
    sent = time.monotonic() - PATIENCE - 0.1
    with connect(settings) as sock:
        for number, wait in enumerate((True, False, True)):
            record = {**intent(number), "event": Event.EXEC_INTENT if wait else Event.EXEC_OUTCOME}
            sock.sendall(encode_frame({"id": number, "record": record, "wait": wait, "sent": sent}))
        replies = {reply["id"]: reply for reply in read_replies(sock, 3)}
    assert [replies[number].get("error", {}).get("code") for number in range(3)] == [
        "audit_unavailable",
        None,
        "audit_unavailable",
    ]
    assert events(settings) == ["audit:opened", "exec:outcome"]


def test_what_waits_for_the_log_is_bounded() -> None:
    """4 MiB or 4,096 records; more are refused at once, and what is written makes room again."""

    def entry(size: int) -> Entry:
        return Entry(fields=dict(intent()), size=size, wait=True, sent=0.0)

    queue = Queue()
    assert [queue.put(entry(1 << 20), 0.0) for _ in range(4)] == [None] * 4
    for size in (1, 1 << 20):
        refusal = queue.put(entry(size), 0.0)
        assert refusal is not None
        assert refusal.code == "queue_full"
    assert queue.take_batch()
    assert queue.put(entry(1), 0.0) is None
    small = Queue()
    assert [small.put(entry(1), 0.0) for _ in range(MAX_QUEUED)] == [None] * MAX_QUEUED
    assert small.put(entry(1), 0.0) is not None


def test_the_writers_users_leave_room_for_root(tmp_path: Path) -> None:
    """A service user that takes every connection it can get keeps nobody but itself from the log."""
    settings = make_settings(tmp_path, allowed_uids=(65534,))
    with Writer(settings), contextlib.closing(AuditClient(settings.socket)) as client:
        settings.socket.parent.chmod(0o755)
        settings.socket.chmod(0o666)
        command = [sys.executable, "-c", CROWD, str(settings.socket.parent), str(MAX_PEERS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as crowd:
            assert crowd.stdout and crowd.stdout.readline() == b"connected\n"
            assert client.commit(intent(1)).seq == 2
            crowd.communicate(timeout=10)


def test_half_frames_keep_nobody_waiting(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """40 connections that stop in the middle of a frame cost others nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            sock = stack.enter_context(connect(settings))
            sock.sendall(encode_frame({"id": 1, "record": intent()})[:-5])
        assert client.commit(intent(1)).seq == 2
    assert client.commit(intent(2)).seq == 3


def test_a_peer_that_does_not_read_is_dropped(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """Answers that nobody takes pile up to a bound, then the connection goes."""
    with connect(settings) as sock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ping = encode_frame({"id": 1, "op": "ping"}) * 1000
        for _ in range(100):
            sock.sendall(ping)
        pytest.fail("the writer kept everything")
    assert client.commit(intent()).seq == 2


def test_the_socket_is_closed_to_other_users(writer: Writer, settings: AuditSettings) -> None:
    """C12: modes keep others out, and one who can open the socket is turned away by his uid."""
    assert settings.socket.stat().st_mode & 0o777 == 0o600
    assert settings.socket.parent.stat().st_mode & 0o777 == 0o700
    assert ask_as_nobody(settings) == "PermissionError"
    settings.socket.parent.chmod(0o755)
    settings.socket.chmod(0o666)
    assert ask_as_nobody(settings) == "closed"


def test_a_configured_user_is_served(tmp_path: Path) -> None:
    """The service user of web, named in the settings, gets an answer; the log shows who it was."""
    settings = make_settings(tmp_path, allowed_uids=(65534,))
    with Writer(settings):
        settings.socket.parent.chmod(0o755)
        settings.socket.chmod(0o666)
        assert ask_as_nobody(settings) == "answered"
    assert [sealed.record.get("peer") for sealed in read_log(settings)] == [None, 65534]


ASK = """
import os, socket, struct, sys
os.chdir(sys.argv[1]); os.setgroups([]); os.setgid(65534); os.setuid(65534)
sock = socket.socket(socket.AF_UNIX); sock.settimeout(20)
try:
    sock.connect("audit.sock"); sock.sendall(bytes.fromhex(sys.argv[2]))
    print("answered" if sock.recv(1) else "closed")
except (BrokenPipeError, ConnectionResetError): print("closed")
except OSError as exc: print(type(exc).__name__)
"""


CROWD = """
import os, socket, sys
os.chdir(sys.argv[1]); os.setgroups([]); os.setgid(65534); os.setuid(65534)
held = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for sock in held: sock.connect("audit.sock")
print("connected", flush=True); sys.stdin.read()
"""


def ask_as_nobody(settings: AuditSettings) -> str:
    """What uid 65534 gets when it sends a good record; relative, because the paths above are root's alone."""
    frame = encode_frame({"id": 1, "record": intent(), "wait": True}).hex()
    command = [sys.executable, "-c", ASK, str(settings.socket.parent), frame]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def test_a_second_writer_is_refused(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """Two writers would tear the chain: the second leaves at once and the first is not disturbed."""
    command = [sys.executable, "-m", "gateway.audit", settings.to_json()]
    second = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)
    assert second.returncode == 2 and "another audit writer" in second.stderr
    assert client.commit(intent()).seq == 2


def test_a_writer_without_its_key_does_not_start(settings: AuditSettings) -> None:
    """No key is made behind the administrator's back."""
    settings.key_file.unlink()
    command = [sys.executable, "-m", "gateway.audit", settings.to_json()]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 2 and "audit key" in result.stderr
    assert not settings.key_file.exists()


def test_sigterm_finishes_the_queue(writer: Writer, settings: AuditSettings) -> None:
    """What was taken before the signal is durable and answered, and nothing else; the exit code is 0."""
    with connect(settings) as sock:
        sock.sendall(
            b"".join(encode_frame({"id": number, "record": intent(number), "wait": True}) for number in range(100))
        )
        frames, replies = FrameBuffer(), list[dict[str, Any]]()
        while GOODBYE not in replies:
            data = sock.recv(65536)
            assert data, "closed without a goodbye"
            if not replies:
                writer.process.terminate()
            replies += frames.feed(data)
        assert writer.process.wait(30) == 0
    assert replies[-1] == GOODBYE and all("receipt" in reply for reply in replies[:-1])
    assert events(settings).count("exec:intent") == len(replies) - 1
    assert verify(settings.directory, keys_of(settings)).fault is None


SLOW = """
import os, sys
from gateway.audit.settings import AuditSettings
from gateway.audit.writer import run_writer

def sync(fd):
    os.read(0, 1)
    os.fdatasync(fd)

run_writer(AuditSettings.from_json(sys.argv[1]), sync)
"""


def test_a_caller_that_left_while_the_writer_stopped(settings: AuditSettings, tmp_path: Path) -> None:
    """The intent becomes durable after SIGTERM, and its receipt reaches nobody: `aborted` is the last word of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "told"))
        told.settimeout(30)
        environment = {"PYTHONPATH": str(REPOSITORY), "NOTIFY_SOCKET": str(tmp_path / "told")}
        command = [sys.executable, "-c", SLOW, settings.to_json()]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as slow:
            assert slow.stdin and told.recv(100).startswith(b"READY=1\n")
            slow.stdin.write(b".")
            slow.stdin.flush()
            with contextlib.closing(AuditClient(settings.socket)) as client:
                wait_until(lambda: client.ping()["seq"] == 1)
                with connect(settings) as caller:
                    caller.sendall(encode_frame({"id": 1, "record": intent(1), "wait": True}))
                    wait_until(lambda: client.ping()["writing"] == 1)
                    slow.terminate()
                    assert told.recv(100) == b"STOPPING=1"
            slow.stdin.write(b"." * 10)
            slow.stdin.close()
            assert slow.wait(30) == 0
    assert events(settings) == ["audit:opened", "exec:intent", "exec:aborted"]


def test_after_kill_9_every_receipt_stands_in_the_log(tmp_path: Path) -> None:
    """Killed at once under load, five times over: no acknowledged record is lost, the chain goes on."""
    settings = make_settings(tmp_path, rotate_bytes=20_000)
    acknowledged: set[str] = set()
    for _ in range(5):
        with Writer(settings) as writer:
            client = AuditClient(settings.socket)

            def work(client: AuditClient = client) -> None:
                with contextlib.suppress(AuditUnavailable):
                    while True:
                        acknowledged.add(client.commit(intent()).audit_id)

            threads = [threading.Thread(target=work) for _ in range(4)]
            enough = len(acknowledged) + 50
            for thread in threads:
                thread.start()
            wait_until(lambda enough=enough: len(acknowledged) > enough, 20)  # type: ignore[misc]
            writer.kill()
            for thread in threads:
                thread.join()
            client.close()
    with Writer(settings) as writer:
        writer.stop()
    assert acknowledged <= {sealed.record["audit_id"] for sealed in read_log(settings)}
    assert verify(settings.directory, keys_of(settings)).fault is None


def test_heads_are_anchored_to_the_journal(tmp_path: Path) -> None:
    """At open, after every N records and at exit a signed head goes out in journald's native form."""
    settings = make_settings(tmp_path, anchor_records=10)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(settings.journal_socket))
        journal.settimeout(20)
        with Writer(settings) as writer:
            client = AuditClient(settings.socket)
            for number in range(25):
                client.commit(intent(number))
            status = client.ping()
            client.close()
            assert writer.stop() == 0
        messages = []
        for _ in range(status["anchors_sent"] + 1):
            fields = dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())
            assert fields["SYSLOG_IDENTIFIER"] == "pve-exec-gateway-audit" and fields["PRIORITY"] == "5"
            messages.append(fields["MESSAGE"])
    anchors = list(read_anchors(messages, keys_of(settings).anchor))
    assert [anchor.head.seq for anchor in anchors] == [1, 11, 21, 26]
    assert verify(settings.directory, keys_of(settings), anchors).fault is None


def test_an_idle_change_is_anchored_after_its_time(tmp_path: Path) -> None:
    """Without further records the head still reaches the journal within `anchor_seconds`."""
    settings = make_settings(tmp_path, anchor_seconds=0.2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(settings.journal_socket))
        journal.settimeout(20)
        with Writer(settings):
            client = AuditClient(settings.socket)
            client.commit(intent())
            client.close()
            seen = [journal.recv(65536).decode() for _ in range(2)]
    assert '"seq":1,' in seen[0] and '"seq":2,' in seen[1]


def test_an_absent_journal_is_counted(writer: Writer, client: AuditClient) -> None:
    """No journal is no reason to refuse records, but health shows it."""
    client.commit(intent())
    assert client.ping()["anchors_failed"] >= 1 and client.ping()["ok"]


ACTIVATE = """
import os, sys
from gateway.audit.settings import AuditSettings, exec_writer
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
exec_writer(AuditSettings.from_json(sys.argv[2]))
"""


def test_a_socket_of_systemd_is_used(settings: AuditSettings, tmp_path: Path) -> None:
    """With LISTEN_FDS the writer, which its starter becomes, serves the socket it was given and makes none; it
    imports nothing from the directory it happens to be started in."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the working directory')")
    given = tmp_path / "given.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(given))
        listener.listen()
        command = [sys.executable, "-P", "-c", ACTIVATE, str(listener.fileno()), settings.to_json()]
        environment = {"PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, pass_fds=[listener.fileno()])
        try:
            client = AuditClient(given)
            assert client.commit(intent(), timeout=10).seq == 2
            client.close()
            assert not settings.socket.exists()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def test_a_stopped_writer_costs_two_seconds_and_heals(
    writer: Writer, settings: AuditSettings, client: AuditClient
) -> None:
    """C4: SIGSTOP: the caller hears no within 2 s; on SIGCONT what is too old never reaches the log."""
    client.commit(intent(1))
    writer.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(AuditUnavailable):
        client.commit(intent(2))
    assert time.monotonic() - began < 2 + BUSY
    writer.signal(signal.SIGCONT)
    client.commit(intent(3))
    records = [sealed.record for sealed in read_log(settings)]
    assert [record["exec_id"] for record in records if record["event"] == "exec:intent"] == ["ex_1", "ex_3"]


def test_a_killed_writer_is_noticed_at_once(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """C4: with no writer there the answer is no without a wait, and yes again as soon as there is one."""
    client.commit(intent(1))
    writer.kill()
    began = time.monotonic()
    with pytest.raises(AuditUnavailable):
        client.commit(intent(2))
    assert time.monotonic() - began < 1.5, "it waited for an answer"
    with Writer(settings):
        assert client.commit(intent(3)).seq == 4


def test_a_denial_survives_its_client(writer: Writer, settings: AuditSettings) -> None:
    """A record that reports something is written though its client has left before the answer."""
    denied = build_record(Event.REQUEST_DENIED, remote="192.0.2.9", data={"reason": "unauthenticated"})
    with connect(settings) as sock:
        sock.sendall(encode_frame({"id": 1, "record": denied, "wait": True}))
    wait_until(lambda: "request:denied" in events(settings))


def test_an_idle_writer_is_small(writer: Writer, client: AuditClient) -> None:
    """The process stays under 24 MB of resident memory, half of it shared with other Pythons."""
    client.commit(intent())
    status = Path(f"/proc/{writer.process.pid}/status").read_text()
    resident = int(status.split("VmRSS:")[1].split()[0])
    assert resident < 24 << 10

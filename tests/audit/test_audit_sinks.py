"""Copies in the journal and in syslog: as those read them, never waited for, and their loss on record."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.audit import sinks
from gateway.audit.client import AuditClient
from gateway.audit.record import Fields, canonical
from gateway.audit.settings import AuditSettings
from gateway.audit.sinks import Sink, make_sinks
from gateway.errors import ConfigError

from .live import Writer, events, intent, make_settings, read_log, wait_until

RFC_5424 = re.compile(
    rb"<8[45]>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]+ pve-exec-gateway \d+ [a-z]+:[a-z-]+ - (\{[ -~]*\})"
)


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[Path, socket.socket]]:
    """A datagram socket with room for much."""
    path = tmp_path / "collector"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        yield path, sock


def commit(settings: AuditSettings, record: Fields) -> None:
    with closing(AuditClient(settings.socket)) as client:
        client.commit(record)


def test_syslog_gets_every_record(tmp_path: Path, collector: tuple[Path, socket.socket]) -> None:
    """Each record, the log's own too, is one RFC 5424 message with the log's very line in it, mac and all."""
    path, sock = collector
    settings = make_settings(tmp_path, syslog=str(path))
    with Writer(settings):
        commit(settings, intent(1, labels={"x": "\n<34>1 forged - - - - root did it\r\x1b\u2028"}))
        messages = [sock.recv(1 << 16) for _ in range(2)]
    found = [RFC_5424.fullmatch(message) for message in messages]
    lines = (settings.directory / "audit.log").read_bytes().splitlines()[:2]
    assert [match and match[1] for match in found] == lines


def test_syslog_over_udp(tmp_path: Path) -> None:
    """To an address and port; a record longer than a datagram should be is counted as lost, and that recorded."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(20)
        settings = make_settings(tmp_path, syslog=f"udp://127.0.0.1:{sock.getsockname()[1]}")
        with Writer(settings) as writer, closing(AuditClient(settings.socket)) as client:
            client.commit(intent(1, blob=["x" * 4000] * 10))
            client.commit(intent(2))
            got = [sock.recv(1 << 16) for _ in range(3)]
            wait_until(lambda: client.ping()["sinks"][0]["lost"])
            writer.stop()
    assert all(RFC_5424.fullmatch(message) for message in got)
    assert any(b"ex_2" in message for message in got) and not any(b"ex_1" in message for message in got)
    assert "audit:lost" in events(settings)


def test_the_journal_gets_every_record(tmp_path: Path) -> None:
    """In its native form, under an identifier of its own; anchors go on beside them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        settings = make_settings(tmp_path, journal_copies=True, anchor_records=1)
        sock.bind(str(settings.journal_socket))
        sock.settimeout(20)
        with Writer(settings):
            commit(settings, intent(1, labels={"a": "b\nPRIORITY=0\nMESSAGE=forged"}))
            datagrams = [sock.recv(1 << 16) for _ in range(4)]
    entries = [dict(line.split("=", 1) for line in datagram.decode().splitlines()) for datagram in datagrams]
    copies = [entry for entry in entries if entry["SYSLOG_IDENTIFIER"] == sinks.RECORD_IDENTIFIER]
    assert [entry["PVEG_EVENT"] for entry in copies] == ["audit:opened", "exec:intent"]
    assert all(len(entry) == 4 for entry in copies)
    assert json.loads(copies[1]["MESSAGE"])["exec_id"] == "ex_1"


def test_no_collector_stops_nobody(tmp_path: Path) -> None:
    """Without one records are taken as fast as ever, and wait for it."""
    path = tmp_path / "collector"
    settings = make_settings(tmp_path, syslog=str(path))
    with Writer(settings), closing(AuditClient(settings.socket)) as client:
        began = time.monotonic()
        for number in range(50):
            client.commit(intent(number))
        assert time.monotonic() - began < 5
        (status,) = client.ping()["sinks"]
        assert (status["sent"], status["lost"], status["queued"]) == (0, 0, 51)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(path))
            sock.settimeout(20)
            got = [sock.recv(1 << 16) for _ in range(51)]
    assert [json.loads(message.split(b" - ", 1)[1])["seq"] for message in got] == list(range(1, 52))


def test_copies_lost_at_the_end_are_recorded(tmp_path: Path) -> None:
    """What no collector has taken when the writer stops is the last thing in the log."""
    settings = make_settings(tmp_path, syslog=str(tmp_path / "nobody"))
    with Writer(settings) as writer:
        commit(settings, intent(1))
        assert writer.stop() == 0
    last = read_log(settings)[-1].record
    assert (last["event"], last["data"]) == (
        "audit:lost",
        {"sink": "syslog", "records": 2, "why": "No such file or directory"},
    )


def line(number: int, event: str = "exec:intent") -> bytes:
    return canonical({"event": event, "seq": number}) + b"\n"


def test_a_collector_that_hangs_costs_bounded_memory() -> None:
    """Its queue fills up; what no longer fits is counted; the notes of that are not counted again."""
    hangs, told = threading.Event(), threading.Event()

    def send(_: bytes) -> None:
        told.set()
        hangs.wait(30)

    sink = Sink("slow", send)
    sink.offer([line(0)])
    assert told.wait(20)
    sink.offer([line(number) for number in range(sinks.MAX_QUEUED + 4)])
    assert sink.status()["lost"] == 5
    sink.offer([line(1, "audit:lost")])
    notes = sink.take_losses()
    assert [found["data"]["records"] for found in notes] == [5] and sink.status()["lost"] == 6
    assert sink.take_losses() == [] and sink.seconds_left() is None
    hangs.set()
    wait_until(lambda: sink.status()["queued"] == 0)


@pytest.mark.parametrize("target", ["log", "udp://example.org:514", "udp://", "udp://1.2.3.4:99999", "tcp://1.2.3.4"])
def test_wrong_targets_are_refused_at_the_start(target: str) -> None:
    """Names are not looked up, other transports are rsyslog's business."""
    with pytest.raises(ConfigError):
        make_sinks(None, target)


def test_ipv6_targets() -> None:
    """An address in brackets."""
    make_sinks(None, "udp://[::1]:514").finish()

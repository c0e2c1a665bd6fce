"""Searching the log: every filter, both orders, page by page, over rotations, forgeries and the clock's jumps."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit import search as searching
from gateway.audit.client import AuditClient
from gateway.audit.files import LOG_NAME
from gateway.audit.log import AuditLog
from gateway.audit.record import Event, Fields, build_record
from gateway.audit.search import Page, Query, search
from gateway.audit.settings import AuditSettings
from gateway.errors import AuditUnavailable, InternalError, TooManyRequests

from .live import Writer, intent, keys_of, limits, make_settings, read_log, wait_until

VMIDS = (101, 102, 105, None)


def make_record(number: int) -> Fields:
    """Of many kinds; every 50th has texts made to look like other members."""
    hostile = {"event": "audit:opened", "seq": 1, "ts": "9999", "vmid": 101, "note": '"exec_id":"ex_7","vmid":101,'}
    hostile |= {"exec_id": "ex_7", "request_id": "req_700", "token_id": "tk_3", "id": "tk_9", "reason": "timeout"}
    return build_record(
        (Event.EXEC_INTENT, Event.EXEC_OUTCOME, Event.REQUEST_DENIED)[number % 3],
        request_id=f"req_{number}",
        token_id=f"tk_{number % 5}",
        vmid=VMIDS[number % 4],
        exec_id=f"ex_{number // 2}",
        data={"reason": ("exited", "timeout")[number % 2], "labels": hostile if number % 50 == 0 else {}},
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> AuditSettings:
    """1,500 records in some ten files, one of them packed, with forged lines and a fragment at its end."""
    settings = make_settings(tmp_path_factory.mktemp("log"))
    opened = AuditLog(settings.directory, keys_of(settings), limits=limits(rotate_bytes=70_000), sync=lambda _: None)
    for number in range(1500):
        opened.append([make_record(number)])
    opened.append([build_record(Event.TOKEN_REVOKE, token_id="tk_1", data={"token": {"id": "tk_9"}})])
    opened.append([build_record(Event.REQUEST_DENIED, token_id="tk_1", data={"reason": "x", "token_id": "tk_9"})])
    opened.close()
    names = sorted(path for path in settings.directory.glob("audit.log.*"))
    with gzip.open(f"{names[2]}.gz", "wb") as packed:
        packed.write(names[2].read_bytes())
    names[2].unlink()
    forged = names[4].read_bytes().splitlines(keepends=True)
    forged.insert(20, forged[20].replace(b'"seq":', b'"seq":9'))
    names[4].write_bytes(b"".join(forged))
    with (settings.directory / LOG_NAME).open("ab") as file:
        file.write(b'{"event":"exec:intent","exec_id":"ex_7"}\n{"half')
    return settings


@pytest.fixture(scope="module")
def everything(log: AuditSettings) -> list[Fields]:
    return [{**sealed.record, "mac": sealed.head.mac} for sealed in read_log(log)]


def pages(settings: AuditSettings, query: Query, **bounds: float) -> Iterator[Page]:
    """Every page from the first on."""
    wanted = {name: getattr(query, name) for name in query.__dataclass_fields__}
    while True:
        page = search(settings.directory, keys_of(settings), Query(**wanted), **bounds)
        yield page
        if page.next is None:
            return
        wanted["after"] = page.next


def found(settings: AuditSettings, **wanted: Any) -> list[Fields]:
    return [record for page in pages(settings, Query(**wanted)) for record in page.records]


FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda r: True),
    ({"events": ("exec:outcome",)}, lambda r: r["event"] == "exec:outcome"),
    ({"events": ("request:denied", "audit:rotated")}, lambda r: r["event"] in ("request:denied", "audit:rotated")),
    ({"events": ("audit:opened",)}, lambda r: r["event"] == "audit:opened"),
    ({"token_id": "tk_3"}, lambda r: r.get("actor", {}).get("token_id") == "tk_3"),
    ({"token_id": "tk_9"}, lambda r: "tk_9" in (r["data"].get("token_id"), r["data"].get("token", {}).get("id"))),
    ({"vmid": 101}, lambda r: r.get("vmid") == 101),
    ({"exec_id": "ex_7"}, lambda r: r.get("exec_id") == "ex_7"),
    ({"request_id": "req_700"}, lambda r: r.get("request_id") == "req_700"),
    ({"outcome": "timeout"}, lambda r: r["data"].get("reason") == "timeout"),
    ({"vmid": 105, "token_id": "tk_1", "outcome": "timeout"}, lambda r: False),
    ({"vmid": 105, "token_id": "tk_2"}, lambda r: (r.get("vmid"), r.get("actor", {}).get("token_id")) == (105, "tk_2")),
    ({"guests": ((101, 102),)}, lambda r: r.get("vmid") in (101, 102)),
    ({"guests": ()}, lambda r: False),
    ({"guests": ((100, 999),), "vmid": 5}, lambda r: False),
]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(("wanted", "fits"), FILTERS, ids=range(len(FILTERS)))
def test_each_filter(
    log: AuditSettings, everything: list[Fields], wanted: dict[str, Any], fits: Any, newest_first: bool
) -> None:
    """Exactly the genuine records that fit, once each, in the order asked for."""
    expected = [record for record in everything if fits(record)]
    if newest_first:
        expected.reverse()
    assert found(log, newest_first=newest_first, limit=70, **wanted) == expected


def test_an_audit_id(log: AuditSettings, everything: list[Fields]) -> None:
    """What an answer names is found by that, and nothing else is."""
    assert found(log, audit_id=everything[700]["audit_id"]) == [everything[700]]
    assert found(log, audit_id="au_0") == []


@pytest.mark.parametrize("newest_first", [True, False])
def test_times(log: AuditSettings, everything: list[Fields], newest_first: bool) -> None:
    """`since` is inclusive, `until` is not."""
    since, until = everything[300]["ts"], everything[900]["ts"]
    expected = [record for record in everything if since <= record["ts"] < until]
    got = found(log, since=since, until=until, newest_first=newest_first)
    assert got == (expected[::-1] if newest_first else expected)


@given(at=st.integers(0, 1600), limit=st.integers(1, 40), newest_first=st.booleans())
def test_a_page_begins_anywhere(
    log: AuditSettings, everything: list[Fields], at: int, limit: int, newest_first: bool
) -> None:
    """`after` any number, there or not, gives what stands next to it."""
    page = search(log.directory, keys_of(log), Query(after=at, limit=limit, newest_first=newest_first))
    if newest_first:
        expected = [record for record in reversed(everything) if record["seq"] < at][:limit]
    else:
        expected = [record for record in everything if record["seq"] > at][:limit]
    assert page.records == expected


def test_a_search_that_takes_too_long_goes_on_later(log: AuditSettings, everything: list[Fields]) -> None:
    """With no time at all each page moves on by a record at least, and none is left out."""
    query = Query(exec_id="ex_700", after=1450)
    walked = list(itertools.islice(pages(log, query, seconds=0.0), 60))
    assert [record for page in walked for record in page.records] == [
        record for record in reversed(everything) if record.get("exec_id") == "ex_700"
    ]
    assert [page.next for page in walked] == list(range(1449, 1389, -1))


def test_small_windows(log: AuditSettings, everything: list[Fields], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that end anywhere in a line, and halving down to a line, lose nothing."""
    monkeypatch.setattr(searching, "_BLOCK", 97)
    monkeypatch.setattr(searching, "_CLOSE", 10)
    for newest_first in (True, False):
        expected = everything[::-1] if newest_first else everything
        assert found(log, newest_first=newest_first, limit=200) == expected


def test_a_clock_that_jumps_hides_nothing(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a moment are found wherever the clock's jumps have put them."""
    opened = AuditLog(settings.directory, keys_of(settings), limits=limits(rotate_bytes=2000))
    moments = [f"20{year}-01-01T00:00:00.000000Z" for year in (30, 26, 31, 25, 40, 26, 27)]
    for moment in moments:
        monkeypatch.setattr("gateway.audit.clock.now", lambda moment=moment: moment)
        for number in range(10):
            opened.append([intent(number)])
    whole = [sealed.record for sealed in read_log(settings)]
    for since in moments:
        for newest_first in (True, False):
            got = {record["seq"] for record in found(settings, since=since, newest_first=newest_first)}
            assert got == {record["seq"] for record in whole if record["ts"] >= since}


def test_old_files_are_not_read_for_recent_times(log: AuditSettings, everything: list[Fields]) -> None:
    """A search of the last seconds stops at the files that are older, whichever page it is."""
    since = everything[-5]["ts"]
    with pytest.MonkeyPatch.context() as patch:
        read: list[str] = []
        real = searching._read_back

        def noting(file: Any, end: int, is_worth: Any) -> Iterator[list[bytes]]:
            read.append(Path(getattr(file, "name", "packed")).name)
            return real(file, end, is_worth)

        patch.setattr(searching, "_read_back", noting)
        found(log, since=since)
    assert read == [LOG_NAME] or len(read) <= 2


def test_the_writers_socket_answers_searches(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """By its reader, which is started for it; records keep coming in meanwhile."""
    for number in range(30):
        client.commit(intent(number))
    page = client.search(Query(limit=10))
    assert [record["exec_id"] for record in page.records] == [f"ex_{number}" for number in range(29, 19, -1)]
    rest = client.search(Query(limit=100, after=page.next))
    assert [record["event"] for record in rest.records][-1] == "audit:opened" and rest.next is None
    client.commit(intent(30))


def test_a_page_of_large_records(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """Pages are bounded in bytes, too."""
    for number in range(100):
        client.commit(intent(number, blob=['"' * 500] * 60))
    page = client.search(Query(limit=1000))
    assert 20 < len(page.records) < 100 and page.next


def test_too_many_searches_at_once_are_no_failure_of_the_log(writer: Writer, client: AuditClient) -> None:
    """Some of a crowd are told to come again, and the log is well meanwhile."""
    for number in range(200):
        client.commit(intent(number))
    refused: list[TooManyRequests] = []

    def ask(_: int) -> None:
        try:
            client.search(Query(exec_id="ex_none"))
        except TooManyRequests as error:
            refused.append(error)

    deadline = time.monotonic() + 20
    with ThreadPoolExecutor(64) as crowd:
        while not refused and time.monotonic() < deadline:
            list(crowd.map(ask, range(256)))
    assert refused and refused[0].evidence["retry_after"] == 1
    client.commit(intent(200))


def test_a_query_of_nonsense_is_refused(writer: Writer, client: AuditClient) -> None:
    """What no client of ours sends is an error, and harms nobody."""
    for bad in ({"limit": 0}, {"limit": 10**9}, {"events": ("x",)}, {"vmid": "1"}, {"guests": "all"}, {"after": 1.5}):
        with pytest.raises(InternalError):
            client.search(Query(**bad))
    assert client.search(Query()).records


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_reader_that_died_comes_again(writer: Writer, client: AuditClient) -> None:
    """Its death costs at most the searches it had; the writer does not notice."""
    client.commit(intent(1))
    client.search(Query())
    (pid,) = children_of(writer.process.pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    assert client.search(Query()).records
    client.commit(intent(2))
    assert len(children_of(writer.process.pid)) == 1


def test_a_huge_question_harms_no_reader(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """C12: what is larger than any query of ours is refused before it reaches the reader, whatever it decodes to."""
    client.search(Query())
    (pid,) = children_of(writer.process.pid)
    for junk in ("é" * 60_000, "x" * 120_000):
        for message in ({"id": 7, "op": "search", "junk": junk}, {"id": 7, "op": "search", "query": {"outcome": junk}}):
            body = json.dumps(message, ensure_ascii=False).encode()
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(20)
                sock.connect(str(settings.socket))
                sock.sendall(struct.pack(">I", len(body)) + body)
                assert sock.recv(100)
    assert client.search(Query()).records
    assert children_of(writer.process.pid) == [pid]


def test_packed_files_are_read_one_at_a_time(settings: AuditSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that logrotate packs is searched in the memory of one file, and no further than the page needs."""
    log = AuditLog(settings.directory, keys_of(settings), limits=limits(rotate_bytes=4000), sync=lambda _: None)
    for number in range(60):
        log.append([intent(number)])
    log.close()
    closed = [path for path in settings.directory.iterdir() if path.name != LOG_NAME]
    for path in closed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    unpacked: list[object] = []
    real = searching._seekable

    def noting(file: BinaryIO) -> BinaryIO:
        unpacked.append(file)
        return real(file)

    monkeypatch.setattr(searching, "_seekable", noting)
    assert len(search(settings.directory, keys_of(settings), Query(limit=2)).records) == 2
    assert len(closed) > 5 and len(unpacked) <= 2
    assert [record["exec_id"] for record in found(settings, events=("exec:intent",), limit=1000)] == [
        f"ex_{number}" for number in range(59, -1, -1)
    ]


def test_a_stopped_reader_stops_nobody(writer: Writer, client: AuditClient) -> None:
    """Searches hear no within their time; the writer goes on taking records."""
    client.search(Query())
    (pid,) = children_of(writer.process.pid)
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    for _ in range(40):
        with pytest.raises(AuditUnavailable):
            client.search(Query(), timeout=0.02)
    client.commit(intent(1))
    assert time.monotonic() - began < 5
    os.kill(pid, signal.SIGCONT)

    def answered() -> bool:
        with contextlib.suppress(TooManyRequests):  # it has those 40 before it
            return bool(client.search(Query()).records)
        return False

    wait_until(answered)


def test_the_reader_ends_with_the_writer(writer: Writer, client: AuditClient) -> None:
    """Killed or stopped, the writer leaves no process behind."""
    client.search(Query())
    (pid,) = children_of(writer.process.pid)
    writer.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())

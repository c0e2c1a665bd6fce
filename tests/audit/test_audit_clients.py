"""The clients: no answer for the wrong caller, intents taken back, outcomes never lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import aio
from gateway.audit.aio import AsyncAuditClient
from gateway.audit.client import AuditClient
from gateway.audit.protocol import FrameBuffer, encode_frame
from gateway.audit.record import ANNOUNCEMENTS, Event, Fields, build_record
from gateway.audit.settings import AuditSettings
from gateway.audit.unfinished import UnfinishedChanges
from gateway.audit.verify import verify
from gateway.errors import AuditUnavailable, InternalError

from .live import BUSY, REPOSITORY, Writer, events, intent, keys_of, read_log, wait_until


def outcome(number: int) -> Fields:
    return build_record(Event.EXEC_OUTCOME, exec_id=f"ex_{number}", vmid=101, data={"exit_code": 0})


def run_async(settings: AuditSettings, story: Callable[[AsyncAuditClient], Coroutine[Any, Any, None]]) -> None:
    """Tell `story` to a client of its own event loop."""

    async def tell() -> None:
        client = AsyncAuditClient(settings.socket, keys_of(settings).redactor)
        try:
            await asyncio.wait_for(story(client), 30)
        finally:
            await client.close()

    asyncio.run(tell())


async def happens(holds: Callable[[], object]) -> None:
    """Wait, without blocking the loop, until `holds()`."""
    while not holds():
        await asyncio.sleep(0.005)


class SlowWriter:
    """A writer that answers when told to: keeps the requests it got, and sends any reply."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self.requests: list[tuple[socket.socket, Fields]] = []
        self.connections = 0
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    def _read(self, sock: socket.socket) -> None:
        frames = FrameBuffer()
        with sock:
            while data := sock.recv(65536):
                self.requests += [(sock, message) for message in frames.feed(data)]

    def answer(self, index: int) -> None:
        sock, message = self.requests[index]
        receipt = {"audit_id": message["record"]["audit_id"], "seq": index + 1, "mac": "0" * 64}
        sock.sendall(encode_frame({"id": message["id"], "receipt": receipt}))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_late_answer_reaches_nobody(settings: AuditSettings) -> None:
    """After a timeout the connection is given up, so the next caller cannot get the last one's receipt."""
    writer = SlowWriter(settings.socket)
    client = AuditClient(settings.socket)
    with pytest.raises(AuditUnavailable):
        client.commit(outcome(1), timeout=0.1)
    done = threading.Event()

    def answer_second() -> None:
        wait_until(lambda: len(writer.requests) == 2)
        writer.answer(1)
        done.set()

    threading.Thread(target=answer_second, daemon=True).start()
    second = outcome(2)
    assert client.commit(second).audit_id == second["audit_id"]
    assert done.wait(20) and writer.connections == 2
    client.close()
    writer.close()


def test_a_change_that_got_no_answer_is_taken_back(settings: AuditSettings) -> None:
    """The writer had made it durable, its caller gave up: `aborted` follows, as soon as there is a writer again."""
    writer = SlowWriter(settings.socket)
    client = AuditClient(settings.socket)
    change = {**intent(1), "event": "token:create"}
    with pytest.raises(AuditUnavailable):
        client.commit(change, timeout=0.1)
    with pytest.raises(AuditUnavailable):
        client.commit(build_record(Event.REQUEST_DENIED, data={"reason": "x"}), timeout=0.1)
    wait_until(lambda: len(writer.requests) == 3)
    owed = [message["record"] for _, message in writer.requests if message["record"]["event"] == "token:aborted"]
    assert [record["audit_id"] for record in owed] == [change["audit_id"]]
    assert not client.settle(0)
    writer.close()
    settings.socket.unlink()
    with Writer(settings):
        assert client.settle(30)
    (record,) = [sealed.record for sealed in read_log(settings) if sealed.record["event"] == "token:aborted"]
    assert record["audit_id"] == change["audit_id"] and record["data"]["aborted"] == "token:create"
    client.close()


def test_after_kill_9_of_the_writer_changes_are_taken_back(settings: AuditSettings) -> None:
    """Whatever it had made durable without an answer, at whichever moment it died, is followed by `aborted`."""
    client = AuditClient(settings.socket)
    receipts: set[str] = set()
    tried: list[str] = []

    def change() -> None:
        while len(tried) < 100_000:
            record = {**intent(len(tried)), "event": "token:edit"}
            tried.append(record["audit_id"])
            try:
                receipts.add(client.commit(record).audit_id)
            except AuditUnavailable:
                return

    for _ in range(5):
        with Writer(settings) as writer:
            crowd = [threading.Thread(target=change) for _ in range(8)]
            for thread in crowd:
                thread.start()
            before = len(receipts)
            wait_until(lambda before=before: len(receipts) > before + 50)  # type: ignore[misc]
            writer.kill()
            for thread in crowd:
                thread.join()
    with Writer(settings):
        assert client.settle(30)
    records = [sealed.record for sealed in read_log(settings)]
    announced = {record["audit_id"] for record in records if record["event"] == "token:edit"}
    aborted = {record["audit_id"] for record in records if record["event"] == "token:aborted"}
    assert receipts <= announced and not receipts & aborted
    assert announced - receipts <= aborted
    client.close()


BROKEN = """
import errno, os, sys
from pathlib import Path
from gateway.audit.settings import AuditSettings
from gateway.audit.unfinished import UnfinishedChanges
from gateway.audit.writer import run_writer

broken, ftruncate = Path(sys.argv[2]), os.ftruncate

def sync(fd):
    if broken.exists():
        raise OSError(errno.EIO, "Input/output error")

def cut(fd, size):
    if broken.exists():
        raise OSError(errno.EROFS, "Read-only file system")
    ftruncate(fd, size)

os.ftruncate = cut
run_writer(AuditSettings.from_json(sys.argv[1]), sync)
"""


def test_what_a_dying_disk_kept_all_the_same_is_taken_back(settings: AuditSettings, tmp_path: Path) -> None:
    """A write failed, the file system turned read-only before it could be cut, and the writer was started anew: the
    intents that were refused stand in the log after all, each with its `aborted`."""
    broken = tmp_path / "broken"
    command = [sys.executable, "-c", BROKEN, settings.to_json(), str(broken)]
    client = AuditClient(settings.socket)
    change = {**intent(1), "event": "token:create"}

    async def story(supervisor: AsyncAuditClient) -> None:
        with subprocess.Popen(command, env={"PYTHONPATH": str(REPOSITORY)}) as process:
            try:
                await happens(settings.socket.exists)
                await happens(lambda: client.ping()["seq"] == 1)
                broken.touch()
                with pytest.raises(AuditUnavailable):
                    await supervisor.commit(intent(2))
                with pytest.raises(AuditUnavailable):
                    await asyncio.to_thread(client.commit, change)
            finally:
                process.kill()
        broken.unlink()
        with Writer(settings):
            assert await supervisor.flush(30)
            assert await asyncio.to_thread(client.settle, 10)

    run_async(settings, story)
    client.close()
    records = [sealed.record for sealed in read_log(settings)]
    announced = [record["audit_id"] for record in records if record["event"] in ANNOUNCEMENTS]
    aborted = {record["audit_id"] for record in records if record["event"].endswith(":aborted")}
    assert announced and aborted >= set(announced)


def test_a_client_survives_fork(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """A worker forked with a warm client opens connections of its own."""
    client.commit(intent(1))
    child = os.fork()
    if child == 0:
        os._exit(0 if client.commit(intent(2)).audit_id else 1)
    mine = intent(3)
    assert client.commit(mine).audit_id == mine["audit_id"]
    assert os.waitpid(child, 0)[1] == 0


def test_a_warm_client_does_not_notice_a_restart(settings: AuditSettings, client: AuditClient) -> None:
    """Connections to a writer that is gone are not used for the next record."""
    for number in range(3):
        with Writer(settings) as writer:
            client.commit(intent(number))
            writer.stop()


def test_async_commits_share_a_connection(writer: Writer, settings: AuditSettings, client: AuditClient) -> None:
    """500 concurrent commits: each gets its own receipt, in far fewer fdatasyncs."""

    async def story(client: AsyncAuditClient) -> None:
        records = [intent(number) for number in range(500)]
        receipts = await asyncio.gather(*(client.commit(record) for record in records))
        assert [receipt.audit_id for receipt in receipts] == [record["audit_id"] for record in records]

    run_async(settings, story)
    status = client.ping()
    assert status["records"] == 500 and status["syncs"] < 250


def test_async_commit_of_a_bad_record_is_a_defect_of_ours(writer: Writer, settings: AuditSettings) -> None:
    """A malformed record is told from an unavailable log."""

    async def story(client: AsyncAuditClient) -> None:
        with pytest.raises(InternalError, match="vmid"):
            await client.commit({**intent(), "vmid": "x"})
        assert (await client.commit(intent())).seq == 2

    run_async(settings, story)


def test_a_record_too_large_for_a_frame_is_cut(writer: Writer, settings: AuditSettings) -> None:
    """An argument of a megabyte is recorded by its beginning, its length and its keyed hash."""
    huge = "x" * (1 << 20)

    async def story(client: AsyncAuditClient) -> None:
        await client.commit(intent(command=["echo", huge]))

    run_async(settings, story)
    argument = read_log(settings)[-1].record["data"]["command"][1]
    assert argument["bytes"] == 1 << 20 and argument["hash"] == keys_of(settings).redactor.hash(huge)


def test_posts_outlive_a_writer(settings: AuditSettings) -> None:
    """Outcomes posted with no writer there are written, in order, once there is one; a flush tells when."""

    async def story(client: AsyncAuditClient) -> None:
        for number in range(20):
            client.post(outcome(number))
        assert not await client.flush(0.1)
        with Writer(settings):
            assert await client.flush(30)
            for number in range(20, 40):
                client.post(outcome(number))
            assert await client.flush(30)

    run_async(settings, story)
    ids = [sealed.record.get("exec_id") for sealed in read_log(settings)]
    assert ids == [None, *(f"ex_{number}" for number in range(40))]


def test_outcomes_share_a_durable_write(settings: AuditSettings) -> None:
    """What nobody waits for is written together: two hundred outcomes cost the disk a few syncs, not one each."""

    async def story(client: AsyncAuditClient) -> None:
        for number in range(200):
            client.post(outcome(number))
        assert await client.flush(30)

    with Writer(settings), closing(AuditClient(settings.socket)) as asking:
        before = asking.ping()
        run_async(settings, story)
        after = asking.ping()
    assert after["records"] - before["records"] == 200
    assert after["syncs"] - before["syncs"] < 20


def test_a_post_that_is_refused_is_tried_again(settings: AuditSettings) -> None:
    """While the disk is bad an outcome waits here, where a successor process can find it too."""
    directory = settings.directory
    directory.mkdir()
    (directory / "audit.log").mkdir()

    async def story(client: AsyncAuditClient) -> None:
        with Writer(settings):
            client.post(outcome(1))
            assert not await client.flush(0.5)
            assert [owed.record["exec_id"] for owed in client.unsettled()] == ["ex_1"]
            (directory / "audit.log").rmdir()
            assert await client.flush(30)

    run_async(settings, story)
    assert [sealed.record.get("exec_id") for sealed in read_log(settings)].count("ex_1") == 1


def test_a_change_is_in_hand_until_its_record_is_durable(settings: AuditSettings, tmp_path: Path) -> None:
    """Its file goes with the receipt of its outcome, or of the `aborted` of an announcement that nobody waits for any
    more; at once where the announcement never left."""
    changes = UnfinishedChanges(tmp_path / "changes")
    files = (tmp_path / "changes").iterdir

    async def story(client: AsyncAuditClient) -> None:
        with pytest.raises(AuditUnavailable, match="cannot reach"):
            await client.commit(intent(0), change=changes.begin(intent(0)))
        assert not list(files())
        writer = SlowWriter(settings.socket)
        client.post(outcome(1), changes.begin(intent(1)))
        await happens(lambda: writer.requests)
        assert [owed.change for owed in client.unsettled()] != [None] and list(files())
        writer.answer(0)
        await happens(lambda: not list(files()))
        with pytest.raises(AuditUnavailable, match="does not answer"):
            await client.commit(intent(2), 0.1, change=changes.begin(intent(2)))
        writer.answer(1)
        await happens(lambda: len(writer.requests) == 3)
        assert writer.requests[2][1]["record"]["event"] == "exec:aborted" and list(files())
        writer.answer(2)
        await happens(lambda: not list(files()))
        writer.close()

    run_async(settings, story)


def test_what_the_writer_has_in_hand_is_known(settings: AuditSettings) -> None:
    """A post, or an announcement whose caller has given up, until its answer: a process that becomes another waits for
    it, for its successor would write the one twice, and never take the other back."""

    async def story(client: AsyncAuditClient) -> None:
        client.post(outcome(1))
        assert not client.unanswered  # nobody has it yet
        writer = SlowWriter(settings.socket)
        await happens(lambda: client.unanswered)
        await happens(lambda: writer.requests)
        writer.answer(0)
        await happens(lambda: not client.unanswered)
        with pytest.raises(AuditUnavailable, match="does not answer"):
            await client.commit(intent(2), 0.1)
        assert client.unanswered
        writer.answer(1)
        await happens(lambda: len(writer.requests) == 3)
        writer.answer(2)
        await happens(lambda: not client.unanswered)
        writer.close()

    run_async(settings, story)


def test_posts_have_a_bound(settings: AuditSettings) -> None:
    """A writer that never comes back does not eat the supervisor's memory."""

    async def story(client: AsyncAuditClient) -> None:
        for number in range(aio.MAX_POSTED):
            client.post(outcome(number))
        with pytest.raises(AuditUnavailable):
            client.post(outcome(0))

    run_async(settings, story)


@pytest.mark.parametrize("event", sorted(ANNOUNCEMENTS))
def test_what_was_answered_too_late_is_taken_back(settings: AuditSettings, event: Event) -> None:
    """The caller gave up, the receipt came after all: an aborted record follows, naming what was announced."""
    slow = SlowWriter(settings.socket)
    record = {**intent(7), "event": str(event)}

    async def story(client: AsyncAuditClient) -> None:
        with pytest.raises(AuditUnavailable):
            await client.commit(record, timeout=0.1)
        await happens(lambda: slow.requests)
        slow.answer(0)
        await happens(lambda: len(slow.requests) == 2)
        slow.answer(1)
        assert await client.flush(20)

    run_async(settings, story)
    slow.close()
    _, message = slow.requests[1]
    assert message["record"]["event"] == f"{event.partition(':')[0]}:aborted" and not message["wait"]
    assert message["record"]["audit_id"] == record["audit_id"]
    assert message["record"]["data"]["aborted"] == event


def test_a_cancelled_caller_takes_its_intent_back(settings: AuditSettings) -> None:
    """A task cancelled while it waits does not leave an intent standing as if something had run."""
    slow = SlowWriter(settings.socket)

    async def story(client: AsyncAuditClient) -> None:
        task = asyncio.create_task(client.commit(intent(7)))
        await happens(lambda: slow.requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.answer(0)
        await happens(lambda: len(slow.requests) == 2)

    run_async(settings, story)
    slow.close()
    assert slow.requests[1][1]["record"]["event"] == "exec:aborted"


def test_an_intent_whose_connection_broke_is_taken_back(settings: AuditSettings) -> None:
    """Nobody knows whether it is in the log, so the new connection's first record is its aborted record."""
    slow = SlowWriter(settings.socket)
    record = intent(7)

    async def story(client: AsyncAuditClient) -> None:
        task = asyncio.create_task(client.commit(record))
        await happens(lambda: slow.requests)
        slow.requests[0][0].shutdown(socket.SHUT_RDWR)
        with pytest.raises(AuditUnavailable, match="lost"):
            await task
        await happens(lambda: len(slow.requests) == 2)

    run_async(settings, story)
    slow.close()
    aborted = slow.requests[1][1]["record"]
    assert (aborted["event"], aborted["audit_id"]) == ("exec:aborted", record["audit_id"])


def test_after_kill_9_of_the_writer_intents_are_taken_back(settings: AuditSettings) -> None:
    """Whatever the dead writer had made durable without a receipt is followed by an aborted record."""
    refused: list[str] = []
    received: list[str] = []

    async def story(client: AsyncAuditClient) -> None:
        async def work() -> None:
            while not refused:
                record = intent()
                try:
                    received.append((await client.commit(record)).audit_id)
                except AuditUnavailable:
                    refused.append(record["audit_id"])

        with Writer(settings) as writer:
            tasks = [asyncio.create_task(work()) for _ in range(50)]
            await happens(lambda: len(received) > 200)
            writer.kill()
            await asyncio.gather(*tasks)
        with Writer(settings):
            assert await client.flush(30)

    run_async(settings, story)
    written = {sealed.record["audit_id"] for sealed in read_log(settings) if "intent" in sealed.record["event"]}
    aborted = {sealed.record["audit_id"] for sealed in read_log(settings) if "aborted" in sealed.record["event"]}
    assert set(received) <= written and not set(received) & aborted
    assert written - set(received) <= aborted
    assert verify(settings.directory, keys_of(settings)).fault is None


def test_a_stopped_writer_does_not_stop_the_loop(writer: Writer, settings: AuditSettings) -> None:
    """SIGSTOP: 200 commits hear no within 2 s, together, while the loop goes on; nothing of it is written later."""

    async def story(client: AsyncAuditClient) -> None:
        await client.commit(intent())
        writer.signal(signal.SIGSTOP)
        began = time.monotonic()
        results = await asyncio.gather(*(client.commit(intent(1)) for _ in range(200)), return_exceptions=True)
        assert time.monotonic() - began < 2 + BUSY
        assert all(isinstance(result, AuditUnavailable) for result in results)
        client.post(outcome(2))
        writer.signal(signal.SIGCONT)
        assert (await client.commit(intent(3))).seq
        assert await client.flush(30)

    run_async(settings, story)
    assert sorted(events(settings)) == ["audit:opened", "exec:intent", "exec:intent", "exec:outcome"]

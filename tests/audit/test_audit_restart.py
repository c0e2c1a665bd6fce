"""A restart of the writer under a socket that stays, as its units have it: nobody who has a record is refused."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from gateway.audit.aio import AsyncAuditClient
from gateway.audit.client import AuditClient
from gateway.audit.settings import AuditSettings

from .live import REPOSITORY, intent, keys_of, read_log

_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "gateway.audit", sys.argv[2]])
"""
_RESTARTS = 4
_CALLERS = 8


@contextlib.contextmanager
def _writer(settings: AuditSettings, listener: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _ACTIVATE, str(listener.fileno()), settings.to_json()]
    process = subprocess.Popen(command, env={"PYTHONPATH": str(REPOSITORY)}, pass_fds=[listener.fileno()])
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_a_restart_under_load_refuses_nobody(settings: AuditSettings) -> None:
    """Callers of both clients commit without a pause over several restarts: each has its receipt, none is written twice
    or taken back."""
    settings.socket.parent.mkdir(mode=0o700)
    asked: list[str] = []
    got: list[str] = []
    over = threading.Event()
    wrong: list[Exception] = []

    def commit_on() -> None:
        client = AuditClient(settings.socket)
        with contextlib.closing(client):
            while not over.is_set() and not wrong:
                record = intent(len(asked))
                asked.append(record["audit_id"])
                try:
                    got.append(client.commit(record, timeout=30).audit_id)
                except Exception as exc:
                    wrong.append(exc)

    async def commit_many() -> None:
        client = AsyncAuditClient(settings.socket, keys_of(settings).redactor)

        async def go_on() -> None:
            while not over.is_set() and not wrong:
                record = intent(len(asked))
                asked.append(record["audit_id"])
                try:
                    got.append((await client.commit(record, timeout=30)).audit_id)
                except Exception as exc:
                    wrong.append(exc)

        await asyncio.gather(*(go_on() for _ in range(_CALLERS)))
        assert await client.flush(20)
        await client.close()

    threads = [threading.Thread(target=commit_on) for _ in range(_CALLERS)]
    threads.append(threading.Thread(target=lambda: asyncio.run(commit_many())))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(settings.socket))
        listener.listen(128)
        for number in range(_RESTARTS):
            with _writer(settings, listener):
                if number == 0:
                    for thread in threads:
                        thread.start()
                before = len(got)
                while len(got) < before + 300 and not wrong:
                    threading.Event().wait(0.01)
                if number == _RESTARTS - 1:
                    over.set()
                    for thread in threads:
                        thread.join(20)
    assert not wrong, wrong
    assert sorted(got) == sorted(asked)
    written = [sealed.record for sealed in read_log(settings) if sealed.record["event"].startswith("exec:")]
    assert sorted(record["audit_id"] for record in written) == sorted(got)
    assert {record["event"] for record in written} == {"exec:intent"}

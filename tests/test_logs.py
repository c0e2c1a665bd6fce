"""The journal's entries as logging makes them, in its native protocol."""

import contextlib
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.logs import JournalHandler

REQUEST, EXEC = "req_01M8024GH9CP5YM7454HJ67TJJ", "ex_01M80284J7BBY1JST3VVV58FPT"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taking:
        taking.bind(str(tmp_path / "journal"))
        taking.settimeout(10)
        yield taking


@pytest.fixture
def log(journal: socket.socket, caplog: pytest.LogCaptureFixture) -> Iterator[logging.Logger]:
    """A logger of its own that writes there, and to `caplog` what the journal does not take."""
    logger = logging.Logger("gateway.trial")
    handler = JournalHandler(journal.getsockname(), caplog.handler)
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_entry_has_fields_to_search_by(log: logging.Logger, journal: socket.socket) -> None:
    """Priority, logger and place, and each id that the message names."""
    log.warning("request %s: %s has ended", REQUEST, EXEC)
    entry = read_entry(journal)
    assert entry["MESSAGE"] == f"request {REQUEST}: {EXEC} has ended"
    assert (entry["PRIORITY"], entry["PVEG_LOGGER"]) == ("4", "gateway.trial")
    assert entry["CODE_FUNC"] == "test_entry_has_fields_to_search_by"
    assert (entry["PVEG_REQUEST_ID"], entry["PVEG_EXEC_ID"]) == (REQUEST, EXEC)


def test_value_begins_no_field(log: logging.Logger, journal: socket.socket) -> None:
    """Lines in a message stay its own, whatever they say; a traceback is part of it."""
    try:
        raise ValueError("bad\nPRIORITY=0")
    except ValueError:
        log.exception("failed\nPRIORITY=0\nMESSAGE=other \udcff")
    entry = read_entry(journal)
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"].startswith("failed\nPRIORITY=0\nMESSAGE=other \\udcff\nTraceback")


def test_what_the_journal_does_not_take_is_told_elsewhere(
    log: logging.Logger, journal: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """An entry too long for a datagram, and one while there is no journal."""
    log.error("x" * (1 << 20))
    Path(journal.getsockname()).unlink()
    log.error("no journal")
    assert [record.getMessage()[:10] for record in caplog.records] == ["xxxxxxxxxx", "no journal"]


def test_a_journal_that_hangs_keeps_nobody_waiting(
    log: logging.Logger, journal: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """What it does not take is counted, not waited for, and told once it goes on."""
    log.info("first")
    began = time.monotonic()
    for _ in range(2000):  # more than its queue holds (unix(7), max_dgram_qlen)
        log.info("more")
    assert time.monotonic() - began < 10
    taken = []
    with contextlib.suppress(BlockingIOError):
        journal.setblocking(False)
        while True:
            taken.append(read_entry(journal)["MESSAGE"])
    log.info("again")
    log.info("and again")
    lost = 2001 - len(taken)
    assert lost > 0
    told = f"again\n({lost} entries before this one are lost: the journal did not take them)"
    assert [read_entry(journal)["MESSAGE"] for _ in range(2)] == [told, "and again"]
    assert caplog.records == []


def read_entry(journal: socket.socket) -> dict[str, str]:
    """The one entry that waits, taken apart as journald does."""
    left, fields = journal.recv(1 << 16), {}
    while left:
        name, _, left = left.partition(b"\n")
        size = int.from_bytes(left[:8], "little")
        fields[name.decode()] = left[8 : 8 + size].decode()
        left = left[8 + size + 1 :]
    return fields


def test_no_text_begins_a_line_of_the_log() -> None:
    """Without a journal an entry is one line; what goes on, and what a traceback says, is indented, and nothing in it
    moves a terminal's cursor."""
    program = (
        "import logging; from gateway.logs import log_to_manager; log_to_manager()\n"
        "log = logging.getLogger('gateway.trial')\n"
        "log.warning('one\\nERROR gateway: forged\\x1b[31m\\rgone\\u2028still')\n"
        "try: raise ValueError('bad\\nERROR gateway: forged')\n"
        "except ValueError: log.exception('failed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=30)
    lines = done.stderr.decode().split("\n")
    assert lines[:3] == [
        "WARNING gateway.trial: one",
        "  ERROR gateway: forged\\x1b[31m\\rgone\\u2028still",
        "ERROR gateway.trial: failed",
    ]
    assert all(line.startswith("  ") for line in lines[3:-1]) and lines[-1] == ""

"""Where the processes' own words go: to the journal, with fields to search by, where systemd has put it behind stderr;
else to stderr, a line each."""

from __future__ import annotations

import logging
import os
import re
import socket
import struct

JOURNAL = "/run/systemd/journal/socket"
"""Takes a datagram an entry (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)
_DEBUG = 7
PATIENCE_MS = 100
_PATIENCE = struct.pack("ll", 0, PATIENCE_MS * 1000)  # struct timeval
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_IDS = re.compile(r"\b(req|ex|au|tk)_[0-9A-HJKMNP-TV-Z]{26}\b")
_FIELDS = {"req": "PVEG_REQUEST_ID", "ex": "PVEG_EXEC_ID", "au": "PVEG_AUDIT_ID", "tk": "PVEG_TOKEN_ID"}


def log_to_manager() -> None:
    """Set up logging for this process, from INFO on."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Entries("%(levelname)s %(name)s: %(message)s"))
    chosen: logging.Handler = JournalHandler(JOURNAL, handler) if _journal_is_behind_stderr() else handler
    logging.basicConfig(level=logging.INFO, handlers=[chosen])


class _Entries(logging.Formatter):
    """An entry begins a line, and nothing else does: what goes on is indented, other control characters are written
    out."""

    def format(self, record: logging.LogRecord) -> str:
        return _CONTROL.sub(_write_out, super().format(record)).replace("\n", "\n  ")


def _write_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class JournalHandler(logging.Handler):
    """An entry for each record: priority, logger, place in the code, and the ids that its message names, so that
    `journalctl PVEG_REQUEST_ID=req_...` finds all words about a request.

    What the journal at `path` does not take goes to `instead`. One that hangs is waited for PATIENCE_MS, and then no
    more: entries are lost until it takes one, which says how many. For many threads, over a fork, too.
    """

    def __init__(self, path: str, instead: logging.Handler) -> None:
        super().__init__()
        self._path = path
        self._instead = instead
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = self.format(record)
            if self._lost:
                message += f"\n({self._lost} entries before this one are lost: the journal did not take them)"
            flags = socket.MSG_DONTWAIT if self._lost else 0
            self._socket.sendto(_encode(_describe(record, message)), flags, self._path)
            self._lost = 0
        except BlockingIOError:  # and not to `instead`, whose words end in the journal, too
            self._lost += 1
        except OSError:  # it is restarted, or the entry is too long for a datagram
            self._instead.handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _describe(record: logging.LogRecord, message: str) -> dict[str, str]:
    found = {_FIELDS[match[1]]: match[0] for match in _IDS.finditer(message)}
    return {
        "MESSAGE": message,
        "PRIORITY": str(next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)),
        "SYSLOG_IDENTIFIER": "pve-exec-gateway",
        "PVEG_LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **found,
    }


def _encode(fields: dict[str, str]) -> bytes:
    """With each value's length before it: no newline in a value can begin a field."""
    entry = bytearray()
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        entry += name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return bytes(entry)


def _journal_is_behind_stderr() -> bool:
    """JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    status = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"

"""Connections that outlive a task: each from the keeper of its gateway, which is started where there is none."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .wire import Address, KeptConnection, Misconfigured, connect

_BOOT = "import sys; sys.path.insert(0, sys.argv.pop()); from plugin_utils.keeper import main; main()"
_LONGEST_SOCKET_PATH = 103  # sun_path holds 104 bytes on BSD and macOS, 108 on Linux, the last one NUL (unix(7))
_TRIES = 3


@dataclass(frozen=True)
class Keeping:
    """Where keepers have their sockets, and how many seconds one waits for the next task; 0: there are none."""

    directory: Path
    seconds: float

    def connect(self, address: Address) -> http.client.HTTPConnection:
        """A connection of its keeper's; of our own where there can be none. Raises Failure."""
        path = self._find_path(address)
        if path is None:
            return connect(address)
        for _ in range(_TRIES):
            with contextlib.suppress(OSError):
                return _open(address, path)
            if not self._start(address, path):
                break
        return connect(address)

    def forget(self, address: Address) -> None:
        """The keeper ends when those who use it now have ended; the next task gets new connections."""
        path = self._find_path(address)
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _find_path(self, address: Address) -> str | None:
        """One for each gateway, CA and program. None where nothing is kept."""
        if self.seconds <= 0 or not address.secure:
            return None
        digest = hashlib.sha256(json.dumps([asdict(address), self.seconds, sys.version]).encode())
        try:
            digest.update(Path(address.ca).read_bytes() if address.ca else b"")
        except OSError as exc:
            raise Misconfigured(f"cannot read the CA {address.ca}: {exc.strerror}") from exc
        path = str(self.directory / f"pveg-{digest.hexdigest()[:16]}")
        return path if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and self._is_ours() else None

    def _is_ours(self) -> bool:
        """Whether nobody else can put a socket there, to be sent a token."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = self.directory.stat()
        except OSError:
            return False
        return about.st_uid == os.geteuid() and not stat.S_IMODE(about.st_mode) & 0o022

    def _start(self, address: Address, path: str) -> bool:
        """Whether one listens now. Of several tasks that come at the same time one starts it."""
        with open(f"{path}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.suppress(OSError):
                _open(address, path).release()
                return True
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            order = json.dumps({"address": asdict(address), "persist": self.seconds}).encode()
            plugins = str(Path(__file__).parent.parent)
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, path, plugins],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            with keeper:
                said, _ = keeper.communicate(order)
                return said != b""


def _open(address: Address, path: str) -> KeptConnection:
    connection = KeptConnection(address, path)
    connection.connect()
    return connection

"""A real audit writer process on real files, for the tests of this directory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gateway
from gateway.audit.chain import Chain, Sealed
from gateway.audit.files import open_files, read_lines
from gateway.audit.keys import AuditKeys, create_key, load_keys
from gateway.audit.record import Event, Fields, build_record
from gateway.audit.retention import Limits, WhenFull
from gateway.audit.settings import AuditSettings

REPOSITORY = Path(gateway.__file__).parents[1]
BUSY = 4.0
"""Seconds that a machine with much else to do may add to a promised time."""


def make_settings(root: Path, directory: Path | None = None, **changed: Any) -> AuditSettings:
    """Everything under `root`; the key is there."""
    settings = AuditSettings(
        directory=directory or root / "log",
        socket=root / "run" / "audit.sock",
        key_file=root / "audit.key",
        journal_socket=root / "journal",
        **changed,
    )
    create_key(settings.key_file)
    return settings


def limits(
    rotate_bytes: int = 1 << 20,
    max_bytes: int = 1 << 30,
    keep_days: float = 0.0,
    when_full: WhenFull = WhenFull.REFUSE,
) -> Limits:
    """Bounds of a log in a test."""
    return Limits(rotate_bytes, max_bytes, keep_days, when_full)


def intent(number: int = 0, **data: Any) -> Fields:
    """An intent as the supervisor writes it."""
    return build_record(
        Event.EXEC_INTENT,
        request_id=f"req_{number}",
        token_id="tk_1",
        token_name="ci",
        remote="192.0.2.7",
        action="exec:run",
        vmid=101,
        node="pve1",
        exec_id=f"ex_{number}",
        data={"command": ["systemctl", "restart", "nginx"], "user": "root", **data},
    )


def wait_until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    """Return once `holds()`; fail the test if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Writer:
    """A context: the process is up when it begins (it says READY=1) and gone when it ends."""

    def __init__(self, settings: AuditSettings, prefix: Sequence[str] = ()) -> None:
        self.settings = settings
        self._prefix = prefix

    def __enter__(self) -> Writer:
        ready_path = self.settings.key_file.with_name("notify")
        ready_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(ready_path))
            ready.settimeout(30)
            command = [*self._prefix, sys.executable, "-m", "gateway.audit", self.settings.to_json()]
            environment = {
                "PYTHONPATH": str(REPOSITORY),
                "NOTIFY_SOCKET": str(ready_path),
                "PATH": os.defpath,
            }
            self.process = subprocess.Popen(command, env=environment)
            assert ready.recv(100).startswith(b"READY=1\n")
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def read_log(settings: AuditSettings, directory: Path | None = None) -> list[Sealed]:
    """Every genuine record, oldest first."""
    chain = Chain(keys_of(settings).chain)
    with open_files(directory or settings.directory, chain) as files:
        return [line.sealed for line in read_lines(files, chain) if line.sealed]


def events(settings: AuditSettings, directory: Path | None = None) -> list[str]:
    return [sealed.record["event"] for sealed in read_log(settings, directory)]


def keys_of(settings: AuditSettings) -> AuditKeys:
    return load_keys(settings.key_file)

"""What the audit writer is told: where the log, its key and its sockets are, and its limits."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NoReturn


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Checked by whoever reads the configuration; paths are absolute.

    `anchor_records` and `anchor_seconds`: the chain's head goes to the journal after so many records, and so
    many seconds after a change. `rotate_bytes`: a file past this size is closed. `max_bytes`, `keep_days`,
    `when_full`: see retention.Limits. `journal_copies`: every record goes to the journal, too; `syslog`: and to
    `/dev/log` or another datagram socket, or to `udp://ADDRESS:PORT`. `allowed_uids`: peers besides root.
    """

    directory: Path
    socket: Path
    key_file: Path
    journal_socket: Path = Path("/run/systemd/journal/socket")
    anchor_records: int = 1000
    anchor_seconds: float = 60.0
    rotate_bytes: int = 64 << 20
    max_bytes: int = 8 << 30
    keep_days: float = 30.0
    when_full: str = "refuse"
    journal_copies: bool = False
    syslog: str | None = None
    allowed_uids: tuple[int, ...] = ()

    def to_json(self) -> str:
        """For the writer's command line (`python -m gateway.audit`): paths and numbers, nothing secret."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> AuditSettings:
        """Raises ValueError, KeyError or TypeError on anything that `to_json` did not make."""
        values = json.loads(text)
        for field in fields(cls):
            if field.type == "Path":
                values[field.name] = Path(values[field.name])
        return cls(**{**values, "allowed_uids": tuple(values["allowed_uids"])})


def exec_writer(settings: AuditSettings) -> NoReturn:
    """Become the writer: same process id and sockets (systemd's included), none of the caller's memory.

    It runs this very code: `-P` keeps Python from importing out of the working directory.
    """
    arguments = [sys.executable, "-P", "-m", "gateway.audit", settings.to_json()]
    ours = str(Path(__file__).resolve().parents[2])
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONPATH": ours})

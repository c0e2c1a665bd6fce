"""A task's id: `UPID:node:pid:pstart:starttime:type:id:user:`, numbers in hexadecimal (PVE's UPID.pm)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOGS = Path("/run/pvesim/tasks")  # /var/log/pve/tasks is the host's
_PATTERN = re.compile(
    r"UPID:([a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?):([0-9A-Fa-f]{8}):([0-9A-Fa-f]{8,9}):([0-9A-Fa-f]{8}):"
    r"([^:\s/]+):([^:\s/]*):([^:\s/]+):"
)


@dataclass(frozen=True)
class Upid:
    """What a task's id says."""

    node: str
    pid: int
    pstart: int
    starttime: int
    type: str
    id: str
    user: str
    """The user or token that started it."""

    def __str__(self) -> str:
        head = f"UPID:{self.node}:{self.pid:08X}:{self.pstart:08X}:{self.starttime:08X}"
        return f"{head}:{self.type}:{self.id}:{self.user}:"

    @property
    def log(self) -> Path:
        """Its log file, in one of sixteen directories."""
        return LOGS / f"{self.starttime:08X}"[7] / str(self)

    def told(self) -> dict[str, Any]:
        """As the API shows it: a token's user and the token's name apart."""
        user, _, token = self.user.partition("!")
        shown: dict[str, Any] = {**self.__dict__, "upid": str(self), "user": user}
        return {**shown, "tokenid": token} if token else shown


def decode(text: str) -> Upid | None:
    """None for what is no task's id."""
    found = _PATTERN.fullmatch(text)
    if found is None:
        return None
    node, pid, pstart, starttime, kind, about, user = found.groups()
    return Upid(node, int(pid, 16), int(pstart, 16), int(starttime, 16), kind, about, user)


def read_status(task: Upid) -> str:
    """How it ended, by its log's last line."""
    try:
        last = task.log.read_text(errors="replace").rstrip("\n").rpartition("\n")[2]
    except OSError as error:
        return f"unable to get last line from task log - {error.strerror}"
    if last == "TASK OK":
        return "OK"
    found = re.fullmatch(r"TASK (?:ERROR: (.+)|(WARNINGS: \d+))", last)
    return (found[1] or found[2]) if found else "unexpected status"


def classify(status: str) -> str:
    """ok, warning, error or unknown, as the filters of task lists know them."""
    if status == "OK":
        return "ok"
    if status.startswith("WARNINGS: "):
        return "warning"
    return "unknown" if status in ("", "unexpected status") else "error"

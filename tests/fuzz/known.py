"""What there is on the node that is fuzzed, as the replies told it; and what no log may show."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

_REMEMBERED = 200
_FEW = 8


@dataclass
class Known:
    """The newest of each kind."""

    canary: str
    execs: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    tokens: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    secrets: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    tasks: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    backups: deque[str] = field(default_factory=lambda: deque(maxlen=_FEW))
    guests: deque[int] = field(default_factory=lambda: deque(maxlen=_FEW))

    def learn(self, reply: Any) -> None:
        """Takes over what a JSON reply names."""
        if not isinstance(reply, dict):
            return
        name = reply.get("id")
        if isinstance(name, str) and name.startswith("ex_"):
            self.execs.append(name)
        elif isinstance(name, str) and isinstance(reply.get("token"), str):
            self.tokens.append(name)
            self.secrets.append(reply["token"])
        if isinstance(reply.get("upid"), str):
            self.tasks.append(reply["upid"])
        if reply.get("state") in ("making", "made"):
            self.guests.append(reply["vmid"])
        self.backups.extend(one["volume"] for one in reply.get("backups") or ())

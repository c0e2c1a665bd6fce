"""What an API is told to do wrong: faults by method and path, full storages, lost quorum, nodes that are away.

They stand in a file, so that the API, its tasks and `pvesh` all see them at once, and anybody can set them:
a test through `Api.faults`, others by `PUT /sim/faults` with the same JSON.

| fault | what happens |
|---|---|
| `slow` | the answer comes after `seconds`; the request is carried out at once |
| `late` | the request is carried out after `seconds`: a client that gave up before is surprised |
| `status` | this status and `text`, nothing done: 500, 595, 596, 599 |
| `garbage` | 200 and no JSON, after the request has been carried out |
| `drop` | the connection closes without an answer, after the request has been carried out |
| `task` | a task of the type `path` fails with `text`, before it does anything |
| `stall` | a task of the type `path` waits `seconds` before it does anything; one whose step is called `path`, \
`unpack` (create, restore) or `copy` (clone, snapshot), waits before that; nothing waits on when faults are cleared |
"""

import contextlib
import fcntl
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pvesim.api.failure import die

_POLL_SECONDS = 0.02
REQUEST_FAULTS = ("slow", "late", "status", "garbage", "drop")


@dataclass(frozen=True)
class Faults:
    """The faults of one API, in `file`."""

    file: Path

    def add(
        self, kind: str, path: str = ".*", *, method: str = ".*", seconds: float = 0, status: int = 500,
        text: str = "injected fault", times: int | None = None,
    ) -> None:  # fmt: skip
        """From now on, `times` times: `path` and `method` are regular expressions that have to match whole."""
        if kind not in (*REQUEST_FAULTS, "task", "stall"):
            raise ValueError(f"no such fault: {kind}")
        rule = {"kind": kind, "path": path, "method": method, "seconds": seconds, "status": status, "text": text}
        with self._changing() as state:
            state.setdefault("rules", []).append({**rule, "times": times})

    def fill(self, storage: str) -> None:
        """No room is left on `storage`."""
        with self._changing() as state:
            state.setdefault("full", []).append(storage)

    def lose_quorum(self) -> None:
        """/etc/pve is read-only for the API, as in the smaller half of a cluster."""
        with self._changing() as state:
            state["no_quorum"] = True

    def lose_pmxcfs(self) -> None:
        """/etc/pve is down: every call is a 500, after the delay of a failed login, and pvesh fails."""
        with self._changing() as state:
            state["no_pmxcfs"] = True

    def lose_node(self, node: str, status: int = 595) -> None:
        """`node` does not answer: 595 no route, 596 timeout, 599 too many redirects."""
        with self._changing() as state:
            state.setdefault("away", {})[node] = status

    def clear(self) -> None:
        """Nothing is wrong any more."""
        self.replace({})

    def replace(self, wanted: dict[str, Any]) -> None:
        with self._changing() as state:
            state.clear()
            state.update(wanted)

    def take(self, kinds: tuple[str, ...], path: str, method: str = "") -> dict[str, Any] | None:
        """The first rule that holds here, once less to come."""
        if not any(rule["kind"] in kinds for rule in self._read().get("rules", ())):
            return None
        with self._changing() as state:
            for rule in state.get("rules", ()):
                fits = re.fullmatch(rule["path"], path) and re.fullmatch(rule["method"], method)
                if rule["kind"] in kinds and fits and rule["times"] != 0:
                    if rule["times"] is not None:
                        rule["times"] -= 1
                    found: dict[str, Any] = dict(rule)
                    return found
        return None

    def stall(self, step: str) -> None:
        """A task has come to a step that may be told to wait."""
        rule = self.take(("stall",), step)
        if rule:
            ends = time.monotonic() + rule["seconds"]
            while time.monotonic() < ends and self._read():
                time.sleep(_POLL_SECONDS)

    def is_full(self, storage: str) -> bool:
        return storage in self._read().get("full", ())

    def has_pmxcfs(self) -> bool:
        return not self._read().get("no_pmxcfs")

    def is_quorate(self) -> bool:
        return not self._read().get("no_quorum")

    def require_quorum(self) -> None:
        if not self.is_quorate():
            die("cluster not ready - no quorum?")

    def away(self) -> dict[str, int]:
        """The nodes that do not answer, with pveproxy's status for it."""
        return dict(self._read().get("away", {}))

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self.file.read_text())
        except FileNotFoundError:
            return {}
        return state

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with self.file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read()
            yield state
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps(state))
            new.rename(self.file)

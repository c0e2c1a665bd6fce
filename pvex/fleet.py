"""Fleet: one command in many guests, so many at a time; each one's failure is its own."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pvex.ending import exit_code, explain
from pvex.errors import FAILED, ClientError
from pvex.events import read_data, run_stream
from pvex.signals import end_quietly

if TYPE_CHECKING:
    from pvex.api import Api

KEPT = 1 << 20
"""Bytes of each stream of each guest that are kept; the first ones."""
LEAVE_SECONDS = 30.0
"""How long who leaves waits for the ends of what ran."""


@dataclass
class Share:
    """What one guest does of it."""

    vmid: int
    name: str
    state: str = "waiting"
    """`waiting`, `running`, `ended`, `failed` (it was refused, or nobody knows), or `skipped`."""
    exec_id: str = ""
    code: int | None = None
    reason: str | None = None
    error: str | None = None
    seconds: float = 0.0
    last_line: str = ""
    output: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})

    @property
    def good(self) -> bool:
        return self.state == "ended" and self.code == 0

    def to_json(self) -> dict[str, Any]:
        """As `-o json` shows it."""
        text = {name: bytes(data).decode(errors="replace") for name, data in self.output.items()}
        shown = {name: getattr(self, name) for name in ("vmid", "name", "state", "exec_id", "reason", "error")}
        return {**shown, "exit_code": self.code, "seconds": round(self.seconds, 3), **text}


class Fleet:
    """Runs `spec` in all of `shares`; `tell(share, stream, line)` hears of lines, and with None of changes of state."""

    def __init__(
        self,
        api: Api,
        shares: Iterable[Share],
        spec: dict[str, Any],
        key: Callable[[], str],
        tell: Callable[[Share, str | None, bytes], None],
        *,
        max_errors: int | None = None,
    ) -> None:
        self.shares = list(shares)
        self._api = api
        self._spec = spec
        self._key = key
        self._tell = tell
        self._max_errors = max_errors
        self._over = False
        self._left = False
        self._lock = threading.Lock()

    def run(self, parallel: int) -> None:
        """Until all have ended. An exception (Ctrl-C is one) ends what runs, begins nothing more, and is raised when
        that has ended, or after LEAVE_SECONDS."""
        waiting: queue.SimpleQueue[Share] = queue.SimpleQueue()
        for share in self.shares:
            waiting.put(share)
        over: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                while not waiting.empty():
                    with contextlib.suppress(queue.Empty):
                        self._run(waiting.get_nowait())
            except BaseException as error:
                over.put(error)
            else:
                over.put(None)

        # No ThreadPoolExecutor: Python waits for those threads at its own end, too, whatever they wait for.
        threads = [_start(work, f"guest_{number}") for number in range(min(parallel, len(self.shares)))]
        try:
            for _ in threads:
                if (error := over.get()) is not None:
                    raise error
        except BaseException:
            self._over = self._left = True
            running = [share.exec_id for share in self.shares if share.state == "running"]
            threads += [_start(end_quietly, f"end_{exec_id}", self._api, exec_id) for exec_id in running]
            until = time.monotonic() + LEAVE_SECONDS
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            raise

    def _run(self, share: Share) -> None:
        if self._over:
            self._settle(share, "skipped")
            return
        began = time.monotonic()
        api = self._api.twin()
        state = "failed"
        try:
            view = self._follow(api, share)
            share.code, share.reason, share.error = exit_code(view), view["reason"], explain(view)
            state = "ended"
        except ClientError as error:
            share.code, share.error = FAILED, str(error)
        finally:
            api.close()
            share.seconds = time.monotonic() - began
            self._settle(share, state)

    def _follow(self, api: Api, share: Share) -> dict[str, Any]:
        rest = {"stdout": b"", "stderr": b""}
        for event in run_stream(api, share.vmid, self._spec, self._key()):
            kind = event["type"]
            if kind == "start":
                share.exec_id = event["exec"]["id"]
                self._settle(share, "running")
                if self._left:  # it was on its way when all that ran was ended
                    end_quietly(api, share.exec_id)
            elif kind in rest:
                data = read_data(event)
                share.output[kind] += data[: max(0, KEPT - len(share.output[kind]))]
                *lines, rest[kind] = (rest[kind] + data).split(b"\n")
                if len(rest[kind]) > KEPT:
                    lines, rest[kind] = [*lines, rest[kind]], b""
                for line in lines:
                    self._hear(share, kind, line)
            elif kind == "end":
                for name, line in rest.items():
                    if line:
                        self._hear(share, name, line)
                view: dict[str, Any] = event["exec"]
                return view
        raise AssertionError("a stream ends with an end")

    def _hear(self, share: Share, stream: str, line: bytes) -> None:
        share.last_line = line.decode(errors="replace").rstrip("\r") or share.last_line
        with self._lock:
            self._tell(share, stream, line)

    def _settle(self, share: Share, state: str) -> None:
        share.state = state
        with self._lock:
            failures = sum(one.state in ("ended", "failed") and not one.good for one in self.shares)
            self._over = self._over or (self._max_errors is not None and failures > self._max_errors)
            self._tell(share, None, b"")


def _start(work: Callable[..., None], name: str, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, name=name, args=arguments, daemon=True)
    thread.start()
    return thread

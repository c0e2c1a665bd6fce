"""The gateway under test: its three processes in a node, started together, as systemd would start them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import client

_PROCESSES = ("audit-writer", "supervise", "serve")
_START_SECONDS = 20.0
_RUN = Path("/run/pve-exec-gateway")  # the node's own tmpfs
_CONFIG = """\
node: pve1
listen: {{address: 127.0.0.1, port: {port}}}
spool: {{directory: {state}/spool, min_free: 0}}
audit: {{directory: {state}/audit, key_file: {state}/keys/audit.key}}
tokens: {{directory: {state}/tokens, key_file: {state}/keys/token.keys}}
lxc: {{launcher: {launcher}}}
"""


class Gateway:
    """Everything that it keeps is below `state`, which is on a real disk: durable writes are part of an exec."""

    ca = Path("/etc/pve/pve-root-ca.pem")

    def __init__(self, state: Path, launcher: Path) -> None:
        self.address = ("127.0.0.1", 39377)
        self.audit_directory = state / "audit"
        self._state = state
        (state / "keys").mkdir(mode=0o700, parents=True)
        config = state / "config.yaml"
        config.write_text(_CONFIG.format(state=state, port=self.address[1], launcher=launcher))
        self._environment = {**os.environ, "PVE_EXEC_GATEWAY_CONFIG": str(config), "PYTHONPATH": str(Path.cwd())}

    def create_token(self) -> str:
        """A token for every guest. Makes the keys too: call it once, before anything else."""
        with self._running((_RUN / "audit/audit.sock").exists, "audit-writer"):
            words = ["token", "create", "--name", "bench", "--allow", "exec:run", "--guests", "100-999"]
            made = subprocess.run(
                [*self._command(*words), "--expires", "1d"], env=self._environment, capture_output=True, check=True
            )
            return made.stdout.decode().strip()

    @contextlib.contextmanager
    def running(self) -> Iterator[tuple[float, list[int]]]:
        """All of it, ready; yields the seconds from the start to the first 200 of /health/ready, and the pids."""
        with self._running(lambda: client.is_ready(self.address, self.ca), *_PROCESSES) as started:
            yield started

    @contextlib.contextmanager
    def _running(self, ready: Callable[[], bool], *names: str) -> Iterator[tuple[float, list[int]]]:
        began = time.perf_counter()
        with contextlib.ExitStack() as stack:
            processes = [stack.enter_context(self._start(name)) for name in names]
            while not ready():
                dead = [name for name, process in zip(names, processes, strict=True) if process.poll() is not None]
                if dead or time.perf_counter() - began > _START_SECONDS:
                    logs = "".join((self._state / f"{name}.log").read_text() for name in names)
                    raise RuntimeError(f"the gateway does not start ({', '.join(dead) or 'not ready'}):\n{logs}")
                time.sleep(0.002)
            yield time.perf_counter() - began, [process.pid for process in processes]

    @contextlib.contextmanager
    def _start(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self._state / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(self._command(name), env=self._environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_START_SECONDS)
            finally:
                process.kill()
                process.wait()

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "gateway", *words]


def proportional_memory(pids: list[int]) -> float:
    """MB (10^6 bytes) of PSS of these processes and all their descendants (proc_pid_smaps_rollup(5))."""
    total = 0
    for pid in [*pids, *_descendants(set(pids))]:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        match = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
        assert match is not None
        total += int(match[1]) * 1024
    return total / 1e6


def _descendants(known: set[int]) -> Iterator[int]:
    for stat in sorted(Path("/proc").glob("[0-9]*/stat"), key=lambda path: int(path.parent.name)):
        pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
        if parent in known and pid not in known:
            known.add(pid)
            yield pid


def mean_record_size(directory: Path) -> int:
    """Bytes of an average record in the audit log."""
    text = (directory / "audit.log").read_bytes()
    return len(text) // text.count(b"\n")

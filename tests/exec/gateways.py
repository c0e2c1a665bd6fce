"""A whole gateway for tests: the three services as an administrator starts them, inside a node."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.exec.api import Api
from tests.exec.waiting import until

REPOSITORY = Path(__file__).parents[2]
CA = Path("/etc/pve/pve-root-ca.pem")
COMMANDS = {"audit": "audit-writer", "supervisor": "supervise", "web": "serve"}
ORDER = ("audit", "supervisor", "web")


class Gateway:
    """Three processes, one configuration. `settings` are laid over the defaults, section by section."""

    def __init__(self, name: str = "default", **settings: dict[str, Any]) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pveg-"))  # short: a socket's path has 107 bytes at most
        self.name = name
        self.port = _free_port()
        self.spool = self.directory / "spool"
        self.audit_directory = self.directory / "audit"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config_path = self.directory / "config.yaml"
        (self.directory / "keys").mkdir(mode=0o700)
        sections: dict[str, dict[str, Any]] = {
            "listen": {"address": "127.0.0.1", "port": self.port},
            "spool": {"directory": str(self.spool), "min_free": 0},
            "supervisor": {"socket": str(self.directory / "run/supervisor.sock"), "instance": name},
            "audit": {
                "directory": str(self.audit_directory),
                "socket": str(self.directory / "run/audit.sock"),
                "key_file": str(self.directory / "keys/audit.key"),
            },
            "tokens": {
                "directory": str(self.directory / "tokens"),
                "key_file": str(self.directory / "keys/token.keys"),
            },
            "lxc": {"launcher": str(REPOSITORY / "build/launcher")},
        }
        for section, values in settings.items():
            sections.setdefault(section, {}).update(values)
        self.config_path.write_text(json.dumps({"node": os.uname().nodename, **sections}))
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PVE_EXEC_GATEWAY_CONFIG": str(self.config_path),
        }

    # ---- services

    def start(self) -> None:
        for service in ORDER:
            self.start_service(service)

    def start_service(self, service: str) -> None:
        """Starts one and waits until it serves."""
        log = (self.directory / f"{service}.log").open("ab")
        with log:
            self.processes[service] = subprocess.Popen(
                [sys.executable, "-m", "gateway", COMMANDS[service]],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(lambda: self._serves(service), within=30, why=f"{service} starts: {self.log(service)[-800:]}")

    def kill(self, service: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal; after one that ends it, waits for that end."""
        self.processes[service].send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.processes[service].wait(30)

    def pid(self, service: str) -> int:
        return self.processes[service].pid

    def stop(self) -> None:
        """Ends all three and removes everything of theirs."""
        for service in reversed(ORDER):
            process = self.processes.get(service)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()
                process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self, service: str) -> str:
        """What a service has said so far."""
        path = self.directory / f"{service}.log"
        return path.read_text() if path.exists() else ""

    def _serves(self, service: str) -> bool:
        process = self.processes[service]
        assert process.poll() is None, f"{service} ended with {process.returncode}: {self.log(service)[-2000:]}"
        if service == "web":
            return _connects(socket.AF_INET, ("127.0.0.1", self.port))
        return _connects(socket.AF_UNIX, str(self.directory / f"run/{service}.sock"))

    # ---- using it

    def token(self, name: str = "test", *, allow: str = "exec:run", guests: str = "100-999") -> str:
        """A new token, as `pve-exec-gateway token create` prints it."""
        arguments = ["token", "create", "--name", name, "--allow", allow, "--guests", guests, "--expires", "1d"]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *arguments],
            check=True,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout.strip()

    def api(self, token: str | None) -> Api:
        return Api(self.port, CA, token)

    def records(self) -> list[dict[str, Any]]:
        """The audit log so far, its current file."""
        text = (self.audit_directory / "audit.log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def records_of(self, exec_id: str) -> list[dict[str, Any]]:
        return [record for record in self.records() if record.get("exec_id") == exec_id]


def _connects(family: int, address: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def elapsed(since: float) -> float:
    """Seconds since a reading of time.monotonic()."""
    return time.monotonic() - since

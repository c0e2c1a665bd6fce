"""Debian's Prometheus, told of the gateway by packaging/prometheus/scrape.yml."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.pvesim.services import REPOSITORY, Services

STEP = 5
"""Seconds between two scrapes, and between two points of an answer."""
_SCRAPE = REPOSITORY / "packaging/prometheus/scrape.yml"
_RATE_INTERVAL = "30s"
_READY_SECONDS = 60.0


class Prometheus:
    """Runs in `directory`, and scrapes these services with a token of its own."""

    def __init__(self, directory: Path, services: Services) -> None:
        directory.mkdir(parents=True)
        token, config = directory / "token", directory / "prometheus.yml"
        token.write_text(services.create_token(name="prometheus", actions="metrics:read"))
        scrape = _SCRAPE.read_text()
        for named, ours in (
            ("/etc/prometheus/pve-exec-gateway.token", str(token)),
            ("/etc/prometheus/pve-root-ca.pem", str(services.ca)),
            ('["192.0.2.11:39377", "192.0.2.12:39377"]', f'["127.0.0.1:{services.port}"]'),
        ):
            assert named in scrape, named
            scrape = scrape.replace(named, ours)
        config.write_text(f"global: {{scrape_interval: {STEP}s}}\n{scrape}")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._command = [
            "prometheus",
            *(f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}"),
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        self._log = directory / "log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise ChildProcessError(f"prometheus did not start:\n{self._log.read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def ask(self, expression: str, began: float, ended: float) -> list[dict[str, Any]]:
        """The series of a panel's query over this time, as Grafana would ask for all nodes."""
        query = expression.replace("$__rate_interval", _RATE_INTERVAL).replace("$instance", ".*")
        words = {"query": query, "start": began, "end": ended, "step": STEP}
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{urllib.parse.urlencode(words)}") as reply:
            series: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        return series

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

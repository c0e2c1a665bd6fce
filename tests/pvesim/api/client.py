"""A client of the simulated API for tests: each reply as it came, tasks followed to their end.

pve = Pve(api.port, "gateway@pve!exec=secret")
assert pve.ask("POST", "/nodes/pve1/lxc/9/status/start").status == 400
task = pve.finish(pve.do("POST", "/nodes/pve1/lxc/7001/status/start"))
"""

import http.client
import json
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.services import make_client_context

_POLL = 0.02


@dataclass(frozen=True)
class Reply:
    """What came back; `body` is the JSON, if it was any."""

    status: int
    reason: str
    body: dict[str, Any]
    raw: bytes

    @property
    def data(self) -> Any:
        return self.body.get("data")

    @property
    def errors(self) -> dict[str, str]:
        return dict(self.body.get("errors") or {})


@dataclass(frozen=True)
class Task:
    """A task that has ended."""

    upid: str
    exitstatus: str
    log: list[str]


class Pve:
    """One user of the API: a token `user@realm!name=secret`, or headers of its own."""

    def __init__(
        self, port: int, token: str | None = None, headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> None:
        self._port = port
        self._timeout = timeout
        self._context = make_client_context(pmxcfs.ROOT / "pve-root-ca.pem")
        self.headers = dict(headers or ({"Authorization": f"PVEAPIToken={token}"} if token else {}))

    def ask(self, method: str, path: str, /, **parameters: Any) -> Reply:
        """One request on a connection of its own; underscores in names become hyphens. Raises OSError."""
        named = {name.replace("_", "-"): value for name, value in parameters.items()}
        form = urllib.parse.urlencode(named, doseq=True)
        in_url = method in ("GET", "DELETE")
        target = f"/api2/json{urllib.parse.quote(path, safe='/:')}{f'?{form}' if in_url and form else ''}"
        kind = {} if in_url else {"Content-Type": "application/x-www-form-urlencoded"}
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._context, timeout=self._timeout)
        try:
            connection.request(method, target, None if in_url else form, {**self.headers, **kind})
            reply = connection.getresponse()
            raw = reply.read()
        finally:
            connection.close()
        is_json = "json" in reply.getheader("Content-Type", "")
        return Reply(reply.status, reply.reason, json.loads(raw) if is_json else {}, raw)

    def do(self, method: str, path: str, /, **parameters: Any) -> Any:
        """The data of a request that has to succeed."""
        reply = self.ask(method, path, **parameters)
        assert reply.status == 200, f"{method} {path}: {reply.status} {reply.reason} {reply.errors}"
        return reply.data

    def finish(self, upid: str, *, within: float = 60) -> Task:
        """A task once it has ended, with its whole log."""
        path = f"/nodes/{upid.split(':')[1]}/tasks/{upid}"
        deadline = time.monotonic() + within
        while (told := self.do("GET", f"{path}/status"))["status"] != "stopped":
            assert time.monotonic() < deadline, f"{upid} has not ended in {within} s"
            time.sleep(_POLL)
        lines = [line["t"] for line in self.do("GET", f"{path}/log", limit=0)]
        return Task(upid, told["exitstatus"], lines)

    def run(self, method: str, path: str, /, **parameters: Any) -> Task:
        """A request whose task has to succeed."""
        task = self.finish(self.do(method, path, **parameters))
        assert task.exitstatus == "OK", f"{method} {path}: {task.exitstatus}\n" + "\n".join(task.log)
        return task

    def fail(self, method: str, path: str, /, **parameters: Any) -> str:
        """A request that is accepted and whose task fails: how."""
        return self.finish(self.do(method, path, **parameters)).exitstatus

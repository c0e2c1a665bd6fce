"""A PVE API in memory, below the real client: it notes what is asked and says what a healthy node would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.pve.client import PveApi
from gateway.pve.service import Pve

TOKEN_ID = "gateway@pve!web"


def make_upid(vmid: int | str = 101, type_: str = "vzstart") -> str:
    """The name of a task about a guest; about none where it is empty."""
    return f"UPID:pve1:0000C350:0012D687:6920A1B2:{type_}:{vmid}:{TOKEN_ID}:"


@dataclass
class FakePveApi:
    """Stands for `PveApi`. `calls`: method and path of each; every task has ended well; guests are containers.

    `says`: what it says instead of a path that ends so.
    """

    vmids: tuple[int, ...]
    calls: list[tuple[str, str]] = field(default_factory=list)
    says: dict[str, Any] = field(default_factory=dict)
    token_id: str = TOKEN_ID

    def call(
        self, method: str, path: tuple[str | int, ...], parameters: Mapping[str, Any], *, timeout: float = 30
    ) -> Any:
        text = "/" + "/".join(map(str, path))
        self.calls.append((method, text))
        if method != "GET":
            changes_at_once = text.endswith("/config") or "/tasks/" in text
            return None if changes_at_once else make_upid(path[3] if len(path) > 3 else "")
        return self._tell(text, parameters)

    def _tell(self, path: str, parameters: Mapping[str, Any]) -> Any:
        for end, answer in self.says.items():
            if path.endswith(end):
                return answer
        if path == "/cluster/resources":
            return [{"vmid": vmid, "type": "lxc", "node": "pve1", "status": "running"} for vmid in self.vmids]
        if path == "/cluster/nextid":
            return str(parameters.get("vmid", 100))
        if path == "/nodes":
            return [{"node": "pve1", "status": "online"}]
        if path.endswith("/log"):
            return [{"n": 1, "t": "TASK OK"}]
        if "/tasks/" in path:
            return {"status": "stopped", "exitstatus": "OK", "endtime": 1}
        if path.endswith("/status/current"):
            return {"status": "running", "name": "one"}
        if path.endswith("/config"):
            return {
                "hostname": "one",
                "rootfs": "local:101/vm-101-disk-0.raw,size=1G",
                "unprivileged": 1,
                "dev0": "/dev/null,mode=0666",
                "digest": "a" * 40,
            }
        return []


def make_pve(vmids: tuple[int, ...]) -> tuple[Pve, FakePveApi]:
    """The real client over a fake API."""
    api = FakePveApi(vmids)
    typed: PveApi = api  # type: ignore[assignment]
    return Pve(typed), api


def make_etc(etc: Path, vmids: tuple[int, ...]) -> None:
    """The part of /etc/pve that tells of guests: all are containers of node pve1."""
    (etc / "nodes/pve1/lxc").mkdir(parents=True)
    ids = {str(vmid): {"node": "pve1", "type": "lxc", "version": 1} for vmid in vmids}
    (etc / ".vmlist").write_text(json.dumps({"version": 1, "ids": ids}))
    (etc / ".members").write_text(json.dumps({"nodename": "pve1", "version": 0}))
    for vmid in vmids:
        (etc / f"nodes/pve1/lxc/{vmid}.conf").write_text("hostname: one\n")

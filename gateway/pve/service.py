"""Proxmox VE as the gateway uses it, in rooms: what there is, a guest's life, its snapshots, storages, tasks."""

from __future__ import annotations

from gateway.config import PveConfig
from gateway.pve.caller import Caller, MakeWay, make_none
from gateway.pve.client import Observe, PveApi, ignore
from gateway.pve.failure import PveFailure
from gateway.pve.inventory import Inventory
from gateway.pve.lifecycle import Lifecycle
from gateway.pve.problems import explain
from gateway.pve.snapshots import Snapshots
from gateway.pve.storages import Storages
from gateway.pve.tasks import Tasks
from gateway.pve.waiting import TaskWatcher


class Pve:
    """The API of one token. Any thread may use it; nothing is asked before it is used."""

    def __init__(self, api: PveApi, make_way: MakeWay = make_none) -> None:
        self._api = api
        caller = Caller(api, make_way=make_way)
        self.inventory = Inventory(caller)
        self.guests = Lifecycle(caller)
        self.snapshots = Snapshots(caller)
        self.storages = Storages(caller)
        self.tasks = Tasks(caller)
        self.watcher = TaskWatcher(self.tasks)

    @property
    def token_id(self) -> str:
        """Who the gateway is to PVE: `user@realm!token`, as tasks name it. Raises PveUnavailable without a token."""
        try:
            return self._api.token_id
        except PveFailure as exc:
            raise explain(exc, {}, change=False) from exc


def connect(config: PveConfig, observe: Observe = ignore, make_way: MakeWay = make_none) -> Pve:
    """The node's own API, by the token that `pve-exec-gateway setup` made for the web service."""
    return Pve(PveApi(config.api, config.token_file, config.ca, observe=observe), make_way)

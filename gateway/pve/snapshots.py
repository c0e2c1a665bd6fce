"""Snapshots of a guest: listed, made, gone back to, removed."""

from __future__ import annotations

from gateway.exec.order import GuestKind
from gateway.pve.caller import Caller, Options
from gateway.pve.ids import Upid, parse_snapshot
from gateway.pve.lifecycle import about, path
from gateway.pve.models import GuestConfig, GuestRef, Snapshot


class Snapshots:
    """The snapshots of guests. Those that give a Upid have only begun when they return. All raise GatewayError."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def list(self, guest: GuestRef) -> list[Snapshot]:
        """Its snapshots, the oldest first."""
        rows = self._caller.ask_list(*path(guest), "snapshot", about=about(guest))
        found = [snapshot for snapshot in map(Snapshot.read, rows) if snapshot is not None]
        return sorted(found, key=lambda snapshot: (snapshot.made_at or 0, snapshot.name))

    def config(self, guest: GuestRef, name: str) -> GuestConfig:
        """The guest's configuration as it was then. Raises SnapshotNotFound."""
        told = self._caller.ask_object(
            *path(guest), "snapshot", parse_snapshot(name), "config", about={**about(guest), "snapshot": name}
        )
        return GuestConfig.read(told)

    def create(self, guest: GuestRef, name: str, *, description: str = "", with_memory: bool = False) -> Upid:
        """Begins to make one; `with_memory` is for machines. That the name is taken is seen in the task's end only."""
        options: Options = {
            "snapname": parse_snapshot(name),
            "description": description or None,
            "vmstate": (with_memory or None) if guest.kind is GuestKind.QEMU else None,
        }
        return self._caller.start_task(
            "POST", *path(guest), "snapshot", about={**about(guest), "snapshot": name}, options=options
        )

    def rollback(self, guest: GuestRef, name: str, *, start: bool = False) -> Upid:
        """Begins to make the guest what it was then; a container has to be stopped. `start`: starts it afterwards."""
        return self._caller.start_task(
            "POST",
            *path(guest),
            "snapshot",
            parse_snapshot(name),
            "rollback",
            about={**about(guest), "snapshot": name},
            options={"start": start or None},
        )

    def delete(self, guest: GuestRef, name: str, *, force: bool = False) -> Upid:
        """Begins to remove one; `force` takes it off the configuration even if its volumes' cannot be removed."""
        return self._caller.start_task(
            "DELETE",
            *path(guest),
            "snapshot",
            parse_snapshot(name),
            about={**about(guest), "snapshot": name},
            options={"force": force or None},
        )

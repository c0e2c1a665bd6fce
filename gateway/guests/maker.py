"""Maker: guests of templates, of backups and of other guests, each made in a thread that goes on without its client."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.audit.record import Event
from gateway.errors_pve import OutcomeUnknown
from gateway.exec.order import GuestKind
from gateway.guests.background import Work, Workers
from gateway.guests.container import ContainerRequest
from gateway.guests.machine import MachineRequest
from gateway.guests.making import Caller, MadeGuest, Making
from gateway.guests.wish import CloneRequest, Options
from gateway.guests.workshop import Workshop
from gateway.policy.root import RootChange
from gateway.pve.ids import Upid, VolumeId
from gateway.pve.models import GuestRef
from gateway.pve.root import change_as_root


class Maker:
    """Makes guests on this node. Safe in many threads."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._workers = Workers()

    def create(self, caller: Caller, wish: ContainerRequest | MachineRequest) -> Work[MadeGuest]:
        """Begins to make a guest of a template, of images or of a backup. Raises TooManyChanges."""
        kind = ContainerCreation if isinstance(wish, ContainerRequest) else MachineCreation
        return self._workers.start(caller.asker.token_id, kind(self._workshop, caller, wish).make)

    def clone(self, caller: Caller, source: GuestRef, wish: CloneRequest) -> Work[MadeGuest]:
        """Begins to copy a guest, when those who copy it already have done so. Raises TooManyChanges."""
        return self._workers.start(caller.asker.token_id, Cloning(self._workshop, caller, wish, source).make)


class Creation(Making):
    """What is made of no other guest: of a template, of images, of a backup."""

    _wish: ContainerRequest | MachineRequest

    @property
    def kind(self) -> GuestKind:
        return GuestKind(self._wish.type)

    @property
    def event(self) -> Event:
        return Event.GUEST_RESTORE if self._wish.backup is not None else Event.GUEST_CREATE

    def turn(self) -> Iterator[bool]:
        yield False

    def ask(self, vmid: int) -> Upid:
        wish, guests = self._wish, self._pve.guests
        if wish.backup is None:
            return guests.create(self.node, self.kind, vmid, wish.options())
        return guests.restore(self.node, self.kind, vmid, VolumeId(wish.backup), wish.options())

    def task(self, vmid: int) -> tuple[str, int]:
        prefix = "vz" if self.kind is GuestKind.LXC else "qm"
        return f"{prefix}{'create' if self._wish.backup is None else 'restore'}", vmid


class ContainerCreation(Creation):
    """A container, with what PVE allows to root@pam alone."""

    _wish: ContainerRequest

    @property
    def sets_up(self) -> bool:
        return bool(self._wish.root_options())

    def ask(self, vmid: int) -> Upid:
        if not self._wish.made_by_root:
            return super().ask(vmid)
        change = RootChange(node=self.node, vmid=vmid, create=True, options=self._wish.options())
        made = self._change_as_root(change)
        if made is None:
            raise OutcomeUnknown("pvesh named no task; look at the guest before asking again", vmid=vmid)
        return made

    def set_up(self, guest: GuestRef) -> None:
        options = self._wish.root_options()
        if options:
            self._change_as_root(RootChange(node=guest.node, vmid=guest.vmid, options=options))

    def _change_as_root(self, change: RootChange) -> Upid | None:
        return change_as_root(
            self._workshop.root, change, self._caller.origin, lambda _: self._caller.renew(change.vmid)
        )


class MachineCreation(Creation):
    """A virtual machine, whose images are made larger when they are its disks."""

    _wish: MachineRequest

    @property
    def sets_up(self) -> bool:
        return bool(self._wish.growth())

    def set_up(self, guest: GuestRef) -> None:
        for disk, size in self._wish.growth().items():
            self.finish(self._pve.guests.resize(guest, disk, size))


class Cloning(Making):
    """A copy of a guest."""

    _wish: CloneRequest

    def __init__(self, workshop: Workshop, caller: Caller, wish: CloneRequest, source: GuestRef) -> None:
        super().__init__(workshop, caller, wish)
        self._source = source

    @property
    def event(self) -> Event:
        return Event.GUEST_CLONE

    @property
    def kind(self) -> GuestKind:
        return self._source.kind

    @property
    def node(self) -> str:
        return self._wish.node or self._source.node

    @property
    def task_node(self) -> str:
        return self._source.node

    @property
    def origin(self) -> dict[str, object]:
        return {"source": self._source.vmid}

    @property
    def sets_up(self) -> bool:
        return bool(self._wish.common())

    def turn(self) -> Iterator[bool]:
        with self._workshop.turns.take(self._source.vmid) as waited:
            yield waited

    def ask(self, vmid: int) -> Upid:
        wish = self._wish
        return self._pve.guests.clone(
            self._source,
            vmid,
            name=wish.name,
            full=wish.full,
            storage=wish.storage,
            target=self.node if self.node != self._source.node else None,
            pool=wish.pool,
            snapshot=wish.snapshot,
            description=wish.notes,
        )

    def task(self, vmid: int) -> tuple[str, int]:
        return "vzclone" if self.kind is GuestKind.LXC else "qmclone", self._source.vmid

    def set_up(self, guest: GuestRef) -> None:
        options: Options = self._wish.common()
        if options:
            self._pve.guests.set_config(guest, options)

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
from gateway.guests.wish import CloneRequest, FreshWish, Options
from gateway.guests.workshop import Workshop
from gateway.policy.root import RootChange
from gateway.pve.ids import Upid, VolumeId
from gateway.pve.models import GuestRef
from gateway.pve.root import change_as_root
from gateway.pve.service import Pve


class Maker:
    """Makes guests on this node. Safe in many threads."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._workers = Workers()

    def create(self, caller: Caller, wish: ContainerRequest | MachineRequest) -> Work[MadeGuest]:
        """Begins to make a guest of a template, of images or of a backup. Raises TooManyChanges."""
        creation: Making
        if isinstance(wish, ContainerRequest):
            creation = ContainerCreation(self._workshop, caller, wish)
        else:
            creation = MachineCreation(self._workshop, caller, wish)
        return self._workers.start(caller.asker.token_id, creation.make)

    def clone(self, caller: Caller, source: GuestRef, wish: CloneRequest) -> Work[MadeGuest]:
        """Begins to copy a guest, when those who copy it already have done so. Raises TooManyChanges."""
        return self._workers.start(caller.asker.token_id, Cloning(self._workshop, caller, wish, source).make)


class ContainerCreation(Making):
    """A container of a template or a backup."""

    _wish: ContainerRequest

    @property
    def kind(self) -> GuestKind:
        return GuestKind.LXC

    @property
    def event(self) -> Event:
        return Event.GUEST_RESTORE if self._wish.backup is not None else Event.GUEST_CREATE

    @property
    def sets_up(self) -> bool:
        return bool(self._wish.root_options())

    def turn(self) -> Iterator[bool]:
        yield False

    def ask(self, vmid: int) -> Upid:
        wish = self._wish
        if wish.made_by_root:
            made = change_as_root(
                self._workshop.root,
                RootChange(node=self.node, vmid=vmid, create=True, options=wish.options()),
                self._caller.origin,
                lambda _: self._caller.renew(vmid),
            )
            if made is None:
                raise OutcomeUnknown("pvesh named no task; look at the guest before asking again", vmid=vmid)
            return made
        return _begin(self._pve, self.node, self.kind, vmid, wish)

    def task(self, vmid: int) -> tuple[str, int]:
        return "vzcreate" if self._wish.backup is None else "vzrestore", vmid

    def set_up(self, guest: GuestRef) -> None:
        options = self._wish.root_options()
        if options:
            change = RootChange(node=guest.node, vmid=guest.vmid, options=options)
            change_as_root(self._workshop.root, change, self._caller.origin, lambda _: self._caller.renew(guest.vmid))


class MachineCreation(Making):
    """A virtual machine of disks and images, or of a backup."""

    _wish: MachineRequest

    @property
    def kind(self) -> GuestKind:
        return GuestKind.QEMU

    @property
    def event(self) -> Event:
        return Event.GUEST_RESTORE if self._wish.backup is not None else Event.GUEST_CREATE

    @property
    def sets_up(self) -> bool:
        return bool(self._wish.growth())

    def turn(self) -> Iterator[bool]:
        yield False

    def ask(self, vmid: int) -> Upid:
        return _begin(self._pve, self.node, self.kind, vmid, self._wish)

    def task(self, vmid: int) -> tuple[str, int]:
        return "qmcreate" if self._wish.backup is None else "qmrestore", vmid

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


def _begin(pve: Pve, node: str, kind: GuestKind, vmid: int, wish: FreshWish) -> Upid:
    """Has PVE's API begin to make what an API token may."""
    if wish.backup is None:
        return pve.guests.create(node, kind, vmid, wish.options())
    return pve.guests.restore(node, kind, vmid, VolumeId(wish.backup), wish.options())

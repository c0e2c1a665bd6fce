"""Making: the steps in which a guest is made, whole or not at all, that are the same for every origin."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

from gateway.audit.record import Event
from gateway.errors import GatewayError, GuestNotRunning, InternalError
from gateway.errors_pve import GuestExists, GuestWithoutAddress, OutcomeUnknown, TaskUnfinished
from gateway.exec.order import GuestKind
from gateway.exec.origin import Origin
from gateway.exec.permit import Ranges
from gateway.guests.addresses import NOT_YET, are_ready, find_addresses
from gateway.guests.background import Begun, Work
from gateway.guests.blame import explain
from gateway.guests.trail import Asker, Change, Intent, Reason
from gateway.guests.undo import Undone, undo
from gateway.guests.wish import Wish, show
from gateway.guests.workshop import Workshop
from gateway.pve.ids import Upid
from gateway.pve.models import Address, GuestRef

_MAX_TRIES = 20
_STEP_SECONDS = 300.0
_STOP_SECONDS = 60.0
_LOOK_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MadeGuest:
    """A guest that has been made. `addresses` where its making waited for them."""

    guest: GuestRef
    upid: Upid
    audit_id: str
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Caller:
    """Who asks, and the vmids that it may make guests under. `again` decides anew about one who has waited: grants,
    and node policy; `renew` about the grants alone."""

    asker: Asker
    reach: Ranges
    origin: Origin
    again: Callable[[int], None]
    """Raises GatewayError when it may not make that vmid any more."""
    renew: Callable[[int], Origin]
    """The same; what the supervisor is told of it then."""


class Making(ABC):
    """One guest's: the steps that are the same for every origin."""

    def __init__(self, workshop: Workshop, caller: Caller, wish: Wish) -> None:
        self._workshop = workshop
        self._pve = workshop.pve
        self._caller = caller
        self._wish = wish

    @abstractmethod
    def turn(self) -> Iterator[bool]:
        """Held until PVE's task has ended; whether it was waited for."""

    @abstractmethod
    def ask(self, vmid: int) -> Upid:
        """Has PVE begin. Raises GatewayError."""

    @abstractmethod
    def task(self, vmid: int) -> tuple[str, int]:
        """What PVE calls the task of that: its type, and which guest it is about."""

    @property
    @abstractmethod
    def sets_up(self) -> bool:
        """Whether there is anything for `set_up` to do."""

    @abstractmethod
    def set_up(self, guest: GuestRef) -> None:
        """What is done before it starts. Raises GatewayError."""

    @property
    @abstractmethod
    def event(self) -> Event: ...

    @property
    @abstractmethod
    def kind(self) -> GuestKind: ...

    @property
    def node(self) -> str:
        """Where it is when it is made."""
        return self._wish.node or self._workshop.node

    @property
    def task_node(self) -> str:
        """Where the task runs that makes it."""
        return self.node

    def make(self, work: Work[MadeGuest]) -> MadeGuest:
        """All of it. Raises GatewayError with what has become of it."""
        tried: set[int] = set()
        while True:
            try:
                with self._workshop.reserve(self._caller.reach, self._wish.vmid, tried) as vmid:
                    return self._make(work, GuestRef(vmid, self.kind, self.node))
            except GuestExists as error:
                if self._wish.vmid is not None or work.began is not None or len(tried) >= _MAX_TRIES:
                    raise explain(error, self._wish) from None
                tried.add(int(error.evidence.get("vmid") or 0))

    def _make(self, work: Work[MadeGuest], guest: GuestRef) -> MadeGuest:
        turn = contextmanager(self.turn)
        with turn() as waited:
            if waited:
                self._caller.again(guest.vmid)
            intent, upid = self._begin(guest)
            intent.note_task(upid)
            work.begin(Begun(guest, upid, intent.audit_id))
            try:
                self._attend(upid)
            except Exception as error:
                self._give_up(intent, guest, upid, error, made=False)
        try:
            self.set_up(guest)
            addresses = self._start(guest) if self._wish.start else ()
        except Exception as error:
            self._give_up(intent, guest, upid, error, made=True)
        intent.note_whole()
        intent.end(Reason.OK, upid=str(upid))
        return MadeGuest(guest, upid, intent.audit_id, addresses)

    def _begin(self, guest: GuestRef) -> tuple[Intent, Upid]:
        then = [*(["set-up"] if self.sets_up else []), *(["start"] if self._wish.start else [])]
        more = {"then": then, "whole": self._wish.on_failure != "keep"} if then else {}
        data = {"request": show(self._wish), **self.origin, **more}
        change = Change(self.event, "guest:create", guest.node, guest.vmid, data)
        intent = self._workshop.changes.announce(self._caller.asker, change)
        began = int(time.time())
        try:
            upid = self.ask(guest.vmid)
            self._workshop.begun(upid)
            return intent, upid
        except OutcomeUnknown as error:
            found = self._find_task(guest, began)
            if found is not None:
                return intent, found
            self._give_up(intent, guest, None, error, made=False)
        except GatewayError as error:
            intent.fail(error)
            error.evidence.setdefault("audit_id", intent.audit_id)
            raise error if isinstance(error, GuestExists) else explain(error, self._wish) from None
        except BaseException as error:
            intent.fail(error)
            raise

    @property
    def origin(self) -> dict[str, object]:
        """What the record names beside the request."""
        return {}

    def _find_task(self, guest: GuestRef, began: int) -> Upid | None:
        """The task that PVE began, or begins yet, though its answer was lost; None if there is none for a while, or it
        might be another's.

        Of this node alone, whose clock is ours. Nobody else's task can be between: the source is locked by PVE while it
        is copied, by us too (turn), and a vmid is made by one only.
        """
        deadline = time.monotonic() + self._workshop.find_seconds
        while self._workshop.alone and self.task_node == self._workshop.node:
            found = self._tasks_since(guest, began)
            if found:
                return found[0] if len(found) == 1 and self._workshop.begun(found[0]) else None
            if not self._workshop.pace.wait(deadline, None, 1.0):
                break
        return None

    def _tasks_since(self, guest: GuestRef, began: int) -> list[Upid]:
        kind, vmid = self.task(guest.vmid)
        try:
            ours = self._pve.token_id
            tasks = self._pve.tasks.recent(self.task_node, vmid=vmid, since=began, limit=100)
        except GatewayError:
            return []
        upids = [task.upid for task in tasks if (task.upid.type, task.upid.vmid, task.upid.user) == (kind, vmid, ours)]
        return [upid for upid in upids if not self._workshop.knows(upid)]

    def _attend(self, upid: Upid) -> None:
        """Waits for the task that makes it. Raises what its failure means; OutcomeUnknown when PVE tells nothing."""
        try:
            task = self._pve.watcher.wait(upid, self._wish.timeout)
        except GatewayError as exc:
            words = f"the task has begun, and PVE tells nothing of its end: {exc.detail}"
            raise OutcomeUnknown(words, upid=str(upid)) from exc
        if task is None:
            self._pve.tasks.stop(upid)
            task = self._pve.watcher.wait(upid, _STOP_SECONDS)
            state = "was stopped" if task is not None else "was told to stop, and goes on"
            raise TaskUnfinished(
                f"it was not made within {self._wish.timeout:g} s (`timeout`), so its task {state}", upid=str(upid)
            )
        self._pve.tasks.require_ok(task)

    def finish(self, upid: Upid) -> None:
        """Waits for a task that follows its making. Raises TaskUnfinished, and what its failure means."""
        task = self._pve.watcher.wait(upid, _STEP_SECONDS)
        if task is None:
            raise TaskUnfinished(f"its task {upid.type} did not end within {_STEP_SECONDS:g} s", upid=str(upid))
        self._pve.tasks.require_ok(task)

    def _start(self, guest: GuestRef) -> tuple[Address, ...]:
        self.finish(self._pve.guests.start(guest))
        return self._await_address(guest) if self._wish.wait_for_address is not None else ()

    def _await_address(self, guest: GuestRef) -> tuple[Address, ...]:
        seconds = self._wish.wait_for_address or 0
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            found: list[Address] = []
            with suppress(*NOT_YET):
                found = find_addresses(self._pve.guests, self._workshop.pace, guest, min(_LOOK_SECONDS, left))
            if are_ready(found):
                return tuple(found)
            if not self._pve.guests.status(guest).running:
                raise GuestNotRunning("it stopped before it had an address; see its console", vmid=guest.vmid)
            if left <= _LOOK_SECONDS:
                raise GuestWithoutAddress(
                    f"it runs, and had no address after {seconds:g} s (`wait_for_address`); is there a DHCP server on "
                    "its bridge, or a guest agent in the machine?",
                    vmid=guest.vmid,
                )

    def _give_up(self, intent: Intent, guest: GuestRef, upid: Upid | None, error: Exception, *, made: bool) -> NoReturn:
        """Undoes it, records that, and raises the error with what became of it; a defect of ours undoes it, too."""
        if not isinstance(error, GatewayError):
            log.error("%s: guest %d was not made whole", intent.audit_id, guest.vmid, exc_info=error)
            error = InternalError("a fault of the gateway; its log tells more")
        kept = self._wish.on_failure == "keep"
        end = Undone(False) if kept else undo(self._pve, self._workshop.guests, guest, upid if made else None)
        unknown = isinstance(error, OutcomeUnknown)
        if unknown and end.clean:
            end = Undone(False, f"there is no guest {guest.vmid} at this moment")
        words = explain(error, self._wish, vmid=guest.vmid, kept=kept, undone=end)
        intent.end(
            Reason.UNKNOWN if unknown else Reason.FAILED,
            upid=str(upid) if upid is not None else None,
            words=words.detail[:256],
            undone=end.clean,
        )
        words.evidence.setdefault("audit_id", intent.audit_id)
        if upid is not None:
            words.evidence.setdefault("upid", str(upid))
        raise words from None

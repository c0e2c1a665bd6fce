"""Giving: options of a running container that give it something of the node, made, seen in the guest, or taken back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.audit.record import Event
from gateway.devices.passing import free_keys
from gateway.errors import GatewayError, GuestFrozen, GuestNotRunning, GuestSilent
from gateway.errors_pve import AlreadyGiven, GuestChanged, NotInGuest, PveRejected, TaskUnfinished
from gateway.exec.origin import Origin
from gateway.exec.reply import Found
from gateway.guests.changes import Changes
from gateway.guests.pace import Pace
from gateway.guests.trail import Asker, Change
from gateway.policy.root import RootChange
from gateway.pve.ids import Upid
from gateway.pve.models import GuestConfig, GuestRef
from gateway.pve.root import Again, make_as_root
from gateway.pve.service import Pve

_TRIES = 5
_RESTART_SECONDS = 180.0
_SEEN_SECONDS = 10.0
_PAUSE = 0.2

log = logging.getLogger(__name__)


class Hands(Protocol):
    """The supervisor, as far as it concerns this (supervisor.client.SupervisorClient)."""

    def change_as_root(self, change: RootChange, origin: Origin, again: Again) -> dict[str, Any]: ...

    def inspect(self, vmid: int, questions: Sequence[str], origin: Origin) -> list[Found]: ...


@dataclass(frozen=True)
class Gift:
    """One option of a container, `dev[n]` or `mp[n]`: `path` is its place in the guest, `value` the option's.

    `differs` says what is wrong with what was found there, None if it is right.
    """

    word: str
    path: str
    value: str
    differs: Callable[[Found], str | None]
    for_root: bool = True
    """Else PVE's API takes it: a mount point of a new volume."""


@dataclass(frozen=True)
class Giver:
    """For whom it is done, by whose grants; what is undone is undone by those of the beginning."""

    asker: Asker
    origin: Origin
    again: Again
    action: str


@dataclass(frozen=True)
class Given:
    """What became of it. `audit_id` None: the guest had all of it. `seen`: the guest shows it; None where that cannot
    be known, and `unknown` says why. `restart_needed`: it counts from the guest's next start."""

    keys: tuple[str, ...]
    audit_id: str | None
    running: bool
    restart_needed: bool
    restarted: Upid | None
    seen: bool | None
    unknown: str | None


class Giving:
    """Gives containers of this node things that only root@pam may. Safe in many threads."""

    def __init__(self, pve: Pve, hands: Hands, changes: Changes, pace: Pace) -> None:
        self._pve = pve
        self._hands = hands
        self._changes = changes
        self._pace = pace

    def give(self, giver: Giver, guest: GuestRef, gifts: Sequence[Gift], *, restart: bool) -> Given:
        """Gives all of them by one change, or none. `restart`: a running guest that needs one gets one.

        Raises AlreadyGiven, what pvesh and PVE refuse with nothing done, and with `undone` what failed after it was:
        NotInGuest, or the restart's own failure.
        """
        keys, new, audit_id = self._set(giver, guest, gifts)
        try:
            return self._attend(giver, guest, keys, audit_id, gifts, restart=restart)
        except GatewayError as error:
            if audit_id is None:
                raise
            error.evidence.setdefault("audit_id", audit_id)
            error.evidence["undone"] = not isinstance(error, TaskUnfinished) and self._undo(giver, guest, gifts, new)
            raise

    def take_back(self, giver: Giver, guest: GuestRef, keys: Sequence[str], *, restart: bool) -> Given:
        """Takes such options back; of a running guest they go with its next start."""
        change = RootChange(node=guest.node, vmid=guest.vmid, delete=tuple(keys))
        audit_id, _ = make_as_root(self._hands, change, giver.origin, giver.again)
        running = self._pve.guests.status(guest).running
        waits = running and self._waits(self._pve.guests.config(guest), keys)
        restarted = self._restart(giver, guest, keys) if waits and restart else None
        return Given(tuple(keys), audit_id, running, waits and restarted is None, restarted, None, None)

    def restart(self, giver: Giver, guest: GuestRef, names: Sequence[str], put_back: Callable[[], None]) -> None:
        """Restarts a guest that runs, if any of these options waits for that.

        Raises what the restart failed with, and `undone`: whether they are as they were, and the guest runs.
        """
        if not self._pve.guests.status(guest).running or not self._waits(self._pve.guests.config(guest), names):
            return
        try:
            self._restart(giver, guest, names)
        except GatewayError as error:
            error.evidence["undone"] = not isinstance(error, TaskUnfinished) and self._put_back(
                giver, guest, names, put_back
            )
            raise

    def look(self, origin: Origin, guest: GuestRef, paths: Sequence[str]) -> tuple[Sequence[Found] | None, str | None]:
        """What stands at these places in the guest; or None, and why nobody knows."""
        try:
            return self._hands.inspect(guest.vmid, paths, origin), None
        except (GuestNotRunning, GuestFrozen, GuestSilent) as error:
            return None, error.code

    def _set(self, giver: Giver, guest: GuestRef, gifts: Sequence[Gift]) -> tuple[list[str], list[str], str | None]:
        """The options of all gifts, those that are new, and the record of these."""
        for attempt in range(_TRIES):
            config = self._pve.guests.config(guest)
            has = {**config.options, **{key: value for key, value in config.pending.items() if value is not None}}
            given = [_given_as(has, config, gift) for gift in gifts]
            new = [gift for gift, key in zip(gifts, given, strict=True) if key is None]
            free = free_keys({*has, *config.pending}, gifts[0].word)
            if len(new) > len(free):
                raise PveRejected(f"guest {guest.vmid} has all its `{gifts[0].word}[n]` in use", vmid=guest.vmid)
            options = dict(zip(free, (gift.value for gift in new), strict=False))
            names = iter(options)
            keys = [key or next(names) for key in given]
            if not options:
                return keys, [], None
            try:
                return keys, list(options), self._change(giver, guest, new, options, config.digest or None)
            except GuestChanged:  # somebody else may have taken the same number
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError

    def _change(
        self, giver: Giver, guest: GuestRef, gifts: Sequence[Gift], options: dict[str, str], digest: str | None
    ) -> str:
        """The change's record."""
        if any(gift.for_root for gift in gifts):
            change = RootChange(node=guest.node, vmid=guest.vmid, options=options, digest=digest)
            return make_as_root(self._hands, change, giver.origin, giver.again)[0]
        told = Change(Event.GUEST_CONFIG, giver.action, guest.node, guest.vmid, {"options": options})
        return self._changes.make(
            giver.asker, told, lambda: self._pve.guests.set_config(guest, options, digest=digest)
        ).audit_id

    def _attend(
        self,
        giver: Giver,
        guest: GuestRef,
        keys: list[str],
        audit_id: str | None,
        gifts: Sequence[Gift],
        *,
        restart: bool,
    ) -> Given:
        if not self._pve.guests.status(guest).running:
            return Given(tuple(keys), audit_id, False, False, None, None, GuestNotRunning.code)
        restarted = None
        if self._waits(self._pve.guests.config(guest), keys):
            if not restart:
                return Given(tuple(keys), audit_id, True, True, None, None, "restart_needed")
            restarted = self._restart(giver, guest, keys)
        unknown = self._require_seen(giver, guest, gifts, patient=restarted is not None)
        return Given(tuple(keys), audit_id, True, False, restarted, None if unknown else True, unknown)

    def _waits(self, config: GuestConfig, keys: Sequence[str]) -> bool:
        return any(key in config.pending for key in keys)

    def _require_seen(self, giver: Giver, guest: GuestRef, gifts: Sequence[Gift], *, patient: bool) -> str | None:
        """Why it cannot be known. Raises NotInGuest. `patient`: a guest that was started anew may come up yet."""
        deadline = time.monotonic() + (_SEEN_SECONDS if patient else 0)
        while True:
            found, unknown = self.look(giver.origin, guest, [gift.path for gift in gifts])
            wrong = [
                f"{gift.path}: {differs}"
                for gift, one in zip(gifts, found or (), strict=False)
                if (differs := gift.differs(one)) is not None
            ]
            if found is not None and not wrong:
                return None
            if not self._pace.wait(deadline, None, _PAUSE):
                break
        if wrong:
            raise NotInGuest(f"PVE has set it, and in guest {guest.vmid} {'; '.join(wrong)[:1000]}", vmid=guest.vmid)
        return unknown

    def _restart(self, giver: Giver, guest: GuestRef, keys: Sequence[str]) -> Upid | None:
        change = Change(Event.GUEST_REBOOT, giver.action, guest.node, guest.vmid, {"for": list(keys)})
        made = self._changes.make(giver.asker, change, lambda: self._pve.guests.reboot(guest))
        if self._changes.wait(made, _RESTART_SECONDS) is None:
            raise TaskUnfinished(
                f"guest {guest.vmid} was told to restart, and has not within {_RESTART_SECONDS:g} s; look at its task",
                vmid=guest.vmid,
                upid=str(made.upid),
            )
        return made.upid

    def _undo(self, giver: Giver, guest: GuestRef, gifts: Sequence[Gift], keys: Sequence[str]) -> bool:
        """Whether nothing is left of it, and the guest runs as it did."""

        def put_back() -> None:
            if any(gift.for_root for gift in gifts):
                change = RootChange(node=guest.node, vmid=guest.vmid, delete=tuple(keys))
                make_as_root(self._hands, change, giver.origin, lambda _: giver.origin)
            else:
                told = Change(Event.GUEST_CONFIG, giver.action, guest.node, guest.vmid, {"delete": list(keys)})
                self._changes.make(giver.asker, told, lambda: self._pve.guests.set_config(guest, {}, delete=keys))

        if not self._put_back(giver, guest, keys, put_back):
            return False
        try:
            config = self._pve.guests.config(guest)
        except GatewayError:
            return False
        return not any(key in config.options or config.pending.get(key) is not None for key in keys)

    def _put_back(self, giver: Giver, guest: GuestRef, keys: Sequence[str], put_back: Callable[[], None]) -> bool:
        """Whether that could be done, and the guest runs."""
        try:
            put_back()
            if not self._pve.guests.status(guest).running:  # it ran, and did not come up again with what it was given
                start = Change(Event.GUEST_START, giver.action, guest.node, guest.vmid, {"undoes": list(keys)})
                made = self._changes.make(giver.asker, start, lambda: self._pve.guests.start(guest))
                self._changes.wait(made, _RESTART_SECONDS)
        except GatewayError as error:
            log.error("guest %d keeps what it was given: %s", guest.vmid, error.detail)
            return False
        return True


def _given_as(has: dict[str, str], config: GuestConfig, gift: Gift) -> str | None:
    """The option that gives it already. Raises AlreadyGiven when one gives something else at the same place."""
    for key, value in has.items():
        if key.removeprefix(gift.word).isdecimal() and _place(gift.word, value) == gift.path:
            if _same(value, gift.value) and not (key in config.pending and config.pending[key] is None):
                return key
            raise AlreadyGiven(
                f"`{key}` gives the guest {gift.path} otherwise, or is about to go; take it back first, and restart",
                key=key,
            )
    return None


def _place(word: str, value: str) -> str:
    parts = dict(part.partition("=")[::2] for part in value.split(",")[1:])
    first = value.split(",")[0]
    return first.removeprefix("path=") if word == "dev" else parts.get("mp", "")


def _same(one: str, other: str) -> bool:
    return sorted(one.split(",")) == sorted(other.split(","))

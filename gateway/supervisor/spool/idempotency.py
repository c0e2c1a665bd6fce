"""Idempotency keys: which exec each one began, so that the same request sent again follows that instead of another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple

from gateway.errors import IdempotencyConflict
from gateway.exec.order import Order
from gateway.exec.spec import ExecSpec

Hash = Callable[[bytes | str], str]
"""A keyed hash (audit.keys.Redactor.hash): what is kept tells nobody the key, nor lets the request be guessed."""


class Used(NamedTuple):
    """A key, as its hash, with what it was used for: the request's fingerprint and the exec that it began."""

    key: str
    fingerprint: str
    exec_id: str


def key_of(order: Order) -> Used | None:
    """The key that an exec was begun with, if any."""
    if order.idempotency is None or order.fingerprint is None:
        return None
    return Used(order.idempotency, order.fingerprint, order.id)


def fingerprint(vmid: int, spec: ExecSpec, hash_value: Hash, *, terminal: bool = False) -> str:
    """What two requests have in common that ask for the same: spelling, order of members and defaults apart. One for a
    terminal is another than one for a command."""
    ordered = {"env": dict(sorted(spec.env.items())), "labels": dict(sorted(spec.labels.items()))}
    text = spec.model_copy(update=ordered).model_dump_json(exclude_defaults=True)
    return hash_value(f"exec {'terminal' if terminal else 'request'}\0{vmid}\0{text}")


class IdempotencyKeys:
    """The keys of the execs that are remembered. Of one event loop; nothing here touches a disk.

    A key belongs to the token that sent it, and lives as long as its exec is remembered.
    """

    def __init__(self, hash_value: Hash) -> None:
        self._hash = hash_value
        self._used: dict[str, Used] = {}
        self._by_exec: dict[str, str] = {}
        self._under_way: dict[str, Reservation] = {}

    async def reserve(self, token_id: str, key: str, fingerprint: str) -> str | Reservation:
        """The id of the exec that an earlier request with this key began, or a reservation for this one to begin it.

        While an earlier request is on its way it is waited for. Raises IdempotencyConflict when the key was used for
        another request.
        """
        hashed = self._hash(f"idempotency key\0{token_id}\0{key}")
        while True:
            before = self._used.get(hashed) or self._under_way.get(hashed)
            if before is None:
                reservation = self._under_way[hashed] = Reservation(self, hashed, fingerprint)
                return reservation
            if before.fingerprint != fingerprint:
                raise IdempotencyConflict(
                    "this Idempotency-Key was used for another request; give each request a key of its own, and send "
                    "it again with that only"
                )
            if isinstance(before, Used):
                return before.exec_id
            await before.settled.wait()

    def remember(self, used: Iterable[Used]) -> None:
        """Knows the keys of execs that an earlier supervisor began."""
        for entry in used:
            self._used[entry.key] = entry
            self._by_exec[entry.exec_id] = entry.key

    def forget(self, exec_id: str) -> None:
        """The exec is remembered no more, and so its key, if it had one, is free."""
        key = self._by_exec.pop(exec_id, None)
        if key is not None:
            del self._used[key]

    def settle(self, reservation: Reservation, exec_id: str | None) -> None:
        """A reservation has come to its end: with an exec that is to be remembered, or with nothing run."""
        del self._under_way[reservation.key]
        if exec_id is not None:
            self.remember([Used(reservation.key, reservation.fingerprint, exec_id)])


class Reservation:
    """A key that one request is using: `with reservation:` gives it back unless `confirm` was called."""

    def __init__(self, keys: IdempotencyKeys, key: str, fingerprint: str) -> None:
        self.key = key
        self.fingerprint = fingerprint
        self.settled = asyncio.Event()
        self._keys = keys

    def confirm(self, exec_id: str) -> None:
        """The exec may run from here on: whoever sends the same again follows it."""
        self._settle(exec_id)

    def release(self) -> None:
        """Nothing was run: the next request with this key is as the first."""
        self._settle(None)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _settle(self, exec_id: str | None) -> None:
        if not self.settled.is_set():
            self._keys.settle(self, exec_id)
            self.settled.set()

"""Idempotency keys: one key, one exec, whatever is sent how often and whoever waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.audit.keys import Redactor
from gateway.errors import IdempotencyConflict
from gateway.exec.spec import ExecSpec
from gateway.supervisor.spool.idempotency import IdempotencyKeys, Reservation, Used, fingerprint

HASH = Redactor(b"k" * 32).hash


def on_a_loop(test: Callable[[IdempotencyKeys], Awaitable[None]]) -> None:
    asyncio.run(test(IdempotencyKeys(HASH)))  # type: ignore[arg-type]


async def reserved(keys: IdempotencyKeys, token_id: str = "t", key: str = "k", fingerprint: str = "f") -> Reservation:
    found = await keys.reserve(token_id, key, fingerprint)
    assert isinstance(found, Reservation)
    return found


def test_second_request_follows_the_first() -> None:
    """The same key with the same request gives the exec of the first."""

    async def test(keys: IdempotencyKeys) -> None:
        with await reserved(keys) as reservation:
            reservation.confirm("ex_1")
        assert await keys.reserve("t", "k", "f") == "ex_1"

    on_a_loop(test)


def test_second_request_waits_for_the_first() -> None:
    """While nobody knows yet whether the first one runs, the second is told nothing; then the same."""

    async def test(keys: IdempotencyKeys) -> None:
        reservation = await reserved(keys)
        others = [asyncio.create_task(keys.reserve("t", "k", "f")) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(other.done() for other in others)
        reservation.confirm("ex_1")
        assert await asyncio.gather(*others) == ["ex_1"] * 3

    on_a_loop(test)


def test_one_of_those_that_wait_is_next_when_nothing_ran() -> None:
    """A first request that is refused leaves the key to the next, and the rest wait for that."""

    async def test(keys: IdempotencyKeys) -> None:
        reservation = await reserved(keys)
        others = [asyncio.create_task(keys.reserve("t", "k", "f")) for _ in range(3)]
        gone = asyncio.create_task(keys.reserve("t", "k", "f"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(ZeroDivisionError), reservation:
            raise ZeroDivisionError
        done, waiting = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        assert (len(done), len(waiting)) == (1, 2)
        following = done.pop().result()
        assert isinstance(following, Reservation)
        following.confirm("ex_2")
        assert [await other for other in waiting] == ["ex_2"] * 2

    on_a_loop(test)


@pytest.mark.parametrize("confirmed", [True, False])
def test_key_of_another_request_is_a_conflict(confirmed: bool) -> None:
    """Another request under a used key is refused at once, also while the first is on its way."""

    async def test(keys: IdempotencyKeys) -> None:
        reservation = await reserved(keys)
        if confirmed:
            reservation.confirm("ex_1")
        with pytest.raises(IdempotencyConflict):
            await keys.reserve("t", "k", "other")

    on_a_loop(test)


def test_key_belongs_to_its_token() -> None:
    """The same key of another token, or another key, is another."""

    async def test(keys: IdempotencyKeys) -> None:
        (await reserved(keys)).confirm("ex_1")
        await reserved(keys, token_id="u")
        await reserved(keys, key="l")
        await reserved(keys, token_id="t\0k", key="")

    on_a_loop(test)


def test_key_is_free_when_its_exec_is_forgotten() -> None:
    """What the spool has swept can be run again; to forget what had no key is no error."""

    async def test(keys: IdempotencyKeys) -> None:
        (await reserved(keys)).confirm("ex_1")
        keys.forget("ex_2")
        keys.forget("ex_1")
        await reserved(keys, fingerprint="other")

    on_a_loop(test)


def test_keys_of_an_earlier_supervisor_are_known() -> None:
    """The hashes that a reservation tells are all that is needed to know the key again."""

    async def test(keys: IdempotencyKeys) -> None:
        reservation = await reserved(keys, key="deploy-41")
        assert "deploy-41" not in reservation.key
        after = IdempotencyKeys(HASH)
        after.remember([Used(reservation.key, reservation.fingerprint, "ex_1")])
        assert await after.reserve("t", "deploy-41", "f") == "ex_1"

    on_a_loop(test)


def test_late_release_takes_nothing_back() -> None:
    """Once an exec may run, its key stays with it, whatever happens to its request."""

    async def test(keys: IdempotencyKeys) -> None:
        reservation = await reserved(keys)
        reservation.confirm("ex_1")
        reservation.release()
        assert await keys.reserve("t", "k", "f") == "ex_1"

    on_a_loop(test)


def print_of(vmid: int = 101, **fields: Any) -> str:
    return fingerprint(vmid, ExecSpec.model_validate({"command": ["true"], **fields}), HASH)


@pytest.mark.parametrize(
    "same",
    [
        {"env": {"B": "2", "A": "1"}, "labels": {"y": "2", "x": "1"}},
        {"env": {"A": "1", "B": "2"}, "labels": {"x": "1", "y": "2"}, "placement": "own", "cwd": None},
    ],
)
def test_same_request_has_the_same_fingerprint(same: dict[str, Any]) -> None:
    """The order of names, and a default that is sent, make no other request."""
    assert print_of(**same) == print_of(env={"A": "1", "B": "2"}, labels={"x": "1", "y": "2"})


@pytest.mark.parametrize(
    "other",
    [
        {"vmid": 102},
        {"command": ["true", ""]},
        {"command": "true"},
        {"env": {"A": "1"}},
        {"stdin": "x"},
        {"timeout": 1.0},
        {"output": {"limit": 1}},
        {"exclusive": True},
    ],
)
def test_other_request_has_another_fingerprint(other: dict[str, Any]) -> None:
    """Whatever is asked for differently is another request."""
    assert print_of(**other) != print_of()


def test_a_terminal_is_another_request() -> None:
    """A key that began a command begins no terminal, nor is that shown to who asks for one: other grants decide."""
    spec = ExecSpec.model_validate({"command": ["true"]})
    assert fingerprint(101, spec, HASH, terminal=True) != print_of()


def test_fingerprint_needs_the_key() -> None:
    """A secret in a request cannot be guessed by hashing guesses, without the key of the audit log."""
    assert print_of(stdin="secret") == print_of(stdin="secret")
    spec = ExecSpec.model_validate({"command": ["true"], "stdin": "secret"})
    assert fingerprint(101, spec, Redactor(b"l" * 32).hash) != print_of(stdin="secret")

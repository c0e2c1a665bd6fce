"""Token buckets and the slow-down of bad logins: exact by the clock, bounded in memory, no weapon against others."""

from __future__ import annotations

import os
import signal
import time

import pytest

from gateway.auth.slowdown import ADDRESS_BURST, NETWORK_BURST, Slowdown, network_of
from gateway.rates import MAX_CALLERS, Quota, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_burst_then_the_rate() -> None:
    """Two seconds' worth at once, then so many a second, and the answer says when."""
    clock = Clock()
    rates = Rates(monotonic=clock)
    assert [rates.take("a", 10).retry_after for _ in range(20)] == [0] * 20
    assert rates.take("a", 10) == Quota(limit=20, remaining=0, reset=2, retry_after=1)
    clock.now += 0.1
    assert rates.take("a", 10).retry_after == 0
    assert rates.take("a", 10).retry_after == 1
    clock.now += 3600
    assert rates.take("a", 10) == Quota(limit=20, remaining=19, reset=1, retry_after=0)


def test_callers_do_not_share() -> None:
    """One that has used up its own takes nothing of another's."""
    rates = Rates(monotonic=Clock())
    for _ in range(100):
        rates.take("a", 1)
    assert rates.take("b", 1).retry_after == 0


def test_slow_callers_wait_longer() -> None:
    """One waits as long as its rate says; refused requests cost it nothing more."""
    clock = Clock()
    rates = Rates(monotonic=clock)
    assert rates.take("slow", 0.01).retry_after == 0
    assert [rates.take("slow", 0.01).retry_after for _ in range(3)] == [100] * 3
    clock.now += 100
    assert rates.take("slow", 0.01).retry_after == 0


def test_callers_are_bounded() -> None:
    """A million addresses leave ten thousand behind, and of those that ask on none is forgotten."""
    clock = Clock()
    rates = Rates(monotonic=clock)
    for number in range(5 * MAX_CALLERS):
        clock.now += 1e-6
        rates.take(f"2001:db8::{number:x}", 1)
        if number % 1000 == 0:
            rates.take("busy", 1)
    assert len(rates) == MAX_CALLERS
    assert rates.take("busy", 1).retry_after == 1


def take_in_another_process(rates: Rates, count: int) -> int:
    """A process id; its exit code is how many were taken there."""
    child = os.fork()
    if not child:
        os._exit(sum(not rates.take("a", 10).retry_after for _ in range(count)))
    return child


def test_forked_processes_share_what_is_left() -> None:
    """Four processes at once take no more and no less, together, than one may."""
    rates = Rates(100, monotonic=Clock())
    rates.take("a", 10)
    children = [take_in_another_process(rates, 60) for _ in range(4)]
    taken = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sum(taken) == 99, taken
    assert rates.take("a", 10).remaining == 0


def test_a_process_stopped_in_between_keeps_nobody_waiting() -> None:
    """Who holds the lock for ever costs others milliseconds, and the count goes on."""
    rates = Rates(3, monotonic=Clock())
    ready, held = os.pipe()
    child = os.fork()
    if not child:
        rates._lock()
        os.write(held, b"x")
        signal.pause()
    try:
        os.read(ready, 1)
        began = time.monotonic()
        assert [rates.take("a", 1).remaining for _ in range(3)] == [2, 1, 0]
        assert time.monotonic() - began < 5
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(held)
    assert rates._lock()


def test_time_that_stands_still_gives_nothing() -> None:
    """Requests of the same instant are all counted."""
    rates = Rates(3, monotonic=Clock())
    assert [rates.take("a", 1).remaining for _ in range(4)] == [2, 1, 0, 0]


def test_bad_logins_of_an_address_are_slowed() -> None:
    """Ten at once, then one each ten seconds."""
    clock = Clock()
    slowdown = Slowdown(monotonic=clock)
    assert [slowdown.note("192.0.2.1") for _ in range(ADDRESS_BURST + 2)] == [0] * ADDRESS_BURST + [10, 10]
    clock.now += 10
    assert [slowdown.note("192.0.2.1") for _ in range(2)] == [0, 10]


@pytest.mark.parametrize(
    ("address", "other"),
    [("192.0.2.{}", "192.0.3.1"), ("2001:db8:0:1::{}", "2001:db8:0:2::1"), ("::ffff:192.0.2.{}", "192.0.3.1")],
)
def test_bad_logins_of_a_network_are_slowed(address: str, other: str) -> None:
    """A hundred over all addresses of a /24 or a /64; the next network is not meant."""
    slowdown = Slowdown(monotonic=Clock())
    told = [slowdown.note(address.format(number)) for number in range(1, NETWORK_BURST + 2)]
    assert told == [0] * NETWORK_BURST + [1]
    assert slowdown.note(other) == 0


def test_one_address_does_not_use_up_its_network() -> None:
    """Ten thousand bad logins of one leave its neighbours nine tenths."""
    slowdown = Slowdown(monotonic=Clock())
    for _ in range(10_000):
        slowdown.note("192.0.2.1")
    neighbours = [slowdown.note(f"192.0.2.{number}") for number in range(2, 92)]
    assert neighbours == [0] * 90


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_network_of(address: str, network: str) -> None:
    """What an address' neighbours are counted by."""
    assert network_of(address) == network

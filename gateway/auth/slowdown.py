"""Slowdown: bad logins of one address, and of one network, get fewer and fewer real answers."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from gateway.rates import Rates

ADDRESS_BURST, ADDRESS_RATE = 10, 0.1
NETWORK_BURST, NETWORK_RATE = 100, 1.0


class Slowdown:
    """Ten bad logins of one address are answered at once, then one each ten seconds; of its network (IPv4 /24, IPv6
    /64) a hundred, then one a second. The rest are told to wait, and leave no record of their own.

    Only bad logins are counted, and only they are slowed: a good token is taken whatever else its address, or its
    neighbours, have tried. So nobody locks out others, nor themselves. It need not slow the guessing itself: a token is
    an id with a signature of 256 bits. What it keeps small is the audit log, and the processor's share of strangers.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._addresses = Rates(ADDRESS_BURST, monotonic=monotonic)
        self._networks = Rates(NETWORK_BURST, monotonic=monotonic)

    def note(self, address: str) -> int:
        """Counts a bad login; how many seconds its sender has to wait, 0 if this one may have its answer."""
        wait = self._addresses.take(address, ADDRESS_RATE).retry_after
        # One address uses up no more of its network's than it has itself.
        return wait or self._networks.take(network_of(address), NETWORK_RATE).retry_after


def network_of(address: str, ipv4_bits: int = 24) -> str:
    """The /24, or as many bits, of an IPv4 address (also a mapped one), the /64 of an IPv6 one; else what it is."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ipaddress.ip_network((ip, ipv4_bits if ip.version == 4 else 64), strict=False))

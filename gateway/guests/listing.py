"""Lists of guests, cut to what a grant reaches, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.exec.permit import Ranges, within
from gateway.pve.models import Guest
from gateway.pve.resources import Pool

ALL: Ranges = ((100, 999_999_999),)


def page_of(guests: Iterable[Guest], reach: Ranges, after: int, limit: int) -> tuple[Sequence[Guest], int | None]:
    """Up to `limit` of the guests within `reach`, which come by vmid, behind `after`; and the `after` of the next page,
    None behind the last."""
    found: list[Guest] = []
    for guest in guests:
        if guest.vmid <= after or not within(guest.vmid, reach):
            continue
        if len(found) == limit:
            return found, found[-1].vmid
        found.append(guest)
    return found, None


def pools_within(
    pools: Iterable[Pool], members: Mapping[str, frozenset[int]], reach: Ranges
) -> list[tuple[Pool, list[int]]]:
    """The pools with those of their members that are within `reach`; without any only where `reach` is all guests."""
    found = []
    for pool in pools:
        inside = sorted(vmid for vmid in members.get(pool.name, ()) if within(vmid, reach))
        if inside or reach == ALL:
            found.append((pool, inside))
    return found

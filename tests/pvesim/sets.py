"""The guests that a node starts with, by the name of the set."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.pvesim import boot, debian, guests, pmxcfs


@dataclass(frozen=True)
class Planned:
    """One guest of a set."""

    vmid: int
    template: str = "busybox"
    unprivileged: bool = False
    start: bool = True


_DEMO = (Planned(101), Planned(102), Planned(103, start=False), Planned(104, unprivileged=True))
_DEBIAN = (Planned(201, "debian13", unprivileged=True), Planned(202, "debian13"))
SETS: dict[str, tuple[Planned, ...]] = {"none": (), "demo": _DEMO, "test": (*_DEMO, *_DEBIAN)}


def fetch_templates(name: str) -> None:
    """Bring what the guests of a set are made from into the cache; runs on the host, before the node."""
    if any(plan.template == "debian13" for plan in SETS[name]):
        debian.ensure_cached()


def create(name: str) -> int:
    """Make the guests of a set and the node's certificates, all at the same time; runs in the node."""
    plans = SETS[name]
    with ThreadPoolExecutor(max_workers=len(plans) + 1) as pool:
        certificates = pool.submit(pmxcfs.make_certificates, socket.gethostname(), boot.ADDRESS)
        made = [pool.submit(_create, plan) for plan in plans]
    certificates.result()
    for guest in made:
        guest.result()
    return 0


def _create(plan: Planned) -> guests.Guest:
    return guests.create(plan.vmid, plan.template, unprivileged=plan.unprivileged, start=plan.start)

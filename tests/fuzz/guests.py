"""Requests about guests, brought near to what there is: names of what exists, and bodies that work."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from schemathesis import Case

from tests.fuzz.known import Known
from tests.fuzz.stock import (
    DOWNLOADED,
    FREE,
    PEER,
    RUNNING,
    SNAPSHOT,
    SPARE,
    STOCK,
    STOPPED,
    TEMPLATE,
    VMIDS,
)
from tests.pvesim.api import archives

_MISSING = VMIDS[-1]
_FOR_GOOD = ("DELETE /guests/{vmid}", "POST /guests/{vmid}/template", "POST /guests/{vmid}/migrate")
"""Operations that mostly get guests that nothing else needs."""
_WAITS = (0, 0.2, 1)
"""Seconds; what is not done by then is a 202."""
_SNAPSHOTS = (SNAPSHOT, "again", "nosuch")
_STORAGES = ("local", "local-lvm", "shared", "nosuch")
_DOWNLOADS = (
    ("local", archives.BUSYBOX),
    ("local", DOWNLOADED),
    ("shared", DOWNLOADED),
    ("local-lvm", DOWNLOADED),
    ("nosuch", DOWNLOADED),
    ("local", "nosuch.tar.gz"),
)
_DISKS = ("rootfs", "mp0", "scsi0", "mp7")
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"nameserver": "192.0.2.1"},
    {"net0": "name=eth0,bridge=vmbr0,ip=192.0.2.7/24"},
    {"net0": "virtio,bridge=vmbr0"},
    {"dev0": "/dev/null"},
    {"dev0": "/dev/kmsg"},
    {"mp0": "/etc,mp=/host"},
    {"mp1": "local-lvm:1,mp=/more"},
    {"features": "nesting=1"},
    {"startup": "order=1"},
    {"cores": "many"},
    {"nosuch": 1},
)

Make = Callable[[random.Random, Known], dict[str, Any]]


def ground_guest(case: Case[Any], known: Known, chance: random.Random) -> None:
    """Puts what exists in the place of what was made up, and bounds every wait; some of what is wrong stays."""
    _ground_path(case, known, chance)
    _ground_query(case, known, chance)
    make = _BODIES.get(case.operation.label)
    if make is None or not isinstance(case.body, dict) or chance.random() < 0.2:
        return
    good = make(chance, known)
    if chance.random() < 0.5:
        case.body.clear()
    case.body.update(good)


def _ground_path(case: Case[Any], known: Known, chance: random.Random) -> None:
    path = case.path_parameters
    if "vmid" in path:
        for_good = case.operation.label in _FOR_GOOD and chance.random() < 0.8
        there = (*SPARE, *known.guests) if for_good else (*STOCK, *STOCK, *SPARE, *known.guests)
        path["vmid"] = str(chance.choice(there) if chance.random() < 0.95 else _MISSING)
    if "snapshot" in path:
        path["snapshot"] = chance.choice(_SNAPSHOTS)
    if "upid" in path and known.tasks:
        path["upid"] = chance.choice(known.tasks)


def _ground_query(case: Case[Any], known: Known, chance: random.Random) -> None:
    described = {one["name"] for one in case.operation.definition.raw.get("parameters", ()) if one.get("in") == "query"}
    query = case.query
    if not isinstance(query, dict) or not described:
        return
    values: dict[str, Callable[[], Any]] = {
        "wait": lambda: chance.choice(_WAITS),
        "timeout": lambda: chance.choice((1, 2)),
        "confirm": lambda: case.path_parameters.get("vmid"),
        "volume": lambda: _backup(chance, known),
        "storage": lambda: chance.choice(_STORAGES),
        "node": lambda: chance.choice(("pve1", "pve2", "nosuch")),
    }
    for name in sorted(described & values.keys()):
        if name in ("wait", "timeout") or name in query or chance.random() < 0.9:
            query[name] = values[name]()
    for name in ("storage", "node"):
        if chance.random() < 0.5:
            query.pop(name, None)


def _backup(chance: random.Random, known: Known) -> str:
    missing = f"local:backup/vzdump-lxc-{STOPPED}-2020_01_01-00_00_00.tar.zst"
    return chance.choice((*known.backups, missing))


def _new(chance: random.Random, known: Known) -> dict[str, Any]:
    """A container, or a machine; a debian one would take the disk, and the time."""
    told: dict[str, Any] = {"storage": chance.choice(_STORAGES), "timeout": 5, "start": chance.random() < 0.5}
    told |= {"vmid": chance.choice((*FREE, RUNNING, 101))} if chance.random() < 0.3 else {"vmid": None}
    if chance.random() < 0.3:
        return told | {"type": "qemu", "backup": None, **chance.choice(_MACHINES)}
    told["type"] = "lxc"
    if chance.random() < 0.25:
        return told | {"backup": _backup(chance, known), "template": None}
    return told | {"template": TEMPLATE, "backup": None, **chance.choice(_MORE)}


def _copy(chance: random.Random, known: Known) -> dict[str, Any]:
    told: dict[str, Any] = {"timeout": 5, "vmid": None, "start": chance.random() < 0.3, "full": None, "storage": None}
    if chance.random() < 0.3:
        told |= {"full": chance.random() < 0.5, "storage": chance.choice((None, *_STORAGES))}
    if chance.random() < 0.2:
        told["snapshot"] = chance.choice(_SNAPSHOTS)
    return told


_MORE: tuple[dict[str, Any], ...] = (
    {},
    {"networks": [{"ipv4": "192.0.2.9/24"}], "start": True, "wait_for_address": 2},
    {"networks": [{}], "start": True, "wait_for_address": 1},
    {"mounts": [{"path": "/srv", "size": "1G", "storage": "local-lvm"}]},
    {"mounts": [{"path": "/host", "source": "/etc"}]},
    {"features": ["nesting"], "tags": ["fuzz"], "notes": "ümlaut"},
    {"password": "canary5ecret", "name": "made"},
    {"pool": "nosuch"},
    {"privileged": True},
    {"disk": "9000T"},
    {"on_failure": "keep"},
)
_MACHINES: tuple[dict[str, Any], ...] = (
    {"disks": [{"size": "1G"}], "networks": [{"ipv4": "192.0.2.9/24"}]},
    {"disks": [{"image": "local:import/nosuch.qcow2"}], "user": "debian", "password": "canary5ecret"},
    {"cd": "local:iso/nosuch.iso", "firmware": "uefi"},
    {"disks": [{"size": "1G", "storage": "nosuch"}], "cloud_init": True, "wait_for_address": 1, "start": True},
)
_BODIES: dict[str, Make] = {
    "POST /guests": _new,
    "POST /guests/{vmid}/clone": _copy,
    "PATCH /guests/{vmid}": lambda chance, _: chance.choice(
        [{"options": chance.choice(_OPTIONS)}, {"notes": "canary"}, {"tags": ["a", "b"], "memory": 64}, {"name": "new"},
         {"protection": chance.random() < 0.5}, {"delete": ["nameserver", "dev0"]}, {"cores": 1, "swap": 0}]
    ),
    "POST /guests/{vmid}/resize": lambda chance, _: {
        "disk": chance.choice(_DISKS), "size": chance.choice(("+1G", "5G", "1M", "9000T")), "digest": None
    },
    "POST /guests/{vmid}/migrate": lambda chance, _: {
        "target": chance.choice((PEER, "pve1", "nosuch")), "restart": chance.random() < 0.5, "storage": None
    },
    "POST /guests/{vmid}/snapshots": lambda chance, _: {"name": chance.choice(_SNAPSHOTS[:2])},
    "POST /guests/{vmid}/backups": lambda chance, _: {"storage": chance.choice(_STORAGES)},
    "POST /templates": lambda chance, _: dict(zip(("storage", "template"), chance.choice(_DOWNLOADS), strict=True)),
}  # fmt: skip

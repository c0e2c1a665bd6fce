"""What PVE's failures mean: one table from its status and its words to the gateway's errors.

PVE answers nearly everything with a 500, so its words decide (PVE.md, API traps). They are those of pve-container 6.1,
qemu-server 9.1, pve-guest-common, pve-storage, pve-common and pve-cluster; the first line of MEANINGS that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway import errors_pve as pve
from gateway.errors import GatewayError, GuestNotFound, GuestNotRunning
from gateway.pve.failure import PveFailure, PveRefused, PveSilent, PveUnreachable

_MAX_WORDS = 500
_CONTROL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]+")
_MAX_FIELDS = 20

Evidence = Mapping[str, Any]
"""What a call was about, as it stands in the problem: vmid, node, storage, snapshot, upid, ..."""


@dataclass(frozen=True)
class Meaning:
    """One line of the table. `status`: None for any, and for what a task ended with. Named groups become evidence."""

    status: int | None
    words: re.Pattern[str]
    error: type[GatewayError]
    advice: str


def _says(words: str, error: type[GatewayError], advice: str, status: int | None = None) -> Meaning:
    return Meaning(status, re.compile(words, re.IGNORECASE), error, advice)


MEANINGS = (
    # -- who the gateway is to PVE
    _says("", pve.PveTokenRefused, "run `pve-exec-gateway setup` on the node: it makes a new token", 401),
    _says(
        r"root@pam|only root can|only possible for root",
        pve.PveRootOnly,
        "PVE allows it to no API token; it needs guest:root-config and the leave of node policy",
    ),
    _says(r"pool '(?P<pool>[^']+)' does not exist", pve.PoolNotFound, "see GET /pools"),
    _says(
        r"Permission check failed(?: \((?P<path>/[^,)]*), (?P<privilege>[A-Za-z.|]+)\))?",
        pve.PveDenied,
        "run `pve-exec-gateway setup` on the node: it gives the gateway's token what it needs",
    ),
    _says("", pve.PveDenied, "run `pve-exec-gateway setup` on the node: it gives the token what it needs", 403),
    # -- the cluster and its nodes
    _says(
        r"no quorum|cluster not ready|unable to open file '/etc/pve/[^']*\.tmp\.\d+' - Permission denied",
        pve.NoQuorum,
        "see `pvecm status` on the node",
    ),
    _says(
        r"ipcc_send_rec|unable to read file '/etc/pve|Transport endpoint is not connected|connection to pmxcfs"
        r"|Unable to load access control list",
        pve.PveUnavailable,
        "see `systemctl status pve-cluster` on the node",
    ),
    _says("", pve.NodeUnreachable, "is that node online? see GET /nodes", 595),
    _says(r"Can't connect to destination address", pve.NodeUnreachable, "is that node online? see GET /nodes"),
    _says(
        r"hostname lookup '[^']*' failed|no such cluster node '[^']*'|no such node|node '[^']*' does not exist",
        pve.NodeNotFound,
        "see GET /nodes",
    ),
    # -- locks and changes at once
    _says(
        r"CT is locked \((?P<lock>mounted)\)",
        pve.GuestLocked,
        "its files are being read or written while it is stopped, through the gateway or by `pct mount` on the node: "
        "try again when that has ended",
    ),
    _says(
        r"(?:CT|VM) is locked(?: \((?P<lock>[\w-]+)\))?|Cannot .*: (?:CT|VM) is locked",
        pve.GuestLocked,
        "wait until that operation has ended; see GET /tasks",
    ),
    _says(
        r"can't (?:lock file|acquire lock|aquire lock)|got lock (?:request )?timeout|unable to acquire lock"
        r"|trying to acquire .*lock|another lock|Failed to obtain guest migration lock",
        pve.GuestLocked,
        "another operation was at it for longer than PVE waits (10 s); try again",
    ),
    _says(
        r"detected modified configuration|checksum mis|digest mis",
        pve.GuestChanged,
        "read its configuration again, and send the change with the digest of now",
    ),
    # -- HA and protection
    _says(
        r"used in HA resources|HA resource|managed by HA|HA-managed",
        pve.GuestHaManaged,
        "remove its HA resource first (`ha-manager remove`), or destroy it with purge",
    ),
    _says(
        r"protection mode enabled|cannot remove protected|protected (?:volume|archive|backup)",
        pve.GuestProtected,
        "take PVE's protection off first",
    ),
    # -- what the guest is, or has, stands against it
    _says(
        r"because (?:CT|VM) contains snapshots|non-migratable snapshot exists",
        pve.PveRejected,
        "remove its snapshots first; see its list of snapshots",
    ),
    _says(r"VM is paused", pve.PveRejected, "resume it first"),
    _says(r"live migration is currently not implemented", pve.PveRejected, "move it with `restart`, or stop it first"),
    _says(r"HA managed VM", pve.PveRejected, "remove its HA resource first (`ha-manager remove`)"),
    # -- snapshots
    _says(r"snapshot '(?P<snapshot>[^']+)' does not exist", pve.SnapshotNotFound, "see its list of snapshots"),
    _says(r"snapshot name '(?P<snapshot>[^']+)' already used", pve.SnapshotExists, "take another name"),
    _says(r"Full clone of a running container", pve.GuestRunning, "stop it first, or clone one of its snapshots"),
    _says(
        r"can't migrate local (?:disk|volume) '(?P<volume>[^']+)'",
        pve.StorageUnsuitable,
        "a disk goes along with `local_disks`, a CD is taken out first, and what other guests share stays",
    ),
    _says(
        r"snapshot feature is not available|feature (?:for '[^']*' )?is not available|is not most recent snapshot"
        r"|can't (?:snapshot|resize|rollback snapshot) this image format|snapshots? .*not supported"
        r"|Linked clone feature is not supported for drive|clone to non-shared storage|(?:CT|VM) uses local storage"
        r"|cannot migrate local \w+ mount point|unable to clone mountpoint"
        r"|parameter 'storage' not allowed for linked clones",
        pve.StorageUnsuitable,
        "the storage cannot do that with this guest's volumes; a full clone, or another storage, may",
    ),
    # -- room
    _says(
        r"no space left|not enough (?:free )?space|insufficient free|out of space|Disk quota exceeded"
        r"|not enough free (?:space|extents)|storage '[^']*' is full|free space in volume group",
        pve.StorageFull,
        "make room, or take another storage; see GET /storages",
    ),
    # -- guests
    _says(r"(?:CT|VM) \d+ already exists|config file already exists", pve.GuestExists, "see GET /nextid"),
    _says(
        r"Configuration file '[^']*/(?:lxc|qemu-server)/\d+\.conf' does not exist|could not find CT \d+"
        r"|no such (?:VM|CT|guest)\b|(?:VM|CT) \d+ does not exist|unable to find configuration file for",
        GuestNotFound,
        "see GET /guests",
    ),
    _says(
        r"if it's a template|if vm is a template|a template to a template|to or from template|is a template",
        pve.GuestIsTemplate,
        "clone it, and work with the clone",
    ),
    _says(r"not running", GuestNotRunning, "start it first"),
    _says(
        r"already running|(?:CT|VM|vm|container)(?: \d+)? is (?:still )?running|overwrite running|if the (?:CT|VM) is"
        r" running|running (?:container|CT|VM)",
        pve.GuestRunning,
        "stop it first, where it has to be stopped",
    ),
    # -- storages and volumes
    _says(r"storage '(?P<storage>[^']+)' does not exist", pve.StorageNotFound, "see GET /storages"),
    _says(
        r"still in use|is in use by|used as base",
        pve.VolumeInUse,
        "linked clones of it, or whatever else uses it, go first",
    ),
    _says(
        r"storage '[^']*' (?:is (?:not available|disabled|not online)|does not (?:support|allow))|content type '[^']*' "
        r"is not|not activated|does not support (?:containers|content)|unable to activate storage|no storage ID",
        pve.StorageUnsuitable,
        "take another storage; see GET /storages",
    ),
    _says(
        r"(?:volume|disk) '[^']*' does not exist|unable to find (?:template|archive)|no such (?:volume|template|file)"
        r"|(?:archive|template|file) '[^']*' does not exist|can't find (?:file|archive|volume)"
        r"|unable to parse (?:\w+ )?volume (?:name|ID)",
        pve.VolumeNotFound,
        "see GET /templates, or the guest's backups",
    ),
    # -- tasks
    _says(
        r"no such task|unable to (?:parse|decode) (?:worker )?upid|task .*not found", pve.TaskNotFound, "see GET /tasks"
    ),
    # -- the call itself
    _says("", pve.PveRejected, "change what it names", 400),
    _says(
        r"unable to shrink|shrinking disks is not supported|disk is already at|Parameter verification failed"
        r"|(?:read-only|required) option|no such option|no options specified|incomplete snapshot|property: \w",
        pve.PveRejected,
        "change what it names",
    ),
    _says("", pve.PveUnsupported, "this gateway needs PVE 9", 501),
)
"""From the surest to the least sure; an empty text fits any words, so that its status decides alone."""


def explain(failure: PveFailure, evidence: Evidence, *, change: bool) -> GatewayError:
    """The error that a failed call is. `change`: it was to change something, so that silence leaves that open."""
    if isinstance(failure, PveRefused):
        found = translate(failure.status, failure.message, evidence)
        if failure.errors:
            found.evidence.setdefault("errors", _fields(failure.errors))
        return found
    words = clean(str(failure))
    if isinstance(failure, PveUnreachable):
        return pve.PveUnavailable(f"{words}; nothing was done", **evidence)
    assert isinstance(failure, PveSilent)
    if change:
        return pve.OutcomeUnknown(
            f"{words}: whether PVE did it, or does it yet, is unknown; look at the guest before asking again",
            **evidence,
        )
    if failure.nonsense:
        return pve.PveNonsense(f"{words}; try again, and see `systemctl status pveproxy`", **evidence)
    return pve.PveTimeout(f"{words}; try again, and see `systemctl status pveproxy`", **evidence)


def translate(
    status: int | None, words: str, evidence: Evidence, fallback: type[GatewayError] = pve.PveFailed
) -> GatewayError:
    """The error that PVE's words are; `status` None for those of a task. What nothing fits is `fallback`."""
    said = clean(words)
    for meaning in MEANINGS:
        if meaning.status not in (None, status):
            continue
        found = meaning.words.search(said)
        if found is None:
            continue
        named = {name: value for name, value in found.groupdict().items() if value}
        return meaning.error(_detail(said, meaning.advice), **{**evidence, **named})
    return fallback(_detail(said, "see the task's log, or the journal of pvedaemon on the node"), **evidence)


def clean(words: str) -> str:
    """PVE's words on one line of at most 500 characters, fit to be shown: no control characters."""
    text = _CONTROL.sub(" ", words).strip()
    return text if len(text) <= _MAX_WORDS else text[: _MAX_WORDS - 1] + "…"


def _detail(said: str, advice: str) -> str:
    return f"PVE says: {said or 'nothing'}; {advice}"


def _fields(errors: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"path": clean(str(name)), "code": "pve_rejected", "message": clean(str(why))}
        for name, why in list(errors.items())[:_MAX_FIELDS]
    ]

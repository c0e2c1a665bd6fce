"""Every failure of Proxmox VE as the gateway reports it: its 500s told apart, by the table of pve.problems.

`detail` holds PVE's own words and what to do next.
"""

from __future__ import annotations

from gateway.errors import GatewayError

# ---- there is no such thing


class SnapshotNotFound(GatewayError):
    """The guest has no snapshot of that name."""

    code, status, title = "snapshot_not_found", 404, "No such snapshot"

    @classmethod
    def for_name(cls, name: str) -> SnapshotNotFound:
        """For a name that no snapshot can have."""
        return cls("no such snapshot; see GET /guests/{vmid}/snapshots", snapshot=name)


class StorageNotFound(GatewayError):
    """No storage of that name is configured."""

    code, status, title = "storage_not_found", 404, "No such storage"


class VolumeNotFound(GatewayError):
    """No such volume: a template, a backup or a disk that is not there (any more)."""

    code, status, title = "volume_not_found", 404, "No such volume"


class PoolNotFound(GatewayError):
    """No such resource pool."""

    code, status, title = "pool_not_found", 404, "No such pool"


class NodeNotFound(GatewayError):
    """The cluster has no node of that name."""

    code, status, title = "node_not_found", 404, "No such node"


class TaskNotFound(GatewayError):
    """No such task, or one whose log PVE has removed."""

    code, status, title = "task_not_found", 404, "No such task"

    @classmethod
    def for_upid(cls, upid: str) -> TaskNotFound:
        """The one body for a task that does not exist, is out of reach, or has an impossible name."""
        return cls("no such task about a guest within this token's grants; see GET /tasks", upid=upid)


# ---- it cannot be done as things stand


class GuestExists(GatewayError):
    """The vmid is taken, on this node or another."""

    code, status, title = "guest_exists", 409, "The vmid is taken"


class NoFreeVmid(GatewayError):
    """Every vmid that the token's grants reach is taken."""

    code, status, title = "no_free_vmid", 409, "No free vmid"


class GuestRunning(GatewayError):
    """The guest runs, and what was asked needs it stopped, or is to start it."""

    code, status, title = "guest_running", 409, "Guest is running"


class GuestProtected(GatewayError):
    """PVE's `protection` option of the guest, or of the backup, forbids it."""

    code, status, title = "guest_protected", 409, "Protected in PVE"


class GuestIsTemplate(GatewayError):
    """The guest is a template, which is only cloned and destroyed."""

    code, status, title = "guest_is_template", 409, "Guest is a template"


class GuestHaManaged(GatewayError):
    """The HA manager owns the guest's state; `purge`, or a change of its HA resource, comes first."""

    code, status, title = "guest_ha_managed", 409, "Guest is managed by HA"


class GuestChanged(GatewayError):
    """Its configuration has been changed since the digest was read."""

    code, status, title = "guest_changed", 409, "Guest was changed meanwhile"


class SnapshotExists(GatewayError):
    """The guest has a snapshot of that name already."""

    code, status, title = "snapshot_exists", 409, "The snapshot's name is taken"


class StorageUnsuitable(GatewayError):
    """The storage is disabled, offline, not on the node, or cannot hold or do what was asked."""

    code, status, title = "storage_unsuitable", 409, "Storage not suitable"


class VolumeInUse(GatewayError):
    """Something depends on the volume: linked clones on their base, for example."""

    code, status, title = "volume_in_use", 409, "Volume is in use"


class TaskEnded(GatewayError):
    """The task has ended, so that there is nothing to stop; `exitstatus` says how."""

    code, status, title = "task_ended", 409, "The task has ended"


class PveRejected(GatewayError):
    """PVE does not take these values; `errors` names PVE's own parameters where it does."""

    code, status, title = "pve_rejected", 409, "Rejected by PVE"


class PveRootOnly(GatewayError):
    """PVE lets root@pam alone do this, and no API token: `guest:root-config` and node policy can allow it."""

    code, status, title = "pve_root_only", 409, "For root@pam only"


class GuestLocked(GatewayError):
    """Another operation (`lock` names it where PVE does) has the guest, or something that all operations share."""

    code, status, title, retryable = "guest_locked", 423, "Guest is locked", True


class TooManyChanges(GatewayError):
    """As many guests are being made, or copied from one source, as may be at once. Nothing was done."""

    code, status, title, retryable = "too_many_changes", 429, "Too many guests being made", True


class StorageFull(GatewayError):
    """The storage has no room for it."""

    code, status, title = "storage_full", 507, "Storage is full"


class AlreadyGiven(GatewayError):
    """The guest has something at that place already, given otherwise; `key` is the option. Take that back first."""

    code, status, title = "already_given", 409, "The guest has something there"


class GroupUnknown(GatewayError):
    """The number that a group has in the guest is not known, so nobody can be made its owner there: give `gid`."""

    code, status, title = "group_unknown", 409, "Group's number in the guest is not known"


# ---- PVE cannot, or nobody knows


class PveFailed(GatewayError):
    """PVE failed for a reason that the gateway does not know; its words are in `detail`."""

    code, status, title = "pve_failed", 502, "PVE failed"


class PveNonsense(GatewayError):
    """PVE's answer to a question is none that PVE gives."""

    code, status, title, retryable = "pve_nonsense", 502, "PVE's answer makes no sense", True


class PveUnsupported(GatewayError):
    """This version of PVE does not have the call."""

    code, status, title = "pve_unsupported", 502, "Not supported by this version of PVE"


class PveDenied(GatewayError):
    """The gateway's own API token may not do it: `privilege` is missing on `path`, if PVE says which."""

    code, status, title = "pve_denied", 502, "The gateway's PVE token may not"


class PveTokenRefused(GatewayError):
    """PVE does not know the gateway's own API token: revoked, expired, or replaced."""

    code, status, title = "pve_token_refused", 502, "The gateway's PVE token is not valid"


class TaskFailed(GatewayError):
    """The task ended with an error that the gateway does not know; `exitstatus` and the end of its `log` tell more."""

    code, status, title = "task_failed", 502, "The PVE task failed"


class NotInGuest(GatewayError):
    """PVE has made the change, and the guest does not show it, or otherwise; `undone`: whether it was taken back."""

    code, status, title = "not_in_guest", 502, "Not there in the guest"


class PveUnavailable(GatewayError):
    """The node's PVE API cannot be asked: no token, no connection, or no pmxcfs. Nothing was done."""

    code, status, title, retryable = "pve_unavailable", 503, "PVE API unavailable", True


class NodeUnreachable(GatewayError):
    """PVE on this node cannot reach the guest's node. Nothing was done."""

    code, status, title, retryable = "node_unreachable", 503, "Node unreachable", True


class NoQuorum(GatewayError):
    """The cluster has no quorum on this node, so that PVE changes nothing."""

    code, status, title, retryable = "no_quorum", 503, "No quorum", True


class PveTimeout(GatewayError):
    """PVE did not answer a question in time. Nothing was changed by it."""

    code, status, title, retryable = "pve_timeout", 504, "PVE does not answer", True


class OutcomeUnknown(GatewayError):
    """PVE may have made the change, or may make it yet; `upid` names its task, if one can be found. Look before you
    ask again."""

    code, status, title = "outcome_unknown", 504, "Outcome unknown"


class TaskUnfinished(GatewayError):
    """The task did not end in the time that there was for it; whether it was stopped then, `detail` says."""

    code, status, title = "task_unfinished", 504, "The PVE task took too long"


class GuestWithoutAddress(GatewayError):
    """The guest runs, and had no address in the time that there was for it."""

    code, status, title = "guest_without_address", 504, "Guest has no address"

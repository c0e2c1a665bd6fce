"""Queries, requests and replies of the guest resource."""

from __future__ import annotations

from typing import Annotated, TypedDict

from pydantic import Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from gateway.api.models.execs import PAGE_MAX, Query
from gateway.api.models.tasks import NodeParameter, Vmid
from gateway.api.models.work import TaskWait, WorkQuery
from gateway.exec.order import GuestKind
from gateway.exec.spec import Strict
from gateway.guests.fields import Feature
from gateway.pve.ids import POOL, STORAGE, TAG

MAX_TAGS = 64
MAX_OPTIONS = 300

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOSTNAME = rf"^{_LABEL}(\.{_LABEL})*$"
SIZE = r"^\+?[1-9][0-9]{0,15}(\.[0-9]{1,3})?[KMGT]?$"
DISK = r"^(rootfs|(mp|scsi|virtio|sata|ide)[0-9]{1,3}|efidisk0|tpmstate0)$"
DIGEST = r"^[0-9a-f]{40}$"
OPTION = r"^[a-z][a-z0-9_-]{0,63}$"

TagText = Annotated[str, StringConstraints(pattern=f"^{TAG.pattern}$")]
StorageName = Annotated[str, StringConstraints(pattern=f"^{STORAGE.pattern}$")]
OptionName = Annotated[str, StringConstraints(pattern=OPTION)]
OptionValue = TypeAliasType("OptionValue", Annotated[str, StringConstraints(max_length=8192)] | int | bool)
Tags = Annotated[list[TagText], Field(max_length=MAX_TAGS)]
HostName = Annotated[str, StringConstraints(pattern=HOSTNAME, max_length=253)]
Digest = Annotated[str, StringConstraints(pattern=DIGEST)]

NOT_HERE = frozenset((
    "delete", "digest", "force", "lock", "node", "parent", "revert", "skiplock", "snaptime", "template",
    "unprivileged", "vmid",
))  # fmt: skip
"""Parameters of PVE's that are no options of a guest, or change what no change of its configuration may."""


class GuestsQuery(Query):
    """Filters and paging of the list of guests: every one that is given must fit."""

    node: NodeParameter | None = Field(default=None, description="Only guests on this node.")
    pool: Annotated[str, Field(pattern=f"^{POOL.pattern}$", max_length=256)] | None = Field(
        default=None, description="Only guests of this pool."
    )
    tag: Annotated[str, Field(pattern=f"^{TAG.pattern}$")] | None = Field(
        default=None, description="Only guests that carry this tag."
    )
    status: Annotated[str, Field(pattern=r"^[a-z]{1,16}$")] | None = Field(
        default=None, description="Only guests in this state: `running`, `stopped`, `unknown`, ..."
    )
    type: GuestKind | None = Field(default=None, description="Only containers, or only machines.")
    limit: int = Field(default=1000, ge=1, le=PAGE_MAX, description="How many at most.")
    after: Vmid | None = Field(default=None, description="`next` of the page before.")


class AddressesQuery(Query):
    """How long the answer may wait."""

    wait: TaskWait = Field(
        default=0.0, description="Seconds to wait for an address that is not link-local, also of a guest that starts."
    )


class DeleteQuery(WorkQuery):
    """What is destroyed, and how thoroughly."""

    confirm: Vmid | None = Field(default=None, description="The guest's vmid once more; without it 400.")
    purge: bool = Field(
        default=False,
        description="Backup jobs, replication and HA forget it, too, and disks that nothing refers to go.",
    )
    force: bool = Field(default=False, description="Containers only: destroy it though it runs.")


class GuestPatch(Strict):
    """What is to be changed of a guest's configuration; what is not given stays.

    `options` are PVE's own, by PVE's names, for all that has no member here.
    """

    name: HostName | None = Field(default=None, description="Its host name.")
    notes: Annotated[str, StringConstraints(max_length=8192)] | None = Field(
        default=None, description="Its description; null or empty takes it away."
    )
    tags: Tags | None = Field(default=None, description="These tags alone; null or none takes all away.")
    cores: int | None = Field(default=None, ge=1, le=8192, description="Processors.")
    memory: int | None = Field(default=None, ge=16, le=1 << 24, description="MiB.")
    swap: int | None = Field(default=None, ge=0, le=1 << 24, description="MiB; containers only.")
    onboot: bool | None = Field(default=None, description="Whether it starts with its node.")
    protection: bool | None = Field(default=None, description="Whether PVE keeps it and its disks from being removed.")
    features: list[Feature] | None = Field(
        default=None,
        max_length=16,
        description="Containers only: these features alone, from the next start on; null or none takes all away. All "
        "but `nesting` of an unprivileged one need guest:root-config.",
    )
    options: dict[OptionName, OptionValue] = Field(
        default={}, max_length=MAX_OPTIONS, description="PVE's options: `net0`, `mp0`, `dev0`, `nameserver`, ..."
    )
    delete: list[OptionName] = Field(default=[], max_length=MAX_OPTIONS, description="Options to take back.")
    restart: bool = Field(
        default=False,
        description="Restart it, if it runs and any of that waits for it; asks for guest:power, too. What keeps it "
        "from coming up is put back.",
    )
    digest: Digest | None = Field(
        default=None, description="That of the configuration that is meant, in place of If-Match; else 409."
    )

    @field_validator("options", "delete")
    @classmethod
    def _are_options(cls, value: dict[str, object] | list[str]) -> object:
        for name in value:
            if name in NOT_HERE:
                raise PydanticCustomError("not_an_option", "{name} is not changed in this way", {"name": name})
        return value


class ResizeDisk(Strict):
    """A disk that is to be larger; none can be made smaller."""

    disk: Annotated[str, StringConstraints(pattern=DISK)] = Field(description="`rootfs`, `mp0`, `scsi0`, ...")
    size: Annotated[str, StringConstraints(pattern=SIZE)] = Field(
        description="`32G`: to so much; `+8G`: by so much. Units: K, M, G, T."
    )
    digest: Digest | None = Field(default=None, description="That of the configuration that is meant; else 409.")


class MigrateRequest(Strict):
    """Where a guest is to go."""

    target: NodeParameter = Field(description="The node.")
    online: bool = Field(default=False, description="A machine that runs goes on running.")
    restart: bool = Field(default=False, description="A container that runs is shut down, and started there.")
    storage: StorageName | None = Field(default=None, description="The storage there; without it, of the same name.")
    local_disks: bool = Field(default=False, description="Machines: disks on local storages are copied, too.")


class GuestSummary(TypedDict):
    """A guest as the cluster's list shows it: its state may be some seconds old. Sizes are bytes, times seconds.
    `paused`: a container of this node that stands still; null for machines and other nodes' guests."""

    vmid: int
    type: GuestKind
    node: str
    name: str | None
    status: str
    paused: bool | None
    template: bool
    tags: list[str]
    pool: str | None
    lock: str | None
    ha_state: str | None
    cpus: float | None
    cpu_used: float | None
    memory: int | None
    memory_used: int | None
    disk: int | None
    uptime: int | None


class GuestList(TypedDict):
    """One page of guests by vmid; `next` asks for the page after it and is null on the last."""

    guests: list[GuestSummary]
    next: int | None


class GuestView(TypedDict):
    """A guest as it is now. `config` are PVE's options; `pending` those that its next start brings, null for one that
    will be gone. `digest` names this configuration, for If-Match. `paused`: a machine whose processors are halted, or a
    container whose processes are frozen, by a snapshot or backup that is being made, too (`lock`); null for a container
    of another node. PVE calls both `running`."""

    vmid: int
    type: GuestKind
    node: str
    name: str | None
    status: str
    paused: bool | None
    lock: str | None
    ha_managed: bool
    template: bool
    tags: list[str]
    notes: str
    pool: str | None
    cpus: float | None
    memory: int | None
    disk: int | None
    uptime: int | None
    config: dict[str, str]
    pending: dict[str, str | None]
    digest: str


class ConfigView(TypedDict):
    """The configuration after a change: null where PVE could not be asked for it any more. `pending`: what of it waits
    for the guest's next start, if there is any (`restart_needed`)."""

    vmid: int
    node: str
    config: dict[str, str] | None
    pending: dict[str, str | None] | None
    restart_needed: bool | None
    digest: str | None
    audit_id: str


class AddressView(TypedDict):
    """One address of an interface; `family` is `inet` or `inet6`, `prefix` its length."""

    interface: str
    mac: str | None
    address: str
    prefix: int | None
    family: str


class Addresses(TypedDict):
    """A guest's addresses but loopback's. `ready`: one of them is not link-local."""

    vmid: int
    ready: bool
    addresses: list[AddressView]

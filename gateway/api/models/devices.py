"""Queries and replies about the node's devices, and those of guests."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field, StringConstraints, model_validator

from gateway.api.models.execs import PAGE_MAX, Query
from gateway.api.models.tasks import Vmid
from gateway.devices.kinds import Kind
from gateway.devices.passing import DEVICE_KEY
from gateway.devices.presets import PATTERN
from gateway.exec.spec import Strict
from gateway.guests.container import MountSpec
from gateway.guests.fields import mistake

Id = Annotated[int, Field(ge=0, le=0xFFFF_FFFE)]
DevicePath = Annotated[str, StringConstraints(max_length=255)]


class DevicesQuery(Query):
    """Filters and paging of the list of devices."""

    kind: Kind | None = Field(
        default=None, description="Only what is for this. Default: all but `other`, which nobody gives to guests."
    )
    limit: int = Field(default=1000, ge=1, le=PAGE_MAX, description="How many at most.")
    after: DevicePath | None = Field(default=None, description="`next` of the page before.")


class LookupQuery(Query):
    """What is looked up."""

    path: DevicePath = Field(description="A device, or a link to one that stays in /dev: `/dev/dri/renderD128`.")
    vmid: Vmid | None = Field(
        default=None, description="A container of this node: how it would be given the device, by its own numbers."
    )


class DeviceView(TypedDict):
    """A device of the node. `path` is its own, `names` are udev's, which last over reboots. `mode` is octal; `user` and
    `group` name its owner on the node, null for numbers without a name there. `vendor` and `product` are the ids of
    `bus`, null without hardware behind it."""

    path: str
    kind: Kind
    type: Literal["char", "block"]
    major: int
    minor: int
    mode: str
    uid: int
    gid: int
    user: str | None
    group: str | None
    names: list[str]
    bus: str | None
    vendor: str | None
    product: str | None
    model: str | None


class DeviceList(TypedDict):
    """One page of devices; `next` asks for the page after it and is null on the last."""

    devices: list[DeviceView]
    next: str | None


class GuestDevice(TypedDict):
    """How a container would be given the device.

    `group` is the one that owns the device on the node, `gid` that group's number in the guest: mostly another one.
    Where `gid` is null `unknown` tells why (`guest_not_running`, `guest_frozen`, `guest_silent`, `no_such_group`,
    `group_file_unreadable`, `no_group_name`), and `line` leaves it out. `key` is free. `line` is for the container's
    configuration, as `allow` is for who writes raw ones; `given_as` are the options that give it this device already.
    """

    vmid: int
    group: str | None
    gid: int | None
    unknown: str | None
    key: str
    line: str
    allow: str
    given_as: list[str]


class DeviceLookup(TypedDict):
    """A device, and how the guest that was named would be given it."""

    device: DeviceView
    guest: GuestDevice | None


class DeviceRequest(Strict):
    """What a container is given: one device by its path, or those of a preset."""

    path: DevicePath | None = Field(default=None, description="A device, or a link to one that stays in /dev.")
    preset: Annotated[str, StringConstraints(pattern=PATTERN)] | None = Field(
        default=None,
        description="In place of a path: `gpu` (all cards and render nodes, with KFD's and NVIDIA's), `tun`, `fuse`, "
        "`usb:VENDOR:PRODUCT`.",
    )
    mode: Annotated[str, StringConstraints(pattern=r"^0?[0-7]{3}$")] | None = Field(
        default=None, description="Octal, in the guest. Default: as on the node; 0666 for `tun` and `fuse`."
    )
    uid: Id = Field(default=0, description="Of its owner, by the guest's numbers.")
    gid: Id | None = Field(
        default=None,
        description="Of its group, by the guest's numbers. Default: what the group that has it on the node is there, "
        "which a running guest alone tells.",
    )
    read_only: bool = Field(default=False, description="Writing is denied.")
    restart: bool = Field(
        default=False, description="Restart the guest if it runs and needs that; asks for guest:power, too."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> DeviceRequest:
        if (self.path is None) is (self.preset is None):
            raise mistake("path_or_preset", "give either a `path` or a `preset`")
        return self


class TakeBackQuery(Query):
    """Which devices a container is to have no more."""

    key: Annotated[str, StringConstraints(pattern=DEVICE_KEY.pattern)] | None = Field(
        default=None, description="`dev0`: one of them."
    )
    path: DevicePath | None = Field(default=None, description="In place of a key: that device.")
    restart: bool = Field(
        default=False, description="Restart the guest if it runs: until then it has them. Asks for guest:power, too."
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> TakeBackQuery:
        if (self.key is None) is (self.path is None):
            raise mistake("key_or_path", "give either a `key` or a `path`")
        return self


class PassedDevice(TypedDict):
    """A device that a container has been given: option `key`, with the guest's numbers of its owner.

    `state`: `given`, `at_next_start`, or `until_next_start`. `type`, `major`, `minor` are the node's now, null if it
    has none there. `in_guest`: whether the guest shows this device with these numbers; null, and `unknown` says why,
    where that is not known. `differs` says what is wrong there.
    """

    key: str
    path: str
    mode: str
    uid: int
    gid: int
    read_only: bool
    state: Literal["given", "at_next_start", "until_next_start"]
    type: Literal["char", "block"] | None
    major: int | None
    minor: int | None
    in_guest: bool | None
    differs: str | None
    unknown: str | None


class PassedDevices(TypedDict):
    """A container's devices, by number."""

    vmid: int
    node: str
    running: bool
    devices: list[PassedDevice]


class GivenView(TypedDict):
    """What became of options `keys` that give a container something. `seen`: the guest shows it as it was meant; null
    where that is not known (`unknown` says why). `restart_needed`: it counts from the guest's next start. `upid`: the
    restart that was made for it. `audit_id` is null where nothing had to be changed."""

    vmid: int
    node: str
    keys: list[str]
    running: bool
    restart_needed: bool
    seen: bool | None
    unknown: str | None
    upid: str | None
    audit_id: str | None


class MountRequest(MountSpec):
    """A mount point that a container is given: a new volume, or a directory of the node."""

    restart: bool = Field(
        default=False, description="Restart the guest if it runs and needs that; asks for guest:power, too."
    )

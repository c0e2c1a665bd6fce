"""Queries and replies about the node's devices, and those of guests."""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field, StringConstraints

from gateway.api.models.execs import PAGE_MAX, Query
from gateway.api.models.tasks import Vmid
from gateway.devices.kinds import Kind

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

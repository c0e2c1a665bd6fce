"""DEVICE_ROUTES: the part of ROUTES that is about the node's devices, and those of guests."""

from __future__ import annotations

from gateway.api.guest_routes import TO_ASK, TO_CHANGE
from gateway.api.handlers import devices, guests, mounts, passing
from gateway.api.models.devices import (
    DeviceList,
    DeviceLookup,
    DeviceRequest,
    DevicesQuery,
    GivenView,
    LookupQuery,
    MountRequest,
    PassedDevices,
    TakeBackQuery,
)
from gateway.api.route import Route
from gateway.audit.record import Event
from gateway.auth.actions import Action
from gateway.errors import (
    DeviceNotFound,
    Forbidden,
    GatewayError,
    GuestNotFound,
    GuestUnsupported,
    NodeNotReady,
    NotADevice,
    SupervisorUnavailable,
)
from gateway.errors_pve import (
    AlreadyGiven,
    GroupUnknown,
    GuestChanged,
    NotInGuest,
    StorageFull,
    StorageNotFound,
    StorageUnsuitable,
    TaskUnfinished,
)

_TO_GIVE: tuple[type[GatewayError], ...] = (
    GuestUnsupported,
    GuestChanged,
    SupervisorUnavailable,
    *TO_CHANGE,
)
"""Why what root@pam alone may do may not be done."""

DEVICE_ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/devices",
        operation_id="listDevices",
        summary="The node's devices, by path",
        action=Action.DEVICE_READ,
        query=DevicesQuery,
        reply=DeviceList,
        handler=devices.list_devices,
    ),
    Route(
        method="GET",
        path="/devices/lookup",
        operation_id="lookUpDevice",
        summary="One device with its numbers; with a vmid, the line that gives it to that container",
        action=Action.DEVICE_READ,
        query=LookupQuery,
        reply=DeviceLookup,
        errors=(DeviceNotFound, NotADevice, GuestNotFound, GuestUnsupported, NodeNotReady, SupervisorUnavailable),
        handler=devices.look_up_device,
    ),
    Route(
        method="GET",
        path="/guests/{vmid}/devices",
        operation_id="listGuestDevices",
        summary="A container's devices, and whether it shows them with the right numbers",
        action=Action.GUEST_READ,
        reply=PassedDevices,
        errors=(GuestUnsupported, SupervisorUnavailable, *TO_ASK),
        handler=passing.list_passed,
    ),
    Route(
        method="POST",
        path="/guests/{vmid}/devices",
        operation_id="giveDevices",
        summary="Give a container a device, or those of a preset, and look whether it has them",
        action=Action.GUEST_ROOT_CONFIG,
        event=Event.GUEST_ROOT_CONFIG,
        body=DeviceRequest,
        reply=GivenView,
        errors=(
            Forbidden, DeviceNotFound, NotADevice, AlreadyGiven, GroupUnknown, NotInGuest, TaskUnfinished, *_TO_GIVE,
        ),
        change=passing.describe_devices,
        handler=passing.give_devices,
    ),
    Route(
        method="DELETE",
        path="/guests/{vmid}/devices",
        operation_id="takeDevicesBack",
        summary="Take a device back from a container: one that runs has it until its next start",
        action=Action.GUEST_ROOT_CONFIG,
        event=Event.GUEST_ROOT_CONFIG,
        query=TakeBackQuery,
        reply=GivenView,
        errors=(Forbidden, DeviceNotFound, TaskUnfinished, *_TO_GIVE),
        change=guests.gives_nothing,
        handler=passing.take_devices_back,
    ),
    Route(
        method="POST",
        path="/guests/{vmid}/mounts",
        operation_id="giveMount",
        summary="Give a container a mount point: a new volume, or a directory of the node (guest:root-config)",
        action=Action.GUEST_CONFIG,
        event=Event.GUEST_CONFIG,
        body=MountRequest,
        reply=GivenView,
        errors=(
            Forbidden, AlreadyGiven, NotInGuest, TaskUnfinished, StorageNotFound, StorageUnsuitable, StorageFull,
            *_TO_GIVE,
        ),
        change=mounts.describe_mount,
        handler=mounts.give_mount,
    ),
)  # fmt: skip

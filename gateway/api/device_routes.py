"""DEVICE_ROUTES: the part of ROUTES that is about the node's devices, and those of guests."""

from __future__ import annotations

from gateway.api.handlers import devices
from gateway.api.models.devices import DeviceList, DeviceLookup, DevicesQuery, LookupQuery
from gateway.api.route import Route
from gateway.auth.actions import Action
from gateway.errors import (
    DeviceNotFound,
    GuestNotFound,
    GuestUnsupported,
    NodeNotReady,
    NotADevice,
    SupervisorUnavailable,
)

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
)

"""The body of POST /guests: a container or a virtual machine, told apart by `type`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, RootModel, Tag

from gateway.guests.container import ContainerRequest
from gateway.guests.machine import MachineRequest


def _read_type(value: Any) -> Any:
    """The word by which it is told apart; a container where none is given."""
    return value.get("type", "lxc") if isinstance(value, dict) else getattr(value, "type", "lxc")


class GuestRequest(RootModel[ContainerRequest | MachineRequest]):
    """A new guest: a container of a template, a virtual machine of disks and images, or either of a backup."""

    model_config = ConfigDict(hide_input_in_errors=True)

    # Not in the brackets above: pydantic 2.10 hashes what stands there.
    root: Annotated[
        Annotated[ContainerRequest, Tag("lxc")] | Annotated[MachineRequest, Tag("qemu")],
        Discriminator(
            _read_type,
            custom_error_type="bad_type",
            custom_error_message="`lxc` for a container, `qemu` for a virtual machine",
            custom_error_context={"field": "type"},
        ),
    ]

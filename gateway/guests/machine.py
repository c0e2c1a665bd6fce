"""A new virtual machine as it is asked for, and what PVE is told of it (PVE::API2::Qemu, create_vm)."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import Field, StringConstraints, model_validator

from gateway.exec.spec import Strict
from gateway.guests.fields import CdName, ImageName, Size, StorageName, gibibytes, mistake
from gateway.guests.network import CardSpec
from gateway.guests.wish import MAX_NETWORKS, FreshWish, Options

_MAX_DISKS = 14
_CLOUD_INIT = frozenset(("user", "ssh_public_keys", "password", "nameservers", "search_domain"))
_CD, _CLOUD_INIT_DRIVE = "ide2", "ide3"


class DiskSpec(Strict):
    """A disk: empty, or a copy of an image."""

    size: Size | None = Field(default=None, description="Of an empty disk, or what an image is made larger to.")
    image: ImageName | None = Field(
        default=None, description="What it is a copy of, `STORAGE:import/NAME`, as far as `policy.images` lets."
    )
    storage: StorageName | None = Field(default=None, description="Default: that of the request.")

    @model_validator(mode="after")
    def _has_a_size(self) -> DiskSpec:
        if self.size is None and self.image is None:
            raise mistake("size_or_image", "give `size` for an empty disk, or the `image` that it is a copy of")
        return self

    def value(self, storage: str) -> str:
        """As PVE's `scsi[n]`."""
        place = self.storage or storage
        if self.image is not None:
            return f"{place}:0,import-from={self.image}"
        return f"{place}:{gibibytes(self.size or '')}"


class MachineRequest(FreshWish):
    """A new virtual machine: of empty disks and a CD to install from, of a cloud image, or of a backup."""

    type: Literal["qemu"]
    disks: list[DiskSpec] = Field(default=[], max_length=_MAX_DISKS, description="`scsi0`, `scsi1`, ...")
    cd: CdName | None = Field(
        default=None, description="What is in its drive, `STORAGE:iso/NAME`, as far as `policy.images` lets."
    )
    networks: list[CardSpec] | None = Field(
        default=None, max_length=MAX_NETWORKS, description="All of its network cards. Default: none, or the backup's."
    )
    cpu: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = Field(
        default=None, description="Its processors' model, as PVE names it: `host`, `x86-64-v2-AES`, ..."
    )
    firmware: Literal["bios", "uefi"] | None = Field(default=None, description="Default: bios, or the backup's.")
    agent: bool | None = Field(
        default=None, description="Whether it has a QEMU guest agent. Default: yes, or as the backup's had."
    )
    serial_console: bool = Field(default=False, description="Its console is a serial port, as cloud images want it.")
    cloud_init: bool | None = Field(
        default=None,
        description="Whether a drive tells it its user, keys, password, name servers and addresses by cloud-init. "
        "Default: where any of these is given.",
    )
    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] | None = Field(
        default=None, description="Whom cloud-init makes. Default: the image's own."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MachineRequest:
        told = sorted(name for name in _CLOUD_INIT if getattr(self, name))
        told += ["networks"] if any(card.addresses() for card in self.networks or ()) else []
        if told and self.cloud_init is False:
            raise mistake("needs_cloud_init", "only cloud-init tells a machine that", told[0])
        if self.wait_for_address is not None and self.agent is False:
            raise mistake("needs_agent", "only a guest agent tells a machine's addresses", "agent")
        return self

    @property
    def of_its_own(self) -> frozenset[str]:
        return super().of_its_own | {"disks", "cd", "firmware", "serial_console", "cloud_init", "user"}

    def options(self) -> Options:
        options = super().options()
        if self.name is not None:
            options["name"] = self.name
        if self.cpu is not None:
            options["cpu"] = self.cpu
        if self.agent is not None or self.backup is None:
            options["agent"] = "0" if self.agent is False else "1"
        for number, card in enumerate(self.networks or ()):
            options[f"net{number}"] = card.value()
            if addresses := card.addresses():
                options[f"ipconfig{number}"] = addresses
        return options if self.backup is not None else options | self._hardware() | self._cloud_init()

    def growth(self) -> dict[str, str]:
        """What disks that are copies of images are made larger to, when they are made."""
        return {
            f"scsi{number}": disk.size
            for number, disk in enumerate(self.disks)
            if disk.image is not None and disk.size is not None
        }

    def _hardware(self) -> Options:
        options: Options = {"ostype": "l26", "scsihw": "virtio-scsi-single"}
        options |= {f"scsi{number}": disk.value(self.storage) for number, disk in enumerate(self.disks)}
        if self.cd is not None:
            options[_CD] = f"{self.cd},media=cdrom"
        drives = [*(["scsi0"] if self.disks else []), *([_CD] if self.cd is not None else [])]
        if drives:
            options["boot"] = f"order={';'.join(drives)}"
        if self.firmware == "uefi":
            options |= {
                "bios": "ovmf",
                "machine": "q35",
                "efidisk0": f"{self.storage}:1,efitype=4m,pre-enrolled-keys=1",
            }
        if self.serial_console:
            options |= {"serial0": "socket", "vga": "serial0"}
        return options

    def _cloud_init(self) -> Options:
        options: Options = {}
        if self.user is not None:
            options["ciuser"] = self.user
        if self.ssh_public_keys:
            options["sshkeys"] = quote("\n".join(self.ssh_public_keys), safe="")
        if self.password is not None:
            options["cipassword"] = self.password.get_secret_value()
        told = options or self.nameservers or self.search_domain or any(n.addresses() for n in self.networks or ())
        if self.cloud_init or told:
            options[_CLOUD_INIT_DRIVE] = f"{self.storage}:cloudinit"
        return options

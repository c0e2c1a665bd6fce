"""What a caller asks to be made: what new guests of every kind and origin have in common, and PVE is told of it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, StringConstraints, model_validator

from gateway.exec.spec import Strict
from gateway.guests.fields import (
    HostName,
    NodeField,
    Notes,
    PoolName,
    PublicKey,
    Seconds,
    SnapshotName,
    StorageName,
    TagName,
    Vmid,
    VolumeName,
    mistake,
)
from gateway.guests.network import NetworkSpec, refuse_zone

Options = dict[str, str | int | bool]

MAX_NETWORKS = 8


class Wish(Strict):
    """What new guests of every origin have in common, and how far their making goes."""

    vmid: Vmid | None = Field(default=None, description="Default: the next free one within the token's grants.")
    node: NodeField | None = Field(
        default=None,
        description="Where in the cluster it is made. Default: the gateway's own node, or the source's. What only "
        "root@pam may give is for guests of the gateway's own.",
    )
    name: HostName | None = Field(default=None, description="Its host name.")
    cores: int | None = Field(default=None, ge=1, le=8192, description="Processors. Default: PVE's, or the origin's.")
    memory: int | None = Field(default=None, ge=16, le=1 << 24, description="MiB. Default: 512, or the origin's.")
    tags: list[TagName] = Field(default=[], max_length=64)
    notes: Notes | None = None
    pool: PoolName | None = Field(
        default=None, description="Needs guest:create in a grant that names the pool, or is on all guests."
    )
    start: bool = Field(default=False, description="Start it when it is made.")
    wait_for_address: Seconds | None = Field(
        default=None, description="Seconds for which it may take to have an address; without one by then it failed."
    )
    timeout: Seconds = Field(
        default=3600.0, description="Seconds for the making itself; then PVE's task is stopped, and it failed."
    )
    on_failure: Literal["undo", "keep"] = Field(
        default="undo", description="What becomes of a guest whose making failed half-way: nothing stays, or it stays."
    )

    @model_validator(mode="after")
    def _address_of_what_runs(self) -> Wish:
        if self.wait_for_address is not None and not self.start:
            raise mistake("needs_start", "only a guest that is started gets an address", "wait_for_address")
        return self

    def common(self) -> Options:
        """PVE's options for the fields that are the same for guests of every origin."""
        options: Options = {}
        if self.cores is not None:
            options["cores"] = self.cores
        if self.memory is not None:
            options["memory"] = self.memory
        if self.tags:
            options["tags"] = ";".join(sorted(set(self.tags)))
        return options


class ContainerWish(Wish):
    """What containers of every origin have beside that."""

    swap: int | None = Field(default=None, ge=0, le=1 << 24, description="MiB; containers only.")
    networks: list[NetworkSpec] | None = Field(
        default=None, max_length=MAX_NETWORKS, description="All of its interfaces. Default: none, or the origin's."
    )

    def common(self) -> Options:
        options = super().common()
        if self.swap is not None:
            options["swap"] = self.swap
        for number, network in enumerate(self.networks or ()):
            options[f"net{number}"] = network.value(number)
        return options


class CloneRequest(ContainerWish):
    """A copy of a guest: linked to a template, or whole."""

    full: bool | None = Field(default=None, description="Default: linked of a template, else whole.")
    storage: StorageName | None = Field(default=None, description="Of a whole copy. Default: where the source's are.")
    snapshot: SnapshotName | None = Field(default=None, description="Copy the source as it was then.")


class FreshWish(Wish):
    """What new guests that are no copies have in common: made of something, or restored of a backup."""

    backup: VolumeName | None = Field(
        default=None, description="The backup that it is made of, `STORAGE:backup/NAME`; see its guest's backups."
    )
    storage: StorageName = Field(default="local", description="Where its volumes are made.")
    nameservers: list[Annotated[str, StringConstraints(max_length=45)]] = Field(default=[], max_length=3)
    search_domain: HostName | None = None
    ssh_public_keys: list[PublicKey] = Field(default=[], max_length=64, description="Who may log in.")
    password: SecretStr | None = Field(default=None, min_length=5, max_length=256)
    onboot: bool = Field(default=False, description="Start it when the node starts.")
    unique: bool = Field(default=False, description="Of a backup: give its interfaces new hardware addresses.")

    @model_validator(mode="after")
    def _fields_that_can_be(self) -> FreshWish:
        if self.backup is not None:
            for name in self.of_its_own & self.model_fields_set:
                if getattr(self, name):
                    raise mistake("not_of_a_backup", "a backup brings its own; change it afterwards", name)
        elif self.unique:
            raise mistake("only_of_a_backup", "what is new has hardware addresses of its own anyway", "unique")
        for address in self.nameservers:
            try:
                ipaddress.ip_address(refuse_zone(address))
            except ValueError:
                raise mistake("bad_address", "IP addresses of name servers", "nameservers") from None
        if self.password is not None and not _is_text(self.password.get_secret_value()):
            raise mistake("bad_password", "at least 5 characters, none of them a control character", "password")
        return self

    @property
    def of_its_own(self) -> frozenset[str]:
        """Fields that a backup has an answer to."""
        return frozenset(("ssh_public_keys", "password"))

    def options(self) -> Options:
        """What PVE is told by an API token to make it."""
        options = self.common()
        if self.notes is not None:
            options["description"] = self.notes
        if self.pool is not None:
            options["pool"] = self.pool
        if self.nameservers:
            options["nameserver"] = " ".join(self.nameservers)
        if self.search_domain is not None:
            options["searchdomain"] = self.search_domain
        if self.onboot:
            options["onboot"] = True
        if self.backup is not None:
            options["storage"] = self.storage
            if self.unique:
                options["unique"] = True
        return options

    @property
    def secrets(self) -> tuple[str, ...]:
        """What of it nothing may repeat."""
        password = self.password.get_secret_value() if self.password is not None else None
        keys = [form for key in self.ssh_public_keys for form in (key, quote(key, safe=""))]
        return tuple(text for text in (password, *keys) if text)


def _is_text(text: str) -> bool:
    return len(text) >= 5 and not any(ord(char) < 32 or ord(char) == 127 for char in text)


def show(wish: Wish) -> dict[str, Any]:
    """The request as it may be repeated, in a problem or a record: what was given, a password and keys left out."""
    shown: dict[str, Any] = wish.model_dump(mode="json", exclude_unset=True)
    if shown.get("password") is not None:
        shown["password"] = "(not repeated)"
    if shown.get("ssh_public_keys"):
        shown["ssh_public_keys"] = [
            key.partition(" ")[2].partition(" ")[2] or "(no comment)" for key in shown["ssh_public_keys"]
        ]
    return shown

"""What a caller asks to be made: the one definition of a new guest's fields, and what PVE is told of them."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, StringConstraints, model_validator

from gateway.errors import GatewayError
from gateway.exec.spec import Strict
from gateway.guests.fields import (
    Feature,
    GuestPath,
    HostName,
    Notes,
    PoolName,
    PublicKey,
    Seconds,
    Size,
    SnapshotName,
    StorageName,
    TagName,
    Vmid,
    VolumeName,
    gibibytes,
    mistake,
)
from gateway.guests.network import NetworkSpec
from gateway.pve.ids import PathText, VolumeId, parse_volume

Options = dict[str, str | int | bool]

_MAX_MOUNTS, _MAX_NETWORKS = 32, 8


class MountSpec(Strict):
    """A mount point beside the root: a new volume, or a directory of the node."""

    path: GuestPath = Field(description="Where it is in the guest.")
    size: Size | None = Field(default=None, description="Of a new volume.")
    storage: StorageName | None = Field(default=None, description="Of a new volume. Default: the root's storage.")
    source: GuestPath | None = Field(
        default=None,
        description="A directory of the node, below `policy.bind_sources`; needs guest:root-config.",
    )
    read_only: bool = False
    backup: bool = Field(default=False, description="Whether backups hold it: for volumes.")

    @model_validator(mode="after")
    def _one_source(self) -> MountSpec:
        if (self.source is None) is (self.size is None):
            raise mistake("size_or_source", "give `size` for a new volume, or `source` for a directory of the node")
        if self.source is not None and (self.storage is not None or self.backup):
            raise mistake("not_of_a_source", "`storage` and `backup` are for new volumes")
        return self

    def value(self, storage: str) -> str:
        """As PVE's `mp[n]`."""
        volume = self.source or f"{self.storage or storage}:{gibibytes(self.size or '')}"
        more = [*(["ro=1"] if self.read_only else []), *(["backup=1"] if self.backup else [])]
        return ",".join([volume, f"mp={self.path}", *more])


class Wish(Strict):
    """What new guests of every origin have in common, and how far their making goes."""

    vmid: Vmid | None = Field(default=None, description="Default: the next free one within the token's grants.")
    name: HostName | None = Field(default=None, description="Its host name.")
    cores: int | None = Field(default=None, ge=1, le=8192, description="Processors. Default: all, or the origin's.")
    memory: int | None = Field(default=None, ge=16, le=1 << 24, description="MiB. Default: 512, or the origin's.")
    swap: int | None = Field(default=None, ge=0, le=1 << 24, description="MiB; containers only.")
    networks: list[NetworkSpec] | None = Field(
        default=None, max_length=_MAX_NETWORKS, description="All of its interfaces. Default: none, or the origin's."
    )
    tags: list[TagName] = Field(default=[], max_length=64)
    notes: Notes | None = None
    pool: PoolName | None = None
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
        """PVE's options for the fields that are the same for containers of every origin."""
        options: Options = {}
        if self.cores is not None:
            options["cores"] = self.cores
        if self.memory is not None:
            options["memory"] = self.memory
        if self.swap is not None:
            options["swap"] = self.swap
        for number, network in enumerate(self.networks or ()):
            options[f"net{number}"] = network.value(number)
        if self.tags:
            options["tags"] = ";".join(sorted(set(self.tags)))
        return options


class GuestRequest(Wish):
    """A new container, of a template or of a backup."""

    template: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="What it is made of, `STORAGE:vztmpl/NAME`; see GET /templates."
    )
    backup: VolumeName | None = Field(
        default=None, description="What it is made of instead: a backup, `STORAGE:backup/NAME`."
    )
    storage: StorageName = Field(default="local", description="Where its volumes are made.")
    disk: Size = Field(default="4G", description="Of its root.")
    mounts: list[MountSpec] = Field(default=[], max_length=_MAX_MOUNTS)
    nameservers: list[Annotated[str, StringConstraints(max_length=45)]] = Field(default=[], max_length=3)
    search_domain: HostName | None = None
    ssh_public_keys: list[PublicKey] = Field(default=[], max_length=64, description="Who may log in as root.")
    password: SecretStr | None = Field(default=None, min_length=5, max_length=256, description="Of root.")
    features: list[Feature] = Field(
        default=[],
        max_length=16,
        description="As far as `policy.features` lets; all but `nesting` need guest:root-config.",
    )
    privileged: bool | None = Field(
        default=None, description="Only where `policy.privileged` allows it. Default: no, or as the backup's was."
    )
    hookscript: VolumeName | None = Field(
        default=None, description="A volume of `policy.hookscripts`; needs guest:root-config."
    )
    onboot: bool = Field(default=False, description="Start it when the node starts.")
    unique: bool = Field(default=False, description="Of a backup: give its interfaces new hardware addresses.")

    @model_validator(mode="after")
    def _one_origin(self) -> GuestRequest:
        if (self.template is None) is (self.backup is None):
            raise mistake("template_or_backup", "give either a `template` or a `backup`")
        given = self.model_fields_set
        if self.backup is not None:
            for name in ("disk", "mounts", "ssh_public_keys", "password", "features"):
                if name in given and getattr(self, name):
                    raise mistake("not_of_a_backup", "a backup brings its own; change it afterwards", name)
        elif self.unique:
            raise mistake("not_of_a_template", "a new container has addresses of its own anyway", "unique")
        if self.template is not None and not self.template.startswith("/"):
            _require_volume(self.template)
        for address in self.nameservers:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise mistake("bad_address", "IP addresses of name servers", "nameservers") from None
        if self.made_by_root and self.password is not None:  # pvesh's argument list is seen by every user of the node
            raise mistake("not_with_a_file", "a guest of a template's path is made without one", "password")
        if self.password is not None and not _is_text(self.password.get_secret_value()):
            raise mistake("bad_password", "at least 5 characters, none of them a control character", "password")
        return self

    def options(self) -> Options:
        """What PVE is told by an API token to make it: everything but `root_options`."""
        options = self.common()
        if self.name is not None:
            options["hostname"] = self.name
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
        if self.privileged is not None or self.backup is None:
            options["unprivileged"] = not self.privileged
        if self.backup is not None:
            return {**options, "storage": self.storage, **({"unique": True} if self.unique else {})}
        options["ostemplate"] = PathText(self.template or "")
        options["rootfs"] = f"{self.storage}:{gibibytes(self.disk)}"
        options |= {key: value for key, value in self._mount_points().items() if not value.startswith("/")}
        if self.features and not self._features_are_roots:
            options["features"] = self._feature_text
        if self.ssh_public_keys:
            options["ssh-public-keys"] = "\n".join(self.ssh_public_keys)
        if self.password is not None:
            options["password"] = self.password.get_secret_value()
        return options

    def root_options(self) -> Options:
        """What PVE allows to root@pam alone: set when it is made, before it starts."""
        options: Options = {key: value for key, value in self._mount_points().items() if value.startswith("/")}
        if self.features and self._features_are_roots:
            options["features"] = self._feature_text
        if self.hookscript is not None:
            options["hookscript"] = self.hookscript
        return options

    @property
    def made_by_root(self) -> bool:
        """Whether PVE lets root@pam alone make it: of a file of the node, which is no volume."""
        return (self.template or "").startswith("/")

    @property
    def for_root(self) -> list[str]:
        """What of it needs guest:root-config, by PVE's names."""
        return sorted([*self.root_options(), *(["ostemplate"] if self.made_by_root else [])])

    def _mount_points(self) -> dict[str, str]:
        return {f"mp{number}": mount.value(self.storage) for number, mount in enumerate(self.mounts)}

    @property
    def _features_are_roots(self) -> bool:
        """PVE::LXC::check_ct_modify_config_perm: `nesting` of an unprivileged container is everybody's."""
        return bool(self.privileged) or set(self.features) != {"nesting"}

    @property
    def _feature_text(self) -> str:
        mounts = sorted({word.partition("=")[2] for word in self.features if word.startswith("mount=")})
        words = [f"{word}=1" for word in sorted(set(self.features)) if not word.startswith("mount=")]
        return ",".join([*words, *([f"mount={';'.join(mounts)}"] if mounts else [])])


class CloneRequest(Wish):
    """A copy of a guest: linked to a template, or whole."""

    full: bool | None = Field(default=None, description="Default: linked of a template, else whole.")
    storage: StorageName | None = Field(default=None, description="Of a whole copy. Default: where the source's are.")
    snapshot: SnapshotName | None = Field(default=None, description="Copy the source as it was then.")


def _require_volume(text: str) -> VolumeId:
    message = "a template is STORAGE:vztmpl/NAME, as in local:vztmpl/debian-13.tar.zst"
    try:
        found = parse_volume(text)
    except GatewayError as exc:
        raise mistake("impossible", message, "template") from exc
    if not found.name.startswith("vztmpl/"):  # a backup is somebody's
        raise mistake("impossible", message, "template")
    return found


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

"""A new container as it is asked for, and what PVE is told of it: by its API, and as root@pam."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from gateway.errors import GatewayError
from gateway.exec.spec import Strict
from gateway.guests.fields import Feature, GuestPath, Size, StorageName, VolumeName, features_text, gibibytes, mistake
from gateway.guests.wish import ContainerWish, FreshWish, Options
from gateway.pve.ids import PathText, VolumeId, parse_volume

_MAX_MOUNTS = 32


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


class ContainerRequest(ContainerWish, FreshWish):
    """A new container, of a template or of a backup."""

    type: Literal["lxc"] = "lxc"
    template: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        default=None, description="What it is made of, `STORAGE:vztmpl/NAME`, or else `backup`; see GET /templates."
    )
    disk: Size = Field(default="4G", description="Of its root.")
    mounts: list[MountSpec] = Field(default=[], max_length=_MAX_MOUNTS)
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

    @model_validator(mode="after")
    def _one_origin(self) -> ContainerRequest:
        if (self.template is None) is (self.backup is None):
            raise mistake("template_or_backup", "give either a `template` or a `backup`")
        if self.template is not None and not self.template.startswith("/"):
            _require_template(self.template)
        if self.made_by_root and self.password is not None:  # pvesh's argument list is seen by every user of the node
            raise mistake("not_with_a_file", "a guest of a template's path is made without one", "password")
        return self

    @property
    def of_its_own(self) -> frozenset[str]:
        return super().of_its_own | {"disk", "mounts", "features"}

    def options(self) -> Options:
        """All but `root_options`."""
        options = super().options()
        if self.name is not None:
            options["hostname"] = self.name
        if self.privileged is not None or self.backup is None:
            options["unprivileged"] = not self.privileged
        if self.backup is not None:
            return options
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
        return features_text(self.features)


def _require_template(text: str) -> VolumeId:
    message = "a template is STORAGE:vztmpl/NAME, as in local:vztmpl/debian-13.tar.zst"
    try:
        found = parse_volume(text)
    except GatewayError as exc:
        raise mistake("impossible", message, "template") from exc
    if not found.name.startswith("vztmpl/"):  # a backup is somebody's
        raise mistake("impossible", message, "template")
    return found

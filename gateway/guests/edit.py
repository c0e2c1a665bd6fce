"""Edit: a change of a guest's configuration as PVE takes it, and who makes it: its API, or pvesh as root."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import FieldError, InvalidRequest
from gateway.exec.order import GuestKind
from gateway.policy.change import GuestChange, Options, describe_options
from gateway.policy.machine import describe_machine
from gateway.pve.withheld import SECRET_OPTIONS

_ROOT_ONLY = re.compile(r"dev[0-9]{1,3}|hookscript")
_MOUNT = re.compile(r"mp[0-9]{1,3}|rootfs")
_LINE_END = re.compile(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")
_MAX_TEXT = 256 << 10  # a guest's configuration has 1 MiB in all (pmxcfs), a record of the audit log no more


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Options to set, and names of those to take back, by PVE's names; `digest` of the configuration that is meant."""

    kind: GuestKind
    options: Options = field(default_factory=dict, repr=False)
    delete: tuple[str, ...] = ()
    digest: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what changes nothing, or contradicts itself."""
        if not self.options and not self.delete:
            raise _invalid("", "nothing", "name something to change")
        for name in self.delete:
            if name in self.options:
                raise _invalid(f"delete.{name}", "contradiction", "it is set and taken back at once")
        if sum(len(str(value)) for value in self.options.values()) > _MAX_TEXT:
            raise _invalid("options", "too_much", f"a change has {_MAX_TEXT} characters at most")
        for name, value in self.options.items():
            if name != "description" and _LINE_END.search(str(value)):
                raise _invalid(f"options.{name}", "not_one_line", "PVE's configuration has one line for each option")

    def describe(self, vmid: int) -> GuestChange:
        """What node policy decides about. Raises PolicyRefused for what cannot be read for certain."""
        if self.kind is GuestKind.QEMU:
            return describe_machine(vmid, self.options)
        return describe_options(vmid, self.options, whole=False)

    def for_root(self, config: Options) -> bool:
        """Whether PVE allows it to root@pam alone, given the guest's options as they are: `dev[n]`, bind and device
        mounts, hookscripts, and features but `nesting` of an unprivileged container (PVE::LXC,
        check_ct_modify_config_perm).

        Raises InvalidRequest where a part of it is, and another is for the API.
        """
        if self.kind is GuestKind.QEMU:
            return False
        names = {*self.options, *self.delete}
        root = {name for name in names if self._is_for_root(name, config)}
        if root and root != names:
            listed = ", ".join(sorted(root))
            raise _invalid("options", "mixed", f"{listed} only root@pam may set: send that in a request of its own")
        return bool(root)

    def show(self) -> dict[str, Any]:
        """For the record: values that are secret are left out."""
        options = {name: None if name in SECRET_OPTIONS else value for name, value in self.options.items()}
        shown = {"options": options, "delete": list(self.delete), "digest": self.digest}
        return {name: value for name, value in shown.items() if value}

    def _is_for_root(self, name: str, config: Options) -> bool:
        if _ROOT_ONLY.fullmatch(name):
            return True
        value = self.options.get(name)
        if _MOUNT.fullmatch(name):
            return value is not None and str(value).removeprefix("volume=").startswith("/")
        if name != "features":
            return False
        unprivileged = str(config.get("unprivileged", "0")) == "1"
        return not unprivileged or _other_features(value) != _other_features(config.get("features"))


def _other_features(value: object) -> frozenset[str]:
    words = str(value).split(",") if value else []
    return frozenset(word for word in words if word.partition("=")[0] != "nesting" and not word.endswith("=0"))


def _invalid(path: str, code: str, message: str) -> InvalidRequest:
    wrong = FieldError(path, code, message)
    return InvalidRequest("some fields cannot be taken; see `errors`", errors=[wrong.to_json()])

"""RootChange: a change of a container that PVE allows to root@pam alone, as it crosses to the supervisor for pvesh."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.errors import InvalidRequest
from gateway.policy.change import GuestChange, Options, describe_options, is_known_option

_VMID = range(100, 1_000_000_000)
_NODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SET = re.compile(r"(?:dev|mp)(?:[0-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5])|rootfs|features|hookscript")
_DIGEST = re.compile(r"[0-9a-f]{40}")
_ODD = re.compile(r"[\x00-\x1f\x7f]")
_ODD_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SHOWN = frozenset(("password", "env"))
_LINES = frozenset(("description", "ssh-public-keys"))
_NEVER = frozenset(("restore", "force"))
_MAX_OPTIONS, _MAX_VALUE = 600, 8192


@dataclass(frozen=True, kw_only=True)
class RootChange:
    """What pvesh is to do with container `vmid` of `node`: change its configuration, or `create` it.

    To change it, options are those that only root@pam may set, and `delete` takes such back. Whatever else is wanted
    goes by PVE's API. Secrets are no options of it: every user of the node sees pvesh's argument list. Nor is a backup:
    what root@pam restores takes raw `lxc.*` keys from its archive, where nobody has looked (PVE::LXC::Create,
    restore_configuration, `$restricted`).
    """

    node: str
    vmid: int
    create: bool = False
    options: Options = field(default_factory=dict)
    delete: tuple[str, ...] = ()
    digest: str | None = None

    def __post_init__(self) -> None:
        """Raises InvalidRequest for what is no such change."""
        if type(self.vmid) is not int or self.vmid not in _VMID or not _NODE.fullmatch(self.node):
            raise InvalidRequest("a root change names a vmid and a node")
        if len(self.options) + len(self.delete) > _MAX_OPTIONS or not (self.options or self.delete):
            raise InvalidRequest(f"a root change has 1 to {_MAX_OPTIONS} options")
        if self.create and (self.delete or self.digest is not None):
            raise InvalidRequest("what is created has nothing to delete, and no digest yet")
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise InvalidRequest("a digest is 40 hexadecimal digits")
        for name in (*self.options, *self.delete):
            if name in _SHOWN:
                raise InvalidRequest(f"`{name}` cannot be combined with what only root@pam may set: it would be seen")
            if name in _NEVER:
                raise InvalidRequest(f"`{name}` goes by PVE's API: root@pam would trust the backup's own configuration")
            if not (is_known_option(name) if self.create else _SET.fullmatch(name)):
                raise InvalidRequest(f"`{name[:64]!a}` is no option for root@pam alone")
        for name, value in self.options.items():
            # PVE's patterns let a newline end a value, and its configuration files have a line for each.
            odd = _ODD_IN_TEXT if name in _LINES else _ODD
            if not isinstance(value, str | int) or len(str(value)) > _MAX_VALUE or odd.search(str(value)):
                raise InvalidRequest(f"`{name}` has a value that cannot be passed on")

    def describe(self) -> GuestChange:
        """What node policy decides about. Raises PolicyRefused for what cannot be read for certain."""
        return describe_options(self.vmid, self.options, whole=self.create)

    def arguments(self) -> list[str]:
        """pvesh's arguments."""
        where = f"/nodes/{self.node}/lxc"
        words = ["create", where, f"--vmid={self.vmid}"] if self.create else ["set", f"{where}/{self.vmid}/config"]
        words += [f"--{name}={_word(value)}" for name, value in sorted(self.options.items())]
        if self.delete:
            words.append(f"--delete={','.join(self.delete)}")
        if self.digest is not None:
            words.append(f"--digest={self.digest}")
        return words

    def to_wire(self) -> dict[str, Any]:
        """The form that crosses the supervisor's socket."""
        return {
            "node": self.node,
            "vmid": self.vmid,
            "create": self.create,
            "options": dict(self.options),
            "delete": list(self.delete),
            "digest": self.digest,
        }

    def show(self) -> dict[str, Any]:
        """The same for the audit log: keys are named there, and not told."""
        options = {name: None if name == "ssh-public-keys" else value for name, value in self.options.items()}
        return {**self.to_wire(), "options": options}

    @classmethod
    def from_wire(cls, data: object) -> RootChange:
        """The change that `to_wire` described. Raises ValueError for anything else, InvalidRequest as above."""
        if not isinstance(data, dict) or data.keys() != cls.__dataclass_fields__.keys():
            raise ValueError("a root change has exactly its six members")
        options, delete = data["options"], data["delete"]
        if not isinstance(options, Mapping) or not isinstance(delete, list) or type(data["create"]) is not bool:
            raise ValueError("a root change has options, a list of names and whether it creates")
        if not all(isinstance(name, str) for name in (*delete, data["node"])):
            raise ValueError("names are texts")
        if data["digest"] is not None and not isinstance(data["digest"], str):
            raise ValueError("a digest is a text")
        return cls(**{**data, "options": dict(options), "delete": tuple(delete)})


def _word(value: str | int | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)

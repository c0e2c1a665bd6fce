"""The tools that bring the launcher into a container: LXC's library, its program lxc-attach, Proxmox's own pct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.config import Config, LxcConfig
from gateway.exec.view import SpawnError

_LAUNCHER = "/proc/self/fd/5"
"""Where the launcher is for the program, and for what it becomes in the guest (launcher/protocol.h)."""


class Tool(Protocol):
    """How a container is entered."""

    @property
    def program(self) -> Path:
        """The file that is run on the node; with the library only named in what is logged."""

    @property
    def library(self) -> bool:
        """Whether no file is run, but the nursery's children enter by LXC's library."""

    @property
    def moves_command(self) -> bool:
        """Whether it puts the command into the guest's own cgroup, whatever cgroup it was started in."""

    @property
    def slow(self) -> bool:
        """Whether it takes so long that a command's time limit begins with the command; else it begins before."""

    def arguments(self, vmid: int, *, own_cgroup: bool) -> list[str]:
        """The argument list, its own name first; for the library LXC's directory of containers and the one's name.
        Nothing of a request is in it."""

    def explain(self, words: str) -> SpawnError | None:
        """What it meant with its last words, if it has words for more than one reason."""


@dataclass(frozen=True)
class _Lxc:
    """LXC's own way in, whatever it is called by."""

    config: LxcConfig
    moves_command = False
    slow = False

    @property
    def program(self) -> Path:
        return self.config.attach

    def explain(self, words: str) -> SpawnError | None:
        return None


class LibLxc(_Lxc):
    """What lxc-attach is made of, without its start: that takes most of its time."""

    library = True

    def arguments(self, vmid: int, *, own_cgroup: bool) -> list[str]:
        return [str(self.config.path), str(vmid)]


class LxcAttach(_Lxc):
    """lxc-attach itself, as a program: where the library of the node cannot be used."""

    library = False

    def arguments(self, vmid: int, *, own_cgroup: bool) -> list[str]:
        # With `=`: `-e CGROUP` would elevate everything, and run a program of that name.
        elevated = ["--elevated-privileges=CGROUP"] if own_cgroup else []
        place = ["-P", str(self.config.path), "-n", str(vmid)]
        return ["lxc-attach", *place, *elevated, "--clear-env", "--", _LAUNCHER]


@dataclass(frozen=True)
class Pct:
    """The stock tool, where policy demands it: it looks at the guest's configuration and becomes lxc-attach, a second
    later. It leaves by Perl's `die`: its exit code says nothing that its words do not say better (PVE.md)."""

    config: LxcConfig
    library = False
    moves_command = True
    slow = True

    @property
    def program(self) -> Path:
        return self.config.pct

    def arguments(self, vmid: int, *, own_cgroup: bool) -> list[str]:
        return ["pct", "exec", str(vmid), "--keep-env", "0", "--", _LAUNCHER]

    def explain(self, words: str) -> SpawnError | None:
        for said, number, reason in _PCT_SAYS:
            if said in words:
                return {"stage": "attach", "errno": number, "message": reason}
        return None


_PCT_SAYS = (
    ("ipcc_send_rec", "ECONNREFUSED", "pct cannot reach pmxcfs: see `systemctl status pve-cluster` on the node"),
    ("Configuration file", "ENOENT", "pct finds no configuration of this container on the node"),
    ("not running", "ESRCH", "the container was not running any more when pct looked"),
    ("Failed to get init pid", "ESRCH", "the container stopped while the command was on its way"),
    ("run as root", "EPERM", "pct has to be run by root"),
)


def choose_tool(config: Config) -> Tool:
    """The tool that the configuration names."""
    tools: dict[str, Callable[[LxcConfig], Tool]] = {"liblxc": LibLxc, "lxc-attach": LxcAttach, "pct": Pct}
    return tools[config.exec.driver](config.lxc)

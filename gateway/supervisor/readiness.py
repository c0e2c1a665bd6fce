"""What this node must have before a command can run on it safely, each checked and named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

from gateway.config import Config, LxcConfig
from gateway.errors import ConfigError


class Check(TypedDict):
    """One requirement: its name, whether it holds, and what was found or is to be done."""

    name: str
    ok: bool
    detail: str


def checks(config: Config, library: tuple[bool, str] | None = None) -> list[Check]:
    """All requirements of the supervisor. `library`: whether LXC's can be loaded, and its version or why not, by who
    may start the process that tells (launching.library); None where nobody may, or where a program is run instead."""
    return [
        _check("cgroup_v2", *_pure_v2(config.lxc)),
        _check("nsdelegate", *_nsdelegate(config.lxc)),
        *_tool(config),
        *([Check(name="liblxc", ok=library[0], detail=library[1])] if library is not None else []),
        _executable("launcher", config.lxc.launcher, "run make, or set lxc.launcher"),
        _executable("nursery", config.lxc.nursery, "run make, or set lxc.nursery"),
        _check("spool", os.access(config.spool.directory, os.W_OK), f"{config.spool.directory} cannot be written"),
    ]


def require_pure_v2(lxc: LxcConfig) -> None:
    """Refuses a node where a command would keep the host's device rights (PVE.md). Raises ConfigError."""
    ok, detail = _pure_v2(lxc)
    if not ok:
        raise ConfigError(detail)


def _check(name: str, ok: bool, detail: str) -> Check:
    return {"name": name, "ok": ok, "detail": "" if ok else detail}


def _executable(name: str, path: Path, remedy: str) -> Check:
    return _check(name, os.access(path, os.X_OK), f"{path} cannot be run; {remedy}")


def _tool(config: Config) -> list[Check]:
    """The program that containers are entered by, where it is one."""
    if config.exec.driver == "pct":
        return [_executable("pct", config.lxc.pct, "install pve-container, or set lxc.pct")]
    if config.exec.driver == "lxc-attach":
        return [_executable("lxc_attach", config.lxc.attach, "install lxc, or set lxc.attach")]
    return []


def _pure_v2(lxc: LxcConfig) -> tuple[bool, str]:
    kinds = {line.split(" - ")[1].split()[0] for line in _cgroup_mounts(lxc)}
    return kinds == {"cgroup2"}, (
        f"{lxc.cgroup} is not pure cgroup v2: boot with systemd.unified_cgroup_hierarchy=1 (PVE 9 knows no other mode)"
    )


def _nsdelegate(lxc: LxcConfig) -> tuple[bool, str]:
    options = [line.rpartition(" ")[2].split(",") for line in _cgroup_mounts(lxc)]
    return bool(options) and all("nsdelegate" in words for words in options), (
        f"{lxc.cgroup} is mounted without nsdelegate: mount -o remount,nsdelegate {lxc.cgroup}"
    )


def _cgroup_mounts(lxc: LxcConfig) -> list[str]:
    """The lines of mountinfo (proc_pid_mountinfo(5)) for cgroup file systems at or below the configured root."""
    root = str(lxc.cgroup)
    lines = os.fsdecode((lxc.proc / "self/mountinfo").read_bytes()).split("\n")
    return [
        line
        for line in lines
        if " - " in line
        and line.split(" - ")[1].split()[0] in ("cgroup", "cgroup2")
        and (line.split()[4] == root or line.split()[4].startswith(f"{root}/"))
    ]

"""The configuration that a backup holds, read as PVE reads it, or refused: what it reads otherwise is a way past us."""

from __future__ import annotations

import re

from gateway.exec.order import GuestKind

_MOUNT = re.compile(r"rootfs|(?:mp|unused)[0-9]{1,3}")
_VOLUME = re.compile(r"^(?:(?:volume|file)=)?[A-Za-z][A-Za-z0-9._-]*:[^=,]+")
# PVE::LXC::Config, parse_pct_config; PVE::QemuServer, parse_vm_config.
_LINE = re.compile(r"([a-z][a-z_-]*[0-9]*):\s*(\S.*?)\s*")
_RAW = re.compile(r"\s*[:=]")
_SECTION = re.compile(r"\[(?:(?:pve:)?(?P<pending>pending)|[a-z][a-z0-9_-]+)\]\s*", re.IGNORECASE)
# PVE::QemuServer, parse_backup_hints: the drives that the archive has the data of; without them PVE restores nothing.
_HINT = re.compile(r"#qmdump#map:([a-z]+[0-9]+):[^:\s]+:[^:\s]*:[^:\s]*:")
# restore_update_config_line: what it leaves out.
_LEFT_OUT = re.compile(r"unused[0-9]+|lock|parent")

_NEW_VOLUME = "new:1"


def brought_by(kind: GuestKind, text: str) -> dict[str, str]:
    """The options that a restored guest has of its backup; volumes that are made anew are told as new ones."""
    options = parse_config(text)
    if kind is GuestKind.LXC:
        anew = {name for name in options if _MOUNT.fullmatch(name)}
    else:
        options = {name: value for name, value in options.items() if not _LEFT_OUT.fullmatch(name)}
        hinted = {found[1] for line in text.split("\n") if (found := _HINT.fullmatch(line))}
        anew = {name for name in hinted & options.keys() if not re.search(r"\s", options[name])}
    return {name: _VOLUME.sub(_NEW_VOLUME, value) if name in anew else value for name, value in options.items()}


def parse_config(text: str) -> dict[str, str]:
    """The options of a guest's configuration file as PVE reads it, those that are pending too, without snapshots.

    Of what PVE leaves out, or what stands there twice, a name is told that nobody can have allowed.
    """
    found: dict[str, str] = {}
    is_read = True
    for line in text.split("\n"):
        if section := _SECTION.fullmatch(line):
            is_read = section["pending"] is not None
        elif is_read and line.strip() and not line.startswith("#"):
            parts = _LINE.fullmatch(line)
            name, value = (parts[1], parts[2]) if parts else (_RAW.split(line)[0][:64], "")
            found[f"{name} (twice)" if parts and name in found else name] = value
    return found

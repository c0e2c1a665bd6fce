"""The text of a guest's configuration in /etc/pve: its keys, what is pending, its snapshots, raw `lxc.*` lines.

Sources: parse_pct_config and write_pct_config (PVE/LXC/Config.pm), parse_vm_config (PVE/QemuServer.pm).
"""

import hashlib
import re
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PENDING = "pve:pending"
Section = dict[str, str]


@dataclass
class GuestConfig:
    """One guest's configuration: all values as texts, `description` with its newlines."""

    values: Section = field(default_factory=dict)
    pending: Section = field(default_factory=dict)
    """Waits for the next start; `delete` lists the keys that go then."""
    snapshots: dict[str, Section] = field(default_factory=dict)
    raw: list[tuple[str, str]] = field(default_factory=list)
    digest: str = ""
    """SHA-1 of the text that it was read from."""

    def get(self, name: str, default: str = "") -> str:
        return self.values.get(name, default)

    @property
    def lock(self) -> str:
        return self.values.get("lock", "")

    @property
    def is_template(self) -> bool:
        return self.values.get("template") == "1"

    @property
    def pending_delete(self) -> list[str]:
        """Without PVE's `!` for a forced deletion."""
        return [word.lstrip("!") for word in re.split(r"[,;\s]+", self.pending.get("delete", "")) if word]

    def mark_deleted(self, name: str) -> None:
        """add_to_pending_delete: it goes, and no new value waits any more."""
        self.pending.pop(name, None)
        self.pending["delete"] = ",".join(sorted({*self.pending_delete, name}))

    def unmark_deleted(self, name: str) -> None:
        """remove_from_pending_delete."""
        left = [word for word in self.pending_delete if word != name]
        self.pending.pop("delete", None)
        if left:
            self.pending["delete"] = ",".join(left)

    def with_pending(self) -> Section:
        """As it will be after the next start: what `GET …/config` shows without `current`."""
        changed = {name: value for name, value in self.pending.items() if name != "delete"}
        return {name: value for name, value in {**self.values, **changed}.items() if name not in self.pending_delete}


def parse(text: str) -> GuestConfig:
    """Raises nothing: lines that PVE would warn of are left out."""
    found = GuestConfig(digest=hashlib.sha1(text.encode()).hexdigest())
    section, descriptions = found.values, dict[int, list[str]]()
    for line in text.splitlines():
        head = re.fullmatch(r"\[(\S+)\]\s*", line)
        if head:
            section = found.pending if head[1] == PENDING else found.snapshots.setdefault(head[1], {})
        elif line.startswith("#"):
            descriptions.setdefault(id(section), []).append(urllib.parse.unquote(line[1:]))
        elif pair := re.fullmatch(r"(lxc\.[a-z0-9_\-.]+)(?:\s*[:=]\s*)(.*?)\s*", line):
            found.raw.append((pair[1], pair[2]))
        elif pair := re.fullmatch(r"([a-z][a-z0-9_-]*\d*):\s*(.*?)\s*", line):
            section[pair[1]] = pair[2]
    for one in (found.values, found.pending, *found.snapshots.values()):
        if id(one) in descriptions:
            one["description"] = "\n".join(descriptions[id(one)]) + "\n"
    return found


def list_pending(config: GuestConfig, typed: Callable[[Section], dict[str, Any]]) -> list[dict[str, Any]]:
    """What `GET …/pending` answers (PVE::GuestHelpers::config_with_pending_array)."""
    told = []
    for key in sorted({*config.values, *config.pending, *config.pending_delete} - {"delete"}):
        entry: dict[str, Any] = {"key": key}
        if key in config.values:
            entry["value"] = typed(config.values)[key]
        if key in config.pending:
            entry["pending"] = typed(config.pending)[key]
        if key in config.pending_delete:
            entry["delete"] = 1
        told.append(entry)
    return told


def print_config(config: GuestConfig) -> str:
    """The text that PVE would write."""
    text = _section(config.values) + "".join(f"{name}: {value}\n" for name, value in config.raw)
    if config.pending:
        text += f"\n[{PENDING}]\n" + _section(config.pending)
    for name in sorted(config.snapshots):
        text += f"\n[{name}]\n" + _section(config.snapshots[name])
    return text


def _section(values: Section) -> str:
    lines = [f"#{_encode(line)}" for line in values.get("description", "").splitlines()]
    lines += [f"{name}: {value}" for name, value in sorted(values.items()) if name != "description"]
    return "".join(f"{line}\n" for line in lines)


def _encode(text: str) -> str:
    """PVE::Tools::encode_text: percent signs, colons and what is no printable ASCII."""
    return re.sub(r"[^ -$&-9;-~]", lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)

"""By whom the gateway is known to PVE: one user, a role and an API token for each process that asks PVE, made by root.

Tokens have privilege separation: what they may is what both they and their user may, so each entry of the access list
is for both. The user has no password and cannot log in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.auth.private import write_private
from gateway.errors import ConfigError
from gateway.pve.client import PveApi
from gateway.pve.failure import PveFailure, PveRefused

USER = "pve-exec-gateway@pve"


@dataclass(frozen=True)
class Role:
    """What a token may, and below which paths."""

    name: str
    token: str
    purpose: str
    privileges: tuple[str, ...]
    paths: tuple[str, ...]
    mode: int = 0o600
    """Of its token's file."""


WEB = Role(
    "PveExecGateway",
    "web",
    "guests' lives",
    (
        "Datastore.AllocateSpace", "Datastore.AllocateTemplate", "Datastore.Audit", "Pool.Audit", "SDN.Use",
        "Sys.Audit", "VM.Allocate", "VM.Audit", "VM.Backup", "VM.Clone", "VM.Config.CDROM", "VM.Config.CPU",
        "VM.Config.Cloudinit", "VM.Config.Disk", "VM.Config.HWType", "VM.Config.Memory", "VM.Config.Network",
        "VM.Config.Options", "VM.GuestAgent.Audit", "VM.Migrate", "VM.PowerMgmt", "VM.Snapshot",
        "VM.Snapshot.Rollback",
    ),
    ("/nodes", "/pool", "/sdn/zones", "/storage", "/vms"),
)  # fmt: skip
SUPERVISOR = Role(
    "PveExecGatewayAgent",
    "supervisor",
    "commands in virtual machines",
    ("VM.GuestAgent.Unrestricted",),
    ("/vms",),
    mode=0,  # root without CAP_DAC_OVERRIDE, as web is, reads no such file
)

Pvesh = Callable[[Sequence[str]], Any]
"""PVE's API as root: pvesh's arguments, its answer. Raises ConfigError."""


@dataclass(frozen=True)
class Step:
    """One thing that setup found to do, or found done. `made`: what was changed, or would be."""

    what: str
    made: bool


class Access:
    """Makes what is missing of it, and changes nothing else of PVE's access control.

    `dry`: only looks. `probe` makes a client of a token's file, to see whether PVE knows the token.
    """

    def __init__(self, pvesh: Pvesh, probe: Callable[[Path], PveApi], *, dry: bool) -> None:
        self._pvesh = pvesh
        self._probe = probe
        self._dry = dry

    def make(self, files: dict[Role, Path]) -> Iterator[Step]:
        """What each role's token needs, one step after the other. Raises ConfigError."""
        known = {row.get("roleid"): row.get("privs") for row in self._look("/access/roles")}
        for role in files:
            yield self._make_role(role, known.get(role.name))
        users = {row.get("userid") for row in self._look("/access/users")}
        yield self._make_user(USER in users)
        tokens = {row.get("tokenid") for row in self._look(f"/access/users/{USER}/token")} if USER in users else set()
        for role, file in files.items():
            yield from self._make_token(role, file, role.token in tokens)
        entries = {(row.get("path"), row.get("ugid"), row.get("roleid")) for row in self._look("/access/acl")}
        for role in files:
            yield from self._make_entries(role, entries)

    def _make_role(self, role: Role, privileges: object) -> Step:
        has = set(str(privileges or "").replace(",", " ").split())
        word = f"--privs={','.join(role.privileges)}"
        if privileges is None:
            self._do("create", "/access/roles", f"--roleid={role.name}", word)
            return Step(f"role {role.name}: {' '.join(role.privileges)}", True)
        if has != set(role.privileges):
            self._do("set", f"/access/roles/{role.name}", word)
            return Step(f"role {role.name}: now {' '.join(role.privileges)}", True)
        return Step(f"role {role.name}", False)

    def _make_user(self, there: bool) -> Step:
        if not there:
            self._do("create", "/access/users", f"--userid={USER}", "--comment=pve-exec-gateway: cannot log in")
        return Step(f"user {USER}", not there)

    def _make_token(self, role: Role, file: Path, there: bool) -> Iterator[Step]:
        name = f"{USER}!{role.token}"
        if there and self._is_good(name, file):
            narrow = file.stat().st_mode & 0o777 != role.mode
            if narrow and not self._dry:
                file.chmod(role.mode)
            yield Step(f"token {name} for {role.purpose}, in {file} (mode {role.mode:04o})", narrow)
            return
        place = f"/access/users/{USER}/token/{role.token}"
        if there:
            self._do("delete", place)
            yield Step(f"token {name}: the old one, whose secret is not in {file}, is revoked", True)
        told = self._do("create", place, "--privsep=1", f"--comment={role.purpose}")
        if not self._dry:
            secret = told.get("value") if isinstance(told, dict) else None
            if not isinstance(secret, str) or not secret:
                raise ConfigError(f"pvesh tells no secret of the new token {name}")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_private(file, f"{name}={secret}\n".encode("ascii"), mode=role.mode)
        yield Step(f"token {name} for {role.purpose}, its secret in {file} (mode {role.mode:04o})", True)

    def _is_good(self, name: str, file: Path) -> bool:
        """Whether the file holds this token, and PVE takes it. A PVE that cannot be asked counts as one that does."""
        api = self._probe(file)
        try:
            if api.token_id != name:
                return False
            api.get("version")
        except PveRefused as exc:
            return exc.status != 401
        except PveFailure:
            return file.exists() and _holds(file, name)
        finally:
            api.close()
        return True

    def _make_entries(self, role: Role, entries: set[tuple[Any, Any, Any]]) -> Iterator[Step]:
        for who, word in ((USER, "--users"), (f"{USER}!{role.token}", "--tokens")):
            for path in role.paths:
                # Whoever has narrowed it to some guests, or a pool of them, meant that.
                has = [place for place, whom, what in entries if (whom, what) == (who, role.name)]
                there = any(narrows(str(place), path) for place in has)
                if not there:
                    self._do("set", "/access/acl", f"--path={path}", f"--roles={role.name}", f"{word}={who}")
                yield Step(f"{role.name} for {who} below {path}", not there)

    def _look(self, path: str) -> list[dict[str, Any]]:
        told = self._pvesh(["get", path])
        if not isinstance(told, list) or not all(isinstance(row, dict) for row in told):
            raise ConfigError(f"pvesh get {path} answers with no list")
        return told

    def _do(self, *arguments: str) -> Any:
        return None if self._dry else self._pvesh(arguments)


def narrows(place: str, path: str) -> bool:
    return place == path or place.startswith(f"{path}/") or (path == "/vms" and place.startswith("/pool/"))


def _holds(file: Path, name: str) -> bool:
    try:
        return file.read_text(encoding="ascii", errors="replace").startswith(f"{name}=")
    except OSError:
        return False

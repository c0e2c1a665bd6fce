"""The support bundle: what somebody elsewhere needs to tell why a gateway is not well, less every secret.

It holds no commands, no output, no audit records and no names of tokens; each text passes the Scrubber all the same.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from gateway import __version__
from gateway.audit.client import AuditClient
from gateway.config import Config
from gateway.doctor.finding import Finding
from gateway.doctor.scrub import Scrubber, as_json
from gateway.errors import GatewayError
from gateway.pve.guests import GuestMap
from gateway.supervisor.link.client import SupervisorClient

PACKAGES = ("flask", "gunicorn", "itsdangerous", "prometheus-client", "proxmoxer", "pydantic", "PyYAML", "requests")
_DEBIAN = frozenset(
    ("lxc-pve", "lxc", "proxmox-ve", "pve-cluster", "pve-container", "pve-exec-gateway", "pve-manager", "qemu-server")
)
_DIRECTORY = "pve-exec-gateway-support"
_MAX_FILE = 1 << 20

Text = tuple[str, str]
"""A name and a content."""


def write_bundle(file: IO[bytes], texts: Iterable[Text], scrub: Scrubber) -> None:
    """A gzipped tar of them, all below one directory."""
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, text in texts:
            data = scrub(text).encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{_DIRECTORY}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(data))


def collect(config: Config, findings: Iterable[Finding], settings: str, logs: str) -> Iterator[Text]:
    """Everything that it holds. `settings`: the configuration in use, as YAML; `logs`: the services' last lines."""
    yield "doctor.json", as_json([finding.to_json() for finding in findings])
    yield "config.yaml", settings
    yield "versions.json", as_json(_versions())
    yield "node.txt", "".join(_node(config))
    yield "log.txt", logs
    supervisor, audit = _ask(config)
    yield "health.json", as_json({"supervisor": supervisor.get("health"), "audit": audit})
    yield "metrics.txt", _metrics(config, supervisor, audit)


def _ask(config: Config) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What the processes tell of themselves; of one that does not answer, why."""
    guests = GuestMap(config.pve.etc, config.node)
    client, log = SupervisorClient(config.supervisor.socket, guests), AuditClient(config.audit.socket)
    try:
        try:
            supervisor = {"health": client.health(), "figures": client.figures()}
        except GatewayError as exc:
            supervisor = {"health": {"error": exc.detail}}
        try:
            audit = log.ping()
        except GatewayError as exc:
            audit = {"error": exc.detail}
    finally:
        client.close()
        log.close()
    return supervisor, audit


def _metrics(config: Config, supervisor: dict[str, dict[str, Any]], audit: dict[str, Any]) -> str:
    """The figures of supervisor and audit writer; those of the web service it tells alone, to a token."""
    from gateway.metrics import families, text

    found = list(families.build_info(config.node))
    if "figures" in supervisor:
        found += families.execs(supervisor["figures"])
    if "error" not in audit:
        found += families.audit(audit)
    return text.render(found).decode()


def _versions() -> dict[str, Any]:
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "absent"
    return {"gateway": __version__, "python": sys.version, "packages": installed, "debian": dict(_debian_packages())}


def _debian_packages() -> Iterator[tuple[str, str]]:
    """Of dpkg's own status file (dpkg(1)): no program is run for it."""
    name = ""
    try:
        with open("/var/lib/dpkg/status", encoding="utf-8", errors="replace") as status:
            for line in status:
                key, _, value = line.rstrip("\n").partition(": ")
                if key == "Package":
                    name = value
                elif key == "Version" and name in _DEBIAN:
                    yield name, value
    except OSError:
        return


def _node(config: Config) -> Iterator[str]:
    yield f"{' '.join(platform.uname())}\nprocessors: {os.cpu_count()}\nload: {os.getloadavg()}\n\n"
    for file in (Path("/etc/os-release"), config.lxc.proc / "meminfo", config.pve.etc / ".members"):
        try:
            with file.open("rb") as opened:
                yield f"# {file}\n{opened.read(_MAX_FILE).decode('utf-8', 'replace')}\n"
        except OSError as exc:
            yield f"# {file}: {exc.strerror}\n"
    for directory in (config.spool.directory, config.audit.directory):
        try:
            disk = os.statvfs(directory)
            yield f"# {directory}: {disk.f_bavail * disk.f_frsize} of {disk.f_blocks * disk.f_frsize} bytes are free\n"
        except OSError as exc:
            yield f"# {directory}: {exc.strerror}\n"

"""The units leave each service what SECURITY.md says that it holds, and hide from it what is another's."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from gateway.config import Config

UNITS = Path(__file__).resolve().parents[2] / "packaging/systemd"
CONFIG = Config(node="pve1")
AUDIT_KEY, AUDIT_LOG = CONFIG.audit.key_file, CONFIG.audit.directory
TOKEN_KEYS, TOKENS = CONFIG.tokens.key_file, CONFIG.tokens.directory
WEB_AT_PVE, SUPERVISOR_AT_PVE = CONFIG.pve.token_file, CONFIG.pve.agent_token_file
SPOOL, TLS_KEY = CONFIG.spool.directory, Path("/etc/pve/local/pve-ssl.key")
# By hand, after the table in SECURITY.md.
NOT_OF_WEB = (AUDIT_KEY, AUDIT_LOG, SUPERVISOR_AT_PVE, SPOOL)
NOT_OF_THE_WRITER = (TOKEN_KEYS, TOKENS, WEB_AT_PVE, SUPERVISOR_AT_PVE, SPOOL, TLS_KEY)


def settings(unit: str) -> dict[str, list[str]]:
    """Every setting of the unit, with its values."""
    found = defaultdict(list)
    for line in (UNITS / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


@pytest.mark.parametrize(
    ("unit", "others"),
    [("pve-exec-gateway.service", NOT_OF_WEB), ("pve-exec-gateway-audit.service", NOT_OF_THE_WRITER)],
)
def test_a_service_sees_no_secret_of_another(unit: str, others: tuple[Path, ...]) -> None:
    """What the table leaves empty is out of its sight by the default configuration, and it has no capability."""
    found = settings(unit)
    hidden = {Path(word.lstrip("-")) for line in found["InaccessiblePaths"] for word in line.split()}
    assert [str(path) for path in others if not {path, *path.parents} & hidden] == []
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == [""]
    assert found["NoNewPrivileges"] == ["yes"] and found["ProtectSystem"] == ["strict"]


def test_nobody_but_web_speaks_over_the_network() -> None:
    """The audit writer has unix sockets alone, and no network interface."""
    found = settings("pve-exec-gateway-audit.service")
    assert found["RestrictAddressFamilies"] == ["AF_UNIX"] and found["PrivateNetwork"] == ["yes"]


def test_the_writers_socket_is_roots_alone() -> None:
    """As the one that the writer makes itself, where systemd passes none."""
    found = settings("pve-exec-gateway-audit.socket")
    assert found["ListenStream"] == [str(CONFIG.audit.socket)]
    assert found["SocketMode"] == ["0600"] and found["DirectoryMode"] == ["0700"]


@pytest.mark.parametrize("unit", ["pve-exec-gateway.service", "pve-exec-gateway-audit.service"])
def test_the_end_of_a_service_is_waited_for(unit: str) -> None:
    """With PrivatePIDs systemd 257 waits for all processes or for none: KillMode=mixed would kill them at once."""
    found = settings(unit)
    assert (found["PrivatePIDs"], found["KillMode"]) == (["yes"], ["control-group"])

"""What the supervisor asks of the node, LXC's library included, which a process of its own has to be started for."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config import Config
from gateway.doctor.finding import Finding, bad, good
from gateway.supervisor import readiness
from gateway.supervisor.launching.library import look_at_library


def check_requirements(config: Config) -> Iterator[Finding]:
    """What the supervisor asks of the node before it starts: the checks of GET /health/ready."""
    for check in readiness.checks(config, look_at_library(config)):
        if check["ok"]:
            yield good(check["name"], check["detail"] or "as it must be")
        else:
            what, _, remedy = check["detail"].partition("; ")
            yield bad(check["name"], what, remedy or "put that right; the supervisor then works again by itself")

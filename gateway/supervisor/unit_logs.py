"""The services' last lines in the journal, for the administrator's command line, where nothing else waits."""

from __future__ import annotations

import subprocess
from pathlib import Path

UNITS = ("pve-exec-gateway.service", "pve-exec-gateway-supervisor.service", "pve-exec-gateway-audit.service")

_SECONDS = 20.0
_MAX_CHARACTERS = 4 << 20


def last_lines(journalctl: Path, lines: int) -> str:
    """Up to `lines` of all units together, 4 MiB at most; or why there are none."""
    units = [word for unit in UNITS for word in ("-u", unit)]
    try:
        done = subprocess.run(
            [str(journalctl), "--no-pager", "-q", "-o", "short-iso", "-n", str(lines), *units],
            env={"LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{journalctl} tells nothing: {type(exc).__name__}\n"
    return (done.stdout + done.stderr).decode("utf-8", "replace")[-_MAX_CHARACTERS:]

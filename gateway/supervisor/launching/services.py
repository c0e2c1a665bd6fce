"""What every execution needs of its supervisor."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config import ExecConfig
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.launch import Launcher


@dataclass(frozen=True)
class Services:
    """The event loop, the limits, and the way into a guest."""

    loop: Loop
    config: ExecConfig
    launcher: Launcher

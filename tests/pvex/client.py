"""Pvex: the command as a process, against a gateway of the tests, with a home of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from pvex.cli import main
from tests.exec.gateways import Gateway

# Before click 8.2 (Debian 13 has 8.1) it mixes both streams unless it is told not to.
_APART: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
# With no signal ignored: `nohup make test &` ignores three, pvex leaves those alone, and tests send them.
PROGRAM = ["env", "--default-signal", sys.executable, "-m", "pvex"]


@dataclass(frozen=True)
class Pvex:
    """Runs pvex with a token. `home`: where its configuration goes."""

    gateway: Gateway
    home: Path
    token: str = field(repr=False)

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of ours but the path; the gateway as .demo/env names it."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HOME": str(self.home),
            "GATEWAY_URL": self.gateway.services.url,
            "GATEWAY_TOKEN": self.token,
            "GATEWAY_CA": str(self.gateway.services.ca),
            "PVEX_DEBUG": "1",
            **more,
        }

    def __call__(
        self, *arguments: str, stdin: bytes = b"", timeout: float = 60, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs it to its end. An empty variable is one that is not set."""
        given = {name: value for name, value in self.environment(**environment).items() if value}
        return subprocess.run(
            [*PROGRAM, *arguments], input=stdin, capture_output=True, timeout=timeout, env=given, check=False
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Starts it, its three streams pipes unless `options` say otherwise."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = self.environment(**options.pop("environment", {}))
        return _Running([*PROGRAM, *arguments], env=environment, **{**pipes, **options})

    def inside(self, *arguments: str, stdin: bytes = b"", **environment: Any) -> subprocess.CompletedProcess[bytes]:
        """Runs it in this process, which takes a tenth of the time: for what neither streams nor takes signals."""
        given = {name: value or None for name, value in self.environment(**environment).items()}
        result = CliRunner(**_APART).invoke(main, arguments, input=stdin, env=given, prog_name="pvex")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout_bytes, result.stderr_bytes)

    def lines(self, *arguments: str, **environment: Any) -> list[str]:
        """What it prints, where it succeeds; run in this process."""
        done = self.inside(*arguments, **environment)
        assert done.returncode == 0, done
        return done.stdout.decode().splitlines()


class _Running(subprocess.Popen[bytes]):
    """Where the test fails, it is not waited for."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)

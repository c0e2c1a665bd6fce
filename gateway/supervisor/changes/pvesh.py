"""pvesh, PVE's API as root@pam: the one place that runs it, for bounded time, with bounded output."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.tool_output import ToolOutput

_MAX_OUTPUT = 256 << 10
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_STATUS = re.compile(r"(?P<status>[1-5][0-9]{2}) ")
_GOT_LOCK = re.compile(r"trying to acquire (?:\w+ )?lock[^\n]*\.\.\.\s*OK\s*")
_UPID = re.compile(r'^"?(UPID:[!-~]+:)"?\s*$', re.MULTILINE)


@dataclass(frozen=True)
class Said:
    """What came of one call. `exit_code` None: its time was over, so that it was killed; what it did is unknown."""

    exit_code: int | None
    stdout: str
    stderr: str

    @property
    def status(self) -> int:
        """PVE's status of a failure: pvesh says it before the message where it knows one."""
        found = _STATUS.match(self.words)
        return int(found["status"]) if found else 500

    @property
    def words(self) -> str:
        """What it says of its failure, and not of a lock that it waited for, and got (PVE::Tools, lock_file_full)."""
        return _GOT_LOCK.sub("", self.stderr or self.stdout).strip()

    @property
    def upid(self) -> str | None:
        """The task that the call was, whose log pvesh prints before its name."""
        found = _UPID.findall(self.stdout)
        return str(found[-1]) if found else None

    def data(self) -> Any:
        """Its answer. PVE's null is none. Raises ValueError for what is no JSON."""
        return json.loads(self.stdout) if self.stdout.strip() else None


class Pvesh:
    """Calls from the supervisor's event loop."""

    def __init__(self, loop: Loop, program: Path) -> None:
        self._loop = loop
        self._program = program

    async def call(self, arguments: Sequence[str], timeout: float) -> Said:
        """Runs one call for at most `timeout` seconds. Raises OSError when it cannot be started."""
        with open(os.devnull, "rb") as nothing:
            readers, writers = zip(*(os.pipe() for _ in range(2)), strict=True)
            try:
                pid = os.posix_spawn(
                    self._program,
                    command_line(self._program, arguments),
                    _ENVIRONMENT,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((nothing.fileno(), *writers))
                    ],
                    setsigmask=[],
                    setsigdef=_SIGNALS,
                    setsid=True,
                )
            except OSError:
                for fd in readers:
                    os.close(fd)
                raise
            finally:
                for fd in writers:
                    os.close(fd)
        return await self._attend(pid, readers, timeout)

    async def _attend(self, pid: int, readers: Sequence[int], timeout: float) -> Said:
        io = self._loop.io
        ended: asyncio.Future[int] = io.create_future()
        outputs = [ToolOutput(io, fd, _MAX_OUTPUT) for fd in readers]
        self._loop.children.watch(pid, lambda status: None if ended.done() else ended.set_result(status))
        try:
            await asyncio.wait([ended], timeout=timeout)
            in_time = ended.done()
        finally:
            if not ended.done():
                os.killpg(pid, signal.SIGKILL)  # not reaped yet, so nobody else's
            # What its worker writes afterwards is the task's log, which PVE keeps.
            stdout, stderr = (output.close() for output in outputs)
        return Said(os.waitstatus_to_exitcode(ended.result()) if in_time else None, stdout, stderr)


def call_at_once(program: Path, arguments: Sequence[str], timeout: float = 60.0) -> Said:
    """The same for the administrator's command line, where nothing else waits. Raises ConfigError if it cannot run."""
    try:
        done = subprocess.run(
            command_line(program, arguments),
            executable=program,
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except OSError as exc:
        raise ConfigError(f"cannot run {program} (pve.pvesh): {exc.strerror}") from exc
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(f"{program} did not end within {timeout:.0f} s") from exc
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def command_line(program: Path, arguments: Sequence[str]) -> list[str]:
    """The whole argument list. `--noproxy`, which counts in front only: it acts on this node, never by ssh on another
    (PVE::CLI::pvesh)."""
    return [str(program), "--noproxy", *arguments, "--output-format=json"]

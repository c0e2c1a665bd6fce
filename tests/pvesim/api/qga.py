"""PVE's side of a guest agent: what qemu-server asks of it and how it fails (QemuServer/Agent.pm, QMPClient.pm)."""

import base64
import itertools
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pvesim.api.facts import Failure

_ids = itertools.count(1)


@dataclass(frozen=True)
class Timing:
    """Seconds that PVE waits for an agent's answer: 3 for a ping, 5 for anything else."""

    ping: float = 3.0
    command: float = 5.0


class GuestAgent:
    """The agent of one VM, as the API's methods use it."""

    def __init__(self, vmid: int, config: Path, pidfile: Path, timing: Timing) -> None:
        self._vmid = vmid
        self._config = config
        self._pidfile = pidfile
        self._timing = timing

    def load_config(self) -> dict[str, str]:
        """Raises Failure as PVE::QemuConfig->load_config dies."""
        try:
            lines = self._config.read_text().splitlines()
        except FileNotFoundError:
            where = f"nodes/{self._config.parts[-3]}/qemu-server/{self._vmid}.conf"
            raise Failure(500, f"Configuration file '{where}' does not exist\n") from None
        return dict(line.split(": ", 1) for line in lines if ": " in line)

    def pid(self) -> int | None:
        """The VM's process, if it runs: the pid file's, with its own path in the command line (vm_running_locally)."""
        try:
            pid = int(self._pidfile.read_text())
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self._pidfile) in arguments else None

    def require(self) -> None:
        """Raises Failure as assert_agent_available dies."""
        if "agent" not in self.load_config():
            raise Failure(500, "No QEMU guest agent configured\n")
        if self.pid() is None:
            raise Failure(500, f"VM {self._vmid} is not running\n")
        try:
            self._ask("guest-ping", {}, self._timing.ping)
        except Failure:
            raise Failure(500, "QEMU guest agent is not running\n") from None

    def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The agent's result. Raises Failure with `Agent error: …`, or when no answer comes in time."""
        self.require()
        reply = self._ask(name, arguments, self._timing.command)
        if "error" in reply:
            raise Failure(500, f"Agent error: {reply['error']['desc']}\n")
        result: dict[str, Any] = reply["return"]
        return result

    def exec(self, command: list[str], data: str | None) -> dict[str, Any]:
        """Raises Failure; input that is no byte string is `Wide character` [M]."""
        arguments: dict[str, Any] = {"capture-output": True}
        if command:
            arguments |= {"path": command[0], "arg": command[1:]}
        if data is not None:
            try:
                arguments["input-data"] = base64.b64encode(data.encode("latin-1")).decode()
            except UnicodeEncodeError:
                raise Failure(500, "Wide character in subroutine entry at Agent.pm line 135.\n") from None
        if not arguments.keys() & {"path", "input-data"}:
            raise Failure(500, "command or input-data (or both) required\n")
        return self.command("guest-exec", arguments)

    def exec_status(self, pid: int) -> dict[str, Any]:
        """Output is a byte string, which becomes text of the characters U+0000 to U+00FF: no byte is lost [M]."""
        status = self.command("guest-exec-status", {"pid": pid})
        for name in ("out-data", "err-data"):
            if name in status:
                status[name] = base64.b64decode(status[name]).decode("latin-1")
        return {name: int(value) if isinstance(value, bool) else value for name, value in status.items()}

    def _ask(self, name: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        """One command on a connection of its own.

        The text's bytes beyond its number of characters are never sent [M]: IO::Multiplex counts characters. So a
        command with two bytes or more beyond ASCII never reaches the agent whole, and times out.
        """
        number = os.getpid() * 100_000 + next(_ids)
        sync = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        asked = {"execute": name, "arguments": arguments}
        text = "".join(json.dumps(message, ensure_ascii=False) + "\n" for message in (sync, asked))
        deadline = time.monotonic() + timeout
        said = bytearray()
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(timeout)
                link.connect(str(self._pidfile.with_suffix(".qga")))
                link.sendall(text.encode()[: len(text)])
                while said.rpartition(b"\xff")[2].count(b"\n") < 2:
                    link.settimeout(max(0.001, deadline - time.monotonic()))
                    piece = link.recv(1 << 20)
                    if not piece:
                        raise Failure(500, f"VM {self._vmid} qga command '{name}' failed - client closed connection\n")
                    said += piece
        except TimeoutError:
            raise Failure(500, f"VM {self._vmid} qga command '{name}' failed - got timeout\n") from None
        except OSError as error:
            raise Failure(
                500, f"VM {self._vmid} qga command '{name}' failed - unable to connect to VM {self._vmid} qga socket - "
                f"{error.strerror}\n"
            ) from None  # fmt: skip
        reply: dict[str, Any] = json.loads(said.rpartition(b"\xff")[2].split(b"\n")[1])
        return reply

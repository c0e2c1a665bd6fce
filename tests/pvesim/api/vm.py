"""The process of one simulated VM: QEMU's command line, and a guest agent on a socket that speaks as qemu-ga does.

    kvm -m tests.pvesim.api.vm -id 301 -pidfile /var/run/qemu-server/301.pid

Commands are real processes beside it, in a directory of their own with a bare environment: they stand for the VM's.
They are in its process group, which whoever pulls the plug kills. `<vmid>.quirks.json` beside the pid file is read
before each command; SIGHUP restarts the agent.
"""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, Any

from tests.pvesim import pmxcfs

MAX_OUTPUT = 16 << 20  # GUEST_EXEC_MAX_OUTPUT
_PIECE = 65536
_MAC = "bc:24:11:00:00:01"


class AgentError(Exception):
    """What the agent answers instead of a result."""


class Agent:
    """qemu-ga as far as commands go: guest-exec, guest-exec-status, guest-ping."""

    def __init__(self, home: Path, quirks: Path, config: str) -> None:
        self._home = home
        self._quirks = quirks
        self._config = config
        self._running: dict[int, Running] = {}
        self._commands: dict[str, Callable[[dict[str, Any]], Any]] = {
            "guest-ping": lambda _: {},
            "guest-network-get-interfaces": lambda _: [self._interface()],
            "guest-exec": self._exec,
            "guest-exec-status": self._status,
        }

    def restart(self, *_: int | FrameType | None) -> None:
        """What a new agent process knows of the commands of the old one: nothing. They live on."""
        self._running.clear()

    def serve(self, listener: socket.socket) -> None:
        """Talks to one client at a time, as a character device of QEMU does."""
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                try:
                    for line in lines:
                        connection.sendall(self._answer(line))
                except OSError:
                    continue  # the client had enough

    def _answer(self, line: bytes) -> bytes:
        try:
            asked = json.loads(line)
        except ValueError:
            return _line({"error": {"class": "GenericError", "desc": "JSON parse error"}})
        quirks = json.loads(self._quirks.read_text()) if self._quirks.exists() else {}
        if quirks.get("away"):
            return b""
        name = asked["execute"]
        if name == "guest-sync-delimited":
            return b"\xff" + _line({"return": asked["arguments"]["id"]})
        time.sleep(quirks.get("slow", 0))
        try:
            told = self._commands[name](asked["arguments"])
            if name == "guest-exec-status" and told["exited"]:
                told |= quirks.get("says", {})
            said = _line({"return": told})
        except AgentError as error:
            said = _line({"error": {"class": "GenericError", "desc": str(error)}})
        muted = name in quirks.get("mute", ()) and quirks.get("where", "") in json.dumps(asked)
        return b"" if muted else said

    def _interface(self) -> dict[str, Any]:
        """The one network that a VM has on paper, with the address that cloud-init was told, or one by DHCP."""
        config = "".join(file.read_text() for file in (pmxcfs.ROOT / "nodes").glob(self._config))
        mac = re.search(r"^net0: \w+=([0-9A-Fa-f:]{17})", config, re.MULTILINE)
        told = re.search(r"^ipconfig0: (?:.*,)?ip=([0-9.]+)/([0-9]+)", config, re.MULTILINE)
        address, prefix = (told[1], int(told[2])) if told else ("10.200.0.1", 8)
        addresses = [{"ip-address-type": "ipv4", "ip-address": address, "prefix": prefix}]
        hardware = mac[1].lower() if mac else _MAC
        return {"name": "eth0", "hardware-address": hardware, "ip-addresses": addresses}

    def _exec(self, arguments: dict[str, Any]) -> dict[str, int]:
        data = base64.b64decode(arguments.get("input-data", ""))
        command = [arguments["path"], *arguments.get("arg", [])]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if data else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._home,
                env={"PATH": os.defpath},
            )
        except OSError as error:
            raise AgentError(
                "Guest agent command failed, error was 'Failed to execute child process "
                f"“{command[0]}” ({os.strerror(error.errno or 0)})'"
            ) from None
        self._running[process.pid] = Running(process, data)
        return {"pid": process.pid}

    def _status(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What became of a command; told once, as qemu-ga forgets what it has told."""
        pid = arguments["pid"]
        running = self._running.get(pid)
        if running is None:
            raise AgentError(f"PID {pid} does not exist")
        if not running.over():
            return {"exited": False}
        del self._running[pid]
        return running.result()


class Running:
    """One command: what it has written, up to MAX_OUTPUT of each stream."""

    def __init__(self, process: subprocess.Popen[bytes], data: bytes) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._process = process
        self._streams = {"out": Captured(process.stdout), "err": Captured(process.stderr)}
        if process.stdin is not None:
            threading.Thread(target=_feed, args=(process.stdin, data), daemon=True).start()

    def over(self) -> bool:
        """It has ended, and nobody holds its output any more: a child left behind delays that [M]."""
        return self._process.poll() is not None and all(stream.closed() for stream in self._streams.values())

    def result(self) -> dict[str, Any]:
        code = self._process.returncode
        told: dict[str, Any] = {"exited": True, **({"signal": -code} if code < 0 else {"exitcode": code})}
        for name, stream in self._streams.items():
            if stream.data:
                told[f"{name}-data"] = base64.b64encode(stream.data).decode()
                told[f"{name}-truncated"] = stream.truncated
        return told


class Captured:
    """One output, read to its end by a thread."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.data = bytearray()
        self.truncated = False
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def closed(self) -> bool:
        return not self._thread.is_alive()

    def _read(self, pipe: IO[bytes]) -> None:
        while piece := pipe.read(_PIECE):
            room = MAX_OUTPUT - len(self.data)
            self.data += piece[:room]
            self.truncated |= len(piece) > room


def _feed(pipe: IO[bytes], data: bytes) -> None:
    try:
        with pipe:
            pipe.write(data)
    except BrokenPipeError:
        return


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def main(pidfile: Path) -> None:
    """Runs until it is killed. The socket and `quirks.json` stand beside the pid file, under its name."""
    with tempfile.TemporaryDirectory(prefix="vm-", dir=pidfile.parent) as home:  # gone with the node, if we are killed
        agent = Agent(Path(home), pidfile.with_suffix(".quirks.json"), f"*/qemu-server/{pidfile.stem}.conf")
        signal.signal(signal.SIGHUP, agent.restart)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        listener = socket.socket(socket.AF_UNIX)
        path = pidfile.with_suffix(".qga")
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(64)
        new = pidfile.with_suffix(".new")
        new.write_text(f"{os.getpid()}\n")
        new.rename(pidfile)  # from here on it runs
        agent.serve(listener)


if __name__ == "__main__":
    main(Path(sys.argv[sys.argv.index("-pidfile") + 1]))

"""Looks round as code would that has taken web or audit writer over: what it reads, writes, signals and connects to.

Runs in a copy of the process's unit, as root without a capability; prints JSON for tests.debian.confined.
"""

import json
import os
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, "/usr/share/pve-exec-gateway")

from gateway.confinement import stay_apart

_LAST_PID = 1 << 16


def main() -> None:
    """The facts, by names of lists: which of what was asked after is within reach."""
    stay_apart()
    files = json.loads(sys.argv[1])
    facts = {
        "signals": [pid for pid in range(2, _LAST_PID) if _can(os.kill, pid, 0)],
        "sees": [name for name in os.listdir("/proc") if name.isdigit() and name != str(os.getpid())],
        "reads": [path for path in files["reads"] if _can(_read, path)],
        "writes": [path for path in files["writes"] if _can(_write, Path(path))],
        "sockets": [path for path in _sockets() if _connects(path)],
        "abstract": [path for path in files["abstract"] if _connects("\0" + path)],
    }
    print(json.dumps(facts))


def _can(attempt: Callable[..., object], *arguments: object) -> bool:
    try:
        attempt(*arguments)
    except OSError:
        return False
    return True


def _read(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _write(directory: Path) -> None:
    tried = directory / ".tried"
    tried.touch()
    tried.unlink()


def _sockets() -> Iterator[str]:
    for top in ("/run", "/var", "/tmp", "/dev", "/etc"):
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                if _can(os.lstat, path) and stat.S_ISSOCK(os.lstat(path).st_mode):
                    yield path


def _connects(address: str) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            if _can(sock.connect, address):
                return True
    return False


if __name__ == "__main__":
    main()

"""Words to the service manager."""

import os
import socket
from pathlib import Path

import pytest

from gateway.notify import ALIVE, alive_every, notify


@pytest.mark.parametrize(
    ("given", "pid", "seconds"),
    [
        ("30000000", str(os.getpid()), 15.0),
        ("30000000", "", 15.0),
        ("30000000", "1", None),
        ("0", "", None),
        ("soon", "", None),
        ("", "", None),
    ],
)
def test_watchdog_is_told_twice_as_often(
    monkeypatch: pytest.MonkeyPatch, given: str, pid: str, seconds: float | None
) -> None:
    """Half of what the manager waits for, and only if it asks this process (sd_watchdog_enabled(3))."""
    monkeypatch.setenv("WATCHDOG_USEC", given)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert alive_every() == seconds


def test_who_has_taken_the_socket_out_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`to` is where; without it, and without NOTIFY_SOCKET, nobody listens."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert notify(ALIVE, to=str(tmp_path / "notify"))
        assert manager.recv(100) == b"WATCHDOG=1"
    assert not notify(ALIVE)

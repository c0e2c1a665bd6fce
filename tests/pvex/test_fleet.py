"""A fleet that is left: what it had begun is ended, also what had not been heard of."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading

import pytest

from pvex.api import Api
from pvex.fleet import Fleet, Share
from pvex.profile import Profile
from pvex.show import cut
from tests.exec.inside import new_mark
from tests.pvex.client import Pvex


def test_what_begins_as_it_is_left_is_ended(pvex: Pvex) -> None:
    """The command of a guest whose request is on its way at the Ctrl-C runs no longer than the others."""
    late, early = Share(101, "late"), Share(102, "early")
    ended = threading.Event()

    def send() -> str:
        """A key: late's, which is asked for first, when early's command has been ended."""
        if threading.current_thread().name.endswith("_0"):
            assert ended.wait(20)
        return new_mark()

    def tell(share: Share, stream: str | None, line: bytes) -> None:
        if share is early and share.state == "running":
            os.kill(os.getpid(), signal.SIGINT)  # to the main thread
        if share is early and share.state == "ended":
            ended.set()

    services = pvex.gateway.services
    with contextlib.closing(Api(Profile("test", services.url, pvex.token, services.ca))) as api:
        fleet = Fleet(api, [late, early], {"command": ["sleep", "600"], "timeout": 20}, send, tell)
        with pytest.raises(KeyboardInterrupt):
            fleet.run(2)
    assert [share.reason for share in (early, late)] == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("abcdef", "abcdef"), ("abcdefg", "abcde…"), ("日本語", "日本語"), ("日本語テ", "日本…"), ("grüße-x", "grüße…")],
)
def test_a_line_fits(text: str, shown: str) -> None:
    """Six columns of a terminal, of which some letters take two: a line that wraps would not be taken away again."""
    assert cut(text, 6) == shown


def test_left_where_nothing_answers(pvex: Pvex) -> None:
    """Who presses Ctrl-C again, as the gateway has gone silent, waits no more, and sees no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as held:
        silent.settimeout(40)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pvex.start("run", "-g", "101,102", "--", "true", environment={"GATEWAY_URL": url}) as running:
            for _ in range(2):
                held.enter_context(silent.accept()[0])
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(2)  # it would wait for what answers in the end
            running.send_signal(signal.SIGINT)
            running.wait(60)
            told = running.communicate(timeout=20)
    assert (running.returncode, told) == (130, (b"", b""))

"""Connections that are cut: no byte is lost or comes twice, and nothing runs a second time."""

from __future__ import annotations

import contextlib
import hashlib
import random

from tests.exec.inside import labelled, new_mark
from tests.pvex.client import Pvex
from tests.pvex.proxy import Proxy
from tests.pvex.pty import Screen

HANDSHAKE = 2500
"""Bytes from the gateway that TLS and a reply's head take, about."""


def test_output_is_whole(pvex: Pvex) -> None:
    """Two streams, cut at 6 random places: each arrives as it was written, and the exit code."""
    places = random.Random(23)
    script = (
        "i=0; while [ $i -lt 20 ]; do head -c 20000 /dev/urandom > /tmp/piece; cat /tmp/piece; cat /tmp/piece >&2;"
        " cat /tmp/piece >> /tmp/whole; i=$((i+1)); done; sha256sum < /tmp/whole >&2; rm /tmp/whole /tmp/piece; exit 9"
    )
    cuts = (HANDSHAKE + places.randrange(200_000) for _ in range(6))
    with Proxy(pvex.gateway.services.port, cuts) as proxy:
        done = pvex("exec", "101", "--", "sh", "-c", script, GATEWAY_URL=proxy.url)
    assert done.returncode == 9, done.stderr[-300:]
    digest = hashlib.sha256(done.stdout).hexdigest().encode()
    assert (len(done.stdout), done.stderr[:400_000] == done.stdout) == (400_000, True)
    assert done.stderr[400_000:] == digest + b"  -\n"
    assert proxy.broken >= 3


def test_input_is_whole(pvex: Pvex) -> None:
    """Input over connections that break before they answer: every byte once."""
    places = random.Random(24)
    data = random.Random(25).randbytes(2 << 20)
    cuts = (HANDSHAKE + places.randrange(3000) for _ in range(6))
    with Proxy(pvex.gateway.services.port, cuts) as proxy:
        done = pvex("exec", "-i", "101", "--", "sha256sum", stdin=data, GATEWAY_URL=proxy.url)
    assert done.stdout.split()[:1] == [hashlib.sha256(data).hexdigest().encode()], done.stderr
    assert proxy.broken >= 3


def test_it_runs_once(pvex: Pvex) -> None:
    """Cut before the first byte of the answer: the request is sent again, with its key."""
    mark = new_mark()
    with Proxy(pvex.gateway.services.port, iter([HANDSHAKE // 2, HANDSHAKE // 2])) as proxy:
        done = pvex("exec", "-l", f"test={mark}", "101", "--", "echo", "once", GATEWAY_URL=proxy.url)
    assert (done.returncode, done.stdout) == (0, b"once\n"), done.stderr
    with contextlib.closing(pvex.gateway.api(pvex.token)) as api:
        assert labelled(api, mark)
        assert len(api.get(f"/execs?label=test={mark}").json()["execs"]) == 1


def test_a_terminal_is_whole(pvex: Pvex) -> None:
    """A session over five connections: all is shown once, all that is typed arrives once."""
    cuts = iter([1 << 30, *(HANDSHAKE + 700 * count for count in range(1, 6))])
    words = ("exec", "-it", "101", "--", "sh", "-c", "stty -echo; echo go; cat")
    with Proxy(pvex.gateway.services.port, cuts) as proxy:
        with Screen(pvex, *words, GATEWAY_URL=proxy.url) as screen:
            screen.until("go\r\n")
            for number in range(200):
                screen.type(f"{number:050}\n")
                assert screen.until("\r\n") == f"{number:050}\r\n"
            screen.type("\x04")
            assert screen.end() == 0
        assert proxy.broken == 5

"""What goes wrong is one line that says what to do, and an exit code; no traceback, no token."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.pvex.client import Pvex

NOWHERE = {"GATEWAY_URL": "", "GATEWAY_TOKEN": "", "GATEWAY_CA": ""}


def told(pvex: Pvex, code: int, *words: str, **environment: Any) -> str:
    """The one line of a failure with this exit code."""
    done = pvex.inside(*words, **environment)
    assert (done.returncode, done.stdout) == (code, b""), done
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("pvex: ")
    return line


def test_gateway_away(pvex: Pvex) -> None:
    """Nobody listens: at once, nothing is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    line = told(pvex, 125, "exec", "101", "--", "true", GATEWAY_URL=f"https://127.0.0.1:{port}")
    assert "is the gateway running? (Connection refused)" in line


def test_wrong_ca(pvex: Pvex) -> None:
    """The certificate is none of that CA's, or of this machine's: where to find the right one. No CA: what is wrong."""
    line = told(pvex, 125, "ps", GATEWAY_CA="")
    assert "pve-root-ca.pem" in line and "the CAs of this machine" in line
    assert "No such file" in told(pvex, 125, "ps", GATEWAY_CA="/no/such.pem")
    assert "give one in PEM" in told(pvex, 125, "ps", GATEWAY_CA="/etc/hostname")


def test_expired_token(pvex: Pvex) -> None:
    """Expired, revoked, forged: one answer, and what to do."""
    assert "pvex login" in told(pvex, 125, "ps", GATEWAY_TOKEN=pvex.token[:-2] + "xx")
    assert "GATEWAY_TOKEN is not" in told(pvex, 2, "ps", GATEWAY_TOKEN="")


@pytest.mark.parametrize("token", ["pveg_a\nb", "pveg_a b", "pveg_grüße", "pveg_\udcff", "hunter2"])
def test_what_is_no_token(pvex: Pvex, token: str) -> None:
    """It is not sent, and not shown, wherever it comes from."""
    done = pvex("ps", GATEWAY_TOKEN=token)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert (
        b"GATEWAY_TOKEN holds no token" in done.stderr and token[5:].encode(errors="surrogateescape") not in done.stderr
    )


def test_blanks_around_a_token(pvex: Pvex) -> None:
    """As a file's last newline is one."""
    assert pvex.inside("ps", GATEWAY_TOKEN=f" {pvex.token}\n").returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ("ls", "--tag", "\udcff"),
        ("snapshot", "rm", "101", "\udcff"),
        ("task", "show", "\udcff"),
        ("audit", "--token", "\udcff"),
    ],
)
def test_what_is_no_text(pvex: Pvex, words: tuple[str, ...]) -> None:
    """Bytes that are no UTF-8, where only files in guests have such names."""
    assert "has to be UTF-8" in told(pvex, 2, *words)


@pytest.mark.parametrize(
    "words",
    [("inspect", ".."), ("logs", ""), ("kill", "."), ("snapshot", "rm", "101", ".."), ("token", "rm", "..")],
)
def test_names_that_lead_elsewhere(pvex: Pvex, words: tuple[str, ...]) -> None:
    """A name is one segment of a path, or none: no other operation is asked for."""
    assert "is the name of nothing" in told(pvex, 2, *words)


def test_a_fault_of_our_own(pvex: Pvex, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, too, and none of its words, which could hold the token."""

    def fail(*_: object) -> None:
        raise LookupError(pvex.token)

    monkeypatch.setattr("pvex.profile.load_store", fail)
    line = told(pvex, 125, "profile", "ls", PVEX_DEBUG="")
    assert "LookupError" in line and pvex.token not in line


def test_no_such_guest(pvex: Pvex) -> None:
    """By vmid, whether it does not exist or is not ours."""
    assert "`pvex ls`" in told(pvex, 125, "exec", "998", "--", "true")


def test_what_a_token_may_not(pvex: Pvex) -> None:
    """A refusal names the way to look at the grants."""
    assert "`pvex token self`" in told(pvex, 125, "token", "ls")


def test_names_without_a_list(pvex: Pvex) -> None:
    """A token that may not list guests is told to give vmids."""
    assert "give a vmid" in told(pvex, 125, "exec", "ct101", "--", "true")


def test_no_profile(pvex: Pvex, tmp_path: Path) -> None:
    """None at all, and an unknown one: which there are, and how to make one."""
    home: dict[str, Any] = {**NOWHERE, "XDG_CONFIG_HOME": str(tmp_path)}
    assert "run `pvex login URL`" in told(pvex, 2, "ps", **home)
    assert "known: none" in told(pvex, 2, "--profile", "prod", "ps", **home)


@pytest.mark.parametrize("url", ["http://pve1:39377", "https://", "https://u:p@pve1", "https://pve1/api", "pve1:x"])
def test_no_address(pvex: Pvex, url: str) -> None:
    """An address that is none, or would send the token in the clear."""
    assert "give https://" in told(pvex, 2, "ps", GATEWAY_URL=url)


class _Page(BaseHTTPRequestHandler):
    """Of a web server that is none of ours; of /guests a list."""

    def _answer(self) -> None:
        data = b"[]" if self.path == "/guests" else b"<html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_GET = do_HEAD = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    "words",
    [
        ("logs", "ex_01M801507D4FVFVPQ2H0T8X4BN"),
        ("cp", "101:/etc/hostname", "-"),
        ("file", "stat", "101:/etc/hostname"),
        ("show", "101"),
        ("ls",),
    ],
)
def test_what_is_no_gateway(pvex: Pvex, words: tuple[str, ...]) -> None:
    """What another server says with 200 is never taken for a command's output, a file or a list."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            line = told(pvex, 125, *words, GATEWAY_URL=f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()
    assert "is that a gateway?" in line or "is no gateway's" in line


@pytest.mark.parametrize("words", [("profile", "ls"), ("completion", "bash"), ("ps",), ("--help",)])
def test_a_full_disk(pvex: Pvex, words: tuple[str, ...]) -> None:
    """Output that cannot be written is one line, as any failure; nothing is tried again as Python ends."""
    with open("/dev/full", "wb") as full, pvex.start(*words, stdout=full) as running:
        _, told = running.communicate(timeout=40)
    assert (running.returncode, told) == (125, b"pvex: cannot write stdout: No space left on device\n")


def test_login(pvex: Pvex, tmp_path: Path) -> None:
    """The token from stdin, kept with the CA in files of our own; then it works without the environment."""
    home: dict[str, Any] = {**NOWHERE, "XDG_CONFIG_HOME": str(tmp_path)}
    ca = str(pvex.gateway.services.ca)
    url = pvex.gateway.services.url
    done = pvex.inside("login", url, "--name", "lab", "--ca", ca, stdin=pvex.token.encode() + b"\n", **home)
    assert done.returncode == 0 and b"profile lab" in done.stderr and pvex.token.encode() not in done.stderr
    for path in (tmp_path / "pvex").iterdir():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600, path
    assert pvex("exec", "101", "--", "echo", "in", **home).stdout == b"in\n"
    assert json.loads(pvex.inside("-o", "json", "profile", "ls", **home).stdout)[0]["name"] == "lab"
    assert pvex.token.encode() not in pvex.inside("profile", "ls", **home).stdout
    assert "known: lab" in told(pvex, 2, "-p", "other", "ps", **home)
    (tmp_path / "pvex/config.json").chmod(0o644)
    assert "chmod 600" in told(pvex, 125, "ps", **home)
    (tmp_path / "pvex/config.json").chmod(0o600)
    assert pvex.inside("profile", "rm", "lab", **home).returncode == 0
    assert not (tmp_path / "pvex/lab.pem").exists()


def test_login_with_no_token(pvex: Pvex, tmp_path: Path) -> None:
    """What is none is not sent, and nothing is kept of what the gateway refuses."""
    home: dict[str, Any] = {**NOWHERE, "XDG_CONFIG_HOME": str(tmp_path)}
    words = ("login", pvex.gateway.services.url, "--ca", str(pvex.gateway.services.ca))
    for token, code in ((b"hunter2\n", 2), (b"pveg_tk_01M800XAWRS07FNHYT3VEHX01W.1.xxx\n", 125)):
        done = pvex.inside(*words, stdin=token, **home)
        assert (done.returncode, done.stdout) == (code, b"") and token.strip() not in done.stderr
    assert not (tmp_path / "pvex").exists()

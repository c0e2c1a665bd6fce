"""Reverse proxies as docs/operating.md configures them: the block is read there, its names become this machine's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.exec.gateways import Gateway
from tests.exec.waiting import until

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = REPOSITORY / "docs/operating.md"
_NODE = Path("/etc/pve/local")
_UPSTREAM = "https://pve1.example.org:39377"


@dataclass(frozen=True)
class Kind:
    """A proxy: the words before its block in the guide, whose names become ours, and what else it is told.

    `port`, `directory`, `gateway`, `ca`, `certificate`, `key` stand for what the test has.
    """

    program: str
    block: str
    names: Mapping[str, str]
    frame: str
    command: tuple[str, ...]


NGINX = Kind(
    "nginx",
    "nginx:",
    {
        "listen 443 ssl;": "listen 127.0.0.1:{port} ssl;",
        _UPSTREAM: "{gateway}",
        "/etc/ssl/exec.pem": "{certificate}",
        "/etc/ssl/exec.key": "{key}",
        "/etc/ssl/pve-root-ca.pem": "{ca}",
    },
    "user root; worker_processes 1; daemon off; pid {directory}/pid; error_log stderr;\n"
    "events {}\n"
    "http { access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n"
    "fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;\n{block}\n}\n",
    ("-p", "{directory}", "-e", "stderr", "-c", "{directory}/config"),
)
CADDY = Kind(
    "caddy",
    "Caddy ",
    {
        "exec.example.org {": "https://localhost:{port}, https://127.0.0.1:{port} {\n"
        "    bind 127.0.0.1\n    tls {certificate} {key}",
        _UPSTREAM: "{gateway}",
        "/etc/caddy/pve-root-ca.pem": "{ca}",
    },
    "{\n    admin off\n    auto_https disable_redirects\n    servers {\n        protocols h1 h2\n    }\n}\n{block}",
    ("run", "--adapter", "caddyfile", "--config", "{directory}/config"),
)


def find(program: str) -> str | None:
    """Where it is; `make test` has it."""
    return shutil.which(program, path=f"{REPOSITORY / '.test'}:/usr/sbin:{os.environ.get('PATH', os.defpath)}")


@contextmanager
def running(kind: Kind, program: str, gateway: Gateway, directory: Path) -> Iterator[int]:
    """The proxy before this gateway, with the node's own certificate; the port that it listens on, on loopback."""
    port = _free_port()
    here = {
        "port": str(port),
        "directory": str(directory),
        "gateway": f"https://127.0.0.1:{gateway.services.port}",
        "ca": str(gateway.services.ca),
        "certificate": str(_NODE / "pve-ssl.pem"),
        "key": str(_NODE / "pve-ssl.key"),
    }
    block = read_block(GUIDE.read_text(), kind.block)
    for name, ours in kind.names.items():
        assert block.count(name) == 1, (kind.program, name)
        block = block.replace(name, _fill(ours, here))
    (directory / "config").write_text(_fill(kind.frame, {**here, "block": block}))
    command = [program, *(_fill(word, here) for word in kind.command)]
    environment = {"HOME": str(directory), "PATH": os.defpath}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (directory / "log").read_text()
        yield port
    finally:
        process.kill()  # asked to end, it would wait for its connections
        process.wait()


def _fill(text: str, words: Mapping[str, str]) -> str:
    """Not `format`: braces are these files' own."""
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text


def read_block(guide: str, introduction: str) -> str:
    """The first code block behind the line that begins so."""
    _, found, rest = guide.partition(f"\n{introduction}")
    assert found, introduction
    return rest.split("```", 2)[1].partition("\n")[2]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True

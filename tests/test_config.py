"""The configuration: what is right loads; what is wrong is named by key and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import cli_context
from gateway.cli import web_settings
from gateway.config import DEFAULT_PATH, Config, load
from gateway.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "node: pve1\nexec: {timeout: 60}\n"])
def test_defaults(tmp_path: Path, text: str) -> None:
    """Everything has a default; an empty file is a configuration."""
    config = load(write(tmp_path, text))
    assert config.listen.port == 39377
    assert config.tls is not None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("nodes: pve1\n", 1, ["nodes", "unknown key", "node, listen"]),
        ("node: pve1\nweb:\n  thread: 5\n", 3, ["web.thread", "unknown key", "threads"]),
        ("node: pve1\nweb:\n  threads: many\n", 3, ["web.threads", "integer"]),
        ("web:\n  threads: '64'\n", 2, ["web.threads", "integer"]),
        ("web:\n  threads: true\n", 2, ["web.threads", "integer"]),
        ("listen:\n  address: 127.0.0.1\n  port: 70000\n", 3, ["listen.port", "65535"]),
        ("guests:\n  protected: [101, 5]\n", 2, ["guests.protected.1", "100"]),
        ("guests:\n  protected:\n  - 101\n  - 5\n", 4, ["guests.protected.1", "100"]),
        ("web:\n  trusted_proxies: [192.0.2.0/24, 192.0.2.7/24]\n", 2, ["web.trusted_proxies.1: give", "192.0.2.0/24"]),
        ("web:\n  trusted_proxies: [3221225985]\n", 2, ["web.trusted_proxies.0: give"]),
        ("node: pve1\nexec:\n", 2, ["exec: give its keys, or leave it out: driver, timeout"]),
        ("exec: 5\n", 1, ["exec: give its keys"]),
        ("tls: /etc/pve/local\n", 1, ["tls: give its keys", "certificate, key"]),
        ("lxc:\n  launcher: 5\n", 2, ["lxc.launcher: give a path"]),
        ("listen:\n  address: pve1\n", 2, ["listen.address: give an IP address"]),
        ("exec:\n  timeout_max: 600\n", 1, ["exec.timeout is 3600", "at most exec.timeout_max, 600"]),
        ("exec: {output_limit: 16777217}\n", 1, ["exec.output_limit is 16777217", "exec.output_limit_max, 16777216"]),
        ("exec: {kill_grace: 61}\n", 1, ["exec.kill_grace"]),
        ("exec: {queue_timeout: 301}\n", 1, ["exec.queue_timeout"]),
        ("node: pve1\nnode: pve2\n", 2, ["node", "twice"]),
        ("web:\n  threads: 5\n  threads: 6\n", 3, ["web.threads", "twice"]),
        ("node: [\n", 2, ["not YAML"]),
        ("- node\n", 1, ["mapping"]),
        ("node: 'a b'\n", 1, ["node", "pattern"]),
        ("tls: null\n", 1, ["loopback"]),
        ("audit:\n  max_bytes: 262144\n", 1, ["audit", "rotate_bytes"]),
        ("audit:\n  rotate_bytes: 65536\n", 1, ["audit", "512 times"]),
        ("audit:\n  syslog: log\n", 2, ["audit.syslog", "pattern"]),
        ("exec: {timeout: .inf}\n", 1, ["exec.timeout"]),
        ("node: !!python/object/apply:os.system ['true']\n", 1, ["not YAML"]),
        ("? [a]\n: 1\n", 1, ["not YAML"]),
        ("1: 2\n", 1, ["1", "strings"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, line: int, words: list[str]) -> None:
    """A mistake is told with file, line, dotted key and what is allowed."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert f"{path}:{line}: " in error.value.detail
    for word in words:
        assert word in error.value.detail


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """All mistakes are told in one go, one line each."""
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, "a: 1\nb: 2\nweb: {threads: x}\n"))
    assert len(error.value.detail.splitlines()) == 3


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")])
def test_unreadable(tmp_path: Path, make: object) -> None:
    """A file that is missing, a directory or not text is told as such."""
    path = tmp_path / "config.yaml"
    make(path)  # type: ignore[operator]
    with pytest.raises(ConfigError, match="cannot read"):
        load(path)


def test_plain_http_on_loopback_only() -> None:
    """Without TLS the gateway listens on loopback or not at all."""
    assert Config.model_validate({"tls": None, "listen": {"address": "127.0.0.1"}}).tls is None


def test_the_command_knows_the_default_path() -> None:
    """The command line has its own copy of the default path, to start quickly."""
    assert cli_context.DEFAULT_PATH == DEFAULT_PATH


def test_every_limit_reaches_the_edge() -> None:
    """What the configuration bounds of connections, heads, bodies and streams is what the server is started with."""
    names = {
        "workers": "workers", "threads": "threads", "keepalive": "keepalive_s", "handshake_timeout": "handshake_s",
        "head_timeout": "head_s", "body_timeout": "body_s", "connections_per_address": "connections_per_address",
        "max_half_open_per_address": "max_half_open_per_address", "max_half_open": "max_half_open",
        "max_streams": "max_streams", "max_body": "max_body_bytes",
    }  # fmt: skip
    values = {name: 2000 + number for number, name in enumerate(names)} | {"workers": 3}
    settings = web_settings(Config.model_validate({"node": "pve1", "web": values}))
    assert {name: getattr(settings, own) for name, own in names.items()} == values

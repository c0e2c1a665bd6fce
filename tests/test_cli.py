"""The command line: exit codes, one line for each problem, tokens alone on stdout, and a quick start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CODE = "from gateway.cli import main; main(prog_name='pve-exec-gateway')"


def run(config: Path | str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "--config", str(config), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose every path is below `tmp_path`."""
    path = tmp_path / "config.yaml"
    path.write_text(
        f"node: pve1\n"
        f"tokens:\n"
        f"  directory: {tmp_path}/tokens\n"
        f"  key_file: {tmp_path}/keys/token.keys\n"
        f"  last_used: {tmp_path}/last-used\n"
        f"audit:\n"
        f"  directory: {tmp_path}/log\n"
        f"  socket: {tmp_path}/run/audit.sock\n"
        f"  key_file: {tmp_path}/keys/audit.key\n"
        f"  journal_socket: {tmp_path}/journal\n"
    )
    return path


@pytest.fixture
def writer(config: Path, tmp_path: Path) -> Iterator[None]:
    """A real audit writer, started by the command; it says READY by itself."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.bind(str(tmp_path / "notify"))
        ready.settimeout(20)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = [sys.executable, "-c", CODE, "--config", str(config), "audit-writer"]
        with subprocess.Popen(command, env=environment) as process:
            try:
                assert ready.recv(64).startswith(b"READY=1\n")
                yield
            finally:
                process.terminate()
                process.wait(10)


def records(tmp_path: Path) -> list[dict[str, object]]:
    lines = [line for path in (tmp_path / "log").glob("*.log*") for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_token_life(config: Path, tmp_path: Path, writer: None) -> None:
    """A token is made, listed and revoked; each change has its record, and the token is in none of it."""
    made = run(
        config,
        "token",
        "create",
        "--name",
        "ci",
        "--allow",
        "exec:run,guest:read",
        "--guests",
        "101-199",
        "--expires",
        "30d",
    )
    assert made.returncode == 0, made.stderr
    token = made.stdout.removesuffix("\n")
    assert token.startswith("pveg_tk_") and "\n" not in token
    token_id = token.removeprefix("pveg_").split(".")[0]
    assert token_id in made.stderr and token not in made.stderr
    listed = run(config, "token", "list").stdout
    assert token_id in listed and "active" in listed and "exec:run,guest:read on 101-199" in listed
    assert run(config, "token", "revoke", token_id).returncode == 0
    assert "revoked" in run(config, "token", "list").stdout
    events = [record["event"] for record in records(tmp_path)]
    assert [event for event in events if str(event).startswith("token:")] == ["token:create", "token:revoke"]
    secret = token.rpartition(".")[2]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_text(errors="replace")]
    assert run(config, "audit", "verify").returncode == 0
    assert run(config, "audit", "hash", stdin="x\n").stdout.startswith("hmac-sha256:")


def make_token(config: Path, *more: str) -> dict[str, Any]:
    """A token by the command, as --json prints it."""
    given = ("--name", "ci", "--allow", "exec:run", "--guests", "101", "--expires", "1d", "--json")
    made = run(config, "token", "create", *given, *more)
    assert made.returncode == 0, made.stderr
    view: dict[str, Any] = json.loads(made.stdout)
    return view


def test_token_commands(config: Path, tmp_path: Path, writer: None) -> None:
    """show, edit, rotate, delete, prune and list --json: each has its record, and tells programs the same as people."""
    made = make_token(config, "--rate", "5", "--max-running", "2", "--network", "10.0.0.0/8")
    assert made["limits"] == {"rate": 5.0, "max_running": 2}
    token_id, token = made["id"], made.pop("token")
    assert json.loads(run(config, "token", "show", token_id).stdout) == made
    grants = tmp_path / "grants.json"
    grants.write_text('[{"actions": ["exec:run"], "guests": "105", "commands": [["/bin/true"]]}]')
    edited = run(
        config,
        *("token", "edit", token_id, "--grants", str(grants), "--rate", "none", "--network", "any", "--json"),
    )
    view = json.loads(edited.stdout)
    assert view["grants"] == json.loads(grants.read_text()) and view["networks"] == []
    assert view["limits"] == {"rate": None, "max_running": 2} and view["revision"] == 2
    assert "exec:run on 105 by 1 command pattern" in run(config, "token", "list").stdout
    rotated = run(config, "token", "rotate", token_id, "--overlap", "1h")
    assert rotated.stdout.startswith(f"pveg_{token_id}.2.") and rotated.stdout.strip() != token
    refused = run(config, "token", "rotate", token_id, "--overlap", "1h")
    assert refused.returncode == 2 and "overlap `0`" in refused.stderr
    assert run(config, "token", "delete", token_id).returncode == 2
    assert run(config, "token", "revoke", token_id).returncode == 0
    assert run(config, "token", "prune").stdout == ""
    revoked = json.loads(run(config, "token", "list", "--json", "--state", "revoked").stdout)["tokens"]
    assert [item["id"] for item in revoked] == [token_id]
    assert run(config, "token", "delete", token_id).returncode == 0
    assert json.loads(run(config, "token", "list", "--json").stdout) == {"tokens": []}
    events = [str(record["event"]) for record in records(tmp_path) if str(record["event"]).startswith("token:")]
    assert events == ["token:create", "token:edit", "token:rotate", "token:revoke", "token:delete"]


def test_keys_commands(config: Path, tmp_path: Path, writer: None) -> None:
    """A new key ends no token; the old one goes when no live token needs it, or by force; each has its record."""
    made = make_token(config)
    (first,) = json.loads(run(config, "keys", "list", "--json").stdout)["keys"]
    assert first["signs"] and first["live_tokens"] == 1
    assert run(config, "keys", "rotate").returncode == 0
    assert run(config, "keys", "list").stdout.splitlines()[1].startswith(first["id"])
    refused = run(config, "keys", "retire", first["id"])
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1 and "--force" in refused.stderr
    assert made["id"] in run(config, "token", "list", "--key", first["id"]).stdout
    assert run(config, "token", "rotate", made["id"]).returncode == 0
    assert run(config, "keys", "retire", first["id"]).returncode == 0
    (second,) = json.loads(run(config, "keys", "list", "--json").stdout)["keys"]
    assert second["id"] != first["id"] and second["live_tokens"] == 1
    assert run(config, "keys", "retire", second["id"], "--force").returncode == 2
    assert "hex" not in run(config, "keys", "list").stdout
    events = [str(record["event"]) for record in records(tmp_path) if "key-" in str(record["event"])]
    assert events == ["token:key-rotate", "token:key-retire"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("token", "edit", "tk_" + "0" * 26),
        ("token", "edit", "tk_" + "0" * 26, "--guests", "101"),
        ("token", "edit", "tk_" + "0" * 26, "--rate", "fast"),
        ("token", "edit", "tk_" + "0" * 26, "--max-running", "1.5"),
        ("token", "edit", "tk_" + "0" * 26, "--name", "x"),
        ("token", "rotate", "tk_" + "0" * 26, "--overlap", "5y"),
        ("token", "rotate", "tk_" + "0" * 26, "--overlap", "400d"),
        ("token", "show", "../../etc/passwd"),
        ("token", "delete", "x"),
        ("token", "prune", "--dead-for", "long"),
        ("token", "create", "--name", "x", "--expires", "1d"),
        ("token", "create", "--name", "x", "--expires", "1d", "--grants", "/dev/null"),
        ("keys", "retire", "x"),
        ("keys", "list"),
    ],
)
def test_bad_input_is_one_line(config: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2, one line on stderr, nothing on stdout, whatever is wrong."""
    done = run(config, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("pve-exec-gateway: ") and len(done.stderr.splitlines()) == 1


def test_no_record_no_token(config: Path, tmp_path: Path) -> None:
    """Without the audit writer no token is made or left behind, and the message says what to start."""
    made = run(config, "token", "create", "--name", "ci", "--allow", "all", "--guests", "all", "--expires", "never")
    assert (made.returncode, made.stdout) == (2, "")
    assert "pve-exec-gateway-audit" in made.stderr and len(made.stderr.splitlines()) == 1
    assert not list((tmp_path / "tokens").glob("*.json"))


@pytest.mark.parametrize(
    "options",
    [
        {"--allow": "exec:rum"},
        {"--allow": "public"},
        {"--guests": "5"},
        {"--expires": "soon"},
        {"--network": "10.0.0.1/8"},
        {"--name": "a\nb"},
    ],
)
def test_bad_grants(config: Path, options: dict[str, str]) -> None:
    """A grant that cannot be understood is exit code 2 and one line that says what is allowed."""
    given = {"--name": "ci", "--allow": "exec:run", "--guests": "101", "--expires": "1d", **options}
    made = run(config, "token", "create", *(word for pair in given.items() for word in pair))
    assert (made.returncode, made.stdout) == (2, "")
    assert made.stderr.startswith("pve-exec-gateway: ") and "Traceback" not in made.stderr


def test_revoking_what_is_not_there(config: Path) -> None:
    """An unknown token, or a path in its place, is exit code 2."""
    for token_id in ("tk_" + "0" * 26, "../../etc/passwd"):
        revoked = run(config, "token", "revoke", token_id)
        assert revoked.returncode == 2 and "no token" in revoked.stderr


def test_config_commands(config: Path, tmp_path: Path) -> None:
    """check says good or names each mistake on a line, with exit code 2; show prints what check takes."""
    assert run(config, "config", "check").returncode == 0
    shown = tmp_path / "shown.yaml"
    shown.write_text(run(config, "config", "show").stdout)
    assert run(shown, "config", "check").returncode == 0
    assert run(shown, "config", "show").stdout == shown.read_text()
    bad = tmp_path / "bad.yaml"
    bad.write_text("nod: pve1\nweb: {threads: x}\n")
    checked = run(bad, "config", "check")
    assert checked.returncode == 2
    assert sorted(line.split(": ")[1] for line in checked.stderr.splitlines()) == [f"{bad}:1", f"{bad}:2"]


@pytest.mark.parametrize("command", ["serve", "supervise", "audit-writer"])
def test_services_refuse_a_bad_configuration(tmp_path: Path, command: str) -> None:
    """Each service ends with 2 and names the file that it cannot read."""
    started = run(tmp_path / "none.yaml", command)
    assert started.returncode == 2
    assert "none.yaml" in started.stderr and "Traceback" not in started.stderr


def test_a_log_without_its_key_is_not_begun_anew(config: Path, tmp_path: Path) -> None:
    """The audit writer makes its key at the first start only; later a missing key is an error."""
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log" / "audit.log").write_text("{}\n")
    started = run(config, "audit-writer")
    assert started.returncode == 2 and "restore the key" in started.stderr
    assert not (tmp_path / "keys" / "audit.key").exists()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("gateway.cli", ["flask", "pydantic", "gunicorn", "yaml", "itsdangerous"]),
        ("gateway.supervisor.process", ["flask", "gunicorn", "itsdangerous", "click"]),
        ("gateway.audit.writer", ["flask", "pydantic", "gunicorn", "yaml", "click"]),
        ("gateway.exec.origin", ["pydantic"]),
    ],
)
def test_no_process_carries_anothers_memory(module: str, absent: list[str]) -> None:
    """What a process does not need it does not import."""
    code = f"import {module}, sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(absent) & set(found)


def test_openapi_prints_the_committed_file(config: Path) -> None:
    """`openapi` prints openapi/openapi.yaml (pydantic's versions write `0` and `0.0`: the values count)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is fifteen times as fast
    committed = Path(__file__).parents[1] / "openapi" / "openapi.yaml"
    printed = yaml.load(run(config, "openapi").stdout, Loader=loader)
    assert printed == yaml.load(committed.read_text(encoding="utf-8"), Loader=loader)

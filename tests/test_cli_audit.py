"""The administrator's audit commands on a log that grows: tail, follow, export, verify, hash, schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.audit.keys import create_key, load_keys
from gateway.audit.log import AuditLog
from tests.audit.live import intent, limits
from tests.test_cli import CODE, run
from tests.test_cli import config as config


@pytest.fixture
def log(config: Path, tmp_path: Path) -> Iterator[AuditLog]:
    """A log of 30 records in some files; the tests write on."""
    (tmp_path / "keys").mkdir(mode=0o700)
    create_key(tmp_path / "keys/audit.key")
    keys = load_keys(tmp_path / "keys/audit.key")
    opened = AuditLog(tmp_path / "log", keys, limits=limits(rotate_bytes=5000))
    for number in range(30):
        opened.append([intent(number, env={"TOKEN": keys.redactor.hash("s3cret")} if number == 7 else {})])
    yield opened
    opened.close()


def test_tail(config: Path, log: AuditLog) -> None:
    """The newest that fit, the last one last; as a line for people or as the record."""
    lines = run(config, "audit", "tail", "-n", "3", "--event", "exec:intent").stdout.splitlines()
    assert [line.split()[5] for line in lines] == ["ex_27", "ex_28", "ex_29"]
    log.append([{**intent(30), "exec_id": "ex_\x1b[2J\n"}])
    found = run(config, "audit", "tail", "-n", "1", "--event", "exec:intent", "--vmid", "101", "--since", "1h")
    assert found.stdout.count("\n") == 1 and "\x1b" not in found.stdout
    record = json.loads(run(config, "audit", "tail", "-n", "1", "--json", "--exec", "ex_12").stdout)
    assert record["exec_id"] == "ex_12"
    assert run(config, "audit", "tail", "--event", "no:such").returncode == 2
    assert run(config, "audit", "tail", "--since", "soon").returncode == 2


def test_follow_over_rotations(config: Path, log: AuditLog) -> None:
    """Every record that comes, once, while files are closed under it."""
    command = [sys.executable, "-c", CODE, "--config", str(config), "audit", "tail", "-f", "-n", "1", "--json"]
    with subprocess.Popen([*command, "--event", "exec:intent"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert json.loads(process.stdout.readline())["exec_id"] == "ex_29"
        for number in range(100, 140):
            log.append([intent(number)])
        got = [json.loads(process.stdout.readline())["exec_id"] for _ in range(40)]
        process.terminate()
    assert got == [f"ex_{number}" for number in range(100, 140)]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_export_and_verify(config: Path, log: AuditLog, tmp_path: Path, form: str) -> None:
    """Exported to a new file of 0600 or to stdout, checked offline; a changed one is named at its line."""
    out = tmp_path / "export"
    done = run(config, "audit", "export", "--first", "5", "--last", "20", "--format", form, "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert out.stat().st_mode & 0o777 == 0o600
    assert run(config, "audit", "verify", str(out)).stdout == "good: 16 records\n"
    again = run(config, "audit", "export", "--first", "5", "--last", "20", "--format", form)
    assert again.stdout.splitlines()[:-1] == out.read_text().splitlines()[:-1]
    assert run(config, "audit", "verify", "-", stdin=again.stdout).returncode == 0
    lines = out.read_text().splitlines(keepends=True)
    del lines[9]
    out.write_text("".join(lines))
    bad = run(config, "audit", "verify", str(out))
    assert bad.returncode == 1 and bad.stdout.startswith(f"{out}:10: ")
    assert run(config, "audit", "export", "-o", str(out)).returncode == 2, "no file is overwritten"


def test_hash_finds_a_secret(config: Path, log: AuditLog) -> None:
    """By its value on stdin; it says where and when, and for which exec."""
    found = run(config, "audit", "hash", stdin="s3cret\n").stdout.splitlines()
    assert found[0].startswith("hmac-sha256:") and len(found) == 2
    assert found[1].startswith("audit.log") and found[1].endswith("ex_7")


def test_schema(config: Path) -> None:
    """JSON Schema that names every event."""
    assert "exec:intent" in run(config, "audit", "schema").stdout

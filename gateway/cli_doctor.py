"""`pve-exec-gateway doctor` and `support-bundle`: whether this node is well, and what to send to who may help."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli_context import configured, print_json

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.doctor.finding import Finding

_MARKS = {"ok": "ok     ", "warning": "WARNING", "failed": "FAILED ", "skipped": "skipped"}


@click.command()
@click.option("--guest", "vmid", type=click.IntRange(100, 999_999_999), help="A running guest to run commands in.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@configured
@click.pass_context
def doctor(context: click.Context, config: Config, vmid: int | None, output: str) -> None:
    """Prove that this node is as the gateway needs it. Run as root.

    Exit code 0: all is well (there may be warnings); 1: something has failed; 2: it could not begin.
    """
    from gateway.app_tokens import build_tokens
    from gateway.doctor.checkup import check_all
    from gateway.doctor.finding import Verdict

    findings = []
    for finding in check_all(config, build_tokens(config), vmid):
        findings.append(finding)
        if output == "text":
            _tell(finding)
    failed = any(finding.verdict is Verdict.FAILED for finding in findings)
    if output == "json":
        print_json({"status": "failed" if failed else "ok", "findings": [finding.to_json() for finding in findings]})
    context.exit(1 if failed else 0)


@click.command("support-bundle")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default="pve-exec-gateway-support.tar.gz")
@click.option("--guest", "vmid", type=click.IntRange(100, 999_999_999), help="As for doctor.")
@click.option(
    "--lines", type=click.IntRange(0, 100_000), default=2000, show_default=True, help="Of the services' logs."
)
@click.option("--journalctl", type=click.Path(path_type=Path), default="/usr/bin/journalctl", hidden=True)
@configured
def support_bundle(config: Config, file: Path, vmid: int | None, lines: int, journalctl: Path) -> None:
    """Write FILE, a new one (0600): versions, configuration, doctor, health, metrics, last log lines; no secret.

    It holds no command, no output and no audit record. Look into it before you send it.
    """
    from gateway.app_tokens import build_tokens
    from gateway.cli_context import to_yaml
    from gateway.doctor.bundle import collect, write_bundle
    from gateway.doctor.checkup import check_all
    from gateway.doctor.scrub import Scrubber, secrets_of
    from gateway.supervisor.unit_logs import last_lines

    with open(file, "xb", opener=_private) as opened:
        findings = list(check_all(config, build_tokens(config), vmid))
        texts = collect(config, findings, to_yaml(config.model_dump(mode="json")), last_lines(journalctl, lines))
        write_bundle(opened, texts, Scrubber(secrets_of(config)))
    click.echo(f"{file} is written; look into it before you send it", err=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _tell(finding: Finding) -> None:
    click.echo(f"{_MARKS[finding.verdict]}  {finding.name:<16} {finding.detail}")
    if finding.remedy:
        click.echo(f"{'':27}-> {finding.remedy}")

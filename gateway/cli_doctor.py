"""`pve-exec-gateway doctor`: whether this node is well, and what to do where it is not."""

from __future__ import annotations

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


def _tell(finding: Finding) -> None:
    click.echo(f"{_MARKS[finding.verdict]}  {finding.name:<16} {finding.detail}")
    if finding.remedy:
        click.echo(f"{'':27}-> {finding.remedy}")

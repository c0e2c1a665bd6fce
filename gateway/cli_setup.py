"""`setup`: makes the gateway known to PVE, with the least that it needs, and says what it did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gateway.cli_context import configured
from gateway.errors import ConfigError

if TYPE_CHECKING:
    from gateway.config import Config


@click.command()
@click.option("--print", "dry", is_flag=True, help="Only say what would be done.")
@configured
def setup(config: Config, dry: bool) -> None:
    """Make PVE's user, roles and API tokens for the gateway. Run as root; again after an upgrade, or a lost token."""
    from gateway.pve.access import SUPERVISOR, WEB, Access
    from gateway.pve.client import PveApi
    from gateway.supervisor.changes.pvesh import call_at_once

    def pvesh(arguments: Sequence[str]) -> Any:
        said = call_at_once(config.pve.pvesh, arguments)
        if said.exit_code != 0:
            words = " ".join(said.words.split())[:500] or f"exit code {said.exit_code}"
            raise ConfigError(f"pvesh {' '.join(arguments[:2])}: {words}")
        try:
            return said.data()
        except ValueError as exc:
            raise ConfigError(f"pvesh {' '.join(arguments[:2])} answers with no JSON") from exc

    access = Access(pvesh, lambda file: PveApi(config.pve.api, file, config.pve.ca), dry=dry)
    for step in access.make({WEB: config.pve.token_file, SUPERVISOR: config.pve.agent_token_file}):
        word = ("would make" if dry else "made") if step.made else "there already"
        click.echo(f"{word}: {step.what}")
    click.echo(
        "\nWhere pve-firewall is on, let the gateway's clients in: a rule in /etc/pve/firewall/cluster.fw, "
        "with their network:\n\n"
        f"[RULES]\n\nIN ACCEPT -source 192.0.2.0/24 -p tcp -dport {config.listen.port} -log nolog # pve-exec-gateway"
    )

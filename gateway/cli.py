"""The command `pve-exec-gateway`: starts the three processes, and is the administrator's tool on the node.

Modules are imported where they are needed: `--help` is quick, and no process carries another's memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway import __version__
from gateway.cli_audit import audit, start_writer
from gateway.cli_context import DEFAULT_PATH, Command, configured, to_yaml
from gateway.cli_doctor import doctor, support_bundle
from gateway.cli_keys import keys
from gateway.cli_setup import setup
from gateway.cli_token import token
from gateway.confinement import begin_as_first, keep_memory_private, stay_apart
from gateway.errors import ConfigError
from gateway.logs import log_to_manager

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.exec.agent import Agent
    from gateway.pve.client import Observe
    from gateway.web.settings import WebSettings


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="PVE_EXEC_GATEWAY_CONFIG",
    default=DEFAULT_PATH,
    show_default=True,
    help="The configuration file.",
)
@click.version_option(__version__, prog_name="pve-exec-gateway")
@click.pass_context
def main(context: click.Context, path: Path) -> None:
    """Run commands in the guests of a Proxmox VE node over REST, with grants and an audit log."""
    context.obj = path


main.add_command(token)
main.add_command(keys)
main.add_command(audit)
main.add_command(setup)
main.add_command(doctor)
main.add_command(support_bundle)


@main.command()
@configured
@click.pass_obj
def serve(path: Path, config: Config) -> None:
    """Serve the API (the unit pve-exec-gateway)."""
    from gateway.app import Application, build, make_figures
    from gateway.app_tokens import build_tokens
    from gateway.config import load
    from gateway.web.server import serve as serve_web

    log_to_manager()
    begin_as_first()
    keep_memory_private()
    stay_apart()
    build_tokens(config).create()
    figures = make_figures()
    try:
        # Read again on SIGHUP; one that is broken then leaves the old one in use.
        serve_web(
            lambda: build(load(path), figures),
            web_settings(config),
            begin=Application.begin,
            count_refusal=figures.count_refusal,
            cors=Application.cors_headers,
        )
    except ValueError as exc:
        raise ConfigError(f"cannot serve: {exc}") from exc


@main.command()
@click.option("--check", is_flag=True, help="Only see whether program and configuration would start.")
@configured
def supervise(config: Config, check: bool) -> None:
    """Own and run the commands (the unit pve-exec-gateway-supervisor). SIGHUP: become the program now installed."""
    from gateway.supervisor.kernel.reexec import check_version
    from gateway.supervisor.launching.launch import require_programs
    from gateway.supervisor.process import run

    log_to_manager()
    if check:
        check_version()
        require_programs(config)
    else:
        keep_memory_private()
        run(config, lambda observe: guest_agents(config, observe))


@main.command("audit-writer")
@configured
def audit_writer(config: Config) -> None:
    """Write the audit log (the unit pve-exec-gateway-audit)."""
    start_writer(config.audit)


@main.group("config")
def config_group() -> None:
    """The configuration."""


@config_group.command("check")
@configured
@click.pass_obj
def config_check(path: Path, config: Config) -> None:
    """Exit with 0 when the configuration can be used, else with 2, naming key, line and what is allowed."""
    click.echo(f"{path}: good")


@config_group.command("show")
@configured
def config_show(config: Config) -> None:
    """Print the configuration in use, defaults included. It holds no secret."""
    click.echo(to_yaml(config.model_dump(mode="json")), nl=False)


@main.command()
def openapi() -> None:
    """Print the API's description as OpenAPI 3.1."""
    from gateway.api.openapi.text import write_yaml

    click.echo(write_yaml(), nl=False)


def guest_agents(config: Config, observe: Observe) -> Agent:
    """The way to the guest agents of this node's virtual machines: its PVE API. `observe` is told of every call."""
    from gateway.pve.agent import GuestAgents
    from gateway.pve.client import PveApi

    file = config.pve.agent_token_file
    api = PveApi(config.pve.api, file, config.pve.ca, key="pve.agent_token_file", observe=observe)
    return GuestAgents(api, config.node)


def web_settings(config: Config) -> WebSettings:
    """What the HTTP edge is told of the configuration. Raises ValueError for what it may not serve on."""
    from gateway.web.settings import WebSettings

    return WebSettings(
        listen=(config.listen.address, config.listen.port),
        tls_cert=config.tls.certificate if config.tls else None,
        tls_key=config.tls.key if config.tls else None,
        threads=config.web.threads,
        workers=config.web.workers,
        keepalive_s=config.web.keepalive,
        handshake_s=config.web.handshake_timeout,
        head_s=config.web.head_timeout,
        body_s=config.web.body_timeout,
        connections_per_address=config.web.connections_per_address,
        max_half_open_per_address=config.web.max_half_open_per_address,
        max_half_open=config.web.max_half_open,
        max_streams=config.web.max_streams,
        trusted_proxies=config.web.trusted_proxies,
        max_body_bytes=config.web.max_body,
    )

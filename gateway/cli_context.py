"""What every command shares: where the configuration is, and how a failure is told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from gateway.audit.client import AuditClient
    from gateway.config import Config

# Kept here too, so that `--help` need not import the configuration's models; a test holds them equal.
DEFAULT_PATH = Path("/etc/pve-exec-gateway/config.yaml")


class Command(click.Group):
    """A group whose failures are lines on stderr and exit code 2, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GatewayError as exc:
            text = exc.detail
        except OSError as exc:
            text = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        for line in text.splitlines():
            click.echo(f"pve-exec-gateway: {line}", err=True)
        raise click.exceptions.Exit(2)


def print_json(data: Any) -> None:
    """One JSON document on stdout."""
    import json

    click.echo(json.dumps(data, indent=2))


def to_yaml(data: Any) -> str:
    """For people to read, in the order of `data`."""
    import yaml

    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def configured(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives the command the configuration as `config`. ConfigError ends it."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from gateway.config import load

        path: Path = click.get_current_context().find_root().obj
        return command(*args, config=load(path), **kwargs)

    return run


def settled_client(config: Config) -> AuditClient:
    """The audit log for a command, which ends no sooner than what it must take back there is durable, or five seconds
    are over."""
    from gateway.audit.client import AuditClient

    client = AuditClient(config.audit.socket)
    click.get_current_context().call_on_close(lambda: client.settle(5))
    return client

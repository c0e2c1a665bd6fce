"""The command `pvex`: its groups, and how a failure is told: one line on stderr and an exit code.

Modules that take long to import (requests, yaml) are imported where they are needed: `--help` and completion are quick.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from pvex import __version__
from pvex.commands.exec import exec_
from pvex.commands.execs import attach, inspect, kill, logs, ps
from pvex.commands.guests import GUEST_COMMANDS
from pvex.commands.kept import snapshot, templates
from pvex.commands.profiles import login, profile
from pvex.commands.trust import audit, token
from pvex.context import Context, note
from pvex.errors import INTERRUPTED, ClientError


class Group(click.Group):
    """A group whose failures are one line on stderr, never a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        try:
            super().main(*args, **options)
        except ClientError as error:
            note(str(error))
            sys.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(141)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("-p", "--profile", envvar="PVEX_PROFILE", metavar="NAME", help="The gateway to use (`pvex profile ls`).")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    default="table",
    show_default=True,
    help="How lists and answers are shown.",
)
@click.version_option(__version__, prog_name="pvex")
@click.pass_context
def main(context: click.Context, profile: str | None, output: str) -> None:
    """Run commands in the guests of Proxmox VE nodes, and drive those, over pve-exec-gateway."""
    context.obj = Context(profile, output)


for command in (
    exec_,
    ps,
    logs,
    attach,
    kill,
    inspect,
    *GUEST_COMMANDS,
    snapshot,
    templates,
    token,
    audit,
    login,
    profile,
):
    main.add_command(command)

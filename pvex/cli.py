"""The command `pvex`: its groups, and how a failure is told: one line on stderr and an exit code.

Modules that take long to import (requests, yaml) are imported where they are needed: `--help` and completion are quick.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from pvex import __version__
from pvex.commands.audit import audit
from pvex.commands.changing import edit, migrate, mount, resize
from pvex.commands.cluster import CLUSTER_COMMANDS
from pvex.commands.completion import completion
from pvex.commands.cp import cp
from pvex.commands.devices import devices
from pvex.commands.exec import exec_
from pvex.commands.execs import attach, inspect, kill, logs, ps
from pvex.commands.file import file
from pvex.commands.guests import GUEST_COMMANDS
from pvex.commands.kept import backup, snapshot, template
from pvex.commands.profiles import login, profile
from pvex.commands.run import run
from pvex.commands.task import show_log, task
from pvex.commands.trust import token
from pvex.completion import complete_profiles
from pvex.context import Context, drop, note
from pvex.errors import ANSWERED_NO, BROKEN_PIPE, FAILED, INTERRUPTED, USAGE, ClientError

FORMATS = ("table", "json", "yaml")


class Group(click.Group):
    """A group whose failures are one line on stderr, never a traceback."""

    def main(self, *args: Any, **options: Any) -> Any:
        _open_streams()
        try:
            sys.exit(super().main(*args, **{**options, "standalone_mode": False}))
        except ClientError as error:
            note(str(error))
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(ANSWERED_NO)
        except click.UsageError as error:
            if type(error).__name__ == "NoArgsIsHelpError":
                error.show()
            else:
                words = " ".join(error.format_message().splitlines()).removesuffix(".")
                command = error.ctx.command_path if error.ctx else "pvex"
                note(f"{words}{'' if words.endswith('?') else ';'} `{command} --help` tells more")
            sys.exit(USAGE)
        except click.ClickException as error:
            note(error.format_message())
            sys.exit(FAILED)
        except UnicodeError:
            note("what is given to pvex, in arguments and in files, has to be UTF-8")
            sys.exit(USAGE)
        except OSError as error:  # of --help
            note(str(_describe(error)))
            sys.exit(FAILED)
        except Exception as error:
            if os.environ.get("PVEX_DEBUG"):
                raise
            note(f"a fault of pvex, {type(error).__name__}: please report what PVEX_DEBUG=1 shows")  # its text may tell
            sys.exit(FAILED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(str(one.name), one.get_short_help_str(80)) for one in commands])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            drop(sys.stdout)
            sys.exit(BROKEN_PIPE)
        except OSError as error:
            raise _describe(error) from error


def _describe(error: OSError) -> ClientError:
    """What failed; where it was stdout, what is left for it is forgotten, or Python would try again as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        drop(sys.stdout)
        return ClientError(f"cannot write stdout: {error.strerror}")
    return ClientError(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _open_streams() -> None:
    """A standard stream that was closed is /dev/null: a connection must not get its number."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "-p",
    "--profile",
    envvar="PVEX_PROFILE",
    metavar="NAME",
    shell_complete=complete_profiles,
    help="The gateway to use (`pvex profile ls`).",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="How lists and answers are shown.",
)
@click.version_option(__version__, prog_name="pvex")
@click.pass_context
def main(context: click.Context, profile: str | None, output: str) -> None:
    """Run commands in the guests of Proxmox VE nodes, and drive those, over pve-exec-gateway."""
    context.obj = Context(profile, output)
    context.call_on_close(context.obj.close)


def _choose_output(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj.output = value


COMMANDS = {
    "Commands in guests": (exec_, run, ps, logs, attach, kill, inspect),
    "Guests": (*GUEST_COMMANDS, edit, resize, migrate, mount, devices, snapshot, backup, template, cp, file),
    "The cluster": (*CLUSTER_COMMANDS, task),
    "Access": (login, profile, token, audit, completion),
}
OUTPUT = click.Option(
    ["-o", "--output"],
    type=click.Choice(FORMATS),
    expose_value=False,
    callback=_choose_output,
    help="How the answer is shown.",
)


def add_output(command: click.Command) -> None:
    """`pvex ls -o json` is `pvex -o json ls`."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            add_output(inner)
    elif command not in (exec_, logs, attach, cp, show_log, login, completion):
        command.params.append(OUTPUT)


for section in COMMANDS.values():
    for command in section:
        add_output(command)
        main.add_command(command)

"""What pvex says of itself: no command or option without a word, and a manual page that has them all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pvex.cli import main

REPOSITORY = Path(__file__).parents[2]


def every_command(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name, those of groups, too."""
    for name, command in group.commands.items():
        yield f"{above}{name}", command
        if isinstance(command, click.Group):
            yield from every_command(command, f"{above}{name} ")


@pytest.mark.parametrize(("name", "command"), list(every_command(main)))
def test_everything_is_explained(name: str, command: click.Command) -> None:
    """A command says what it does, an option what it is for."""
    assert command.help, name
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, (name, parameter.name)


def test_manual_page() -> None:
    """Each command that does something has its part in it, and so have the exit codes."""
    page = subprocess.run(
        [sys.executable, REPOSITORY / "packaging/manpage.py", "pvex"], capture_output=True, check=True
    ).stdout.decode()
    assert page.startswith(".TH PVEX 1 ")
    for name, command in every_command(main):
        assert isinstance(command, click.Group) or f"\n.SS {name}\n" in page, name
    assert "128+n" in page.split(".SH EXIT STATUS")[1]

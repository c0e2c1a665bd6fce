"""Prints the manual page of a command as its own help has it. `python3 packaging/manpage.py pve-exec-gateway|pvex`

The date is SOURCE_DATE_EPOCH's, so that the same source makes the same bytes.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Page:
    """What the help does not say: the package that the command is made of, and what stands around its commands."""

    module: str
    section: int
    name: str
    files: dict[str, str]
    exit_status: str
    see_also: str


PAGES = {
    "pve-exec-gateway": Page(
        "gateway",
        8,
        "run commands in the guests of a Proxmox VE node over REST",
        {
            "/etc/pve-exec-gateway/config.yaml": "The configuration; every key stands in it with its default.",
            "/var/lib/pve-exec-gateway": "Keys, token records, and what is kept of execs.",
            "/var/log/pve-exec-gateway": "The audit log. It rotates itself: leave it to no other program.",
        },
        "0: done.  2: not done; the reason stands on stderr.",
        "\\fBpvex\\fR(1), \\fBlxc\\-attach\\fR(1), \\fI/usr/share/doc/pve\\-exec\\-gateway\\fR",
    ),
    "pvex": Page(
        "pvex",
        1,
        "run commands in the guests of a Proxmox VE node from anywhere",
        {"~/.config/pvex/config.json": "Gateways and tokens, 0600."},
        "Of a command that ran, its own; else not 0, and the reason stands on stderr.",
        "\\fBpve\\-exec\\-gateway\\fR(8)",
    ),
}


def lines(command: str) -> Iterator[str]:
    """The lines of the page, in man(7)'s language."""
    page = PAGES[command]
    group: click.Group = importlib.import_module(f"{page.module}.cli").main
    version = importlib.import_module(page.module).__version__
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    yield f'.TH {command.upper()} {page.section} "{date}" "{command} {version}"'
    yield ".SH NAME"
    yield f"{_escape(command)} \\- {page.name}"
    yield ".SH SYNOPSIS"
    yield f"\\fB{_escape(command)}\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield _escape(_text(group))
    yield ".SH OPTIONS"
    yield from _options(group)
    yield ".SH COMMANDS"
    yield from _commands(group, "")
    yield ".SH FILES"
    for path, meaning in page.files.items():
        yield from (".TP", f".I {_escape(path)}", _escape(meaning))
    yield ".SH EXIT STATUS"
    yield _escape(page.exit_status)
    yield ".SH SEE ALSO"
    yield page.see_also


def _commands(group: click.Group, above: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, f"{above}{name} ")
        elif not command.hidden:
            yield f".SS {_escape(above + name)}"
            yield _escape(_text(command))
            yield from _options(command)


def _options(command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=command.name)
    for parameter in command.get_params(context):
        described = parameter.get_help_record(context)
        if isinstance(parameter, click.Argument):
            described = (parameter.human_readable_name, "")
        if described and parameter.name != "help":
            yield from (".TP", f"\\fB{_escape(described[0])}\\fR", _escape(described[1]))


def _text(command: click.Command) -> str:
    paragraphs = (command.help or "").replace("\b", "").split("\n\n")
    return "\n.PP\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _escape(text: str) -> str:
    lines = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").splitlines()
    return "\n".join(f"\\&{line}" if line.startswith(".") and not line.startswith(".PP") else line for line in lines)


if __name__ == "__main__":
    print("\n".join(lines(sys.argv[1])))

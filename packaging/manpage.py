"""Prints the manual page pve-exec-gateway(8) as the command's own help has it. `python3 packaging/manpage.py`

The date is SOURCE_DATE_EPOCH's, so that the same source makes the same bytes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from gateway import __version__
from gateway.cli import main

_FILES = {
    "/etc/pve-exec-gateway/config.yaml": "The configuration; every key stands in it with its default.",
    "/var/lib/pve-exec-gateway": "Keys, token records, and what is kept of execs.",
    "/var/log/pve-exec-gateway": "The audit log. It rotates itself: leave it to no other program.",
}
_EXIT_CODES = "0: done.  2: not done; the reason stands on stderr."


def page() -> Iterator[str]:
    """The lines of the page, in man(7)'s language."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    yield f'.TH PVE-EXEC-GATEWAY 8 "{date}" "pve-exec-gateway {__version__}" "System Administration"'
    yield ".SH NAME"
    yield "pve\\-exec\\-gateway \\- run commands in the guests of a Proxmox VE node over REST"
    yield ".SH SYNOPSIS"
    yield "\\fBpve\\-exec\\-gateway\\fR [\\fB\\-\\-config\\fR \\fIFILE\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]"
    yield ".SH DESCRIPTION"
    yield _escape(_text(main))
    yield ".SH OPTIONS"
    yield from _options(main)
    yield ".SH COMMANDS"
    yield from _commands(main, "")
    yield ".SH FILES"
    for path, meaning in _FILES.items():
        yield from (".TP", f".I {_escape(path)}", _escape(meaning))
    yield ".SH EXIT STATUS"
    yield _escape(_EXIT_CODES)
    yield ".SH SEE ALSO"
    yield "\\fBlxc\\-attach\\fR(1), \\fBpct\\fR(1), \\fI/usr/share/doc/pve\\-exec\\-gateway\\fR"


def _commands(group: click.Group, above: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, f"{above}{name} ")
        elif not command.hidden:
            yield f".SS {_escape(above + name)}"
            yield _escape(_text(command))
            yield from _options(command)


def _options(command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name="pve-exec-gateway")
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
    print("\n".join(page()))

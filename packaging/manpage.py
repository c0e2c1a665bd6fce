"""Prints the manual page of pve-exec-gateway(8), or of pvex(1), as the command's own help has it.

`python3 packaging/manpage.py [pvex]`. The date is SOURCE_DATE_EPOCH's, so that the same source makes the same bytes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Page:
    """A program and what its help does not say."""

    name: str
    section: int
    title: str
    version: str
    program: click.Group
    brief: str
    synopsis: str
    exit_codes: str
    see_also: str
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def describe(name: str) -> Page:
    """The page of a program; only that one is imported."""
    if name == "pvex":
        from pvex import __version__
        from pvex.cli import main
        from pvex.errors import EXIT_CODES

        return Page(
            name=name,
            section=1,
            title="User Commands",
            version=__version__,
            program=main,
            brief="run commands in the guests of Proxmox VE nodes, and drive those",
            synopsis="[\\fB\\-p\\fR \\fIPROFILE\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
            exit_codes="  ".join(f"{code}: {meaning}." for code, meaning in EXIT_CODES.items()),
            see_also="\\fBpve\\-exec\\-gateway\\fR(8), \\fBssh\\fR(1)",
            environment={
                "PVEX_PROFILE": "The profile, where --profile is not given.",
                "GATEWAY_URL, GATEWAY_TOKEN, GATEWAY_CA": "A gateway, a token and a CA file, in place of a profile.",
                "NO_COLOR": "No colours.",
                "PVEX_DEBUG": "A fault of pvex itself is shown with all that Python knows; look before you pass it on.",
            },
            files={"~/.config/pvex/config.json": "Profiles with their tokens; for nobody else to read (0600)."},
        )
    from gateway import __version__ as gateway_version
    from gateway.cli import main as gateway_main

    return Page(
        name=name,
        section=8,
        title="System Administration",
        version=gateway_version,
        program=gateway_main,
        brief="run commands in the guests of a Proxmox VE node over REST",
        synopsis="[\\fB\\-\\-config\\fR \\fIFILE\\fR] \\fICOMMAND\\fR [\\fIARGUMENTS\\fR]",
        exit_codes="0: done.  2: not done; the reason stands on stderr.",
        see_also="\\fBlxc\\-attach\\fR(1), \\fBpct\\fR(1), \\fI/usr/share/doc/pve\\-exec\\-gateway\\fR",
        files={
            "/etc/pve-exec-gateway/config.yaml": "The configuration; every key stands in it with its default.",
            "/var/lib/pve-exec-gateway": "Keys, token records, and what is kept of execs.",
            "/var/log/pve-exec-gateway": "The audit log. It rotates itself: leave it to no other program.",
        },
    )


def write(page: Page) -> Iterator[str]:
    """The lines of the page, in man(7)'s language."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    yield f'.TH {page.name.upper()} {page.section} "{date}" "{page.name} {page.version}" "{page.title}"'
    yield ".SH NAME"
    yield f"{_escape(page.name)} \\- {_escape(page.brief)}"
    yield ".SH SYNOPSIS"
    yield f"\\fB{_escape(page.name)}\\fR {page.synopsis}"
    yield ".SH DESCRIPTION"
    yield _escape(_text(page.program))
    yield ".SH OPTIONS"
    yield from _options(page.program, page.name)
    yield ".SH COMMANDS"
    yield from _commands(page.program, page.name, "")
    for title, words in (("ENVIRONMENT", page.environment), ("FILES", page.files)):
        if words:
            yield f".SH {title}"
        for word, meaning in words.items():
            yield from (".TP", f".I {_escape(word)}", _escape(meaning))
    yield ".SH EXIT STATUS"
    yield _escape(page.exit_codes)
    yield ".SH SEE ALSO"
    yield page.see_also


def _commands(group: click.Group, program: str, above: str) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from _commands(command, program, f"{above}{name} ")
        elif not command.hidden:
            yield f".SS {_escape(above + name)}"
            yield _escape(_text(command))
            yield from _options(command, program)


def _options(command: click.Command, program: str) -> Iterator[str]:
    context = click.Context(command, info_name=program)
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
    print("\n".join(write(describe(sys.argv[1] if len(sys.argv) > 1 else "pve-exec-gateway"))))

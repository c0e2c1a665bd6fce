"""A20, A6: the argument list and the environment that arrive are those that were sent, byte for byte."""

from __future__ import annotations

import pytest

from tests.conformance.cases import Case, over_every_way
from tests.conformance.drivers import Ability
from tests.conformance.ways import Refused

PRINT = ["/bin/sh", "-c", r'for word; do printf "%s\0" "$word"; done', "name"]
ASCII = [
    *(
        "",
        " ",
        "  two  ",
        "'",
        '"',
        "\\",
        "\\n",
        "a\nb",
        "\t",
        "*",
        "?",
        "[a]",
        "~",
        "$HOME",
        "$(id)",
        "`id`",
        "&",
        "|",
    ),
    *(";", "#", "-", "--", "-c", "--help", "-n", "=", "A=b", "%s", "!", "{a,b}", "<", ">", "(", ")", "\x01\x1b\x7f"),
]
BEYOND = ["\u00e9", "\u20ac", "\U0001f600", "e\u0301", "\u202e", "\ufeff", "\u0080", "\U0010ffff"]
DANGEROUS = {
    "LD_PRELOAD": "/tmp/no.so",
    "LD_AUDIT": "/tmp/no.so",
    "GLIBC_TUNABLES": "glibc.malloc.check=3",
    "GCONV_PATH": "/tmp/no",
    "LXC_CONFIG": "/tmp/no",
    "BASH_ENV": "/tmp/no",
    "PATH": "/usr/bin:/bin",
    "EMPTY": "",
    "LINES": "a\nb=c\u00e9",
}


def split(data: bytes) -> list[str]:
    return data.decode().split("\0")[:-1]


@over_every_way()
def test_argv_arrives_as_sent(case: Case) -> None:
    """Empty, quoted, blank, special and option-like arguments pass through no shell, none is lost or joined."""
    outcome = case.run([*PRINT, *ASCII, "x" * 100_000])
    assert outcome.ending == ("exited", 0, None), outcome
    assert split(outcome.stdout) == [*ASCII, "x" * 100_000]


@over_every_way(Ability.ANY_ARGUMENT)
def test_argv_beyond_ascii_arrives_as_sent(case: Case) -> None:
    """Characters of every width arrive as they were, also next to the longest argument that Linux takes."""
    longest = "\u20ac" * (131_071 // 3)
    outcome = case.run([*PRINT, *BEYOND, longest])
    assert split(outcome.stdout) == [*BEYOND, longest]


@over_every_way()
def test_argument_that_linux_would_refuse(case: Case) -> None:
    """128 KiB in one argument is a clear refusal before anything runs."""
    with pytest.raises(Refused) as refusal:
        case.run(["true", "x" * 131_072])
    assert (refusal.value.status, refusal.value.code) == (422, "invalid_request")


@over_every_way()
def test_string_runs_by_its_shell(case: Case) -> None:
    """A string is a script of /bin/sh, or of the shell that the request names; its quotes are its own."""
    assert case.run("echo \"$0 'and' $((6*7))\"; exit 3").ending == ("exited", 3, None)
    outcome = case.run("echo $1-$0", shell=["/bin/sh", "-c", 'eval "$0"; echo "by me"'])
    assert outcome.stdout.endswith(b"by me\n")


@over_every_way(Ability.ENV)
def test_environment_is_clean_and_what_was_asked(case: Case) -> None:
    """PATH, HOME, USER, LOGNAME, SHELL, and the request's own, LD_PRELOAD and its like too; nothing of the node's."""
    clean = case.run(["cat", "/proc/self/environ"])
    found = dict(pair.split("=", 1) for pair in split(clean.stdout))
    assert found.keys() == {"PATH", "HOME", "USER", "LOGNAME", "SHELL"}
    assert (found["HOME"], found["USER"], found["LOGNAME"]) == ("/root", "root", "root")
    asked = case.run(["/bin/busybox", "cat", "/proc/self/environ"], env=DANGEROUS)
    assert dict(pair.split("=", 1) for pair in split(asked.stdout)) == {**found, **DANGEROUS}

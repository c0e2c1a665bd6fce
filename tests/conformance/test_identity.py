"""A21: as whom and where a command runs, and what is open in it."""

from __future__ import annotations

import pytest

from tests.conformance.cases import Case, over_every_way
from tests.conformance.drivers import Ability

WHO = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME $SHELL"


@over_every_way(Ability.USER)
@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        pytest.param("root", 0, 0, {0}, "/root root root /bin/sh", id="root"),
        pytest.param("www-data", 33, 33, {33, 44, 993}, "/var/www www-data www-data /usr/sbin/nologin", id="name"),
        pytest.param("33", 33, 33, {33, 44, 993}, "/var/www www-data www-data /usr/sbin/nologin", id="uid"),
        pytest.param("33:1234", 33, 1234, {1234}, "/var/www www-data www-data /usr/sbin/nologin", id="uid-and-gid"),
        pytest.param("4321:55", 4321, 55, {55}, "/ 4321 4321 /bin/sh", id="unknown-to-the-guest"),
    ],
)
def test_user_and_groups(case: Case, user: str, uid: int, gid: int, groups: set[int], home: str) -> None:
    """A user by name, uid or uid:gid is that user, with its groups, home and names."""
    outcome = case.run(WHO, user=user, cwd="/")
    uid_line, gid_line, groups_line, home_line = outcome.stdout.decode().splitlines()
    assert (int(uid_line), int(gid_line), home_line) == (uid, gid, home)
    assert set(map(int, groups_line.split())) == groups


@over_every_way(Ability.CWD)
def test_directory(case: Case) -> None:
    """The directory is the one asked for, else the user's home."""
    assert case.run(["pwd"], cwd="/srv").stdout == b"/srv\n"
    assert case.run(["pwd"]).stdout == b"/root\n"
    assert case.run(["pwd"], user="www-data").stdout == b"/var/www\n"


@over_every_way()
def test_nothing_but_the_three_streams_is_open(case: Case) -> None:
    """The command has descriptors 0, 1 and 2, and no other."""
    outcome = case.run("ls /proc/self/fd >/run/fds; cat /run/fds; rm /run/fds")
    assert sorted(outcome.stdout.split()) == [b"0", b"1", b"2", b"3"], "and the one that ls reads by"


@over_every_way()
def test_no_signal_is_ignored_or_blocked(case: Case) -> None:
    """Nothing of the gateway's own signal settings comes along. (32 and 33 are the C library's own: nptl(7).)"""
    outcome = case.run(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])
    assert [int(line.split()[1], 16) & ~(3 << 31) for line in outcome.stdout.splitlines()] == [0, 0]

"""C6: what a grant's `commands`, `users`, `cwd` and `env` let through, by hand and against changes of a request."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.auth.grants import Grant
from gateway.errors import CommandNotGranted, GrantInvalid, GuestNotFound
from gateway.exec.origin import Origin
from gateway.exec.permit import CommandPattern, Permit, Terms, find_permit
from gateway.exec.spec import ExecSpec

RESTART = ["/usr/bin/systemctl", "restart", "*"]
SHOW = ["/bin/cat", "/var/log/*"]
BACKUP = ["/usr/local/bin/backup", "--to=/srv/backup/**", "..."]
COPY = ["/usr/bin/copy", "--name=*", "host:**"]


def permit(**members: Any) -> Permit:
    """The permit of a grant in its JSON form, on guest 101."""
    terms = Grant.from_json({"actions": ["exec:run"], "guests": "101", **members}).terms
    return Permit(((101, 101),), terms)


def refused(one: Permit, **spec: Any) -> str | None:
    """The field that is refused; None when the command may run."""
    found = find_permit([one], 101, ExecSpec.model_validate(spec))
    return found if isinstance(found, str) else None


LIMITED = permit(commands=[RESTART, SHOW, BACKUP, COPY])


@pytest.mark.parametrize(
    "argv",
    [
        ["/usr/bin/systemctl", "restart", "nginx"],
        ["/usr/bin/systemctl", "restart", "größe@1.service"],
        ["/usr/bin/systemctl", "restart", "two words $(id) ; `id`"],
        ["/bin/cat", "/var/log/syslog"],
        ["/bin/cat", "/var/log/..data"],
        ["/usr/local/bin/backup", "--to=/srv/backup/a/b"],
        ["/usr/local/bin/backup", "--to=/srv/backup/a", "--verbose", "", "\n", "../x"],
        ["/usr/bin/copy", "--name=..data", "host:a/b"],
        ["/usr/bin/copy", "--name=.x", "host:/a/.b"],
    ],
)
def test_granted_commands_pass(argv: list[str]) -> None:
    """What a pattern says passes, as it is: no shell ever reads it."""
    assert refused(LIMITED, command=argv) is None


@pytest.mark.parametrize(
    "argv",
    [
        ["systemctl", "restart", "nginx"],
        ["./systemctl", "restart", "nginx"],
        ["/bin/systemctl", "restart", "nginx"],
        ["//usr/bin/systemctl", "restart", "nginx"],
        ["/usr//bin/systemctl", "restart", "nginx"],
        ["/usr/bin/../bin/systemctl", "restart", "nginx"],
        ["/usr/bin/./systemctl", "restart", "nginx"],
        ["/USR/BIN/SYSTEMCTL", "restart", "nginx"],
        ["/usr/bin/systemctl ", "restart", "nginx"],
        ["/usr/bin/systemctl\n", "restart", "nginx"],
        ["/usr/bin/ſystemctl", "restart", "nginx"],
        ["/usr/bin/systemctl"],
        ["/usr/bin/systemctl", "restart"],
        ["/usr/bin/systemctl", "stop", "nginx"],
        ["/usr/bin/systemctl", "restart", "nginx", "sshd"],
        ["/usr/bin/systemctl", "restart", "nginx", ""],
        ["/usr/bin/systemctl", "restart", ""],
        ["/usr/bin/systemctl", "restart", "-Hevil"],
        ["/usr/bin/systemctl", "restart", "--root=/x"],
        ["/usr/bin/systemctl", "restart", "a\nb"],
        ["/usr/bin/systemctl", "restart", "a\x1bb"],
        ["/usr/bin/systemctl", "restart", "a\x85b"],
        ["/usr/bin/systemctl", "restart", "../x"],
        ["/usr/bin/systemctl", "restart", "/etc/evil.service"],
        ["/usr/bin/systemctl", "restart", ".."],
        ["/usr/bin/systemctl restart nginx"],
        ["/usr/bin/env", "/usr/bin/systemctl", "restart", "nginx"],
        ["/usr/bin/nice", "/usr/bin/systemctl", "restart", "nginx"],
        ["/bin/sh", "-c", "/usr/bin/systemctl restart nginx"],
        ["/bin/cat", "/var/log"],
        ["/bin/cat", "/var/log/"],
        ["/bin/cat", "/var/log/."],
        ["/bin/cat", "/var/log/.."],
        ["/bin/cat", "/var/log/../../etc/shadow"],
        ["/bin/cat", "/var/log/x/../../../etc/shadow"],
        ["/bin/cat", "/var/log//etc/shadow"],
        ["/bin/cat", "/var/log/a/b"],
        ["/usr/local/bin/backup", "--to=/srv/backup/"],
        ["/usr/local/bin/backup", "--to=/srv/backup/../../etc"],
        ["/usr/local/bin/backup", "--to=/srv/backup/a/../../../etc"],
        ["/usr/local/bin/backup", "--to=/srv/backup/.."],
        ["/usr/local/bin/backup", "--verbose", "--to=/srv/backup/a"],
        ["/usr/bin/copy", "--name=..", "host:a"],
        ["/usr/bin/copy", "--name=.", "host:a"],
        ["/usr/bin/copy", "--name=x", "host:.."],
        ["/usr/bin/copy", "--name=x", "host:../etc/shadow"],
        ["/usr/bin/copy", "--name=x", "host:./a"],
    ],
)
def test_what_is_not_granted_does_not_pass(argv: list[str]) -> None:
    """Wrappers, other paths to the program, options for values, other directories, newlines, more or fewer words."""
    assert refused(LIMITED, command=argv) == "command"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"command": "/usr/bin/systemctl restart nginx"}, "command"),
        ({"command": "/usr/bin/systemctl restart nginx", "shell": ["/usr/bin/systemctl", "restart"]}, "command"),
        ({"command": "nginx", "shell": ["/usr/bin/systemctl", "restart"]}, "command"),
        ({"env": {"LD_PRELOAD": "/x"}}, "env"),
        ({"env": {"BASH_ENV": "/x"}}, "env"),
        ({"env": {"PATH": "/x"}}, "env"),
        ({"env": {"LANG": "C", "lang": "C"}}, "env"),
        ({"env": {"LANG ": "C"}}, "env"),
        ({"user": "root"}, "user"),
        ({"user": "www-data"}, "user"),
        ({"user": "0"}, "user"),
        ({"cwd": "/"}, "cwd"),
        ({"cwd": "/srv/../tmp"}, "cwd"),
        ({"tty": {}}, "tty"),
        ({"env": {"LANG": "C"}}, None),
        ({"stdin": "data", "stdin_open": True, "timeout": 5, "labels": {"a": "b"}, "background": "kill"}, None),
    ],
)
def test_other_fields_are_only_as_granted(spec: dict[str, Any], field: str | None) -> None:
    """String commands, shell, env names, user, cwd and a terminal change what runs; stdin and limits do not."""
    one = permit(commands=[RESTART], env=["LANG"])
    assert refused(one, **{"command": ["/usr/bin/systemctl", "restart", "nginx"], **spec}) == field


def test_users_and_cwd_that_are_named_must_be_sent() -> None:
    """With `users` and `cwd` in the grant the request says one of them, exactly; no user is root."""
    one = permit(commands=[["/bin/id"]], users=["www-data", "33:33"], cwd=["/srv"])
    granted = {"command": ["/bin/id"], "user": "www-data", "cwd": "/srv"}
    assert refused(one, **granted) is None
    assert refused(one, **{**granted, "user": "33:33"}) is None
    for user in (None, "root", "0", "33", "33:0", "WWW-DATA", "www-data:0"):
        assert refused(one, **{**granted, "user": user}) == "user", user
    for cwd in (None, "/", "/srv/", "/srv/x", "/srv/../srv", "srv"):
        assert refused(one, **{**granted, "cwd": cwd}) == "cwd", cwd
    assert refused(permit(commands=[["/bin/id"]], users=["root"]), command=["/bin/id"]) is None


def test_users_alone_leave_the_command_free() -> None:
    """A grant of users without commands runs anything, as them and nobody else."""
    one = permit(users=["www-data"])
    assert refused(one, command="id; id", user="www-data", shell=["/bin/bash", "-c"], env={"A": "b"}) is None
    assert refused(one, command=["/bin/id"]) == "user"
    assert refused(one, command=["/bin/id"], user="0") == "user"


def test_permits_do_not_add_up() -> None:
    """One grant alone allows a request: not the command of one with the user or the variable of another."""
    one = permit(commands=[["/bin/id"]])
    two = permit(commands=[["/bin/ps"]], users=["www-data"], env=["LANG"])
    for spec in ({"command": ["/bin/id"], "user": "www-data"}, {"command": ["/bin/id"], "env": {"LANG": "C"}}):
        assert isinstance(find_permit([one, two], 101, ExecSpec.model_validate(spec)), str)
    assert find_permit([one, two], 101, ExecSpec(command=["/bin/id"])) is one
    assert isinstance(find_permit([one], 102, ExecSpec(command=["/bin/id"])), str)


def test_a_terminal_needs_its_action() -> None:
    """`tty` passes where the same grant holds exec:terminal: pagers and editors run commands for who types."""
    terms = Grant.from_json({"actions": ["exec:run", "exec:terminal"], "guests": "all", "commands": [RESTART]}).terms
    assert refused(Permit(((101, 101),), terms), command=["/usr/bin/systemctl", "restart", "x"], tty={}) is None


def test_origin_decides_and_knows_what_was_begun_on_which_terms() -> None:
    """The supervisor's check, after the wire: by guest, by command; input only on the terms of the beginning."""
    origin = Origin("tk_1", "ci", (LIMITED,), (), "10.0.0.1", "req_1")
    origin = Origin.from_wire(origin.to_wire())
    assert origin.permits == (LIMITED,)
    spec = ExecSpec(command=["/usr/bin/systemctl", "restart", "nginx"])
    mark = origin.require_permit(101, spec).mark
    assert mark and origin.may_feed(101, mark)
    assert not origin.may_feed(101, "") and not origin.may_feed(102, mark)
    with pytest.raises(CommandNotGranted) as error:
        origin.require_permit(101, ExecSpec(command=["/bin/sh"]))
    assert error.value.evidence == {"field": "command", "vmid": 101, "program": "/bin/sh"}
    with pytest.raises(GuestNotFound):
        origin.require_permit(102, spec)
    free = Origin("tk_1", "ci", (Permit(((101, 101),)), LIMITED), (), "10.0.0.1", "req_1")
    assert free.require_permit(101, ExecSpec(command="x")).mark == "" and free.may_feed(101, "anything")


def test_terminals_are_reached_by_either_action() -> None:
    """Begun as a terminal it takes exec:terminal to begin, and either to come back: on the terms of the beginning or on
    none. What exec:run has begun is out of exec:terminal's reach."""
    shell = ExecSpec(command=["/bin/bash"])
    both = Origin("tk_1", "ci", (LIMITED,), (), "10.0.0.1", "req_1", terminal_permits=(Permit(((101, 102),)),))
    both = Origin.from_wire(both.to_wire())
    mark = both.require_permit(101, shell, terminal=True).mark
    assert mark == "" and both.may_feed(101, mark, terminal=True) and both.may_feed(102, mark, terminal=True)
    with pytest.raises(CommandNotGranted):
        both.require_permit(101, shell)
    assert not both.may_feed(101, "")
    alone = Origin("tk_1", "ci", (), (), "10.0.0.1", "req_1", terminal_permits=(LIMITED,))
    alone = Origin.from_wire(alone.to_wire())
    assert alone.sees("tk_1", 101, terminal=True) and alone.reaches_own("tk_1", 101, terminal=True)
    assert not alone.sees("tk_1", 101) and not alone.sees("tk_2", 101, terminal=True)
    assert not alone.sees("tk_1", 102, terminal=True)
    assert alone.may_feed(101, LIMITED.mark, terminal=True) and not alone.may_feed(101, "", terminal=True)
    with pytest.raises(GuestNotFound):
        alone.require_permit(101, shell)


@pytest.mark.parametrize(
    "words",
    [
        [], ["..."], ["sh"], ["bin/sh"], ["./sh"], ["/"], ["//bin/sh"], ["/bin//sh"], ["/bin/"], ["/bin/../sh"],
        ["/bin/./sh"], ["/bin/*"], ["/b\nin"], ["*"], ["/bin/sh", "...", "x"], ["/bin/sh", "a*b*"], ["/bin/sh", "***"],
        ["/bin/sh", "a\\"], ["/bin/sh", "\0"], ["/bin/sh", "\ud800"], ["/bin/sh"] * 65, ["/bin/sh", "x" * 4097],
        "/bin/sh", [1], None,
    ],
)  # fmt: skip
def test_refuses_what_is_no_pattern(words: Any) -> None:
    """A pattern that is not plainly one is an error, not one that allows little or much."""
    with pytest.raises(GrantInvalid):
        Grant.from_json({"actions": ["exec:run"], "guests": "101", "commands": [words]})


def test_a_backslash_takes_the_next_character_literally() -> None:
    """Stars, dots and backslashes can be granted themselves."""
    pattern = CommandPattern(("/bin/echo", "\\*", "\\...", "a\\\\b", "x\\**"))
    assert pattern.matches(["/bin/echo", "*", "...", "a\\b", "x*y"])
    assert not pattern.matches(["/bin/echo", "q", "...", "a\\b", "x*y"])


literals = st.text(st.characters(exclude_characters="\\*", exclude_categories=["Cs", "Cc"]), max_size=6)
words = st.one_of(
    literals.filter(lambda text: text != "..."),
    st.tuples(literals, st.sampled_from(["*", "**"]), literals).map("".join),
)
patterns = st.lists(words, max_size=4).map(lambda rest: ["/bin/tool", *rest])
arguments = st.text(st.sampled_from("ab/.-*\n\t =\x00é") | st.characters(exclude_categories=["Cs"]), max_size=8)


def oracle(pattern: list[str], argv: list[str]) -> bool:
    """The same rules, said as a regular expression and a look at the whole argument."""
    if len(pattern) != len(argv):
        return False
    for word, argument in zip(pattern, argv, strict=True):
        star = re.search(r"\*\*?", word)
        if star is None:
            if word != argument:
                return False
            continue
        before, after = word[: star.start()], word[star.end() :]
        inner = r"[^\x00-\x1f\x7f-\x9f]+" if star[0] == "**" else r"[^/\x00-\x1f\x7f-\x9f]+"
        match = re.fullmatch(re.escape(before) + f"({inner})" + re.escape(after), argument)
        if match is None or (not before and argument.startswith("-")):
            return False
        if {".", ".."} & {*match[1].split("/")}:  # behind `--file=` it is a path of its own
            return False
        begin = 0
        for component in argument.split("/"):
            end = begin + len(component)
            if component in (".", "..") and begin <= match.end(1) and end >= match.start(1):
                return False
            begin = end + 1
    return True


@settings(max_examples=1500)
@given(patterns, st.data())
def test_patterns_match_what_their_rules_say(pattern: list[str], data: st.DataObject) -> None:
    """Against another reading of the rules, for what nearly fits as for what does not."""
    near = [
        data.draw(
            st.one_of(arguments, st.just(word.replace("**", data.draw(arguments)).replace("*", data.draw(arguments))))
        )
        for word in pattern[1:]
    ]
    argv = ["/bin/tool", *near]
    assert CommandPattern(tuple(pattern)).matches(argv) is oracle(pattern, argv)


@settings(max_examples=500)
@given(st.lists(arguments, min_size=1, max_size=5))
def test_nothing_but_the_granted_program_ever_starts(argv: list[str]) -> None:
    """Whatever the arguments are, the program is the pattern's, byte for byte."""
    found = CommandPattern(("/bin/tool", "...")).matches(argv)
    assert found is (argv[0] == "/bin/tool")


@settings(max_examples=300)
@given(
    st.fixed_dictionaries(
        {"command": st.just(["/bin/tool", "x"])},
        optional={
            "env": st.dictionaries(arguments, arguments, max_size=2),
            "cwd": arguments,
            "user": arguments,
            "shell": st.lists(arguments, min_size=1, max_size=2),
            "tty": st.just({}),
            "stdin": arguments,
        },
    )
)
def test_no_field_gets_around_the_terms(spec: dict[str, Any]) -> None:
    """A request that passes has the pattern's argv, no shell, no variable, no user, no cwd and no terminal."""
    try:
        parsed = ExecSpec.model_validate(spec)
    except ValidationError:
        return
    one = permit(commands=[["/bin/tool", "*"]])
    if find_permit([one], 101, parsed) is one:
        assert parsed.argv() == ["/bin/tool", "x"]
        assert not parsed.env and parsed.cwd is None and parsed.user is None and parsed.tty is None


def test_matching_is_linear() -> None:
    """The longest argument against the worst pattern takes no time to speak of."""
    pattern = CommandPattern(("/bin/tool", "a" * 2000 + "**" + "a" * 2000))
    began = time.process_time()
    assert pattern.matches(["/bin/tool", "a" * 131_000])
    assert not pattern.matches(["/bin/tool", "a" * 131_000 + "b"])
    assert time.process_time() - began < 0.5


@given(
    st.builds(
        Terms,
        commands=st.lists(patterns.map(lambda one: CommandPattern(tuple(one))), max_size=3).map(tuple),
        users=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        cwd=st.lists(st.text(max_size=5), max_size=2).map(tuple),
        env=st.lists(st.text(max_size=5), max_size=2).map(tuple),
        terminal=st.booleans(),
    )
)
def test_terms_cross_the_wire(terms: Terms) -> None:
    """Terms survive the supervisor's socket, with their mark; what is no terms is refused there."""
    again = Terms.from_wire(terms.to_wire())
    assert again == terms and again.mark == terms.mark
    wire = terms.to_wire()
    changes: list[dict[str, Any]] = [{"more": 1}, {"terminal": 1}, {"users": "root"}, {"commands": [["sh"]]}]
    damaged: list[Any] = [None, [], {}, *({**wire, **change} for change in changes)]
    for bad in damaged:
        with pytest.raises(ValueError):
            Terms.from_wire(bad)

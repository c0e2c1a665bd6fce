"""A6, A17, A20, A21: what a command finds around itself: argv, environment, user, directory, descriptors, input."""

from __future__ import annotations

import base64
import hashlib
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run, every_guest
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, new_mark
from tests.pvesim import guests

DANGEROUS = {
    "LD_PRELOAD": "/tmp/evil-CANARY.so",
    "LD_AUDIT": "/tmp/evil-CANARY.so",
    "LD_LIBRARY_PATH": "/tmp/evil-CANARY",
    "GLIBC_TUNABLES": "glibc.malloc.check=CANARY",
    "GCONV_PATH": "/tmp/evil-CANARY",
    "LXC_LOG_LEVEL": "CANARY",
    "LXC_CONFIG": "CANARY",
    "BASH_ENV": "/tmp/CANARY",
    "PATH": "/tmp/CANARY:/bin:/usr/bin",
}


def environment_of(result: dict[str, Any]) -> dict[str, str]:
    """The environment that `cat /proc/self/environ` printed."""
    assert result["reason"] == "exited", result
    return dict(pair.split("=", 1) for pair in result["stdout"].split("\0") if pair)


def test_environment_is_clean_and_complete(run: Run, vmid: int) -> None:
    """A6: the guest's command sees a full PATH, HOME, USER, LOGNAME, SHELL, and not one variable more."""
    found = environment_of(run(vmid, ["cat", "/proc/self/environ"]))
    shell = found.pop("SHELL")
    assert shell in ("/bin/sh", "/bin/bash")
    assert found == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "LOGNAME": "root",
    }


def test_gateways_environment_stays_on_the_node(make_gateway: Any) -> None:
    """A6: canaries in the environment of all three services are seen by no command."""
    canary = f"CANARY-{new_mark()}"
    gateway: Gateway = make_gateway(environment={"PVE_CANARY": canary, "LC_CANARY": canary, "LXC_CANARY": canary})
    api = gateway.api()
    for number in (101, 104):
        found = environment_of(api.run(number, ["cat", "/proc/self/environ"]))
        assert "PATH" in found
        assert canary not in found.values()
    api.close()


def test_dangerous_variables_reach_the_command_alone(api: Api, vmid: int) -> None:
    """A6: LD_PRELOAD & co. of a request are in the command's environment and never in that of a host process."""
    mark = new_mark()
    env = {name: value.replace("CANARY", mark) for name, value in DANGEROUS.items()}
    api_env = environment_of(api.run(vmid, ["/bin/cat", "/proc/self/environ"], env=env))
    assert {name: api_env[name] for name in env} == env
    connection = api.begin(vmid, {"command": ["/bin/sleep", mark], "env": env, "labels": {"test": mark}})
    try:
        begun(api, mark, mark)
        ours = os.readlink("/proc/self/ns/mnt")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/mnt") != ours:
                    continue
                assert mark.encode() not in Path(f"/proc/{pid}/environ").read_bytes(), pid
            except OSError:
                continue
    finally:
        connection.close()


def test_env_of_the_request_is_added_byte_for_byte(run: Run, vmid: int) -> None:
    """Values with newlines, equals signs and every kind of character arrive as they were sent; HOME can be set."""
    env = {"A": "", "B": "x=y", "C": "line\nline", "D": "\u00e9\u20ac\U0001f600", "HOME": "/srv", "E": " '\"$`\\ "}
    found = environment_of(run(vmid, ["cat", "/proc/self/environ"], env=env))
    assert {name: found[name] for name in env} == env


def test_no_stdin_is_an_empty_one(run: Run, vmid: int) -> None:
    """A17: `cat` without input ends at once."""
    result = run(vmid, ["cat"], timeout=5)
    assert (result["reason"], result["stdout"]) == ("exited", "")


def test_no_stdin_is_no_file_of_the_node(run: Run, vmid: int) -> None:
    """An empty stdin is nothing that a guest's root could change on the node: not the node's own /dev/null."""
    null = os.stat("/dev/null")
    result = run(vmid, "stat -L -c '%d:%i' /proc/self/fd/0")
    assert result["exit_code"] == 0
    assert result["stdout"].strip() != f"{null.st_dev}:{null.st_ino}"


def test_stdin_arrives_byte_for_byte(run: Run, vmid: int) -> None:
    """Every byte value, 300 KiB of it, reaches the command and its end is seen."""
    data = bytes(range(256)) * 1200
    result = run(vmid, "sha256sum; wc -c", stdin=base64.b64encode(data).decode(), stdin_encoding="base64")
    assert result["stdout"].split()[0] == hashlib.sha256(data).hexdigest()


def test_stdin_that_nobody_reads_is_no_error(run: Run, small_vmid: int) -> None:
    """A command that leaves 1 MiB of input unread ends as it would have."""
    result = run(small_vmid, ["true"], stdin="x" * (1 << 20))
    assert (result["reason"], result["exit_code"]) == ("exited", 0)


ARGUMENTS = [
    [""],
    ["", "", ""],
    [" ", "a b", "\t", "a\nb", "\n"],
    ["'", '"', "`id`", "$(id)", "$HOME", "\\", "\\n"],
    ["*", "?", "~", "{a,b}", "!", "#", "&", ";", "|", ">", "<"],
    ["--", "-n", "--clear-env", "-s", "--help", "-e", "CGROUP"],
    ["\u00e9", "\u20ac", "\U0001f600", "\x01\x7f\x1b[31m", "\u202e"],
    ["x" * 100 * 1024],
    ["y" * 131_071],
    [str(number) for number in range(2000)],
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_argv_arrives_as_sent(run: Run, small_vmid: int, arguments: list[str]) -> None:
    """A20: what the guest's /proc/self/cmdline holds is what was sent, byte for byte."""
    result = run(small_vmid, ["/bin/busybox", "sh", "-c", "cat /proc/$$/cmdline; :", "name", *arguments])
    assert result["reason"] == "exited", result["spawn_error"]
    assert result["stdout"].split("\0")[5:-1] == arguments


def test_argv_arrives_as_sent_whatever_it_is(run: Run, vmid: int) -> None:
    """A20: 40 random argument lists over all of Unicode arrive as they were sent."""
    choose = random.Random(20)
    script = 'for a in "$@"; do printf "%s\\0" "$a"; done'
    for _ in range(40):
        alphabet = [chr(choose.choice([*range(1, 0xD800), *range(0xE000, 0x11000)])) for _ in range(30)]
        sent = ["".join(choose.choices(alphabet + list("-'\" $*\n"), k=choose.randrange(40))) for _ in range(8)]
        result = run(vmid, ["/bin/sh", "-c", script, "sh", *sent])
        assert result["stdout"].split("\0")[:-1] == sent


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"command": ["echo", "x" * (128 * 1024)]}, id="one-argument-of-128-KiB"),
        pytest.param({"command": ["echo"], "env": {"A": "x" * (128 * 1024)}}, id="one-variable-of-128-KiB"),
        pytest.param({"command": ["echo", *(["x" * 100_000] * 20)]}, id="2-MB-together"),
        pytest.param({"command": ["echo", "a\0b"]}, id="NUL"),
        pytest.param({"command": []}, id="no-argument"),
        pytest.param({"command": ""}, id="empty-string"),
        pytest.param({"command": ["true"], "env": {"A=B": "c"}}, id="equals-in-a-name"),
        pytest.param({"command": ["true"], "cwd": "/a\0b"}, id="NUL-in-cwd"),
        pytest.param({"command": ["true"], "user": "a b"}, id="space-in-user"),
        pytest.param({"command": ["true"], "tty": True}, id="unknown-field"),
        pytest.param({"command": ["true"], "redact": [1]}, id="redact-past-the-end"),
        pytest.param({"command": ["true"], "timeout": "5"}, id="string-for-a-number"),
        pytest.param({"command": ["cat"], "stdin": "AA!EC", "stdin_encoding": "base64"}, id="not-base64"),
    ],
)
def test_what_no_guest_can_take_is_refused(api: Api, body: dict[str, Any]) -> None:
    """A20: what cannot be run as it was sent is a 422 that names the field, and repeats nothing of it."""
    answer = api.post(101, body)
    assert (answer.status, answer.code) == (422, "invalid_request"), answer.body[:300]
    assert answer.json()["errors"]
    assert b"xxxx" not in answer.body


def test_lone_surrogate_is_refused(api: Api) -> None:
    """A20: an escape that is no character is a clear 4xx."""
    answer = api.request("POST", "/exec/101", raw=b'{"command": ["echo", "\\ud800"]}')
    assert answer.status in (400, 422)


@pytest.mark.parametrize("size", [30_000, 100_000])
def test_many_large_arguments_come_back_as_a_result(api: Api, small_vmid: int, size: int) -> None:
    """A20: 1.4 MB of arguments, the most that is allowed, are run and answered like any others."""
    count = 1_400_000 // size
    result = api.run(small_vmid, ["/bin/busybox", "sh", "-c", "echo $#", "sh", *(["x" * size] * count)])
    assert (result["reason"], result["stdout"]) == ("exited", f"{count}\n")
    again = api.get(f"/execs/{result['id']}")
    assert again.status == 200
    assert api.get("/execs?limit=1000").status == 200


def test_cwd_is_the_home_or_what_was_asked(run: Run, vmid: int) -> None:
    """A21: without `cwd` the command starts in its user's home, else where the request says."""
    assert run(vmid, ["pwd"])["stdout"] == "/root\n"
    assert run(vmid, ["pwd"], cwd="/var/log")["stdout"] == "/var/log\n"
    assert run(vmid, ["pwd"], user="daemon")["stdout"] == "/usr/sbin\n"
    assert run(vmid, ["pwd"], user="nobody")["stdout"] == "/\n", "a home that does not exist"


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "name"),
    [
        (None, "0", "0", {"0"}, "root"),
        ("root", "0", "0", {"0"}, "root"),
        ("www-data", "33", "33", {"33", "44", "993"}, "www-data"),
        ("33", "33", "33", {"33", "44", "993"}, "www-data"),
        ("33:44", "33", "44", None, "www-data"),
        ("4711:4712", "4711", "4712", {"4712"}, None),
    ],
)
def test_user_is_honoured_with_its_groups(
    run: Run, small_vmid: int, user: str | None, uid: str, gid: str, groups: set[str] | None, name: str | None
) -> None:
    """A21: by name, uid and uid:gid, with the supplementary groups of the guest; USER and LOGNAME fit."""
    script = 'id -u; id -g; grep ^Groups: /proc/self/status; echo "$USER $LOGNAME"; grep ^Uid: /proc/self/status'
    result = run(small_vmid, script, **({"user": user} if user else {}), cwd="/")
    lines = result["stdout"].splitlines()
    assert lines[:2] == [uid, gid], result
    if groups is not None:
        assert set(lines[2].split()[1:]) | {gid} == groups
    if name is not None:
        assert lines[3] == f"{name} {name}"
    assert lines[4].split()[1:] == [uid] * 4


@pytest.mark.parametrize("vmid", every_guest()[2:])
def test_debian_groups_are_resolved(api: Api, vmid: int) -> None:
    """A21: a user with supplementary groups that the guest itself made gets exactly those."""
    guest = guests.get(vmid)
    assert guest.attach(["useradd", "-m", "-G", "video,adm", "-s", "/bin/bash", "exectest"]).returncode in (0, 9)
    result = api.run(vmid, 'id -Gn; echo "$HOME $USER $SHELL"; pwd; touch ~/mine', user="exectest")
    assert set(result["stdout"].splitlines()[0].split()) == {"exectest", "video", "adm"}
    assert result["stdout"].splitlines()[1:] == ["/home/exectest exectest /bin/bash", "/home/exectest"]


def test_descriptors_signals_and_limits_are_a_new_logins(run: Run, vmid: int) -> None:
    """A21: fds 0, 1, 2 and no other; no ignored or blocked signal; umask 022; no tty; a session of its own."""
    result = run(vmid, ["ls", "/proc/self/fd"])
    assert set(result["stdout"].split()) <= {"0", "1", "2", "3"}  # 3: ls reads the directory
    status = run(vmid, ["grep", "-E", "^(SigBlk|SigIgn|Umask|NoNewPrivs|Seccomp):", "/proc/self/status"])["stdout"]
    fields = dict(line.split(":\t") for line in status.splitlines())
    assert (int(fields["SigBlk"], 16), int(fields["SigIgn"], 16)) == (0, 0)
    assert (fields["Umask"], fields["NoNewPrivs"]) == ("0022", "0")
    script = "ulimit -n; cat /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat"
    limit, oom_score_adj, nice = run(vmid, script)["stdout"].split()
    assert int(limit) >= 1024
    assert (oom_score_adj, nice) == ("0", "0")


def test_string_runs_by_the_shell_that_was_asked(run: Run, vmid: int) -> None:
    """A string runs by /bin/sh -c, or by `shell`; redirections and variables are the shell's."""
    assert run(vmid, "echo $((6 * 7)) | cat; echo $0")["stdout"] == "42\n/bin/sh\n"
    assert run(vmid, "echo $-", shell=["/bin/sh", "-ec"])["stdout"].strip().count("e") == 1

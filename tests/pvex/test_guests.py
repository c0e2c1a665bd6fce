"""pvex and guests: made, listed, run in, copied to, taken back and destroyed, as people do it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.exec.inside import living, new_mark
from tests.exec.waiting import until
from tests.guests.made import TEMPLATE
from tests.pvesim.api import machines
from tests.pvex.client import Pvex
from tests.pvex.pty import Screen


@pytest.fixture(scope="module")
def guests(lab: Pvex) -> list[str]:
    """Two guests that run, web1 and web2, both tagged."""
    words = ("create", "--template", TEMPLATE, "--storage", "local-lvm", "--tag", "web", "--start")
    return [vmid for name in ("web1", "web2") for vmid in lab.lines(*words, "--name", name)]


def test_lists(lab: Pvex, guests: list[str]) -> None:
    """As a table, as JSON and as YAML; no colours, for it is no terminal."""
    header, *rows = lab.lines("ls")
    assert header.split()[:3] == ["VMID", "NAME", "STATUS"]
    assert [row.split()[:3] for row in rows] == [[vmid, f"web{n}", "running"] for n, vmid in enumerate(guests, 1)]
    shown = json.loads("\n".join(lab.lines("ls", "-o", "json", "--tag", "web")))
    assert [guest["name"] for guest in shown] == ["web1", "web2"]
    assert "- vmid: " + guests[0] in lab.lines("-o", "yaml", "ls")
    assert lab.lines("ls", "-q") == guests


def test_a_name_is_a_guest(lab: Pvex, guests: list[str]) -> None:
    """Where a vmid is asked for; one that nobody has is a wrong call."""
    assert lab("exec", "web2", "--", "echo", "here").stdout == b"here\n"
    done = lab.inside("exec", "web3", "--", "true")
    assert (done.returncode, b"no guest is called" in done.stderr) == (2, True)


def test_run_in_many(lab: Pvex, guests: list[str]) -> None:
    """Lines behind names; one that fails is told and breaks nothing; -o json has it all."""
    done = lab.inside("run", "-l", "tag=web", "--", "sh", "-c", "echo hi; hostname | grep 1")
    assert done.returncode == 1
    assert sorted(done.stdout.splitlines()) == [b"web1 | hi", b"web1 | web1", b"web2 | hi"]
    assert done.stderr == b"pvex: web2: exit code 1\npvex: 1 of 2 guests: exit code 0\n"
    done = lab.inside("run", "-g", f"{guests[0]},7709", "-o", "json", "--", "echo", "x")
    shares = {share["vmid"]: share for share in json.loads(done.stdout)}
    assert (shares[int(guests[0])]["exit_code"], shares[int(guests[0])]["stdout"]) == (0, "x\n")
    assert (shares[7709]["state"], "pvex ls" in shares[7709]["error"]) == ("failed", True)


def test_max_errors(lab: Pvex, guests: list[str]) -> None:
    """After one failure too many nothing more is begun."""
    done = lab.inside("run", "-a", "-P", "1", "--max-errors", "0", "--", "false")
    assert done.stderr.splitlines()[:2] == [b"pvex: web1: exit code 1", b"pvex: web2: not begun"]


def test_run_is_left(lab: Pvex, guests: list[str]) -> None:
    """Ctrl-C, or TERM, ends what runs in all of them."""
    mark = new_mark()
    for number in (signal.SIGINT, signal.SIGTERM):
        with lab.start("run", "-a", "--", "sleep", mark) as running:
            until(lambda: len([pid for pid in living(mark) if pid != running.pid]) == 2)
            running.send_signal(number)
            assert running.wait(40) == 128 + number
        until(lambda: not living(mark))


def test_run_on_a_terminal(lab: Pvex, guests: list[str]) -> None:
    """A table of what runs, in colours, unless NO_COLOR says no."""
    with Screen(lab, "run", "-a", "--", "echo", "hi") as screen:
        shown = screen.until("2 of 2 guests: exit code 0")
        assert "\x1b[32m" in shown and "2 of 2 guests are done, 0 failed" in shown
    with Screen(lab, "run", "-a", "--", "echo", "hi", NO_COLOR="1") as screen:
        assert "\x1b[3" not in screen.until("exit code 0")


def test_copies(lab: Pvex, guests: list[str], tmp_path: Path) -> None:
    """Into a guest and out of it: bytes and mode; into a directory under its own name; through pipes."""
    data = os.urandom(3 << 20)
    here = tmp_path / "a file"
    here.write_bytes(data)
    here.chmod(0o750)
    assert lab.inside("cp", str(here), "web1:/root").returncode == 0
    assert lab("exec", "web1", "--", "stat", "-c", "%a %s", "/root/a file").stdout == b"750 3145728\n"
    back = tmp_path / "back"
    done = lab.inside("cp", "web1:/root/a file", str(back))
    assert (done.returncode, done.stderr) == (0, b"")
    assert (back.read_bytes() == data, back.stat().st_mode & 0o777) == (True, 0o750)
    assert lab("cp", "-", f"{guests[0]}:/tmp/x", stdin=b"piped").returncode == 0
    assert lab("cp", f"{guests[0]}:/tmp/x", "-").stdout == b"piped"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "back"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["web1:/no/such", "x"], 125, b"[file_not_found]"),
        (["/no/such", "web1:/root/x"], 125, b"/no/such: No such file"),
        (["x", "y"], 2, b"GUEST:/PATH"),
        (["-", "web1:/root/"], 125, b"[tar_refused]"),
    ],
)
def test_copies_that_fail(lab: Pvex, guests: list[str], words: list[str], code: int, told: bytes) -> None:
    """One line, and nothing left here."""
    done = lab.inside("cp", *words)
    assert (done.returncode, told in done.stderr, done.stderr.count(b"\n")) == (code, True, 1), done


def test_progress(lab: Pvex, guests: list[str], tmp_path: Path) -> None:
    """A bar on a terminal; it is taken away at the end."""
    here = tmp_path / "big"
    with open(here, "wb") as file:
        file.truncate(64 << 20)
    with Screen(lab, "cp", str(here), "web1:/tmp/big") as screen:
        assert "%" in screen.until("MiB/s")
        assert screen.end() == 0


def test_snapshots_and_the_end(lab: Pvex, guests: list[str], tmp_path: Path) -> None:
    """Taken, listed, gone back to; what cannot be undone wants a yes, for which the output is not used; then the guest
    is gone."""
    vmid = guests[1]
    (upid,) = lab.lines("stop", "web2", "--wait", "0")
    assert f'"upid": "{upid}"' in "\n".join(lab.lines("task", "show", upid, "-o", "json"))
    assert "TASK OK" in lab.lines("task", "log", "-f", upid)
    assert lab.lines("snapshot", "create", "web2", "before") == ["before"]
    assert "before" in lab.lines("snapshot", "ls", "web2")[1]
    assert complete(lab, "pvex snapshot rm web2 b") == ["plain,before"]
    assert lab.inside("snapshot", "rollback", "web2", "before").returncode == 2
    assert lab.lines("snapshot", "rollback", "web2", "before", "-y") == ["before"]
    assert lab.lines("snapshot", "rm", "web2", "before") == ["before"]
    assert lab.lines("clone", "web2", "--vmid", "7708", "--name", "web3", "--full") == ["7708"]
    assert lab.lines("rm", "-y", "7708") == ["7708"]
    done = lab.inside("rm", vmid)
    assert (done.returncode, b"say --yes" in done.stderr) == (2, True)
    told = tmp_path / "told"
    with told.open("wb") as stdout, Screen(lab, "rm", vmid, stdout=stdout) as screen:
        screen.until("[y/N]: ")
        screen.type("y\n")
        assert screen.end() == 0
    assert told.read_text() == f"{vmid}\n"
    assert vmid not in lab.lines("ls", "-q")


def test_a_larger_disk(lab: Pvex, guests: list[str]) -> None:
    """By so much, or to so much; what is no size, and what is smaller, is refused."""
    assert lab.lines("resize", "web1", "rootfs", "+1G") == [guests[0]]
    shown = json.loads("\n".join(lab.lines("resize", guests[0], "rootfs", "6G", "-o", "json")))
    assert shown["state"] == "ended"
    for words, code, told in (
        (("rootfs", "1G"), 125, b"]"),
        (("rootfs", "much"), 125, b"[invalid_request]"),
        (("rootfs",), 2, b"SIZE"),
    ):
        done = lab.inside("resize", "web1", *words)
        assert (done.returncode, told in done.stderr, done.stdout) == (code, True, b""), done


def test_a_guest_that_stays(lab: Pvex, guests: list[str]) -> None:
    """A node that is not there, or is its own, is told; the nodes there are complete the command."""
    for target in ("pve1", "pve9"):
        done = lab.inside("migrate", "web1", target, "--restart")
        assert (done.returncode, done.stderr.count(b"\n"), done.stdout) == (125, 1, b""), done
    assert lab.inside("migrate", "web1").returncode == 2
    assert complete(lab, "pvex migrate web1 p") == ["plain,pve1"]


def test_backups(lab: Pvex, guests: list[str]) -> None:
    """Made, listed, restored as another guest, and removed, which wants a yes."""
    (volume,) = lab.lines("backup", "create", "web1", "--storage", "local", "--notes", "before")
    assert f"vzdump-lxc-{guests[0]}-" in volume
    header, row = lab.lines("backup", "ls", "web1")
    assert (header.split()[0], row.split()[0], row.split()[-1]) == ("VOLUME", volume, "before")
    assert complete(lab, f"pvex backup rm web1 {volume[:12]}") == [f"plain,{volume}"]
    restored = lab.lines("backup", "restore", volume, "--storage", "local-lvm", "--vmid", "7707", "--name", "again")
    assert restored == ["7707"]
    assert json.loads("\n".join(lab.lines("show", "7707", "-o", "json")))["name"] == "again"
    assert lab.lines("rm", "-y", "7707") == ["7707"]
    done = lab.inside("backup", "rm", "web1", volume)
    assert (done.returncode, b"say --yes" in done.stderr) == (2, True)
    assert lab.lines("backup", "rm", "web1", volume, "-y") == [volume]
    assert json.loads("\n".join(lab.lines("backup", "ls", guests[0], "-o", "json"))) == []
    assert lab.inside("backup", "create", "web1").returncode == 2


def test_a_token_is_edited(lab: Pvex) -> None:
    """What is given changes, the rest and the secret stay; nothing given, or no number, is a wrong call."""
    new = ("--name", "ci", "--allow", "exec:run", "--guests", "7700", "--expires", "1h", "--max-running", "3")
    (secret,) = lab.lines("token", "create", *new)
    token_id = secret.split(".")[0].removeprefix("pveg_")
    grants = ("--allow", "guest:read", "--guests", "7701", "--rate", "50")
    assert lab.lines("token", "edit", token_id, *grants) == [token_id]
    shown = json.loads("\n".join(lab.lines("token", "show", token_id, "-o", "json")))
    assert shown["grants"] == [{"actions": ["guest:read"], "guests": "7701"}]
    assert (shown["name"], shown["limits"]) == ("ci", {"rate": 50.0, "max_running": 3})
    others = ("--name", "renamed", "--rate", "none", "--network", "10.0.0.0/8", "-o", "json")
    answer = json.loads("\n".join(lab.lines("token", "edit", token_id, *others)))
    assert (answer["name"], answer["limits"]["rate"], answer["networks"]) == ("renamed", None, ["10.0.0.0/8"])
    lab.lines("token", "edit", token_id, "--network", "any")
    assert lab.lines("token", "self", GATEWAY_TOKEN=secret)[0].startswith("renamed")
    for wrong in ((), ("--rate", "nan"), ("--max-running", "x"), ("--guests", "all")):
        done = lab.inside("token", "edit", token_id, *wrong)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done
    lab.lines("token", "revoke", "-y", token_id)


def test_trust(lab: Pvex) -> None:
    """A token is made, shown to be what it is, and revoked; the log tells of it, and is whole."""
    done = lab.inside("token", "create", "--name", "ci", "--allow", "exec:run", "--guests", "7700", "--expires", "1h")
    secret = done.stdout.decode().strip()
    assert secret.startswith("pveg_") and secret not in done.stderr.decode()
    shown = lab.lines("token", "self", GATEWAY_TOKEN=secret)
    assert shown[0].startswith("ci (tk_") and shown[2].split()[:2] == ["exec:run", "7700"]
    token_id = shown[0].split("(")[1].split(")")[0]
    assert any(token_id in line for line in lab.lines("token", "ls"))
    assert ["state", "active"] in [line.split() for line in lab.lines("token", "show", token_id)]
    (newer,) = lab.lines("token", "rotate", token_id)
    assert [lab.inside("ps", GATEWAY_TOKEN=one).returncode for one in (secret, newer)] == [125, 0]
    assert complete(lab, f"pvex token rm {token_id[:-3]}") == [f"plain,{token_id}"]
    assert lab.lines("token", "revoke", "-y", token_id) == [token_id]
    assert lab.inside("ps", GATEWAY_TOKEN=newer).returncode == 125
    assert lab.lines("token", "rm", token_id) == [token_id]


def test_audit(lab: Pvex, guests: list[str]) -> None:
    """What was run stands in the log."""
    lab.lines("exec", "web1", "--", "echo", "for-the-record")
    rows = lab.lines("audit", "--guest", "web1", "-n", "5")
    assert any("exec:intent" in row and "echo for-the-record" in row for row in rows)
    assert lab.lines("audit", "--verify")[0].endswith("records are as they were written")


def complete(lab: Pvex, words: str, shell: str = "bash", **environment: str) -> list[str]:
    """What is offered for the last word."""
    asked: dict[str, Any] = {
        "_PVEX_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    return lab.inside(**{**asked, **environment}).stdout.decode().split()


def test_completion(lab: Pvex, guests: list[str]) -> None:
    """Guests by vmid and name, from the gateway; without one nothing, and no words."""

    assert complete(lab, f"pvex exec {guests[0]}") == [f"plain,{guests[0]}"]
    assert complete(lab, "pvex start web1") == ["plain,web1"]
    assert complete(lab, "pvex exec 77", GATEWAY_URL="https://127.0.0.1:9") == []
    assert complete(lab, "pvex cp web1") == ["plain,web1:"]
    assert complete(lab, "pvex cp ./we") == ["file,./we"] and complete(lab, "pvex cp none") == ["file,none"]
    assert complete(lab, "pvex run -l t") == ["plain,tag=", "plain,type="]
    (exec_id,) = lab.lines("exec", "-d", "web1", "--", "sleep", "600")
    assert complete(lab, "pvex kill ex_") == [f"plain,{exec_id}"]
    assert complete(lab, "pvex kill ex_", "zsh")[-3:] == [f"{guests[0]}", "sleep", "600"]
    assert lab.lines("kill", exec_id) == [exec_id]
    for shell in ("bash", "zsh", "fish"):
        assert "_PVEX_COMPLETE" in "\n".join(lab.lines("completion", shell))


def test_several_at_once(lab: Pvex, guests: list[str]) -> None:
    """One that is refused is told by its name, and the others are done all the same; -o has them all."""
    done = lab.inside("suspend", "web9", guests[0], "7709")
    assert (done.returncode, done.stdout) == (2, f"{guests[0]}\n".encode())
    first, second = done.stderr.decode().splitlines()
    assert first.startswith("pvex: web9: no guest") and second.startswith("pvex: 7709: ") and "pvex ls" in second
    done = lab.inside("resume", guests[0], "7709", "-o", "json")
    assert (done.returncode, [one["vmid"] for one in json.loads(done.stdout)]) == (125, [int(guests[0])])


def test_a_guest_is_shown(lab: Pvex, guests: list[str]) -> None:
    """Its state, its addresses, its commands."""
    assert json.loads("\n".join(lab.lines("show", "web1", "-o", "json")))["name"] == "web1"
    assert lab.lines("ip", "web1")[0].split() == ["ADDRESS", "PREFIX", "INTERFACE", "MAC"]
    (exec_id,) = lab.lines("exec", "-d", "web1", "--", "sh", "-c", "exit 3")
    assert ["exit_code", "3"] in [line.split() for line in lab.lines("inspect", exec_id, "--wait", "10")]
    assert any(TEMPLATE in line for line in lab.lines("template", "ls"))


def test_devices_of_a_guest(lab: Pvex, guests: list[str]) -> None:
    """Given, listed, taken back; what node policy does not allow is refused."""
    done = lab.inside("devices", "add", "web1", "/dev/null")
    assert (done.returncode, done.stdout) == (0, b"dev0\n"), done
    assert lab.lines("devices", "ls", "web1")[1].split()[:2] == ["dev0", "/dev/null"]
    assert lab.lines("devices", "rm", "web1", "dev0") == ["dev0"]
    done = lab.inside("devices", "add", "web1", "/dev/zero")
    assert (done.returncode, b"[policy_refused]" in done.stderr) == (125, True)


def test_devices(lab: Pvex) -> None:
    """The node's are listed, and looked up."""
    rows = lab.lines("devices", "ls", "--kind", "other", "-o", "json")
    assert "/dev/null" in {one["path"] for one in json.loads("\n".join(rows))}
    assert any(line.split() == ["minor", "3"] for line in lab.lines("devices", "lookup", "/dev/null"))


def test_a_machine(lab: Pvex) -> None:
    """Its agent cannot stream: input goes first, output comes at the end, and the exit code."""
    machine = machines.create(7705)
    try:
        done = lab("exec", "-i", "7705", "--", "sh", "-c", "cat; echo err >&2; exit 4", stdin=b"in\n")
        assert (done.returncode, done.stdout, done.stderr) == (4, b"in\n", b"err\n")
        done = lab.inside("exec", "-u", "nobody", "7705", "--", "id")
        assert (done.returncode, b"driver_unsupported" in done.stderr) == (125, True)
    finally:
        machine.destroy()

"""pvex and what is around guests: tasks, files, settings, templates, nodes, storages; what a token may."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from typing import Any

import pytest

from tests.guests.made import TEMPLATE
from tests.pvesim.api.process import Api
from tests.pvex.client import PROGRAM, Pvex
from tests.pvex.test_guests import complete


@pytest.fixture(scope="module")
def web(lab: Pvex) -> str:
    """A guest that runs, by its vmid."""
    words = ("create", "--template", TEMPLATE, "--storage", "local-lvm", "--name", "web", "--start")
    (vmid,) = lab.lines(*words)
    return vmid


def shown(lab: Pvex, *words: str) -> Any:
    """An answer as JSON."""
    return json.loads("\n".join(lab.lines(*words, "-o", "json")))


def refused(lab: Pvex, code: int, *words: str) -> str:
    """The one line of a failure with this exit code."""
    done = lab.inside(*words)
    assert (done.returncode, done.stderr.count(b"\n")) == (code, 1), done
    return done.stderr.decode()


def in_bash(lab: Pvex, line: str) -> list[str]:
    """What bash itself offers for the last word of a line, of which it takes what stands behind a colon."""
    program = lab.home / "bin/pvex"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\nexec " + shlex.join(PROGRAM) + ' "$@"\n')
    program.chmod(0o755)
    script = """
    compopt() { :; }
    eval "$(pvex completion bash)"
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _pvex_completion pvex
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**lab.environment(), "PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script, "bash", line], env=environment, capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def test_what_there_is(lab: Pvex, web: str) -> None:
    """Nodes, storages, pools, the next vmid, and that commands can run."""
    header, *rows = lab.lines("nodes")
    assert (header.split()[:2], rows[0].split()[:2]) == (["NAME", "STATUS"], ["pve1", "online"])
    assert {"local", "local-lvm"} <= {one["name"] for one in shown(lab, "storages")}
    assert "local-lvm" not in "\n".join(lab.lines("storages", "--content", "vztmpl"))
    assert lab.lines("pools")[0].split() == ["NAME", "GUESTS", "COMMENT"]
    (vmid,) = lab.lines("nextid")
    assert vmid.isdigit() and vmid != web
    assert {"supervisor", "yes"} <= {word for line in lab.lines("health") for word in line.split()}
    assert "`pvex nodes`" in refused(lab, 125, "storages", "--node", "pve9")
    assert refused(lab, 2, "storages", "--content", "all")
    assert complete(lab, "pvex backup create web --storage local-") == ["plain,local-lvm"]


def test_tasks(lab: Pvex, web: str) -> None:
    """Listed, shown, their logs read, waited for; what has ended is not stopped."""
    (upid,) = lab.lines("stop", web, "--wait", "0")
    assert lab.lines("task", "wait", upid) == [upid]
    assert lab.lines("start", web) == [web]
    listed = shown(lab, "task", "ls", "web", "--since", "1h")
    assert {"vzcreate", "vzstart", "vzstop"} <= {one["type"] for one in listed}
    assert {one["vmid"] for one in listed} == {int(web)}
    assert upid in lab.lines("task", "ls", web, "-q") and len(lab.lines("task", "ls", "-q", "-n", "1")) == 1
    assert ["state", "ended"] in [line.split() for line in lab.lines("task", "show", upid)]
    assert lab.lines("task", "log", upid)[-1] == lab.lines("task", "log", "-f", upid)[-1] == "TASK OK"
    assert "[task_ended]" in refused(lab, 125, "task", "stop", upid)
    assert "`pvex task ls`" in refused(lab, 125, "task", "wait", upid.replace(":vzstop:", ":vzstart:"))
    assert "--since takes" in refused(lab, 2, "task", "ls", "--since", "yesterday")
    assert "plain," + upid.replace("!", r"\\!") in complete(lab, "pvex task wait UPID")
    assert in_bash(lab, f"pvex task wait {upid[:-9]}") == [upid.rpartition("!")[0].split(":")[-1] + r"\!pvex:"]
    assert in_bash(lab, "pvex file ls we") == ["web:"]


def test_a_task_that_is_stopped(lab: Pvex, lab_pve: Api, web: str) -> None:
    """Who waits for one that runs gives up in time; one that has failed is told by `wait` and `log -f`, and 125."""
    lab.lines("stop", web)
    lab_pve.faults.add("stall", "vzstart", seconds=120, times=1)
    done = lab.inside("start", web, "--wait", "0")
    upid = done.stdout.decode().strip()
    assert f"`pvex task wait '{upid}'`" in done.stderr.decode()
    assert "still runs" in refused(lab, 125, "task", "wait", upid, "--timeout", "0")
    assert lab.inside("task", "log", upid).returncode == 0
    assert lab.lines("task", "stop", upid, "--wait", "60") == [upid]
    for words in (("wait", upid), ("log", "-f", upid)):
        assert " has failed: " in refused(lab, 125, "task", *words)
    assert upid in lab.lines("task", "ls", "--errors", "-q")
    lab.lines("start", web)


def test_files(lab: Pvex, web: str) -> None:
    """Listed page by page, whatever they are called, shown, removed; a directory wants a yes."""
    script = r"""mkdir -p /srv/f/d; cd /srv/f; echo hi > plain; ln -s plain link; mkfifo fifo
    echo > "$(printf 'n\nl')"; echo > "$(printf 'no\377text')"
    i=0; while [ $i -lt 1100 ]; do : > d/$i; i=$((i+1)); done"""
    assert lab("exec", web, "--", "sh", "-c", script).returncode == 0
    header, *rows = lab.lines("file", "ls", f"{web}:/srv/f")
    assert header.split() == ["MODE", "USER", "GROUP", "SIZE", "MODIFIED", "NAME"]
    assert [row.split()[0][0] for row in rows] == ["d", "p", "l", "-", "-", "-"]
    assert [row for row in rows if row.endswith("link -> plain")] and "n?l" in "\n".join(rows)
    assert lab.inside("file", "ls", "-q", f"{web}:/srv/f").stdout == b"d\nfifo\nlink\nn\nl\nno\xfftext\nplain\n"
    assert len(shown(lab, "file", "ls", f"{web}:/srv/f/d")) == 1100
    done = lab.inside("file", "ls", "-q", "-n", "1050", f"{web}:/srv/f/d")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1050) and b"more than 1050" in done.stderr
    assert lab.lines("file", "ls", "-q", "web:/srv/f/plain") == ["/srv/f/plain"]
    stat = shown(lab, "file", "stat", "web:/srv/f/link")
    assert (stat["type"], stat["size"], stat["mode"], stat["user"]) == ("file", 3, "0644", "root")
    assert shown(lab, "file", "stat", "web:/srv/f")["type"] == "directory"
    assert "[file_not_found]" in refused(lab, 125, "file", "stat", "web:/none")
    assert "[file_type_refused]" in refused(lab, 125, "file", "ls", "web:/srv/f/fifo")
    assert "--recursive" in refused(lab, 2, "file", "rm", "web:/srv/f/d")
    assert "say --yes" in refused(lab, 2, "file", "rm", "-r", "web:/srv/f/d")
    done = lab.inside("file", "rm", "web:/srv/f/link", "web:/none", "web:/srv/f/fifo")
    assert (done.returncode, done.stdout) == (125, b"web:/srv/f/link\nweb:/srv/f/fifo\n")
    assert lab.lines("file", "rm", "-r", "-y", "web:/srv/f") == ["web:/srv/f"]
    for wrong in ("web", "web:srv", ":/srv", "/srv"):
        assert "give GUEST:/PATH" in refused(lab, 2, "file", "rm", "-r", "-y", wrong)
    assert complete(lab, "pvex file ls we") == ["plain,web:"] and complete(lab, "pvex file ls web:/") == []


def test_settings(lab: Pvex, web: str) -> None:
    """What is given changes; what waits for a restart is told; nothing given is a wrong call."""
    assert lab.lines("edit", "web", "--memory", "384", "--tag", "a", "--tag", "b", "--notes", "x") == [web]
    about = shown(lab, "show", web)
    assert (about["config"]["memory"], about["tags"], about["notes"].strip()) == ("384", ["a", "b"], "x")
    done = lab.inside("edit", web, "--set", "nameserver=192.0.2.53")
    assert (done.returncode, done.stdout) == (0, f"{web}\n".encode()) and b"nameserver: from the next" in done.stderr
    answer = shown(lab, "edit", web, "--unset", "nameserver", "--tag", "", "--notes", "", "--onboot")
    assert answer["config"]["onboot"] == "1" and not {"tags", "nameserver", "description"} & answer["config"].keys()
    assert "nothing to change" in refused(lab, 2, "edit", web, "--restart")
    assert "KEY=VALUE" in refused(lab, 2, "edit", web, "--set", "nameserver")
    assert "[invalid_request]" in refused(lab, 125, "edit", web, "--digest", "x", "--cores", "1")


def test_a_mount_point(lab: Pvex, web: str) -> None:
    """A new volume; a directory of the node only where policy lets it; one of the two."""
    assert lab.lines("mount", "web", "/data", "--size", "1G", "--restart") == ["mp0"]
    assert lab("exec", "web", "--", "test", "-d", "/data").returncode == 0
    assert "[policy_refused]" in refused(lab, 125, "mount", "web", "/etc2", "--source", "/etc")
    for words in ((), ("--size", "1G", "--source", "/srv")):
        assert "--size for a new volume, or --source" in refused(lab, 2, "mount", "web", "/x", *words)


def test_templates(lab: Pvex) -> None:
    """Listed, offered, downloaded by name; a guest becomes one, which wants a yes."""
    assert TEMPLATE in [one["volume"] for one in shown(lab, "template", "ls")]
    names = [one["name"] for one in shown(lab, "template", "ls", "--available")]
    assert complete(lab, f"pvex template download {names[0][:9]}") == [f"plain,{names[0]}"]
    assert "[volume_not_found]" in refused(lab, 125, "template", "download", "none", "--storage", "local")
    new = ("--template", TEMPLATE, "--storage", "local-lvm", "--vmid", "7706", "--name", "golden")
    assert lab.lines("create", *new) == ["7706"]
    assert "say --yes" in refused(lab, 2, "template", "make", "golden")
    assert lab.lines("template", "make", "golden", "-y") == ["7706"]
    assert shown(lab, "show", "7706")["template"] is True
    assert lab.lines("rm", "-y", "7706") == ["7706"]


def test_what_a_token_can(lab: Pvex, web: str) -> None:
    """Yes, or no and why, as an exit code, too; a command is asked about as it would be run."""
    assert lab.lines("token", "can", "exec:run", "web", "--", "ls", "-l") == ["yes"]
    grant = {"actions": ["exec:run"], "guests": web, "commands": [["/bin/uname", "-a"]]}
    limited = lab.gateway.token_for(grant)
    for words, code, said in (
        (("exec:run", web, "--", "/bin/uname", "-a"), 0, b"yes\n"),
        (("exec:run", web, "--", "/bin/uname", "-r"), 1, b"no\n"),
        (("guest:power", web), 1, b"no\n"),
        (("guest:fly",), 125, b""),
        (("exec:run", "-u", "root"), 2, b""),
    ):
        done = lab.inside("token", "can", *words, GATEWAY_TOKEN=limited)
        assert (done.returncode, done.stdout) == (code, said), done

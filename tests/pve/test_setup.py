"""`pve-exec-gateway setup`: what it makes of PVE's access control, once, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.pve.access import SUPERVISOR, USER, WEB

_PVESH = '''#!/usr/bin/python3
"""Access control of PVE, as much as setup asks for, in a file beside it."""
import json, sys
from pathlib import Path

here = Path(__file__).parent
state = json.loads((here / "state.json").read_text())
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if state.get("broken"):
    print(state["broken"], file=sys.stderr)
    sys.exit(255)
_, verb, path, *rest = sys.argv[1:]
options = dict(word[2:].split("=", 1) for word in rest)
options.pop("output-format")
user = "{user}"
answer = None
if (verb, path) == ("get", "/access/roles"):
    answer = [{{"roleid": name, "privs": privs, "special": 0}} for name, privs in state["roles"].items()]
elif (verb, path) == ("create", "/access/roles"):
    assert options["roleid"] not in state["roles"]
    state["roles"][options["roleid"]] = options["privs"]
elif verb == "set" and path.startswith("/access/roles/"):
    state["roles"][path.rpartition("/")[2]] = options["privs"]
elif (verb, path) == ("get", "/access/users"):
    answer = [{{"userid": name}} for name in state["users"]]
elif (verb, path) == ("create", "/access/users"):
    state["users"].append(options["userid"])
elif (verb, path) == ("get", f"/access/users/{{user}}/token"):
    answer = [{{"tokenid": name}} for name in state["tokens"]]
elif verb == "create" and path.startswith(f"/access/users/{{user}}/token/"):
    assert options["privsep"] == "1"
    name = path.rpartition("/")[2]
    assert name not in state["tokens"]
    state["tokens"].append(name)
    state["made"] = state.get("made", 0) + 1
    answer = {{"full-tokenid": f"{{user}}!{{name}}", "value": f"secret-{{state['made']}}", "info": {{}}}}
elif verb == "delete":
    state["tokens"].remove(path.rpartition("/")[2])
elif (verb, path) == ("get", "/access/acl"):
    answer = state["acl"]
elif (verb, path) == ("set", "/access/acl"):
    who = options.get("users") or options["tokens"]
    if "!" in who:
        assert who.partition("!")[2] in state["tokens"]
    state["acl"].append({{"path": options["path"], "ugid": who, "roleid": options["roles"], "propagate": 1}})
else:
    sys.exit(f"no such call: {{sys.argv}}")
(here / "state.json").write_text(json.dumps(state))
if answer is not None:
    print(json.dumps(answer))
'''


class Node:
    """A node's access control behind a pvesh, and a gateway's configuration."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pvesh = directory / "pvesh"
        self.pvesh.write_text(_PVESH.format(user=USER))
        self.pvesh.chmod(0o755)
        self.set(roles={"Administrator": "Sys.Audit"}, users=["root@pam"], tokens=[], acl=[])
        self.web, self.agent = directory / "etc/pve.token", directory / "etc/pve-agent.token"
        config: dict[str, Any] = {
            "node": "pve1",
            "listen": {"port": 39400},
            "pve": {
                "pvesh": str(self.pvesh),
                "token_file": str(self.web),
                "agent_token_file": str(self.agent),
                "api": "https://127.0.0.1:1/api2/json",
                "ca": "/nonexistent",
            },
        }
        (directory / "config.yaml").write_text(json.dumps(config))

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.directory / "state.json").read_text())
        return state

    def set(self, **state: Any) -> None:
        (self.directory / "state.json").write_text(json.dumps(state))

    def setup(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gateway", "--config", str(self.directory / "config.yaml"), "setup", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    def calls(self) -> list[list[str]]:
        path = self.directory / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def changes(self) -> list[list[str]]:
        return [call for call in self.calls() if call[1] != "get"]


@pytest.fixture
def node_access(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_everything_is_made(node_access: Node) -> None:
    """A user who cannot log in, a role and a token for each process, entries for both; secrets in private files."""
    done = node_access.setup()
    assert done.returncode == 0, done.stderr
    state = node_access.state
    assert USER in state["users"] and state["tokens"] == ["web", "supervisor"]
    assert state["roles"][SUPERVISOR.name] == "VM.GuestAgent.Unrestricted"
    assert set(state["roles"][WEB.name].split(",")) == set(WEB.privileges)
    assert {(entry["path"], entry["ugid"], entry["roleid"]) for entry in state["acl"]} == {
        (path, who, role.name)
        for role in (WEB, SUPERVISOR)
        for path in role.paths
        for who in (USER, f"{USER}!{role.token}")
    }
    assert node_access.web.read_text() == f"{USER}!web=secret-1\n"
    assert node_access.agent.read_text() == f"{USER}!supervisor=secret-2\n"
    assert node_access.web.stat().st_mode & 0o777 == 0o600
    assert node_access.agent.stat().st_mode & 0o777 == 0  # web, uid 0 without CAP_DAC_OVERRIDE, does not read it
    assert "IN ACCEPT" in done.stdout and "-dport 39400" in done.stdout
    assert "secret-" not in done.stdout + done.stderr
    assert not any("secret-" in word for call in node_access.calls() for word in call)


def test_again_changes_nothing(node_access: Node) -> None:
    """What is there stays, tokens too: the services go on with them."""
    node_access.setup()
    before = len(node_access.changes()), node_access.state
    again = node_access.setup()
    assert again.returncode == 0 and (len(node_access.changes()), node_access.state) == before
    assert "made:" not in again.stdout


def test_file_of_an_earlier_version_is_narrowed(node_access: Node) -> None:
    """The supervisor's token was readable for web; the token itself stays."""
    node_access.setup()
    node_access.agent.chmod(0o600)
    before = node_access.state
    again = node_access.setup()
    assert again.returncode == 0 and node_access.state == before
    assert node_access.agent.stat().st_mode & 0o777 == 0 and "mode 0000" in again.stdout


def test_print_only_looks(node_access: Node) -> None:
    """It says what it would do; nothing is changed."""
    done = node_access.setup("--print")
    assert done.returncode == 0 and "would make: user" in done.stdout
    assert node_access.changes() == [] and not node_access.web.exists()


def test_what_is_missing_is_made(node_access: Node) -> None:
    """A role that lacks a privilege, an entry that is gone, a file that is lost: each is repaired, and nothing else."""
    node_access.setup()
    state = node_access.state
    state["roles"][WEB.name] = "VM.Audit"
    state["acl"] = [entry for entry in state["acl"] if entry["path"] != "/storage"]
    node_access.set(**state)
    node_access.agent.unlink()
    (node_access.directory / "calls").unlink()
    done = node_access.setup()
    assert done.returncode == 0, done.stderr
    verbs = [(call[1], call[2]) for call in node_access.changes()]
    assert verbs == [
        ("set", f"/access/roles/{WEB.name}"),
        ("delete", f"/access/users/{USER}/token/supervisor"),
        ("create", f"/access/users/{USER}/token/supervisor"),
        ("set", "/access/acl"),
        ("set", "/access/acl"),
    ]
    assert node_access.web.read_text() == f"{USER}!web=secret-1\n"
    assert node_access.agent.read_text() == f"{USER}!supervisor=secret-3\n"


def test_what_was_narrowed_stays(node_access: Node) -> None:
    """An administrator who lets it into some machines only is not overruled by the next setup."""
    node_access.setup()
    state = node_access.state
    for entry in state["acl"]:
        if entry["roleid"] == SUPERVISOR.name:
            entry["path"] = "/pool/ci"
    node_access.set(**state)
    before = len(node_access.changes())
    assert node_access.setup().returncode == 0 and len(node_access.changes()) == before


@pytest.mark.parametrize("words", ["please run as root", "ipcc_send_rec[1] failed: Connection refused\nmore"])
def test_failure_is_one_line(node_access: Node, words: str) -> None:
    """Exit code 2, and what pvesh said."""
    node_access.set(**{**node_access.state, "broken": words})
    done = node_access.setup()
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words.split("\n")[0] in done.stderr


def test_no_pvesh(node_access: Node) -> None:
    """On a machine that is no node it says what is missing."""
    node_access.pvesh.unlink()
    done = node_access.setup()
    assert done.returncode == 2 and "pve.pvesh" in done.stderr

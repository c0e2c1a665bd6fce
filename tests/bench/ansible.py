"""Twenty everyday tasks of Ansible in a Debian guest: by our connection plugin, and by `pct exec` over ssh to the node.

`python -m tests.bench.ansible` runs a simulated node of its own with an sshd on its loopback, takes some minutes
(`--rounds N`), and leaves nothing behind. Needs openssh-server. The node's `pct` is a stand-in that starts in some
50 ms: `--pct-seconds 1` makes it as slow as the real one, which loads 443 Perl modules.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.ansible.plays import Plays, installed
from tests.bench.figures import median
from tests.bench.machine import run_alone
from tests.exec.gateways import Gateway
from tests.exec.waiting import until
from tests.pvesim import pct
from tests.pvesim.services import REPOSITORY

VMID = 201
PLACE = "/tmp/bench"
_STATE = REPOSITORY / ".demo/bench-ansible"
_PLUGINS = Path(__file__).parent / "connections"
_FILE = {"src": "file", "dest": f"{PLACE}/file"}
TASKS: list[dict[str, Any]] = [
    {"file": {"path": PLACE, "state": "directory"}},
    {"ping": {}},
    {"setup": {"gather_subset": ["!all", "distribution"]}},
    *({"command": f"echo {number}"} for number in range(4)),
    {"shell": "echo one | wc -c"},
    {"raw": "uname -a"},
    {"copy": {"content": "[main]\nport = 80\n", "dest": f"{PLACE}/conf"}},
    {"copy": _FILE},
    {"copy": _FILE},
    {"template": {"src": "template.j2", "dest": f"{PLACE}/template"}},
    {"lineinfile": {"path": f"{PLACE}/conf", "line": "host = ::1"}},
    {"file": {"path": f"{PLACE}/conf", "mode": "0640"}},
    {"stat": {"path": f"{PLACE}/conf"}},
    {"slurp": {"src": f"{PLACE}/conf"}},
    {"fetch": {"src": f"{PLACE}/file", "dest": "fetched/"}},
    {"command": "id"},
    {"file": {"path": PLACE, "state": "absent"}},
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ansible")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--pct-seconds", type=float, default=0.0, metavar="S")
    asked = parser.parse_args()
    return run_alone(_STATE, lambda: run(asked.rounds, asked.pct_seconds), guests="test")


def run(rounds: int, pct_seconds: float) -> int:
    """Measures; runs in the node."""
    if pct_seconds:
        pct.SECONDS.write_text(str(pct_seconds))
    with contextlib.ExitStack() as holds:
        directory = Path(tempfile.mkdtemp(prefix="ansible-"))
        holds.callback(shutil.rmtree, directory, ignore_errors=True)
        gateway = holds.enter_context(contextlib.closing(Gateway()))
        token = gateway.token("bench", actions="exec:run,file:read,file:write")
        plays = holds.enter_context(installed(gateway, directory, token))
        (directory / "file").write_bytes(bytes(range(256)) * 256)
        (directory / "template.j2").write_text("{{ ansible_facts.distribution }}\n")
        ssh = holds.enter_context(sshd(directory))
        ways: dict[str, dict[str, Any]] = {
            "ours, pipelining (as it is)": {},
            "ours, a connection for each task": {"ansible_pve_exec_persist": 0},
            "ours, no pipelining": {"ansible_pipelining": False},
            "ssh + pct exec, pipelining": {**ssh, "ansible_pipelining": True},
            "ssh + pct exec, no pipelining": {**ssh, "ansible_pipelining": False},
        }
        samples: dict[str, list[float]] = {name: [] for name in ways}
        for count in range(rounds):
            for name, variables in ways.items():
                samples[name].append(measure(plays, variables))
                print(f"round {count + 1}: {name}: {samples[name][-1]:.2f} s", flush=True)
    print(f"{len(TASKS)} tasks in guest {VMID}, the whole of ansible-playbook, median of {rounds}:")
    for name, seconds in samples.items():
        print(f"{name:<36}{median(seconds):7.2f} s")
    return 0


def measure(plays: Plays, variables: dict[str, Any]) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    environment = {"ANSIBLE_CONNECTION_PLUGINS": str(_PLUGINS)}
    done = plays.play(TASKS, {"guest": {"ansible_pve_exec_vmid": VMID}}, environment=environment, **variables)
    seconds = time.perf_counter() - began
    if done.exit_code != 0:
        raise RuntimeError(done.printed[-3000:])
    return seconds


@contextlib.contextmanager
def sshd(directory: Path) -> Iterator[dict[str, Any]]:
    """An sshd of the node's own on its loopback; the variables of Ansible that lead over it."""
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "HostKey": directory / "host",
        "AuthorizedKeysFile": directory / "user.pub",
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "prohibit-password",
        "ListenAddress": f"127.0.0.1:{port}",
    }
    config = directory / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    options = {
        "IdentityFile": directory / "user",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "ControlMaster": "auto",
        "ControlPersist": "60s",
        "ControlPath": directory / "m",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    command = ["ssh", "-F", "none", *words, "-p", str(port), "root@127.0.0.1"]
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        until(lambda: subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0)
        yield {"ansible_connection": "ssh_pct", "ssh_pct_command": command, "ssh_pct_tool": pct.__file__}
    finally:
        subprocess.run([*command[:-1], "-O", "exit", command[-1]], capture_output=True, check=False)
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())

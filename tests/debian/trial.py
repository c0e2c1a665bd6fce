"""The trials that debian/tests runs on a node with the package installed: `python3 -m tests.debian.trial NAME`."""

import itertools
import re
import stat
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tests.debian import confined, node
from tests.debian.node import UNITS, Gateway, apt, check, in_order, products, run, show

_COMMANDS = 50
_SKIPPED = 77  # autopkgtest's `skippable`
_EXPOSURE = {"pve-exec-gateway": 2.5, "pve-exec-gateway-audit": 2.0}
"""The most that `systemd-analyze security` may say; docs/operating.md has the figures and the gaps."""
_CONFIG = Path("/etc/pve-exec-gateway/config.yaml")
_KEYS = "/var/lib/pve-exec-gateway/keys"
_HIDDEN = {
    "pve-exec-gateway": (f"{_KEYS}/audit.key", "/etc/pve-exec-gateway/pve-agent.token", "/var/log/pve-exec-gateway"),
    "pve-exec-gateway-audit": (f"{_KEYS}/token.keys", "/etc/pve-exec-gateway/pve.token"),
}
"""What SECURITY.md keeps from them."""
_SOCKETS = ("pve-exec-gateway.socket", "pve-exec-gateway-audit.socket")
_IDLE_MEMORY = 130e6
_COPIED_SECONDS = 30.0
_START_PROCESSOR = 4.0
"""Seconds that all three may take of a processor until they are ready: 1.5 s of the clock on two idle ones."""


def service() -> None:
    """The units are up, a first command runs, and restarts and reloads of web refuse nobody and lose nothing."""
    gateway = Gateway()
    with in_order("the two commands that the package names, and the first exec"):
        run("pve-exec-gateway", "setup")
        gateway.get_token()
        gateway.await_ready()
        result = gateway.execute(101, ["hostname"])
        check((result["stdout"], result["exit_code"]) == ("ct101\n", 0), f"first exec: {result}")
    with in_order("the client's first exec"):
        profile = {"GATEWAY_URL": f"https://127.0.0.1:{node.PORT}", "GATEWAY_TOKEN": gateway.token}
        said = run("pvex", "exec", "104", "--", "hostname", environment={**profile, "GATEWAY_CA": str(node.CA)})
        check(said == "ct104\n", f"pvex exec: {said}")
    with in_order("keys are root's alone"):
        for directory in (Path("/var/lib/pve-exec-gateway"), Path("/var/log/pve-exec-gateway")):
            for path in (directory, *directory.rglob("*")):
                with suppress(FileNotFoundError):  # of an exec that is forgotten meanwhile
                    status = path.lstat()
                    open_to_others = status.st_mode & 0o077 and not stat.S_ISLNK(status.st_mode)
                    check(status.st_uid == 0 and not open_to_others, f"{path}: {status.st_mode:o}")
    with in_order("a guest inherits nothing of the supervisor's unit"):
        _check_inherited(gateway)
    for unit in UNITS:
        check(show(unit, "WatchdogTimestampMonotonic") not in ("", "0"), f"{unit} says nothing to its watchdog")
    for unit, most in _EXPOSURE.items():
        figure = _exposure(unit)
        print(f"  systemd-analyze security {unit}: {figure}", flush=True)
        check(figure <= most, f"{unit} is exposed by {figure}")
    with in_order("code inside web and audit writer has what is theirs"):
        confined.check_reach()
    with in_order("pve-cluster restarted, and web with it"):
        confined.check_cluster_restart(gateway)
    with in_order("stopped and started"):
        _check_start(gateway)
    with in_order("no service sees what is another's"):
        for unit, paths in _HIDDEN.items():
            for hidden in paths:
                check(Path(hidden).exists(), f"{hidden} is not there to be hidden")
                seen = Path(f"/proc/{show(unit, 'MainPID')}/root{hidden}")
                check(not seen.exists() or not seen.stat().st_mode & 0o777, f"{unit} sees {hidden}")
    with in_order("anchors and copies of records, by the node's own journal and syslog socket"):
        _check_copies(gateway)
    commands = _Commands(gateway, "service")
    with _Requests(gateway) as requests:
        with in_order("web restarted, five times"):  # of two one lost a request, where systemd did not wait for its end
            for _ in range(5):
                run("systemctl", "restart", "pve-exec-gateway")
        with in_order("web reloaded"):
            run("systemctl", "reload", "pve-exec-gateway")
        with in_order("audit writer restarted"):
            run("systemctl", "restart", "pve-exec-gateway-audit")
        with in_order("supervisor reloaded"):
            run("systemctl", "reload", "pve-exec-gateway-supervisor")
        requests.await_more()
    commands.finish()


def upgrade() -> None:
    """Down to the earlier version and up again, each with 50 commands running, of which none is lost."""
    packages = products()
    if len(packages) < 2:
        print("there is no earlier package here")
        raise SystemExit(_SKIPPED)
    gateway = Gateway()
    gateway.get_token()
    gateway.await_ready()
    for number, package in enumerate(packages):
        version = node.version_of(package)
        commands = _Commands(gateway, f"upgrade{number}")
        supervisor = show(UNITS[1], "MainPID")
        with in_order(f"{_COMMANDS} commands over the change to {version}"):
            with _Requests(gateway) as requests:
                apt("install", str(package))
                for unit in UNITS:
                    check(show(unit, "StatusText") == version, f"{unit} is {show(unit, 'StatusText')}, not {version}")
                requests.await_more()
            check(show(UNITS[1], "MainPID") == supervisor, "the supervisor was restarted, not reloaded")
            commands.finish()


def removal() -> None:
    """Remove keeps what was made here, a reinstallation goes on with it, and purge leaves nothing."""
    packages = products()
    if not packages:
        print("there is no package file to install again here")
        raise SystemExit(_SKIPPED)
    gateway = Gateway()
    gateway.get_token()
    gateway.await_ready()
    state = [Path("/etc/pve-exec-gateway"), Path("/var/lib/pve-exec-gateway"), Path("/var/log/pve-exec-gateway")]
    with in_order("removed, and what was made here is kept"):
        apt("remove", "pve-exec-gateway")
        check(not node.is_listening(), "something listens on its port still")
        check(all(path.exists() for path in state), "removal took state along")
        left = [str(path) for path in Path("/sys/fs/cgroup/lxc").glob("*/pveg-*/**/")]
        check(not left, f"left in guests: {left}")
    with in_order("reinstalled, and the token holds"):
        apt("install", str(packages[-1]))
        gateway.await_ready()
        check(gateway.execute(102, ["hostname"])["stdout"] == "ct102\n", "the exec after a reinstallation")
        run("pve-exec-gateway", "audit", "verify")
    with in_order("purged, and nothing is left"):
        apt("purge", "pve-exec-gateway")
        left = [str(path) for path in state if path.exists()]
        left += [str(path) for path in Path("/usr/share/pve-exec-gateway").glob("**/*")]
        left += [str(path) for path in Path("/etc/systemd/system").rglob("*pve-exec-gateway*")]
        check(not left, f"left behind: {left}")
    with in_order("installed anew"):
        apt("install", str(packages[-1]))
        status, _ = gateway.ask("GET", "/tokens/self")
        check(status == 401, f"an old token after a purge: {status}")
        gateway.get_token()
        gateway.await_ready()
        check(gateway.execute(104, ["id", "-u"])["stdout"] == "0\n", "the exec after a new installation")


def _exposure(unit: str) -> float:
    words = run("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1].split()
    return float(words[words.index("level") + 3])  # "Overall exposure level for X.service: 1.7 OK"


def _check_start(gateway: Gateway) -> None:
    """All of it from nothing to ready, and what it occupies then."""
    run("systemctl", "stop", *_SOCKETS, *UNITS)
    began = time.monotonic()
    run("systemctl", "start", *UNITS)
    gateway.await_ready()
    took = time.monotonic() - began
    processor = sum(int(show(unit, "CPUUsageNSec")) for unit in UNITS) / 1e9
    memory = sum(_proportional_set(pid) for unit in UNITS for pid in _processes(unit))
    print(f"  start to ready: {took:.2f} s, {processor:.2f} s of a processor", flush=True)
    print(f"  memory, idle: {memory / 1e6:.0f} MB", flush=True)
    check(processor < _START_PROCESSOR, f"the start took {processor:.1f} s of a processor")
    check(memory < _IDLE_MEMORY, f"idle, it occupies {memory / 1e6:.0f} MB")


def _check_copies(gateway: Gateway) -> None:
    """Journald has the log's heads, by which it verifies, and of a command every record, twice: once by syslog."""
    before = _CONFIG.read_text()
    changed = before.replace("\n  journal: false", "\n  journal: true").replace(
        "\n  syslog: null", "\n  syslog: /dev/log"
    )
    _CONFIG.write_text(changed)
    try:
        run("systemctl", "restart", UNITS[0])
        id = gateway.execute(102, ["hostname"])["id"]
        for words in (["-t", "pve-exec-gateway-record"], ["_TRANSPORT=syslog"]):
            _await_records(id, words)
    finally:
        _CONFIG.write_text(before)
        run("systemctl", "restart", UNITS[0])  # it ends with an anchor
    run("journalctl", "--sync")
    anchors = Path("/run/pveg-anchors")
    anchors.write_text(run("journalctl", "-o", "cat", "-t", "pve-exec-gateway-audit"))
    said = run("pve-exec-gateway", "audit", "verify", "--anchors", str(anchors))
    check(re.search(r" [1-9][0-9]* anchors", said), f"no anchor was checked: {said}")


def _await_records(id: str, words: list[str]) -> None:
    """Return when the journal has an exec's records by these words: an outcome may be written after the reply."""
    deadline = time.monotonic() + _COPIED_SECONDS
    events: list[str] = []
    while events != ["exec:intent", "exec:outcome"]:
        check(time.monotonic() < deadline, f"{words}: {events}")
        run("journalctl", "--sync")
        said = run("journalctl", "-o", "cat", *words)
        events = re.findall(rf'"event":"(exec:[a-z]+)","exec_id":"{id}"', said)


def _processes(unit: str) -> list[str]:
    return Path(f"/sys/fs/cgroup{show(unit, 'ControlGroup')}/cgroup.procs").read_text().split()


def _proportional_set(pid: str) -> int:
    """Bytes, pages that several processes have being shared out among them (proc_pid_smaps(5))."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _check_inherited(gateway: Gateway) -> None:
    """What a process in a guest has by the guest's init, it has by us."""
    status = gateway.execute(101, ["cat", "/proc/self/status"])["stdout"]
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    check(facts["NoNewPrivs"] == "0", "NoNewPrivs is set in the guest")
    check(int(facts["SigIgn"], 16) == 0, f"signals are ignored in the guest: {facts['SigIgn']}")
    check(facts["Umask"] == "0022", f"umask {facts['Umask']} in the guest")
    nice, score = (
        gateway.execute(101, ["cat", "/proc/self/stat"])["stdout"].rpartition(")")[2].split()[16],  # proc_pid_stat(5)
        gateway.execute(101, ["cat", "/proc/self/oom_score_adj"])["stdout"].strip(),
    )
    check((nice, score) == ("0", "0"), f"nice {nice}, oom_score_adj {score} in the guest")


class _Commands:
    """Commands that wait for a line each, and end with it and an exit code of their own."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self._gateway = gateway
        self._ids: list[str] = []
        guests = itertools.cycle(node.GUESTS)
        for number, vmid in zip(range(_COMMANDS), guests, strict=False):
            script = f"echo begun; read line; echo $line {number}; exit {number}"
            status, body = gateway.ask(
                "POST", f"/exec/{vmid}?async", {"command": script, "stdin_open": True, "labels": {"trial": name}}
            )
            check(status == 202, f"command {number}: {status} {body}")
            self._ids.append(body["id"])

    def finish(self) -> None:
        """Give each its line and check that it is the one that began, with all of its output."""
        for id in self._ids:
            status, body = self._gateway.ask("PUT", f"/execs/{id}/stdin?offset=0", b"go on\n")
            check(status in (200, 204), f"stdin of {id}: {status} {body} {self._gateway.ask('GET', f'/execs/{id}')}")
        for number, id in enumerate(self._ids):
            _, body = self._gateway.ask("GET", f"/execs/{id}?wait=30")
            check((body["reason"], body["exit_code"]) == ("exited", number), f"command {number} was lost: {body}")
            size = body["output"]["stdout"]["bytes"]
            check(size == len(f"begun\ngo on {number}\n"), f"output of command {number}: {size} bytes")


class _Requests:
    """One command after another meanwhile, each sent again with its key while the gateway says that it may be."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._more = threading.Condition()
        self._faults: list[str] = []
        self._codes: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> "_Requests":
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._stop.set()
        self._thread.join()
        print(f"  meanwhile: {dict(self._codes)}", flush=True)
        if error is None:
            check(not self._faults, f"requests that failed: {self._faults[:5]}")

    def await_more(self) -> None:
        """Return when some more have been answered well since."""
        with self._more:
            enough = self._codes["200"] + 5
            check(self._more.wait_for(lambda: self._codes["200"] >= enough, 60), "no request is answered any more")

    def _ask_on(self) -> None:
        for number in itertools.count():
            if self._stop.is_set():
                return
            self._ask_one(f"{id(self)}-{number}")

    def _ask_one(self, key: str) -> None:
        for _ in range(100):
            try:
                status, body = self._gateway.ask("POST", "/exec/102", {"command": ["echo", key]}, key=key)
            except (OSError, HTTPException) as error:
                self._note(type(error).__name__, repr(error))
                return
            if status == 200:
                right = body["stdout"] == f"{key}\n"
                self._note("200", None if right else f"{key}: {body}")
                return
            self._note(f"{status} {body['code']}", None if body.get("retryable") else str(body))
            if not body.get("retryable"):
                return
        self._faults.append(f"{key}: 100 times")

    def _note(self, code: str, fault: str | None) -> None:
        with self._more:
            self._codes[code] += 1
            if fault:
                self._faults.append(fault)
            self._more.notify_all()


def main() -> int:
    """Run the trial that the command line names; its exit code."""
    trials: dict[str, Any] = {"service": service, "upgrade": upgrade, "removal": removal}
    node.prepare()
    run("systemctl", "start", *UNITS)
    try:
        trials[sys.argv[1]]()
    except node.TrialError as error:
        print(f"{sys.argv[1]}: {str(error)[:3000]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

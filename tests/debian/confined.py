"""What the units keep from code that runs in web or in the audit writer, seen from inside; and that it stays so."""

import json
from pathlib import Path

from tests.debian.node import Gateway, check, run, show

_UNITS = Path("/usr/lib/systemd/system")
_RUNTIME = Path("/run/systemd/system")
_WEB, _AUDIT = "pve-exec-gateway", "pve-exec-gateway-audit"
_KEYS = Path("/etc/pve/priv")
_STATE = "/var/lib/pve-exec-gateway"
_AWAY = ("Type=", "NotifyAccess=", "ExecStart=", "Watchdog", "Restart", "TimeoutStop", "KillMode=")
"""Of the unit's own words, what makes it a lasting service."""

_ASKED = {
    "reads": [
        *("/etc/shadow", "/etc/pve/priv/authkey.key", "/etc/pve/local/pve-ssl.key", "/etc/pve-exec-gateway/pve.token"),
        *("/etc/pve-exec-gateway/pve-agent.token", f"{_STATE}/keys/token.keys", f"{_STATE}/keys/audit.key"),
        *("/var/log/pve-exec-gateway/audit.log", "/var/lib/pve-cluster/config.db"),
    ],
    "writes": [
        *("/etc", "/etc/pve", "/etc/pve/priv", "/etc/pve/priv/lock", "/etc/pve/priv/pve-exec-gateway", "/run"),
        *("/run/pve-exec-gateway/supervisor", "/usr/share/pve-exec-gateway/gateway", _STATE, f"{_STATE}/keys"),
        *(f"{_STATE}/spool", "/var/log/pve-exec-gateway", "/var/lib/lxc"),
    ],
    "abstract": ["/var/lib/lxc/101/command", "/var/lib/lxc/102/command"],
}
_HAS = {
    _WEB: {
        "signals": [],
        "sees": [],
        "reads": ["/etc/pve/local/pve-ssl.key", "/etc/pve-exec-gateway/pve.token", f"{_STATE}/keys/token.keys"],
        "writes": ["/etc/pve/priv/lock", "/etc/pve/priv/pve-exec-gateway", _STATE, f"{_STATE}/keys"],
        "sockets": [
            *("/run/pve-exec-gateway/audit/audit.sock", "/run/pve-exec-gateway/supervisor/supervisor.sock"),
            *("/run/systemd/journal/socket", "/run/systemd/notify"),
        ],
        "abstract": [],
    },
    _AUDIT: {
        "signals": [],
        "sees": [],
        "reads": [f"{_STATE}/keys/audit.key", "/var/log/pve-exec-gateway/audit.log"],
        "writes": [f"{_STATE}/keys", "/var/log/pve-exec-gateway"],
        "sockets": ["/run/systemd/journal/dev-log", "/run/systemd/journal/socket", "/run/systemd/notify"],
        "abstract": [],
    },
}
"""All that each has of what is asked after."""


def check_reach() -> None:
    """Code inside has what `_HAS` says, and root outside all of it: the question is a fair one."""
    (_KEYS / "pve-exec-gateway").mkdir(mode=0o700, exist_ok=True)
    Path("/var/lib/pve-cluster").mkdir(exist_ok=True)
    for path in (_KEYS / "authkey.key", Path("/var/lib/pve-cluster/config.db")):
        path.touch(0o600)
    for unit, expected in _HAS.items():
        facts = {name: sorted(found) for name, found in _look_round(unit).items()}
        check(facts == {name: sorted(found) for name, found in expected.items()}, f"inside {unit}: {facts}")
    facts = json.loads(run("unshare", "--mount", "python3", "-m", "tests.debian.inside", json.dumps(_ASKED)))
    check(sorted(facts["reads"]) == sorted(_ASKED["reads"]), f"what root outside can read: {facts['reads']}")
    check(sorted(facts["writes"]) == sorted(_ASKED["writes"]), f"what root outside can write: {facts['writes']}")


def check_cluster_restart(gateway: Gateway) -> None:
    """pmxcfs that ends and starts is a new mount at /etc/pve: web is back with it, and as confined as before."""
    unit = _RUNTIME / "pve-cluster.service"
    lines = ["[Service]", "Type=oneshot", "RemainAfterExit=yes"]
    lines += ["ExecStart=/usr/bin/mount --bind /etc/pve /etc/pve", "ExecStop=/usr/bin/umount --lazy /etc/pve"]
    unit.write_text("\n".join(lines))
    run("systemctl", "daemon-reload")
    try:
        for verb in ("start", "restart"):
            before = show(_WEB, "MainPID")
            run("systemctl", verb, "pve-cluster")
            if verb == "start":
                run("systemctl", "restart", _WEB)
            gateway.await_ready()
            pid = show(_WEB, "MainPID")
            check(pid != before, f"web was not restarted when pve-cluster did {verb}")
            mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
            found = [mount[5] for mount in mounts if mount[4] == "/etc/pve"]
            check(len(found) == 1 and found[0].startswith("ro"), f"/etc/pve in web: {found}")
    finally:
        run("systemctl", "stop", "pve-cluster")
        unit.unlink()
        run("systemctl", "daemon-reload")
        run("systemctl", "start", _WEB)


def _look_round(unit: str) -> dict[str, list[str]]:
    lines = (_UNITS / f"{unit}.service").read_text().partition("[Service]")[2].partition("[Install]")[0].splitlines()
    kept = [line for line in lines if not line.startswith(_AWAY)]
    said = Path(f"/srv/{unit}.json")
    program = f"/usr/bin/python3 -m tests.debian.inside '{json.dumps(_ASKED)}'"
    own = ["Type=oneshot", f"ExecStart={program}", "WorkingDirectory=/srv/pve-exec-gateway"]
    own.append(f"StandardOutput=truncate:{said}")
    (_RUNTIME / "pveg-inside.service").write_text("\n".join(["[Service]", *kept, *own, ""]))
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "pveg-inside")
    facts: dict[str, list[str]] = json.loads(said.read_text())
    return facts

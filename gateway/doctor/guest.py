"""Commands in a guest of one's choice: that they get in, that their whole tree ends, that its cgroup is where it must
be and can be frozen, and that all of it is on record. They leave nothing, and touch nothing else in the guest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway import ulid
from gateway.audit.client import AuditClient
from gateway.audit.record import Event
from gateway.audit.search import Query
from gateway.config import Config
from gateway.doctor.finding import Finding, Verdict, bad, doubtful, good
from gateway.errors import GatewayError
from gateway.exec.order import GuestKind
from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.exec.reply import RunReply
from gateway.exec.view import Reason
from gateway.pve.guests import GuestMap
from gateway.supervisor.link.client import SupervisorClient

NAMES = ("guest_attach", "guest_kill", "guest_cgroup", "guest_freezer", "guest_audit")

_WORD = "pve-exec-gateway doctor"
_TIMEOUT = 1.0
_GRACE = 0.5
_SLACK = 4.0
_SLEEP = "sleep 60"
_TREE = f"trap '' TERM; (setsid {_SLEEP} </dev/null >/dev/null 2>&1 &); {_SLEEP} & {_SLEEP}; :"
"""A shell that ignores TERM, one that has left its session, and two more."""
_FREEZE_SECONDS = 2.0
_LOOK_SECONDS = 0.02


def skip() -> Iterator[Finding]:
    """Without a guest."""
    for name in NAMES:
        yield Finding(name, Verdict.SKIPPED, "no guest was named", "give `--guest VMID`, of a running guest")


class GuestProof:
    """The checks in one guest of this node. `vmid`'s protection binds tokens, and not the administrator."""

    def __init__(self, config: Config, supervisor: SupervisorClient, audit: AuditClient, vmid: int) -> None:
        self._config = config
        self._supervisor = supervisor
        self._audit = audit
        self._vmid = vmid
        guests = ((vmid, vmid),)
        self._origin = Origin("local", "doctor", (Permit(guests),), guests, "local", ulid.new("req_"))
        self._last: str | None = None

    def attach(self) -> Iterator[Finding]:
        """A command gets in, and what it says comes out."""
        began = time.monotonic()
        try:
            reply = self._run("echo " + _WORD.replace(" ", "-"))
        except GatewayError as exc:
            yield bad("guest_attach", exc.detail, "do what it says, or choose another guest")
            return
        took, view = time.monotonic() - began, reply.view
        self._last = view["id"]
        if view["reason"] == Reason.EXITED and view["exit_code"] == 0 and reply.stdout.strip():
            yield good("guest_attach", f"a command ran in guest {self._vmid}, in {took * 1000:.0f} ms")
            return
        failed = view["spawn_error"]
        said = failed["message"] if failed is not None else f"it ended as {view['reason']}, code {view['exit_code']}"
        yield bad(
            "guest_attach",
            f"no command runs in guest {self._vmid}: {said}",
            "see whether `lxc-attach -n VMID -- true` works on the node; AppArmor's refusals are in `journalctl -k`",
        )

    def kill(self) -> Iterator[Finding]:
        """A tree that resists ends whole, and in time."""
        if self._is_machine():
            yield Finding("guest_kill", Verdict.SKIPPED, "a virtual machine's agent can end nothing", "")
            return
        began = time.monotonic()
        view = self._run(_TREE, timeout=_TIMEOUT, kill_grace=_GRACE).view
        took = time.monotonic() - began
        ended = view["reason"] == Reason.TIMEOUT and view["killed"] >= 4 and not view["survivors"]
        if ended and took < _TIMEOUT + _GRACE + _SLACK:
            yield good("guest_kill", f"{view['killed']} processes, one in a session of its own, ended in time")
        else:
            yield bad(
                "guest_kill",
                f"the tree of {view['id']} ended as {view['reason']} after {took:.1f} s, {view['killed']} killed, "
                f"{view['survivors']} left",
                "look for `sleep 60` in the guest; is the cgroup file system mounted with nsdelegate?",
            )

    def cgroup(self) -> Iterator[Finding]:
        """What runs is in a cgroup of its own beside the guest's, which the node can freeze and thaw."""
        if self._is_machine():
            for name in ("guest_cgroup", "guest_freezer"):
                yield Finding(name, Verdict.SKIPPED, "a virtual machine has its own cgroups", "")
            return
        started, feed = self._supervisor.start(self._vmid, _body(_SLEEP), self._origin, attended=False)
        feed.close()
        exec_id = started.view["id"]
        guest = self._config.lxc.cgroup / "lxc" / str(self._vmid)
        place = guest / f"pveg-{self._config.supervisor.instance}" / exec_id
        try:
            yield from self._look(place, guest / "ns")
            yield _freeze(place)
        finally:
            self._supervisor.kill(exec_id, self._origin)
            view = self._supervisor.get(exec_id, self._origin, 10.0)
        if view["state"] != "ended" or place.exists():
            yield bad("guest_cgroup", f"{place} is still there", "see the supervisor's journal")

    def _look(self, place: Path, ns: Path) -> Iterator[Finding]:
        pids = (place / "cgroup.procs").read_text().split() if place.is_dir() else []
        controllers = (ns / "cgroup.controllers").read_text().split()
        lacking = sorted({"cpu", "memory", "pids"} - set(controllers))
        if not pids:
            yield bad("guest_cgroup", f"nothing runs in {place}", "see the supervisor's journal, and exec.driver")
        elif lacking:
            yield doubtful(
                "guest_cgroup",
                f"{place} has no controllers {', '.join(lacking)}: no usage is told, no limit of the guest holds",
                "see cgroup.subtree_control in the directories above it",
            )
        else:
            yield good("guest_cgroup", f"{len(pids)} processes in {place}")

    def audit(self) -> Iterator[Finding]:
        """The first command's intent and its outcome are in the log."""
        if self._last is None:
            yield bad("guest_audit", "no command has run that could be on record", "see guest_attach")
            return
        wanted = {str(Event.EXEC_INTENT), str(Event.EXEC_OUTCOME)}
        deadline = time.monotonic() + _SLACK
        events: set[str] = set()
        while events != wanted and time.monotonic() < deadline:  # an outcome may linger for 50 ms
            records = self._audit.search(Query(exec_id=self._last, limit=10)).records
            events = {str(record["event"]) for record in records} & wanted
        if events == wanted:
            yield good("guest_audit", f"{self._last} is on record from its intent to its end")
        else:
            missing = ", ".join(sorted(wanted - events))
            yield bad("guest_audit", f"of {self._last} there is no {missing}", "see the journal of the audit writer")

    def _is_machine(self) -> bool:
        return GuestMap(self._config.pve.etc, self._config.node).locate(self._vmid).kind is GuestKind.QEMU

    def _run(self, script: str, **limits: float) -> RunReply:
        return self._supervisor.run(self._vmid, _body(script, **limits), self._origin, None)


def _freeze(place: Path) -> Finding:
    """Freezes and thaws the cgroup of our own command alone, as the supervisor does when its guest is frozen."""
    switch = place / "cgroup.freeze"
    try:
        for value in ("1", "0"):
            switch.write_text(value)
            deadline = time.monotonic() + _FREEZE_SECONDS
            while f"frozen {value}" not in (place / "cgroup.events").read_text():
                if time.monotonic() > deadline:
                    word = "frozen" if value == "1" else "thawed"
                    return bad("guest_freezer", f"{place} is not {word} in time", "see `journalctl -k`")
                time.sleep(_LOOK_SECONDS)
    except OSError as exc:
        return bad("guest_freezer", f"{switch}: {exc.strerror}", "the kernel lacks the v2 freezer: PVE 9's has it")
    return good("guest_freezer", "a command of ours was frozen and thawed")


def _body(script: str, **limits: Any) -> bytes:
    spec = {"command": ["/bin/sh", "-c", script], "timeout": 20.0, "labels": {"by": "doctor"}, **limits}
    return json.dumps(spec).encode()

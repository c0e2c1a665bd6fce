"""C4, at every route that acts: no record, no action. 503 within two seconds, nothing has run, and it recovers."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.api.device_routes import DEVICE_ROUTES
from gateway.api.guest_routes import GUEST_ROUTES
from gateway.api.making_routes import MAKING_ROUTES
from gateway.api.routes import ROUTES
from tests.exec.api import Api
from tests.exec.faults import FAULTS
from tests.exec.gateways import Gateway
from tests.exec.inside import begun, new_mark
from tests.exec.waiting import BUSY, until
from tests.exec.websocket import Session
from tests.pvesim import guests

PATIENCE = 2.0 + BUSY  # two seconds are promised
VMID = 101


@dataclass
class Scene:
    """What can be acted on: an exec that writes its input to a file, one that sleeps, a token, and a revoked one."""

    api: Api
    gateway: Gateway
    mark: str = field(default_factory=new_mark)
    reader: str = ""
    sleeper: str = ""
    token: str = ""
    dead: str = ""

    def begin(self) -> None:
        detached = {"headers": {"Prefer": "respond-async"}}
        for name, body in (
            ("reader", {"command": f"cat > /root/got-{self.mark}", "stdin_open": True}),
            ("sleeper", {"command": ["sleep", self.mark]}),
        ):
            label = f"{name}-{self.mark}"
            answer = self.api.post(VMID, {**body, "labels": {"test": label}}, **detached)
            assert answer.status == 202, answer.body
            setattr(self, name, begun(self.api, label))
        until((self.root / f"got-{self.mark}").exists, why="the reader has begun")
        (self.root / f"kept-{self.mark}").write_text("kept")
        self.token, self.dead = (
            self.gateway.token(f"{name}-{self.mark}").removeprefix("pveg_").split(".")[0] for name in ("other", "dead")
        )
        self.gateway.services.command("token", "revoke", self.dead)
        self.before = self.state()

    def state(self) -> object:
        """All that an action could change."""
        tokens = self.gateway.services.state / "tokens"
        return (
            sorted(path.name for path in self.root.glob(f"*{self.mark}*")),
            (self.root / f"got-{self.mark}").read_bytes(),
            [self.api.get(f"/execs/{exec_id}").json()["state"] for exec_id in (self.reader, self.sleeper)],
            {path.name: path.read_bytes() for path in tokens.rglob("*") if path.is_file() and path.suffix == ".json"},
        )

    @property
    def root(self) -> Path:
        return guests.get(VMID).rootfs / "root"

    def end(self) -> None:
        for exec_id in (self.reader, self.sleeper):
            self.api.request("DELETE", f"/execs/{exec_id}?wait=10")

    # -- ways to act: each gives the code of its refusal, or None if it was done

    def run(self, **headers: str) -> str | None:
        return self.api.post(VMID, {"command": ["touch", f"/root/ran-{self.mark}"]}, headers=headers).code

    def terminal(self) -> str | None:
        with Session(self.api, f"/exec/{VMID}/terminal") as session:
            session.say("start", command=["touch", f"/root/ran-{self.mark}"])
            return refusal_of(session, "started")

    def attach(self) -> str | None:
        with Session(self.api, f"/execs/{self.reader}/attach?write=1") as session:
            session.may_write()
            session.type(b"typed\n")
            return refusal_of(session)

    def file(self, method: str, name: str, **options: bytes) -> str | None:
        return self.ask(method, f"/guests/{VMID}/files?path=/root/{name}-{self.mark}", **options)

    def ask(self, method: str, path: str, body: object = None, **options: bytes) -> str | None:
        return self.api.request(method, path, body, **options).code  # type: ignore[arg-type]


def refusal_of(session: Session, *done: str) -> str | None:
    """The code of the first error; None where it is acted: told by a message, or by input that was taken."""

    def told() -> list[str | None]:
        return [heard.get("code") for heard in session.messages if heard["type"] in ("error", *done)]

    session.until(lambda: told() or session.acknowledged > 0)
    return next(iter(told()), None)


NDJSON = "application/x-ndjson"
GRANT = {"actions": ["exec:run"], "guests": "101"}
ACTS: dict[str, list[Callable[[Scene], str | None]]] = {
    "runExec": [
        lambda scene: scene.run(),
        lambda scene: scene.run(Accept=NDJSON),
        lambda scene: scene.run(Accept="text/event-stream"),
        lambda scene: scene.run(Prefer="respond-async"),
        lambda scene: scene.run(**{"Idempotency-Key": new_mark()}),
    ],
    "openTerminal": [Scene.terminal],
    "attachExec": [Scene.attach],
    "putStdin": [lambda scene: scene.ask("PUT", f"/execs/{scene.reader}/stdin", raw=b"put\n")],
    "sendSignal": [lambda scene: scene.ask("POST", f"/execs/{scene.sleeper}/signal", {"signal": "KILL"})],
    "killExec": [lambda scene: scene.ask("DELETE", f"/execs/{scene.sleeper}?wait=5")],
    "createToken": [lambda scene: scene.ask("POST", "/tokens", {"name": "n", "grants": [GRANT], "expires": "1h"})],
    "editToken": [lambda scene: scene.ask("PATCH", f"/tokens/{scene.token}", {"name": "other"})],
    "rotateToken": [lambda scene: scene.ask("POST", f"/tokens/{scene.token}/rotate", {})],
    "revokeToken": [lambda scene: scene.ask("POST", f"/tokens/{scene.token}/revoke")],
    "readFile": [lambda scene: scene.file("GET", "kept")],
    "writeFile": [lambda scene: scene.file("PUT", "ran", raw=b"x"), lambda scene: scene.file("PUT", "kept", raw=b"x")],
    "deleteFile": [lambda scene: scene.file("DELETE", "kept")],
    "deleteToken": [lambda scene: scene.ask("DELETE", f"/tokens/{scene.dead}")],
}
"""Every route that acts, in every way that it does."""


def test_every_route_that_acts_is_here() -> None:
    """A new route with an audit event needs a line in ACTS, if it is not one of those of tests/api."""
    elsewhere = {route.operation_id for route in (*GUEST_ROUTES, *MAKING_ROUTES, *DEVICE_ROUTES)}
    assert {route.operation_id for route in ROUTES if route.event is not None} - elsewhere == ACTS.keys()


@pytest.fixture(scope="module")
def gateway(gateway_on_disk: Gateway) -> Gateway:
    return gateway_on_disk


@pytest.fixture(scope="module")
def api(gateway: Gateway) -> Iterator[Api]:
    actions = "exec:run,exec:terminal,exec:admin,file:write,token:admin"
    opened = gateway.api(gateway.services.create_token(name="everything", actions=actions, expires="30d"))
    yield opened
    opened.close()


@pytest.fixture
def scene(api: Api, gateway: Gateway) -> Iterator[Scene]:
    made = Scene(api, gateway)
    made.begin()
    yield made
    made.end()


def acts() -> list[Callable[[Scene], str | None]]:
    return [act for ways in ACTS.values() for act in ways]


def works_again(act: Callable[[Scene], str | None], scene: Scene) -> bool:
    return act(scene) in (None, "exec_ended")


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_done_without_a_record(scene: Scene, gateway: Gateway, disk: Path, fault: str) -> None:
    """Refused at every one of them, in time; nothing has happened; then all of it works by itself."""
    with FAULTS[fault](gateway, disk):
        if fault in ("disk full", "log full"):
            until(lambda: scene.run() == "audit_unavailable", why="it is noticed")
            with contextlib.suppress(FileNotFoundError):
                (scene.root / f"ran-{scene.mark}").unlink()
        for act in acts():
            began = time.monotonic()
            assert act(scene) == "audit_unavailable"
            assert time.monotonic() - began < PATIENCE
        assert scene.state() == scene.before
        assert scene.api.get("/health/ready").status == 503
    until(lambda: scene.run() is None, why="it recovers")
    for act in acts():
        # One that attached has left, but may still count as the writer for a moment.
        until(functools.partial(works_again, act, scene))
    gateway.services.wait_ready()
    if fault != "disk full":
        gateway.services.command("audit", "verify")


def test_a_deleted_log(scene: Scene, gateway: Gateway) -> None:
    """Deleted before each act: refused, or done with a record in a file that is there."""
    for act in acts():
        if act is Scene.attach:
            continue  # a token's input to an exec is recorded once, and it has put some already
        gateway.audit_log.unlink()
        began = time.monotonic()
        code, now = act(scene), scene.state()
        assert time.monotonic() - began < PATIENCE
        assert code in ("audit_unavailable", None, "exec_ended")
        if code == "audit_unavailable":
            assert now == scene.before
        elif code is None:
            assert gateway.records(), "done, so there is a record"
        until(lambda: scene.run() is None, why="it recovers")
        scene.before = scene.state()


def test_what_was_refused_is_taken_back(scene: Scene, gateway: Gateway) -> None:
    """Every intent in the log has an outcome, or was taken back."""

    def open_intents() -> set[str]:
        records = gateway.records()
        begun_ones = {record["audit_id"] for record in records if record["event"] == "exec:intent"}
        settled = {"exec:outcome", "exec:aborted"}
        return begun_ones - {record["audit_id"] for record in records if record["event"] in settled}

    scene.end()
    until(lambda: not open_intents(), why="every intent is settled")

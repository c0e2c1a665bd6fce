"""Sessions of files: accepted, given a place, recorded and started; their pipes go to the web, their end to the log."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from gateway import ulid
from gateway.audit.record import Event
from gateway.audit.unfinished import Unfinished, UnfinishedChanges
from gateway.config import Config
from gateway.errors import GatewayError, GuestNotFound, NodeNotReady
from gateway.exec.agent import AgentAway
from gateway.exec.order import GuestKind
from gateway.exec.origin import Origin
from gateway.exec.permit import within
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.execs.audit_trail import AuditTrail, record_of
from gateway.supervisor.files.agent_session import AgentFileSession
from gateway.supervisor.files.half_uploads import HalfUploads
from gateway.supervisor.files.session import FileSession
from gateway.supervisor.files.stopped_roots import StoppedRoots
from gateway.supervisor.files.stopped_session import StoppedSession
from gateway.supervisor.files.web_pipes import WebPipes
from gateway.supervisor.guests.containers import Guests, Incarnation
from gateway.supervisor.guests.machines import Machine, Machines
from gateway.supervisor.kernel import reexec
from gateway.supervisor.kernel.cgroup import Tree
from gateway.supervisor.launching.services import Services
from gateway.supervisor.limits.bounds import Claim
from gateway.supervisor.limits.places import Places

log = logging.getLogger(__name__)

EVENTS = frozenset({Event.FILE_READ, Event.FILE_WRITE, Event.FILE_DELETE})
REASONS = frozenset({"ok", "failed", "client_gone", "unknown"})


class OverSession:
    """One of which nothing ran any more when the image before this one became it: only its end is to be told."""

    can_be_handed_over = True
    guest = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.pipes = WebPipes()

    def end(self) -> None: ...

    def kill(self) -> None: ...

    def to_state(self) -> dict[str, Any]:
        return {"name": self.name}


Session = FileSession | StoppedSession | AgentFileSession


@dataclass
class Held:
    """A session that the web has in hand: what it was recorded as, and what it takes of the node."""

    session: Session | OverSession
    claim: Claim
    intent: dict[str, Any]
    unfinished: Unfinished | None
    recorded: bool = False
    over: bool = False
    """Whether nothing of it runs any more; the web has not said yet how it ended."""


class FileSessions:
    """As execs they are counted, refused by a frozen guest, and end with it. Each is one operation on record."""

    def __init__(
        self,
        io: asyncio.AbstractEventLoop,
        config: Config,
        services: Services,
        guests: Guests,
        roots: StoppedRoots,
        machines: Machines,
        questions: Questions,
        places: Places,
        trail: AuditTrail,
    ) -> None:
        self._io = io
        self._config = config
        self._services = services
        self._guests = guests
        self._roots = roots
        roots.on_started = self._started
        self._machines = machines
        self._questions = questions
        self._places = places
        self._trail = trail
        self._unfinished = UnfinishedChanges(config.pve.changes)
        uploads = config.spool.directory / "uploads"
        self._half = HalfUploads(io, uploads, machines, questions, config.guests.protected)
        self._held: dict[str, Held] = {}
        self._opening = 0
        self._stopped = False

    @property
    def under_way(self) -> bool:
        """Whether any is on its way into its guest, or ending: such a one cannot be handed to another image."""
        return bool(self._opening) or not all(held.session.can_be_handed_over for held in self._held.values())

    def recover(self) -> None:
        """Has removed what earlier supervisors left in machines; what has been taken over apart."""
        self._half.look_after(self.names)

    def names(self) -> list[str]:
        """Their cgroups' names."""
        return list(self._held)

    async def open(self, vmid: int, kind: GuestKind, event: Event, data: dict[str, Any], origin: Origin) -> Held:
        """A session in the guest, serving. Raises a GatewayError when nothing was done: it is recorded as aborted."""
        reach = origin.read_guests if event is Event.FILE_READ else origin.write_guests
        if not within(vmid, reach):
            raise GuestNotFound.for_vmid(vmid)
        if kind is GuestKind.QEMU:
            await self._check_agent(vmid)
        else:
            self._require(vmid, write=event is not Event.FILE_READ)
        claim = Claim(origin.token_id, vmid, most=origin.max_running)
        await self._places.take(claim, self._config.exec.queue_timeout)
        self._opening += 1
        try:
            return await self._open(claim, kind, self._record(event, vmid, origin, data))
        finally:
            self._opening -= 1

    async def _open(self, claim: Claim, kind: GuestKind, intent: dict[str, Any]) -> Held:
        try:
            held = await self._begin(claim, kind, intent)
        except BaseException:
            self._places.give_back(claim)
            raise
        assert not isinstance(held.session, OverSession)
        try:
            async with asyncio.timeout(self._config.exec.spawn_timeout):
                await asyncio.shield(held.session.started)
        except BaseException as exc:
            held.session.kill()
            self._abort(held, exc)
            if isinstance(exc, TimeoutError):
                raise NodeNotReady(
                    f"no process of ours could be started in guest {claim.vmid} in time; look at it",
                    missing=["launcher"],
                ) from exc
            raise
        return held

    def end(self, held: Held, outcome: dict[str, Any]) -> None:
        """The web has done with it. Never waits."""
        self._note(held, outcome)
        held.session.end()

    def lost(self, held: Held, *, client_left: bool) -> None:
        """The web has closed its connection without a word: nobody knows how far a change has come."""
        if held.intent["event"] == Event.FILE_READ:
            self._note(held, {"reason": "client_gone" if client_left else "failed"})
        else:
            self._note(held, {"reason": "unknown"})
        held.session.end()

    def died_with(self, guest: Incarnation | Machine) -> None:
        """The guest is dead, and all that was in it."""
        for held in list(self._held.values()):
            if held.session.guest is guest:
                held.session.kill()

    async def let_go(self, vmid: int) -> None:
        """Has what is kept mounted of a stopped container go, for a change (StoppedRoots.let_go)."""
        await self._roots.let_go(vmid)

    async def shut_down(self, timeout: float) -> None:
        """Nothing begins any more, and all ends."""
        self._stopped = True
        deadline = self._io.time() + timeout
        for held in list(self._held.values()):
            self.lost(held, client_left=False)
            held.session.kill()
        while self._held and self._io.time() < deadline:
            await asyncio.sleep(0.01)

    # ---- handing over to the next image of this program

    def to_state(self, held: Held) -> dict[str, Any]:
        """What `resume` needs; descriptors by number."""
        unfinished = held.unfinished.to_state() if held.unfinished is not None else None
        claim = {"vmid": held.claim.vmid, "token_id": held.claim.token_id, "most": held.claim.most}
        session = {"over": held.session.name} if held.over else held.session.to_state()
        return {**claim, **session, "intent": held.intent, "unfinished": unfinished}

    def resume_over(self, state: dict[str, Any]) -> Held:
        """Goes on with one that is over but for the web's word; it takes nothing of the node."""
        return self._hold(state, OverSession(state["over"]), state["vmid"], over=True)

    def resume(self, state: dict[str, Any], guest: Incarnation, tree: Tree) -> Held:
        """Goes on with a session that an earlier image of this program had; for whoever holds it."""
        return self._resume(state, FileSession.resume(self._services, state, guest, tree, self._gone), guest.vmid)

    def resume_stopped(self, state: dict[str, Any]) -> Held:
        """The same in a container that does not run."""
        root = self._roots.take_again(state["stopped"])
        return self._resume(state, StoppedSession.resume(self._services, state, root, self._gone), root.vmid)

    def resume_machine(self, state: dict[str, Any], machine: Machine) -> Held:
        """The same in a virtual machine."""
        session = AgentFileSession.resume(self._io, self._questions, state, machine, self._half, self._gone)
        return self._resume(state, session, machine.vmid)

    def _resume(self, state: dict[str, Any], session: Session, vmid: int) -> Held:
        held = self._held[session.name] = self._hold(state, session, vmid)
        self._places.occupy(held.claim)
        return held

    def _hold(self, state: dict[str, Any], session: Session | OverSession, vmid: int, *, over: bool = False) -> Held:
        claim = Claim(state["token_id"], vmid, most=state["most"])
        unfinished = state["unfinished"]
        if unfinished is not None:
            unfinished = Unfinished.from_state(unfinished, reexec.take(unfinished["fd"]))
        return Held(session, claim, state["intent"], unfinished, over=over)

    async def _begin(self, claim: Claim, kind: GuestKind, intent: dict[str, Any]) -> Held:
        changes = intent["event"] != Event.FILE_READ
        unfinished = self._unfinished.begin(intent) if changes else None  # killed, web says that it is unknown
        await self._trail.commit(intent, unfinished)
        try:
            if self._stopped:
                raise NodeNotReady("the supervisor is being stopped; try again", missing=["supervisor"], retry_after=1)
            session = await self._make_session(claim.vmid, kind, write=changes)
            held = self._held[session.name] = Held(session, claim, intent, unfinished)
            try:
                session.spawn(write=changes)
            except BaseException:
                del self._held[session.name]
                session.give_up()
                raise
        except BaseException as exc:
            self._trail.abort(intent, _why(exc), unfinished)
            raise
        return held

    async def _check_agent(self, vmid: int) -> None:
        """Raises GuestNotRunning, GuestAgentUnavailable, NodeNotReady."""
        self._machines.require(vmid)
        try:
            await self._questions.ask(vmid, lambda agent: agent.check(vmid))
        except AgentAway as away:
            raise NodeNotReady(f"guest {vmid}'s agent: {away}; try again", missing=["resources"]) from away

    def _require(self, vmid: int, *, write: bool) -> None:
        """Raises GuestFrozen; for a container that does not run, why it may not be mounted."""
        if self._guests.current(vmid) is None:
            self._roots.check(vmid, write=write)
        else:
            self._guests.find(vmid)

    async def _make_session(self, vmid: int, kind: GuestKind, *, write: bool) -> Session:
        """In the guest as it is now: it may have started, stopped or frozen meanwhile."""
        name = ulid.new("fs_")
        if kind is GuestKind.QEMU:
            limit = self._io.time() + self._config.exec.timeout_max
            machine = self._machines.require(vmid)
            return AgentFileSession(self._io, self._questions, name, machine, self._half, self._gone, limit)
        if self._guests.current(vmid) is None:
            return StoppedSession(self._services, name, await self._roots.take(vmid, write=write), self._gone)
        guest = self._guests.find(vmid)
        moved = self._services.launcher.tool.moves_command
        tree = guest.group.make(name, taken_from=guest.ns if moved else None)
        return FileSession(self._services, name, guest, tree, self._gone)

    def _started(self, vmid: int) -> None:
        """A container runs whose files were reached from outside: that ends, and the next request goes in."""
        for held in list(self._held.values()):
            if isinstance(held.session, StoppedSession) and held.session.root.vmid == vmid:
                held.session.kill()

    def _gone(self, session: Session) -> None:
        held = self._held.pop(session.name)
        held.over = True
        self._places.give_back(held.claim)

    def _abort(self, held: Held, exc: BaseException) -> None:
        if not held.recorded:
            held.recorded = True
            self._trail.abort(held.intent, _why(exc), held.unfinished)

    def _note(self, held: Held, outcome: dict[str, Any]) -> None:
        if held.recorded:
            return
        held.recorded = True
        record = {name: value for name, value in held.intent.items() if name != "data"}
        self._trail.note({**record, "event": str(Event.FILE_OUTCOME), "data": outcome}, held.unfinished)

    def _record(self, event: Event, vmid: int, origin: Origin, data: dict[str, Any]) -> dict[str, Any]:
        action = "file:read" if event is Event.FILE_READ else "file:write"
        return record_of(event, origin, action=action, vmid=vmid, node=self._config.node, data=data)


def _why(exc: BaseException) -> str:
    return exc.detail[:256] if isinstance(exc, GatewayError) else "nothing was done"

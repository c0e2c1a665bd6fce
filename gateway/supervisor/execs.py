"""All execs of this node: those that wait and run, what outlives others, and those that have ended."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.errors import ExecEnded, ExecNotFound, TooManyExecs
from gateway.exec.agent import require_possible
from gateway.exec.ending import Ending, ending_unbegun, render
from gateway.exec.order import GuestKind, Order
from gateway.exec.origin import Origin
from gateway.exec.spec import OnDisconnect, Placement
from gateway.exec.view import ExecView, Reason, State
from gateway.supervisor.agent_execution import AgentExecution
from gateway.supervisor.agent_survivor import AgentSurvivor
from gateway.supervisor.audit_trail import AuditTrail
from gateway.supervisor.bounds import Claim
from gateway.supervisor.cgroup import Tree
from gateway.supervisor.descendants import Descendants
from gateway.supervisor.execution import Execution
from gateway.supervisor.guests import Guests, Incarnation
from gateway.supervisor.life import Life
from gateway.supervisor.machines import Machine, Machines
from gateway.supervisor.memory import Memory
from gateway.supervisor.places import Places
from gateway.supervisor.procfs import read_stat
from gateway.supervisor.questions import Questions
from gateway.supervisor.queued import Queued
from gateway.supervisor.recording import NOTHING, Recording
from gateway.supervisor.running import Left, Run, Running
from gateway.supervisor.services import Services
from gateway.supervisor.spool import Remembered, Spool
from gateway.supervisor.streams import Streams
from gateway.supervisor.survivors import Survivors

_PAGE_READS = 100
_PAGE_CHARACTERS = 1 << 20
"""How many execs one page reads from the disk, and about how long it gets; the caller pages on from there."""


Found = Running | Queued | Life
"""An exec: at work, waiting for its place, or over."""
Result = tuple[ExecView, bytes, bytes]
"""An ended exec, and what was kept of its stdout and stderr."""


class Execs:
    """The registry: those that wait for a place, those that run, those whose survivors live on, and by way of the spool
    those that ended."""

    def __init__(
        self,
        proc: Path,
        services: Services,
        guests: Guests,
        spool: Spool,
        trail: AuditTrail,
        places: Places,
        memory: Memory,
        machines: Machines,
        questions: Questions,
    ) -> None:
        self.queued: dict[str, Queued] = {}
        """Those that had to wait, until they run."""
        self.running: dict[str, Running] = {}
        self.surviving: dict[str, Left] = {}
        self._proc = proc
        self._services = services
        self._guests = guests
        self._spool = spool
        self._trail = trail
        self._places = places
        self._memory = memory
        self._machines = machines
        self._questions = questions
        self._ends: dict[str, asyncio.Future[Result | None]] = {}

    # ---- beginning

    def add(self, execution: Running) -> None:
        """One that is about to be spawned."""
        self.running[execution.order.id] = execution
        self._ends[execution.order.id] = self._services.loop.io.create_future()

    def mark_go(self, order: Order, pid: int) -> None:
        """The command may begin from here on. Raises OSError when that cannot be noted: then it may not."""
        placed = order.placement is Placement.GUEST  # then no cgroup will tell which processes are its own
        self._spool.mark_go(order, pid, read_stat(self._proc / str(pid)).start if placed else 0)

    def resume(self, state: dict[str, Any], guest: Incarnation) -> None:
        """Takes over an exec that an earlier image of this program began."""
        order = Order.from_wire(state["order"])
        tree: Tree | None = None
        if order.placement is Placement.OWN:
            tree = guest.group.open(order.id)
        self._places.occupy(claim_of(order))
        self._spool.adopt_growth(order, state)
        self._ends[order.id] = self._services.loop.io.create_future()
        tree = tree or Descendants(self._proc, guest.ns)
        grant = self._spool.granter(order)

        def make_streams(over_limit: Callable[[], object] | None) -> Streams:
            return Streams.from_state(self._services.loop.io, state, grant, over_limit)

        self.running[order.id] = Execution.resume(self._services, self, state, guest, tree, make_streams)

    def resume_in_machine(self, state: dict[str, Any], machine: Machine) -> None:
        """Takes over an exec in a virtual machine that an earlier image of this program began."""
        order = Order.from_wire(state["order"])
        self._places.occupy(claim_of(order))
        self._spool.adopt_growth(order, state)
        io = self._services.loop.io
        self._ends[order.id] = io.create_future()
        streams = Streams.from_state(io, state, self._spool.granter(order), None)
        execution = AgentExecution(io, self._questions, self, order, machine, streams)
        self.running[order.id] = execution
        execution.resume(state)

    # ---- ending

    def on_ended(self, execution: Running, left: Left | None) -> None:
        """An exec's outcome is known: remember it, record it, wake who waits."""
        order, ending = execution.order, execution.ending
        assert ending is not None
        del self.running[order.id]
        streams = execution.streams
        stdout, stderr = (b"", b"") if order.spooled else (streams.stdout.kept(), streams.stderr.kept())
        self._spool.end(order, ending, streams, left=left is not None)
        streams.forget()
        streams.followers.wake()
        if left is not None:
            self.surviving[order.id] = left
        self._trail.outcome(order, ending)
        self._close(order, (render(order, State.ENDED, ending), stdout, stderr))

    def on_lost(self, execution: Running) -> None:
        """Nobody can know any more how an exec ends: remember, record and tell that."""
        order = execution.order
        del self.running[order.id]
        self._spool.end_unknown(order)
        execution.streams.forget()
        execution.streams.followers.wake()
        self._trail.outcome(order, None)
        self._close(order, (render(order, State.UNKNOWN), b"", b""))

    def _close(self, order: Order, result: Result) -> None:
        """Gives back what it had of the node, and wakes who waits for its end."""
        self._places.give_back(claim_of(order))
        self._memory.release(order.id)
        waiter = self._ends.pop(order.id)
        if not waiter.done():
            waiter.set_result(None if order.spooled else result)

    def on_survivors_gone(self, left: Left) -> None:
        """Nothing of an ended exec runs any more."""
        self.surviving.pop(left.order.id, None)
        self._spool.survivors_gone(left.order.id)

    def client_gone(self, exec_id: str) -> None:
        """The client of a waiting `run` has left."""
        execution = self.running.get(exec_id)
        if execution is not None and execution.order.on_disconnect is OnDisconnect.KILL:
            execution.end(Reason.CLIENT_GONE)

    def guest_died(self, guest: Incarnation) -> None:
        self._guests.forget(guest)
        self._services.launcher.programs.forget(guest.key)
        self._all_died_with(guest)

    def machine_died(self, machine: Machine) -> None:
        self._machines.forget(machine)
        self._all_died_with(machine)
        for left in list(self.surviving.values()):
            if isinstance(left, AgentSurvivor) and left.guest is machine:
                left.release()

    def _all_died_with(self, guest: Run) -> None:
        for execution in list(self.running.values()):
            if execution.guest is guest:
                execution.guest_died()

    async def kill(self, exec_id: str, origin: Origin) -> ExecView:
        """Begins to end the whole tree, once that is recorded. Raises ExecNotFound, AuditUnavailable, or ExecEnded.

        One that waits for a place has ended then.
        """
        order = self.order(exec_id, origin)
        waiting = self.queued.get(exec_id)
        if waiting is not None:
            await self._trail.cancel(order, origin, queued=True)
            if not waiting.has_its_place:
                return self._withdraw(waiting)
            await waiting.over(None)  # it is about to begin, or was refused a place
            order = self.order(exec_id, origin)
        if exec_id in self.running:
            require_possible(order, "kill")
            if waiting is None:
                await self._trail.cancel(order, origin)
        execution = self.running.get(exec_id)
        if execution is None or not execution.end(Reason.CANCELLED):
            raise ExecEnded(f"{exec_id} has ended already; processes that it left behind were not touched")
        return self.get(exec_id, origin)

    def _withdraw(self, waiting: Queued) -> ExecView:
        """It ends as `cancelled`, and nothing of it has run. Raises SpoolFull; then it waits on."""
        order = waiting.order
        queued = self._services.loop.io.time() - waiting.since
        ending = ending_unbegun(Reason.CANCELLED, queued_ms=round(queued * 1000))
        self._spool.restore(order, ending)
        del self.queued[order.id]
        waiting.withdraw()
        self._trail.outcome(order, ending)
        return render(order, State.ENDED, ending)

    async def wait_end(self, exec_id: str, timeout: float | None = None) -> Result | None:
        """What it ended with; None when the time is over first, when it had ended before, or is spooled."""
        waiting = self.queued.get(exec_id)
        if waiting is not None:
            io = self._services.loop.io
            began = io.time()
            await waiting.over(timeout)
            timeout = max(0.0, timeout - (io.time() - began)) if timeout is not None else None
        future = self._ends.get(exec_id)
        if future is None:
            return None
        await asyncio.wait([future], timeout=timeout)
        return future.result() if future.done() else None

    # ---- looking

    def order(self, exec_id: str, origin: Origin) -> Order:
        """The order of an exec that this caller may see. Raises ExecNotFound."""
        return self._find(exec_id, origin).order

    def get(self, exec_id: str, origin: Origin) -> ExecView:
        """The exec as it stands. Raises ExecNotFound for another token's, too."""
        return render(*_standing(self._find(exec_id, origin)))

    def check_room_for_survivors(self, vmid: int, most: int) -> None:
        """Raises TooManyExecs when `most` ended execs of the guest have processes left: each costs descriptors."""
        if sum(left.order.vmid == vmid for left in self.surviving.values()) >= most:
            raise TooManyExecs(
                f"{most} ended execs of guest {vmid} have processes that live on; end those in the guest, or, in a "
                "container, run with background: kill",
                vmid=vmid,
            )

    def same_run(self, order: Order) -> bool:
        """Whether the guest has not been started again since this exec began."""
        found = self._guests if order.kind is GuestKind.LXC else self._machines
        guest = found.current(order.vmid)
        return guest is not None and guest.key == order.incarnation

    def page(
        self,
        origin: Origin,
        *,
        vmid: int | None,
        state: str | None,
        labels: dict[str, str],
        limit: int,
        after: str | None,
    ) -> tuple[list[tuple[Order, ExecView]], str | None]:
        """Newest first, and where to go on: the id after which the next page begins, None at the end."""

        def seen(exec_id: str, entry: Remembered | Order) -> bool:
            return (
                (after is None or exec_id < after)
                and (vmid is None or entry.vmid == vmid)
                and labels.items() <= entry.labels.items()
                and origin.sees(entry.token_id, entry.vmid)
            )

        entries: list[tuple[str, Remembered | Order]] = [*self._spool.remembered().items()]
        entries += [(exec_id, waiting.order) for exec_id, waiting in self.queued.items()]
        entries += [(exec_id, execution.order) for exec_id, execution in self.running.items()]
        ids = sorted((exec_id for exec_id, entry in entries if seen(exec_id, entry)), reverse=True)
        found: list[tuple[Order, ExecView]] = []
        last, room = None, _PAGE_CHARACTERS
        for read, exec_id in enumerate(ids):
            if len(found) >= limit or read >= _PAGE_READS or room <= 0:
                return found, last
            last = exec_id
            order, stands, ending = _standing(self._find(exec_id, origin))
            if state is None or stands == state:
                found.append((order, render(order, stands, ending)))
                room -= sum(map(len, order.command)) + 1024
        return found, None

    def recording(self, exec_id: str, origin: Origin) -> tuple[Recording, bool]:
        """The output of an exec as far as it is kept, and whether it has ended. Raises ExecNotFound."""
        found = self._find(exec_id, origin)
        return self._recording(found), isinstance(found, Life)

    def result(self, exec_id: str, origin: Origin) -> Result:
        """An ended exec with all that was kept of its output, as the spool remembers it."""
        found = self._find(exec_id, origin)
        stdout, stderr = (
            b"".join(stream.read(start, end - start) for start, end in stream.layout.kept(stream.total))
            for stream in self._recording(found).streams
        )
        return render(*_standing(found)), stdout, stderr

    def _recording(self, found: Found) -> Recording:
        if isinstance(found, Life):
            return self._spool.recording(found)
        return NOTHING if isinstance(found, Queued) else found.streams.recording

    def _find(self, exec_id: str, origin: Origin) -> Found:
        """What there is of an exec that this caller may see. Raises ExecNotFound."""
        found = self.running.get(exec_id) or self.queued.get(exec_id) or self._spool.find(exec_id)
        if found is None or not origin.sees(found.order.token_id, found.order.vmid):
            raise ExecNotFound.for_id(exec_id)
        return found

    # ---- the whole

    def resume_survivors(self, state: dict[str, Any], guests: dict[tuple[int, str], Incarnation]) -> None:
        """Takes over what outlives an exec that ended under an earlier image of this program."""
        order = Order.from_wire(state["order"])
        self._spool.remember(order.id)
        guest = guests.get((order.vmid, order.incarnation))
        if guest is None:  # it has stopped meanwhile, and they with it
            for fd in state["fds"].values():
                os.close(fd)
            self._spool.survivors_gone(order.id)
            return
        tree = guest.group.open(order.id) or Descendants(guest.proc, guest.ns)
        self.adopt_survivors(order, tree, list(state["fds"].values()))

    def resume_survivor_in_machine(self, state: dict[str, Any], machine: Machine | None) -> None:
        """The same for a command in a virtual machine; None: that has stopped meanwhile."""
        order = Order.from_wire(state["order"])
        self._spool.remember(order.id)
        if machine is None:
            self._spool.survivors_gone(order.id)
            return
        left = AgentSurvivor(self._services.loop.io, self._questions, order, machine, self.on_survivors_gone)
        self.surviving[order.id] = left
        left.watch(state["pid"])

    def adopt_survivors(self, order: Order, tree: Tree, pipes: list[int]) -> None:
        """Owns what outlives an exec: its pipes are read until the last process of it is gone."""
        left = Survivors(self._services.loop, order, tree, pipes, self.on_survivors_gone)
        self.surviving[order.id] = left
        left.watch()

    async def shut_down(self, timeout: float) -> None:
        """Ends all that runs, as `gateway_lost`; survivors of ended execs are left alone."""
        for execution in list(self.running.values()):
            execution.end(Reason.GATEWAY_LOST)
            execution.kill()
        futures = list(self._ends.values())
        if futures:
            await asyncio.wait(futures, timeout=timeout)

    def sweep(self, at_most: int) -> bool:
        """Forgets ended execs that need not be kept any more; whether there are more than `at_most`."""
        return self._spool.sweep(time.time(), at_most=at_most)


def claim_of(order: Order) -> Claim:
    """What an exec has of the node's places."""
    return Claim(order.token_id, order.vmid, order.exclusive)


def _standing(found: Found) -> tuple[Order, State, Ending | None]:
    """An exec with its state, and how it ended."""
    if isinstance(found, Life):
        return found.order, State.ENDED if found.ending else State.UNKNOWN, found.ending
    return found.order, State.QUEUED if isinstance(found, Queued) else State.RUNNING, None

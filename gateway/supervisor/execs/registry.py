"""All execs of this node: those that wait and run, what outlives others, and those that have ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.errors import TooManyExecs
from gateway.exec.ending import Ending, ending_unbegun, render
from gateway.exec.order import Order
from gateway.exec.spec import OnDisconnect, Placement
from gateway.exec.view import ExecView, Reason, State
from gateway.supervisor.agent.survivor import AgentSurvivor
from gateway.supervisor.execs.audit_trail import AuditTrail
from gateway.supervisor.execs.figures import Figures
from gateway.supervisor.execs.queued import Queued
from gateway.supervisor.execs.running import Left, Running
from gateway.supervisor.execs.survivors import Survivors
from gateway.supervisor.guests.current import Run
from gateway.supervisor.kernel.cgroup import Tree
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.kernel.procfs import read_stat
from gateway.supervisor.limits.bounds import Claim
from gateway.supervisor.limits.memory import Memory
from gateway.supervisor.limits.places import Places
from gateway.supervisor.spool.spool import Spool

_MAX_INPUTS = 1000

Result = tuple[ExecView, bytes, bytes]
"""An ended exec, and what was kept of its stdout and stderr."""


class Execs:
    """The registry: those that wait for a place, those that run, those whose survivors live on, and by way of the spool
    those that ended."""

    def __init__(
        self,
        proc: Path,
        loop: Loop,
        spool: Spool,
        trail: AuditTrail,
        places: Places,
        memory: Memory,
        figures: Figures,
    ) -> None:
        self.queued: dict[str, Queued] = {}
        """Those that had to wait, until they run."""
        self.running: dict[str, Running] = {}
        self.surviving: dict[str, Left] = {}
        self.inputs: dict[str, int] = {}
        """How many bytes of input the last that ended had taken, where it was open. A successor knows nothing of it."""
        self._proc = proc
        self._loop = loop
        self._spool = spool
        self._trail = trail
        self._places = places
        self._memory = memory
        self.figures = figures
        self._ends: dict[str, asyncio.Future[Result | None]] = {}

    # ---- beginning

    def add(self, execution: Running) -> None:
        """One that is about to be spawned, or that an earlier image of this program began."""
        self.running[execution.order.id] = execution
        self._ends[execution.order.id] = self._loop.io.create_future()

    def mark_go(self, order: Order, pid: int) -> None:
        """The command may begin from here on. Raises OSError when that cannot be noted: then it may not."""
        placed = order.placement is Placement.GUEST  # then no cgroup will tell which processes are its own
        self._spool.mark_go(order, pid, read_stat(self._proc / str(pid)).start if placed else 0)

    # ---- ending

    def on_ended(self, execution: Running, left: Left | None) -> None:
        """An exec's outcome is known: remember it, record it, wake who waits."""
        order, ending = execution.order, execution.ending
        assert ending is not None
        del self.running[order.id]
        streams = execution.streams
        stdout, stderr = (b"", b"") if order.spooled else (streams.stdout.kept(), streams.stderr.kept())
        self._spool.end(order, ending, streams, left=left is not None)
        if streams.stdin is not None:
            self._keep_input(order.id, streams.stdin.offset)
        streams.forget()
        streams.followers.wake()
        if left is not None:
            self.surviving[order.id] = left
        self.tell_outcome(order, ending)
        self._close(order, (render(order, State.ENDED, ending), stdout, stderr))

    def _keep_input(self, exec_id: str, offset: int) -> None:
        self.inputs[exec_id] = offset
        if len(self.inputs) > _MAX_INPUTS:
            del self.inputs[next(iter(self.inputs))]

    def on_lost(self, execution: Running) -> None:
        """Nobody can know any more how an exec ends: remember, record and tell that."""
        order = execution.order
        del self.running[order.id]
        self._spool.end_unknown(order)
        execution.streams.forget()
        execution.streams.followers.wake()
        self.tell_outcome(order, None)
        self._close(order, (render(order, State.UNKNOWN), b"", b""))

    def tell_outcome(self, order: Order, ending: Ending | None) -> None:
        """Records and counts how an exec ended; None where nobody can know it."""
        self._trail.outcome(order, ending)
        self.figures.ended(order.kind, ending)

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

    def died_with(self, guest: Run) -> None:
        """A guest's run is over, and with it all that ran in it."""
        for execution in list(self.running.values()):
            if execution.guest is guest:
                execution.guest_died()
        for left in list(self.surviving.values()):
            if isinstance(left, AgentSurvivor) and left.guest is guest:
                left.release()

    def withdraw(self, waiting: Queued) -> ExecView:
        """One that waits for a place ends as `cancelled`; nothing of it has run. Raises SpoolFull; then it waits on."""
        order = waiting.order
        queued = self._loop.io.time() - waiting.since
        ending = ending_unbegun(Reason.CANCELLED, queued_ms=round(queued * 1000))
        self._spool.restore(order, ending)
        del self.queued[order.id]
        waiting.withdraw()
        self.tell_outcome(order, ending)
        return render(order, State.ENDED, ending)

    async def wait_end(self, exec_id: str, timeout: float | None = None) -> Result | None:
        """What it ended with; None when the time is over first, when it had ended before, or is spooled."""
        waiting = self.queued.get(exec_id)
        if waiting is not None:
            io = self._loop.io
            began = io.time()
            await waiting.over(timeout)
            timeout = max(0.0, timeout - (io.time() - began)) if timeout is not None else None
        future = self._ends.get(exec_id)
        if future is None:
            return None
        await asyncio.wait([future], timeout=timeout)
        return future.result() if future.done() else None

    def check_room_for_survivors(self, vmid: int, most: int) -> None:
        """Raises TooManyExecs when `most` ended execs of the guest have processes left: each costs descriptors."""
        if sum(left.order.vmid == vmid for left in self.surviving.values()) >= most:
            raise TooManyExecs(
                f"{most} ended execs of guest {vmid} have processes that live on; end those in the guest, or, in a "
                "container, run with background: kill",
                vmid=vmid,
            )

    # ---- the whole

    def adopt_survivors(self, order: Order, tree: Tree, pipes: list[int]) -> None:
        """Owns what outlives an exec: its pipes are read until the last process of it is gone."""
        left = Survivors(self._loop, order, tree, pipes, self.on_survivors_gone)
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


def claim_of(order: Order) -> Claim:
    """What an exec has of the node's places."""
    return Claim(order.token_id, order.vmid, order.exclusive)

"""What one image of the supervisor leaves to the next, and how the next goes on with it: nothing that runs, waits or
follows notices.

How the state travels is `reexec`'s. Descriptors stand in it by number; each is taken over once.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from gateway.audit.unfinished import Unfinished
from gateway.exec.order import GuestKind, Order
from gateway.exec.spec import Placement
from gateway.supervisor.agent.execution import AgentExecution
from gateway.supervisor.agent.survivor import AgentSurvivor
from gateway.supervisor.assembly import Supervisor
from gateway.supervisor.execs.execution import Execution
from gateway.supervisor.execs.registry import claim_of
from gateway.supervisor.execs.running import Running
from gateway.supervisor.files.sessions import Held
from gateway.supervisor.guests.containers import Incarnation
from gateway.supervisor.guests.machines import Machine
from gateway.supervisor.kernel import reexec
from gateway.supervisor.kernel.cgroup import Tree
from gateway.supervisor.operations.connection import Connection
from gateway.supervisor.output.streams import Streams

log = logging.getLogger(__name__)

State = dict[str, Any]
RunOf = tuple[int, str]
"""Names one run of a guest: its vmid, and the run's key."""


def to_state(supervisor: Supervisor) -> State:
    """Everything that `take_over` needs."""
    execs, owed = supervisor.execs, supervisor.audit.unsettled()
    return {
        "guests": [guest.to_state() for guest in supervisor.guests.known()],
        "machines": [machine.to_state() for machine in supervisor.machines.known()],
        "execs": [execution.to_state() for execution in execs.running.values()],
        "survivors": [left.to_state() for left in execs.surviving.values()],
        "connections": [connection.to_state() for connection in supervisor.server.connections],
        "followers": {exec_id: _followers_of(execution) for exec_id, execution in execs.running.items()},
        "memory": supervisor.memory.promised_to(execs.running),
        "roots": supervisor.roots.to_state(),
        "files": [
            {**supervisor.files.to_state(connection.holds), "connection": connection.sock.fileno()}
            for connection in supervisor.server.connections
            if isinstance(connection.holds, Held)
        ],
        "tickets": supervisor.tickets.to_state(),
        "audit": [entry.record for entry in owed],
        "changes": {entry.record["audit_id"]: entry.change.to_state() for entry in owed if entry.change is not None},
        "figures": supervisor.figures.to_wire(),
    }


def _followers_of(execution: Running) -> list[list[Any]]:
    """The followers' connections by descriptor, and what they have taken."""
    return [
        [who.sock.fileno() if isinstance(who, Connection) else None, offsets]
        for who, offsets in execution.streams.followers.places()
    ]


def take_over(supervisor: Supervisor, state: State) -> None:
    """Goes on with everything that the image before this one had."""
    changes = state.get("changes", {})
    for record in state["audit"]:
        change = changes.get(record["audit_id"])
        supervisor.audit.post(record, change and Unfinished.from_state(change, reexec.take(change["fd"])))
    supervisor.figures.take_over(state.get("figures", {}))
    successor = _Successor(supervisor, state)
    successor.go_on()
    promises = state.get("memory", {})
    running = supervisor.execs.running
    supervisor.memory.renew({exec_id: promises[exec_id] for exec_id in running if exec_id in promises})
    supervisor.tickets.resume(state["tickets"])
    connections: dict[int | None, Connection] = {}
    for entry in sorted(state["connections"], key=_since):  # those that waited go on in their order
        sock = socket.socket(fileno=reexec.take(entry["fd"]))
        connection = connections[entry["fd"]] = supervisor.server.adopt(sock)
        connection.resume(entry)
        connection.holds = successor.files.get(entry["fd"])
        supervisor.operations.resumed(connection)
    for exec_id, places in state.get("followers", {}).items():
        if exec_id in running:
            followers = running[exec_id].streams.followers
            followers.resume([(connections.get(fd), offsets) for fd, offsets in places])


def _since(connection: State) -> float:
    """Since when a connection's request waits for a place; 0 where none does."""
    attempt = connection.get("attempt") or {}
    return float(attempt.get("since") or 0)


class _Successor:
    """The guests, the execs in them, and what outlives others."""

    def __init__(self, supervisor: Supervisor, state: State) -> None:
        self._supervisor = supervisor
        self._state = state
        self._guests: dict[RunOf, Incarnation] = {}
        self._machines: dict[RunOf, Machine] = {}
        self.files: dict[int, Held] = {}
        """Sessions of files, by the number that their connection had."""

    def go_on(self) -> None:
        """One that cannot be taken over takes no other along: recovery ends what is left of it."""
        for entry in self._state["guests"]:
            self._try(self._guest, entry)
        for entry in self._state.get("machines", ()):
            self._try(self._machine, entry)
        for entry in self._state["execs"]:
            in_container = Order.from_wire(entry["order"]).kind is GuestKind.LXC
            self._try(self._execution if in_container else self._agent_execution, entry)
        for entry in self._state["survivors"]:
            in_container = Order.from_wire(entry["order"]).kind is GuestKind.LXC
            self._try(self._survivors if in_container else self._agent_survivor, entry)

        for entry in self._state.get("roots", ()):
            self._try(lambda state: self._supervisor.roots.resume(reexec.take_all(state)), entry)
        for entry in self._state.get("files", ()):
            self._try(self._files, entry)

    def _files(self, entry: State) -> None:
        if "over" in entry:
            self.files[entry["connection"]] = self._supervisor.files.resume_over(entry)
            return
        if "stopped" in entry:
            self.files[entry["connection"]] = self._supervisor.files.resume_stopped(entry)
            return
        if entry.get("machine"):
            machine = self._machines[entry["vmid"], entry["run"]]
            self.files[entry["connection"]] = self._supervisor.files.resume_machine(reexec.take_all(entry), machine)
            return
        guest = self._guests[entry["vmid"], entry["run"]]
        tree = guest.group.open(entry["name"])
        if tree is not None:
            self.files[entry["connection"]] = self._supervisor.files.resume(entry, guest, tree)

    def _try(self, take_over: Callable[[State], None], entry: State) -> None:
        try:
            take_over(entry)
        except Exception:
            log.exception("cannot go on with something of the image before this one")

    def _guest(self, entry: State) -> None:
        guests = self._supervisor.guests
        guest = Incarnation.from_state(reexec.take_all(entry), self._supervisor.config.lxc, guests.spare)
        self._guests[guest.vmid, guest.key] = guest
        guests.adopt(guest)

    def _machine(self, entry: State) -> None:
        machine = Machine.from_state(reexec.take_all(entry))
        self._machines[machine.vmid, machine.key] = machine
        self._supervisor.machines.adopt(machine)

    def _execution(self, entry: State) -> None:
        services, execs, spool = self._supervisor.services, self._supervisor.execs, self._supervisor.spool
        state, order = reexec.take_all(entry), Order.from_wire(entry["order"])
        guest = self._guests[order.vmid, order.incarnation]
        tree: Tree | None = guest.group.open(order.id) if order.placement is Placement.OWN else None
        grant = spool.granter(order)

        def make_streams(over_limit: Callable[[], object] | None) -> Streams:
            return Streams.from_state(services.loop.io, state, grant, over_limit)

        tree = tree or guest.own_tree()
        self._add(Execution.resume(services, execs, state, guest, tree, make_streams), state)

    def _agent_execution(self, entry: State) -> None:
        io, execs = self._supervisor.loop.io, self._supervisor.execs
        state, order = reexec.take_all(entry), Order.from_wire(entry["order"])
        machine = self._machines[order.vmid, order.incarnation]
        streams = Streams.from_state(io, state, self._supervisor.spool.granter(order), None)
        execution = AgentExecution(io, self._supervisor.questions, execs, order, machine, streams)
        self._add(execution, state)
        execution.resume(state)

    def _add(self, execution: Running, state: State) -> None:
        """It has what it had of the node."""
        self._supervisor.places.occupy(claim_of(execution.order))
        self._supervisor.spool.adopt_growth(execution.order, state)
        self._supervisor.execs.add(execution)

    def _survivors(self, entry: State) -> None:
        state, order = reexec.take_all(entry), Order.from_wire(entry["order"])
        self._supervisor.spool.remember(order.id)
        guest = self._guests.get((order.vmid, order.incarnation))
        if guest is None:  # it has stopped meanwhile, and they with it
            for fd in state["fds"].values():
                os.close(fd)
            self._supervisor.spool.survivors_gone(order.id)
            return
        tree = guest.group.open(order.id) or guest.own_tree()
        self._supervisor.execs.adopt_survivors(order, tree, list(state["fds"].values()))

    def _agent_survivor(self, entry: State) -> None:
        execs, order = self._supervisor.execs, Order.from_wire(entry["order"])
        self._supervisor.spool.remember(order.id)
        machine = self._machines.get((order.vmid, order.incarnation))
        if machine is None:  # the same
            self._supervisor.spool.survivors_gone(order.id)
            return
        io, questions = self._supervisor.loop.io, self._supervisor.questions
        left = AgentSurvivor(io, questions, order, machine, execs.on_survivors_gone)
        execs.surviving[order.id] = left
        left.watch(entry["pid"])

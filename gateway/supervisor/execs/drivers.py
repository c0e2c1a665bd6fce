"""How an exec gets into its guest: into a container by lxc-attach, into a virtual machine by its guest agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.errors import GuestNotRunning, NodeNotReady
from gateway.exec.agent import AgentAway, require_supported
from gateway.exec.order import Order
from gateway.exec.spec import ExecSpec, OnFull, Placement
from gateway.supervisor.agent.execution import AgentExecution
from gateway.supervisor.agent.questions import Questions
from gateway.supervisor.execs.execution import Execution
from gateway.supervisor.execs.registry import Execs
from gateway.supervisor.guests.containers import Guests, Incarnation
from gateway.supervisor.guests.machines import Machine, Machines
from gateway.supervisor.kernel.cgroup import Tree
from gateway.supervisor.kernel.loop import Loop
from gateway.supervisor.launching.launch import build_spec
from gateway.supervisor.launching.services import Services
from gateway.supervisor.output.capture import Capture
from gateway.supervisor.output.streams import Streams

Captures = tuple[Capture, Capture]


class Entry(Protocol):
    """One exec's way into one run of its guest."""

    @property
    def run(self) -> str:
        """Names the run of the guest."""

    def prepare(self, order: Order) -> None:
        """Makes the exec's own place, where it needs one."""

    def check(self) -> None:
        """Raises GuestNotRunning or GuestFrozen when the guest has become so."""

    def undo(self) -> None:
        """Takes `prepare` back."""

    def begin(self, order: Order, spec: ExecSpec, captures: Captures) -> None:
        """Starts the command; from here on the registry has it."""


class Driver(Protocol):
    """Runs commands in one kind of guest."""

    def require_supported(self, spec: ExecSpec, vmid: int, *, streamed: bool) -> None:
        """Raises DriverUnsupported for what it cannot do."""

    async def find(self, vmid: int) -> Entry:
        """The way into the guest as it runs now. Raises a GatewayError when no command can be run in it."""


class ContainerDriver:
    """Containers, by lxc-attach or pct."""

    def __init__(self, path: str, services: Services, guests: Guests, execs: Execs) -> None:
        """`path`: PATH in the guest."""
        self.path = path
        self.services = services
        self.guests = guests
        self.execs = execs

    def require_supported(self, spec: ExecSpec, vmid: int, *, streamed: bool) -> None:
        """It can do everything."""

    async def find(self, vmid: int) -> Entry:
        return _ContainerEntry(self, self.guests.find(vmid))


class _ContainerEntry:
    def __init__(self, driver: ContainerDriver, guest: Incarnation) -> None:
        self._driver = driver
        self._guest = guest
        self._tree: Tree | None = None

    @property
    def run(self) -> str:
        return self._guest.key

    def prepare(self, order: Order) -> None:
        if order.placement is Placement.GUEST:
            self._tree = self._guest.own_tree()
        else:
            moved = self._driver.services.launcher.tool.moves_command
            self._tree = self._guest.group.make(order.id, taken_from=self._guest.ns if moved else None)

    def check(self) -> None:
        self._driver.guests.find(self._guest.vmid)

    def undo(self) -> None:
        if self._tree is not None:
            self._tree.remove()
            self._tree.close()

    def begin(self, order: Order, spec: ExecSpec, captures: Captures) -> None:
        assert self._tree is not None
        driver, block = self._driver, spec.output.on_full is OnFull.BLOCK

        def make_streams(over_limit: Callable[[], object] | None) -> Streams:
            return Streams(driver.services.loop.io, *captures, block=block, over_limit=over_limit)

        execution = Execution(driver.services, driver.execs, order, self._guest, self._tree, make_streams)
        driver.execs.add(execution)
        term = {"TERM": spec.tty.term} if spec.tty is not None else {}
        env = {"PATH": driver.path, **term, **spec.env}
        words = build_spec(argv=spec.argv(), env=env, cwd=spec.cwd, user=spec.user, tty=spec.tty is not None)
        execution.spawn(words, spec.stdin_bytes(), stdin_open=spec.stdin_open, tty=spec.tty)


class AgentDriver:
    """Virtual machines, by their guest agents."""

    def __init__(self, loop: Loop, machines: Machines, questions: Questions, execs: Execs) -> None:
        self.io = loop.io
        self.machines = machines
        self.questions = questions
        self.execs = execs

    def require_supported(self, spec: ExecSpec, vmid: int, *, streamed: bool) -> None:
        require_supported(spec, vmid, streamed=streamed)

    async def find(self, vmid: int) -> Entry:
        machine = self.machines.require(vmid)
        try:
            await self.questions.ask(vmid, lambda agent: agent.check(vmid))
        except AgentAway as away:
            raise NodeNotReady(f"guest {vmid}'s agent: {away}; try again", missing=["resources"]) from away
        return _AgentEntry(self, machine)


class _AgentEntry:
    def __init__(self, driver: AgentDriver, machine: Machine) -> None:
        self._driver = driver
        self._machine = machine

    @property
    def run(self) -> str:
        return self._machine.key

    def prepare(self, order: Order) -> None:
        """The place of a command is inside the machine."""

    def check(self) -> None:
        if not self._machine.alive():
            self._driver.machines.require(self._machine.vmid)
            raise GuestNotRunning(f"guest {self._machine.vmid} was started anew; try again", vmid=self._machine.vmid)

    def undo(self) -> None:
        """There is nothing to take back."""

    def begin(self, order: Order, spec: ExecSpec, captures: Captures) -> None:
        driver = self._driver
        streams = Streams(driver.io, *captures, block=False, over_limit=None)
        execution = AgentExecution(driver.io, driver.questions, driver.execs, order, self._machine, streams)
        driver.execs.add(execution)
        execution.begin(spec.argv(), spec.stdin_bytes())

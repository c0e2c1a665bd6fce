"""Looking at execs: what a caller is shown of those that wait, run and have ended, and of no other's."""

from __future__ import annotations

from gateway.errors import ExecNotFound, SupervisorUnavailable
from gateway.exec.ending import Ending, render
from gateway.exec.order import GuestKind, Order
from gateway.exec.origin import Origin
from gateway.exec.view import ExecView, State
from gateway.supervisor.execs.queued import Queued
from gateway.supervisor.execs.registry import Execs, Result
from gateway.supervisor.execs.running import Running
from gateway.supervisor.guests.containers import Guests
from gateway.supervisor.guests.machines import Machines
from gateway.supervisor.output.recording import NOTHING, Recording
from gateway.supervisor.spool.life import Life
from gateway.supervisor.spool.spool import Remembered, Spool

_PAGE_READS = 100
_PAGE_CHARACTERS = 1 << 20
"""How many execs one page reads from the disk, and about how long it gets; the caller pages on from there."""

Found = Running | Queued | Life
"""An exec: at work, waiting for its place, or over."""


class Looking:
    """Finds execs for their callers."""

    def __init__(self, execs: Execs, spool: Spool, guests: Guests, machines: Machines) -> None:
        self._execs = execs
        self._spool = spool
        self._guests = guests
        self._machines = machines

    def order(self, exec_id: str, origin: Origin) -> Order:
        """The order of an exec that this caller may see. Raises ExecNotFound."""
        return self._find(exec_id, origin).order

    def get(self, exec_id: str, origin: Origin) -> ExecView:
        """The exec as it stands. Raises ExecNotFound for another token's, too."""
        return render(*_standing(self._find(exec_id, origin)))

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
                and _sees(origin, entry)
            )

        entries: list[tuple[str, Remembered | Order]] = [*self._spool.remembered().items()]
        entries += [(exec_id, waiting.order) for exec_id, waiting in self._execs.queued.items()]
        entries += [(exec_id, execution.order) for exec_id, execution in self._execs.running.items()]
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
        """What there is of an exec that this caller may see. Raises ExecNotFound, SupervisorUnavailable."""
        try:
            found = self._execs.running.get(exec_id) or self._execs.queued.get(exec_id) or self._spool.find(exec_id)
        except OSError as exc:  # not that there is none
            raise SupervisorUnavailable(
                f"how it ended cannot be read now ({exc.strerror}); try again", retry_after=1
            ) from exc
        if found is None or not _sees(origin, found.order):
            raise ExecNotFound.for_id(exec_id)
        return found


def _sees(origin: Origin, entry: Remembered | Order) -> bool:
    return origin.sees(entry.token_id, entry.vmid, terminal=entry.terminal)


def _standing(found: Found) -> tuple[Order, State, Ending | None]:
    """An exec with its state, and how it ended."""
    if isinstance(found, Life):
        return found.order, State.ENDED if found.ending else State.UNKNOWN, found.ending
    return found.order, State.QUEUED if isinstance(found, Queued) else State.RUNNING, None

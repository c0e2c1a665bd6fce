"""What a supervisor does about the execs that a killed one left behind: nothing runs unowned, no end is invented."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from gateway.exec.ending import Ending, timestamp
from gateway.exec.order import Order
from gateway.exec.spec import Placement
from gateway.exec.view import Reason
from gateway.supervisor.guests.containers import Guests
from gateway.supervisor.kernel.cgroup import ExecGroup, wait_empty
from gateway.supervisor.kernel.procfs import read_stat
from gateway.supervisor.spool.life import Life
from gateway.supervisor.spool.spool import Spool

log = logging.getLogger(__name__)

_KILL_SECONDS = 2.0


def recover(
    *,
    spool: Spool,
    guests: Guests,
    proc: Path,
    keep: set[str],
    record_outcome: Callable[[Order, Ending | None], None],
    adopt: Callable[[Order, ExecGroup], None],
    booted: bool,
) -> None:
    """Settles every exec of an earlier supervisor, those in `keep` apart, which this one has taken over.

    What still runs of an exec without an outcome is killed, and it ended as `gateway_lost`. If it had been told to
    go and nothing of it is found, nobody can know whether it ran: it stays without an ending, `unknown`. Survivors
    of ended execs are given to `adopt`. `booted`: the node has been started since; then the disk may have lost that one
    had been told to go.
    """
    groups = _groups(guests)
    for life in spool.unfinished():
        if life.order.id not in keep:
            group = groups.pop(life.order.id, None)
            try:
                _recover_one(
                    life, group, spool=spool, proc=proc, record_outcome=record_outcome, adopt=adopt, booted=booted
                )
            except Exception:  # one that cannot be settled must not keep the others from being so
                log.exception("%s cannot be settled", life.order.id)
    for exec_id, group in groups.items():
        if exec_id not in keep:
            log.warning("ended what was left of %s, of which the spool knows nothing", exec_id)
            group.kill()
            _clear(group)


def _recover_one(
    life: Life,
    group: ExecGroup | None,
    *,
    spool: Spool,
    proc: Path,
    record_outcome: Callable[[Order, Ending | None], None],
    adopt: Callable[[Order, ExecGroup], None],
    booted: bool,
) -> None:
    if life.ending is None:
        ending = _settle(life, group, proc, booted=booted)
        if ending is not None:
            spool.end_lost(life.order, ending)
        else:
            spool.end_unknown(life.order)
        record_outcome(life.order, ending)
    else:
        spool.remember(life.order.id)
        if group is not None and group.pids():
            adopt(life.order, group)
            return
        spool.survivors_gone(life.order.id)
    if group is not None:
        _clear(group)


def _settle(life: Life, group: ExecGroup | None, proc: Path, *, booted: bool) -> Ending | None:
    killed = group.kill() if group is not None else 0
    if life.order.placement is Placement.GUEST and life.pid is not None:
        killed += _kill_placed(life, proc)
    if (life.pid is not None or booted) and not killed:
        return None
    return Ending(reason=Reason.GATEWAY_LOST, exit_code=None, signal=None, ended_at=timestamp(), killed=killed)


def _kill_placed(life: Life, proc: Path) -> int:
    """Kills a command placed in the guest's own cgroup, if its pid is still the process that was told to go."""
    assert life.pid is not None
    try:
        pidfd = os.pidfd_open(life.pid)
    except OSError:
        return 0
    try:
        if read_stat(proc / str(life.pid)).start != life.start:
            return 0
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return 1
    except (OSError, ValueError):
        return 0
    finally:
        os.close(pidfd)


def _groups(guests: Guests) -> dict[str, ExecGroup]:
    """The cgroups that this instance has, by exec id. A stopped guest's are removed: they would stop its next start."""
    found: dict[str, ExecGroup] = {}
    for vmid in guests.with_instance_group():
        try:
            guest = guests.current(vmid)
        except Exception:
            log.exception("guest %d cannot be looked at; what this gateway left in it stays", vmid)
            continue
        if guest is None:
            guests.remove_leftovers(vmid)
            continue
        for name in guest.group.names():
            group = guest.group.open(name)
            if group is not None:
                found[name] = group
    return found


def _clear(group: ExecGroup) -> None:
    if not (wait_empty(Path(f"/proc/self/fd/{group.dir}"), _KILL_SECONDS) and group.remove()):
        log.error("a killed cgroup does not get empty: a process hangs in the kernel")
    group.close()

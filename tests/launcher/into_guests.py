"""Sends launchers into real containers of a simulated node, as the supervisor does."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from tests.launcher import harness
from tests.launcher.harness import Ended, Launch, Nursery, bear, finish
from tests.pvesim import guests

LXC_ATTACH = "/usr/bin/lxc-attach"
CONTAINERS = "/var/lib/lxc"
_number = itertools.count()


class Way(Enum):
    """Into a container: by LXC's library, as the supervisor goes by default; by lxc-attach, from a sealed memfd or
    from its path."""

    LIBRARY = "library"
    MEMFD = "memfd"
    PATH = "path"


@contextmanager
def launched(
    vmid: int,
    spec: bytes,
    *,
    way: Way = Way.LIBRARY,
    terminal: bool = False,
    prepare: Callable[[], None] | None = None,
) -> Iterator[tuple[Launch, Path]]:
    """Sends a launcher into a guest, in a cgroup of its own; all that is left in it is killed at the end.

    `terminal` is for a spec that asks for one.
    """
    harness.adopt_orphans(True)
    cgroup = guests.get(vmid).cgroup / f"pveg-launcher-{os.getpid()}-{next(_number)}"
    cgroup.mkdir()
    fd = harness.high(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
    process = harness.high(os.open(f"/proc/{guests.get(vmid).init_pid()}", os.O_PATH)) if terminal else None
    words = [harness.ATTACH if way is Way.MEMFD else LXC_ATTACH, "lxc-attach", "-n", str(vmid)]
    words += ["--elevated-privileges=CGROUP", "--clear-env", "--", "/proc/self/fd/5"]
    if way is Way.LIBRARY:
        words = [CONTAINERS, str(vmid)]
    attach = Path(LXC_ATTACH).read_bytes()
    nursery = Nursery.start(prepare)
    launch = bear(nursery, words, spec, cgroup=fd, attach=attach, terminal=process, library=way is Way.LIBRARY)
    os.close(fd)
    if process is not None:
        os.close(process)
    try:
        yield launch, cgroup
    finally:
        launch.close()
        harness.end_cgroup(cgroup)
        assert nursery.end() == 0
        harness.adopt_orphans(False)


def run_in(vmid: int, spec: bytes, *, terminal: bool = False, way: Way = Way.LIBRARY) -> Ended:
    """One command from spec to end, as the supervisor does it: lxc-attach is killed before 'G'."""
    with launched(vmid, spec, terminal=terminal, way=way) as (launch, _):
        attach = launch.receive().sender
        said = launch.receive()
        if said.kind != "R":
            return finish(launch, attach)
        os.kill(attach, signal.SIGKILL)
        os.waitpid(attach, 0)
        launch.go()
        return finish(launch, said.sender)

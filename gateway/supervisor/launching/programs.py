"""The programs that a launch runs, as sealed memfds: the launcher, which goes into the guest, and lxc-attach.

lxc-attach copies itself into a sealed memfd and starts anew from there, lest a guest reach the host's file through
/proc/PID/exe (CVE-2019-5736; lxc's src/lxc/rexec.c). Run from a memfd with these seals it finds that done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from gateway.config import LxcConfig

# Exactly those that lxc looks for: another set, and it copies itself all the same.
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ELF = b"\x7fELF"
_READ_AND_RUN = 0o555


def sealed_memfd(name: str, content: bytes) -> int:
    """A memfd with this content that nobody can change any more, not even the guest's root.

    Nobody but its owner may open it for writing either: seals allow that, and while it is open so, it cannot be run.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    os.fchmod(fd, _READ_AND_RUN)
    return fd


@dataclass(frozen=True)
class Images:
    """What is run for one guest. `attach` None: nothing, or by its path, for it is a script or a wrapper."""

    launcher: int
    attach: int | None
    stamp: tuple[int, int, int] | None
    """Which version of lxc-attach on the disk this is. None: LXC's library enters; the nursery sees to its version."""

    def close(self) -> None:
        for fd in (self.launcher, self.attach):
            if fd is not None:
                os.close(fd)


class Programs:
    """Makes images when they are needed, and anew when lxc has been upgraded.

    Seals protect the content, not the mode: the root of a privileged guest can `chmod 0 /proc/PID/exe` of a waiting
    command. So each run of a privileged guest has images of its own, and its root stops no commands but its own. To the
    root of an unprivileged guest they belong to nobody, and all those guests share one pair.
    """

    def __init__(self, config: LxcConfig, attach: Path | None = None, *, library: bool = False) -> None:
        """`attach` None: lxc-attach. With LXC's `library` no such file is looked at."""
        self._attach = attach or config.attach
        self._library = library
        self._launcher = config.launcher.read_bytes()
        self._shared: Images | None = None
        self._own: dict[str, Images] = {}

    def images(self, run: str, *, privileged: bool) -> Images:
        """The images for the guest's run (its incarnation's key). Raises OSError when there is no room for them."""
        stamp = None
        if not self._library:
            status = os.stat(self._attach)
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._own.get(run) if privileged else self._shared
        if known is not None and known.stamp == stamp:
            return known
        made = self._make(stamp)
        if known is not None:
            known.close()
        if privileged:
            self._own[run] = made
        else:
            self._shared = made
        return made

    def forget(self, run: str) -> None:
        """The guest's run is over."""
        images = self._own.pop(run, None)
        if images is not None:
            images.close()

    def _make(self, stamp: tuple[int, int, int] | None) -> Images:
        attach = b"" if self._library else self._attach.read_bytes()
        with contextlib.ExitStack() as undo:
            launcher = sealed_memfd("pveg-launcher", self._launcher)
            undo.callback(os.close, launcher)
            images = Images(launcher, sealed_memfd("lxc-attach", attach) if attach[:4] == _ELF else None, stamp)
            undo.pop_all()
        return images

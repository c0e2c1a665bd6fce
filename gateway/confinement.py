"""What a process gives up for good as it begins: others' look into its memory, and the way to what is uid 0 beside it.

Without a capability, uid 0 is still whom most of a node's sockets obey, and may signal whatever is uid 0. The units
take the sockets that have a path (`TemporaryFileSystem=/run`) and the numbers of others (`PrivatePIDs`); here goes what
no unit takes.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import struct
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38  # prctl(2)
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446  # the same number on every architecture
_SCOPE_ABSTRACT_UNIX_SOCKET, _SCOPE_SIGNAL = 1, 2  # linux/landlock.h
_RULESET = struct.Struct("=QQQ")  # handled_access_fs, handled_access_net, scoped

_libc = ctypes.CDLL(None, use_errno=True)


def keep_memory_private() -> None:
    """No core is dumped, and nobody without CAP_SYS_PTRACE reads or traces this process: its memory holds keys, input
    and output. A program that it executes begins anew. Raises OSError."""
    _prctl(_PR_SET_DUMPABLE, 0)


def stay_apart() -> None:
    """This process, and what it forks, reaches no abstract socket and signals no process that was there before.

    LXC listens on such sockets and does as uid 0 says. By Landlock, from Linux 6.12 on and only where it is among the
    kernel's security modules: not in PVE's kernel as it boots by default (pve-kernel, debian/rules: CONFIG_LSM). To be
    called before any thread begins. Raises OSError.
    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    scoped = _SCOPE_SIGNAL
    if not os.environ.get("NOTIFY_SOCKET", "").startswith("@"):
        scoped |= _SCOPE_ABSTRACT_UNIX_SOCKET
    attributes = _RULESET.pack(0, 0, scoped)
    rules = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    if rules < 0:
        why = os.strerror(ctypes.get_errno())
        log.info("abstract sockets stay within reach, for there is no Landlock of version 6 here: %s", why)
        return
    try:
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(rules)


def begin_as_first() -> None:
    """In a pid namespace of its own (`PrivatePIDs`) this process is number 1, for which the kernel drops every signal
    without a handler, and which systemd before 259 calls by its number outside (systemd#39575)."""
    if os.getpid() != 1:
        return
    for name in ("LISTEN_PID", "WATCHDOG_PID"):
        if name in os.environ:
            os.environ[name] = "1"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

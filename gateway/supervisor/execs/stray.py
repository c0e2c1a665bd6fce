"""Whether a command that died of a signal which nobody here sent has died with its guest."""

from __future__ import annotations

import signal

from gateway.supervisor.guests.containers import Incarnation

LOOK_SECONDS = 0.05
"""Between two looks at the guest: a hard stop kills the command before its init."""
_SHUTDOWN = 2.5
"""Seconds for which such looks go on while init seems to shut down: busybox' lives 2 s past the TERM it sends."""
_WRITE_BACK = 30.0
"""And how long its sync(2) may take in between, before those begin anew."""
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


def may_be_stray(wait_status: int) -> bool:
    """Whether it died of a signal that a guest's end brings to all in it."""
    return wait_status & 0x7F in _SIGNALS


class StraySignal:
    """One such death. Times are by the monotonic clock."""

    def __init__(self, guest: Incarnation, died: float) -> None:
        self._guest = guest
        self._died = died
        self._until = died + _SHUTDOWN

    def ended_the_guest(self, now: float) -> bool | None:
        """True: the guest ends, too. False: it goes on. None: it may be about to, or cannot be seen; look again."""
        stopping = self._guest.stopping()
        if stopping is not False:
            return stopping
        if now < self._died + _WRITE_BACK and self._guest.writes_back():
            self._until = now + _SHUTDOWN
        undecided = now < self._died + LOOK_SECONDS or (now < self._until and self._guest.seems_to_shut_down())
        return None if undecided else False

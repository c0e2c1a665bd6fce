"""Watchdog: no client keeps a thread inside of OpenSSL, and none makes it work there for nothing again and again.

OpenSSL reads on within one call while there is something to read, none of it is data, and all of it is allowed: TLS
1.3's key updates, 27 bytes each, or TLS 1.2's requests to renegotiate, which it refuses one by one (ssl3_read_bytes in
ssl/record/rec_layer_s3.c goes back to its `start`: Python sets SSL_MODE_AUTO_RETRY, and has no way to unset it). Who
sends two megabytes of them a second is not outrun. A call that takes too long is ended by giving it another descriptor
to read from: one at its end. shutdown(2) would not do, for what has come, and what comes, could still be read.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from typing import Any

from gateway.web.burdens import Burdens
from gateway.web.threads import begin_thread

LOOK_SECONDS = 0.01
"""How often the calls under way are looked at."""
MAX_CALL_SECONDS = 0.05
"""Of its thread's processor time, from the first look on: how busy the machine is makes no difference, but what a
hypervisor takes away may count. A record takes 20 us."""
CUT_SECONDS = 0.15
"""What a call that was cut counts for at least: the third in a row is one too many (`burdens`), the first may have had
bad luck."""
USUAL_SECONDS = 0.001
"""Whatever takes more than this is its address' burden. A request takes five times as much."""

_REST_LOOKS = 5
"""After so many looks that saw nothing it sleeps until the next call."""


class Watchdog:
    """Looks after all calls of a worker into OpenSSL that read, on whatever thread; starts with the first of them."""

    def __init__(self, burdens: Burdens, *, look_s: float = LOOK_SECONDS) -> None:
        self._burdens = burdens
        self._look_s = look_s
        self._calls: dict[Call, None] = {}
        """Who takes a call out of this has it: its own thread at the end, or else the watchdog, in `_cutting`. So the
        descriptor is the call's still when it is replaced: until its own thread has been here, nobody closes it."""
        self._cutting = threading.Lock()
        self._resting = True
        self._called = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._thread_clock = _ThreadClock()
        self._ended, theirs = socket.socketpair()
        theirs.close()

    def begin(self, sock: WatchedSocket) -> Call:
        """The calling thread is about to read. Raises ConnectionAbortedError if its address is held off."""
        if self._burdens.holds(sock.address):
            raise ConnectionAbortedError("its address is held off")
        call = Call(sock, self._thread_clock.number)
        self._calls[call] = None
        if self._resting:
            self._rouse()
        return call

    def end(self, call: Call, usual: float) -> None:
        """It has read. Raises ConnectionAbortedError if that took too long."""
        spent = time.thread_time() - call.began
        if self._calls.pop(call, _CUT) is _CUT:
            with self._cutting:
                pass  # the descriptor has been replaced by now
            self._burdens.charge(call.sock.address, max(spent, CUT_SECONDS))
        elif spent <= usual or not self._burdens.charge(call.sock.address, spent):
            return
        raise ConnectionAbortedError("it keeps us busy with nothing")

    def _rouse(self) -> None:
        self._called.set()
        with self._starting:
            if self._thread is None:
                self._thread = begin_thread("watchdog", self._run)  # or else at the next call

    # The watchdog's thread

    def _run(self) -> None:
        while True:
            self._resting = True
            if not self._calls:  # looked at after `_resting` is set, as `begin` does it the other way round
                self._called.wait()
            self._resting = False
            self._called.clear()
            empty = 0
            while empty < _REST_LOOKS:
                time.sleep(self._look_s)
                empty = 0 if self._look() else empty + 1

    def _look(self) -> bool:
        calls = list(self._calls)
        for call in calls:
            try:
                now = time.clock_gettime(call.clock)
            except OSError:  # its thread has ended
                continue
            if call.seen is None:
                call.seen = now
            elif now - call.seen >= call.sock.most:
                self._cut(call)
        return bool(calls)

    def _cut(self, call: Call) -> None:
        with self._cutting:
            if self._calls.pop(call, _CUT) is not _CUT and call.sock.fileno() >= 0:
                os.dup2(self._ended.fileno(), call.sock.fileno(), inheritable=False)


class WatchedSocket(ssl.SSLSocket):
    """A server's TLS socket whose reads are the watchdog's to end, once `watch` was called.

    They raise ConnectionAbortedError then. Writes need no watching: each is one record, and reads one message at most.
    """

    _watchdog: Watchdog | None = None
    _handshake = 0.0
    address = ""
    """Who is to blame, as limits per address count (`connection.counted_address`)."""
    most = MAX_CALL_SECONDS

    def watch(self, watchdog: Watchdog, address: str, *, handshake_s: float) -> None:
        """From now on; `handshake_s` is what processor time a handshake may usually take."""
        self._watchdog = watchdog
        self._handshake = handshake_s
        self.address = address
        self.most = max(MAX_CALL_SECONDS, handshake_s)

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # SSLSocket's
        if self._watchdog is None:
            return super().read(len, buffer)
        call = self._watchdog.begin(self)
        try:
            return super().read(len, buffer)
        finally:
            self._watchdog.end(call, USUAL_SECONDS)

    def do_handshake(self, block: bool = False) -> None:
        if self._watchdog is None:
            super().do_handshake(block)
            return
        call = self._watchdog.begin(self)
        try:
            super().do_handshake(block)
        finally:
            self._watchdog.end(call, self._handshake)

    def unwrap(self) -> socket.socket:
        if self._watchdog is None:
            return super().unwrap()
        call = self._watchdog.begin(self)
        try:
            return super().unwrap()
        finally:
            self._watchdog.end(call, USUAL_SECONDS)


class Call:
    """One call into OpenSSL, on the thread that makes this."""

    __slots__ = ("began", "clock", "seen", "sock")

    def __init__(self, sock: WatchedSocket, clock: int) -> None:
        self.sock = sock
        self.clock = clock
        """Its thread's, of processor time."""
        self.seen: float | None = None
        """What the clock showed when the watchdog first saw it."""
        self.began = time.thread_time()


class _ThreadClock(threading.local):
    """Each thread's clock of processor time, to be read by others."""

    def __init__(self) -> None:
        self.number = time.pthread_getcpuclockid(threading.get_ident())


_CUT = object()

"""Pump: one thread that carries all live replies of a worker from where their bytes come from to their clients."""

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable

from gateway.errors import ClientGone, GatewayError
from gateway.web import tcp
from gateway.web.connection import Connection, Next
from gateway.web.flow import Flow, Turn
from gateway.web.remainder import MAX_REMAINDERS, Remainders

CHECK_SECONDS = 5.0
STOP_SECONDS = 2.0
CUT_SECONDS = 1.0
"""How long the reader of a reply that is to be cut may take for what had come."""
MAX_HELD_BYTES = 256 << 20
"""What may wait for slow clients of live replies, all together: a sixth of what as many as there may be could hold."""

_SHORTEST_SLEEP = 0.01
_LONGEST_SLEEP = 30.0
"""A sleeper is looked at this often, so that of one that has ended no entry stays for longer."""
_CLIENT = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_SOURCE = select.EPOLLIN | select.EPOLLONESHOT


class Pump:
    """Gives turns: each flow that can go on reads and writes, at most 256 KiB, then comes the next one.

    A flow asks its Live for bytes only when its socket has taken all earlier ones, so a slow client costs one piece,
    what the Live has asked for meanwhile (`Live.take_in`) and what the kernel holds (`tcp.UNSENT_BYTES`).
    `done(connection, step)`, called on the pump's thread, gets back the connection of a complete reply: with Next.READ
    if it takes another request, else with Next.GONE to be closed properly. Any other end closes it here: a client that
    left, a Live that raised, `stop`. The thread starts with the first flow. Of Remainders there may be `remainders`
    more, of which the slowest makes room for the next.
    """

    def __init__(
        self,
        *,
        limit: int,
        log: logging.Logger,
        done: Callable[[Connection, Next], None],
        remainders: int = MAX_REMAINDERS,
    ) -> None:
        self._limit = limit
        self._remainders = Remainders(remainders)
        self._log = log
        self._done = done
        self._arrived: deque[Flow] = deque()
        self._flows: dict[int, Flow] = {}
        self._numbers = itertools.count(1)
        self._by_fd: dict[int, Flow] = {}
        self._queue: deque[Flow] = deque()
        self._timers: list[tuple[float, int]] = []
        self._next_check = 0.0
        self._held = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._finishing = False
        self._told = False
        self._stopping = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """The replies under way; one that is `done` counts until it has been given back."""
        return len(self._flows) + len(self._arrived)

    def has_room(self) -> bool:
        """Whether another reply may begin. As many too many may begin as threads ask at the same moment."""
        return len(self) - len(self._remainders) < self._limit

    def take(self, flow: Flow) -> None:
        """Carry a reply from now on; called by one thread, not the pump's."""
        self._arrived.append(flow)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pump", daemon=True)
            self._thread.start()
        os.eventfd_write(self._wake, 1)

    def finish(self) -> None:
        """The worker ends: have all end soon, `stop`ped Lives and cut ones, those that are yet to come too."""
        self._finishing = True
        os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Cut what is not complete. No Live is told that its client has left, for that is not so."""
        self._stopping = True
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(STOP_SECONDS)

    # The pump's thread

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        except Exception:
            # Its clients would wait for ever. A worker may die at any time: nothing is lost, another one comes.
            self._log.exception("the pump has a fault: its worker ends")
            os._exit(1)
        self._admit()
        for flow in tuple(self._flows.values()):
            self._cut(flow)

    def _round(self) -> None:
        for fd, events in self._epoll.poll(self._timeout()):
            if fd == self._wake:
                os.eventfd_read(fd)
            elif (flow := self._by_fd.get(fd)) is not None:
                self._notice(flow, fd, events)
        self._admit()
        now = time.monotonic()
        if self._finishing:
            self._stop_lives(now)
        self._wake_sleepers(now)
        for _ in range(len(self._queue)):
            flow = self._queue.popleft()
            flow.queued = False
            if flow.number in self._flows:
                self._turn(flow, now)
                self._relieve()
        if now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            self._check(now)

    def _timeout(self) -> float | None:
        if self._queue:
            return 0
        if not self._flows:
            return None
        due = self._next_check
        if self._timers:
            due = min(due, self._timers[0][0])
        return max(0.0, due - time.monotonic())

    def _admit(self) -> None:
        while self._arrived:
            flow = self._arrived[0]
            flow.number = next(self._numbers)
            self._flows[flow.number] = flow
            if flow.remains:
                self._remainders.add(flow)
            self._arrived.popleft()
            try:
                flow.sock.settimeout(0)
                tcp.begin_stream(flow.sock)
                self._epoll.register(flow.fd, _CLIENT)
            except OSError:
                self._lose(flow)
                continue
            self._by_fd[flow.fd] = flow
            self._enqueue(flow)
        while (surplus := self._remainders.surplus()) is not None:
            self._cut(surplus)

    def _stop_lives(self, now: float) -> None:
        if not self._told:
            self._told = True
            self._next_check = now + CUT_SECONDS
        for flow in [flow for flow in self._flows.values() if flow.cutting is None]:
            try:
                flow.cutting = not flow.live.stop()
            except Exception:
                self._log.exception("a live reply did not stop")
                flow.cutting = True
            self._enqueue(flow)

    def _notice(self, flow: Flow, fd: int, events: int) -> None:
        if fd == flow.fd:
            try:
                flow.notice(events)
            except ClientGone:
                self._lose(flow)
                return
        else:
            flow.stir()
        self._enqueue(flow)

    def _enqueue(self, flow: Flow) -> None:
        if not flow.queued:
            flow.queued = True
            self._queue.append(flow)

    def _turn(self, flow: Flow, now: float) -> None:
        held = flow.held
        try:
            try:
                turn = flow.advance()
            finally:
                self._held += 0 if flow.remains else flow.held - held
            if turn is Turn.IDLE or (turn is Turn.BLOCKED and flow.watches_blocked):
                self._watch_sources(flow)
            if turn is Turn.IDLE:
                self._sleep(flow, flow.live.wake_at(), now)
        except ClientGone:
            self._lose(flow)
        except GatewayError as error:
            self._log.warning("%s: its live reply is cut: %s: %s", flow.live.caller, error.code, error.detail)
            self._cut(flow)
        except Exception:
            self._log.exception("%s: its live reply is cut for a fault of ours", flow.live.caller)
            self._cut(flow)
        else:
            if flow.cutting and flow.flushed and turn is not Turn.COMPLETE:
                self._cut(flow)
            elif turn is Turn.AGAIN:
                self._enqueue(flow)
            elif turn is Turn.COMPLETE:
                self._complete(flow)

    def _relieve(self) -> None:
        """Cut the client that has taken nothing for the longest time, where too much waits; it can go on later."""
        while self._held > MAX_HELD_BYTES:
            slowest = min(
                (flow for flow in self._flows.values() if flow.held and not flow.remains),
                key=lambda flow: flow.moved_at,
            )
            caller = slowest.live.caller
            self._log.warning("%s: its live reply is cut: its client is the slowest, and too much waits", caller)
            self._cut(slowest)

    def _watch_sources(self, flow: Flow) -> None:
        """Have the flow woken, once, when one of what its Live waits for now is readable."""
        sources = flow.live.sources()
        for fd in flow.sources:
            if fd not in sources:
                self._forget(fd, flow)
        flow.sources = sources
        for fd in sources:
            try:
                self._epoll.modify(fd, _SOURCE)
            except FileNotFoundError:  # new, or another under an old number
                self._epoll.register(fd, _SOURCE)
            self._by_fd[fd] = flow

    def _forget(self, fd: int, flow: Flow) -> None:
        if self._by_fd.get(fd) is flow:  # not another's by now
            del self._by_fd[fd]
            with contextlib.suppress(OSError, ValueError):  # closed already
                self._epoll.unregister(fd)

    def _sleep(self, flow: Flow, wake: float, now: float) -> None:
        flow.wake = max(wake, now + _SHORTEST_SLEEP)
        when = min(flow.wake, now + _LONGEST_SLEEP)
        if when < flow.timer:
            flow.timer = when
            heapq.heappush(self._timers, (when, flow.number))

    def _wake_sleepers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            when, number = heapq.heappop(self._timers)
            flow = self._flows.get(number)
            if flow is None or when != flow.timer:  # it has ended, or been looked at earlier
                continue
            flow.timer = float("inf")
            if flow.wake <= now:
                self._enqueue(flow)
            else:
                self._sleep(flow, flow.wake, now)

    def _check(self, now: float) -> None:
        for flow in tuple(self._flows.values()):
            if flow.cutting:
                self._cut(flow)
                continue
            try:
                flow.check(now)
            except ClientGone:
                self._lose(flow)

    # The ends

    def _complete(self, flow: Flow) -> None:
        self._release(flow)
        with contextlib.suppress(OSError):
            tcp.end_stream(flow.sock)
        self._done(flow.connection, Next.READ if flow.keep else Next.GONE)
        del self._flows[flow.number]

    def _lose(self, flow: Flow) -> None:
        try:
            flow.live.gone()
        except Exception:
            self._log.exception("a live reply did not take its client's leaving")
        self._cut(flow)

    def _cut(self, flow: Flow) -> None:
        self._release(flow)
        with contextlib.suppress(OSError):
            flow.cut()
        del self._flows[flow.number]

    def _release(self, flow: Flow) -> None:
        self._held -= 0 if flow.remains else flow.held
        self._remainders.remove(flow)
        for fd in (flow.fd, *flow.sources):
            self._forget(fd, flow)
        try:
            flow.live.close()
        except Exception:
            self._log.exception("a live reply did not close")

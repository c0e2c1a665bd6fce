"""Worker: gunicorn's worker process, in which no thread ever waits for a client that is not done talking.

One thread, the poller, accepts, does TLS handshakes and reads requests without blocking, and holds all
connections that have no complete request. A complete request goes to the answer lane's threads; one
whose body is large or of unknown length to the upload lane's, which are fewer. A reply that comes as things
happen is the pump's. After another one a thread stays with its connection for some milliseconds, for busy
clients send the next request at once.
"""

import contextlib
import gc
import os
import resource
import select
import signal
import time
from collections import deque

from gunicorn.workers.base import Worker as BaseWorker

from gateway.errors import ClientGone
from gateway.memory import return_large_blocks
from gateway.notify import READY, notify
from gateway.web import refusal, tcp
from gateway.web.arrivals import LOOK_SECONDS, Arrival, Arrivals
from gateway.web.burdens import HOLD_SECONDS, Burdens
from gateway.web.connection import REPLY_SECONDS, Connection, Next, Phase, counted_address
from gateway.web.crowd import Crowd
from gateway.web.exchange import Exchange
from gateway.web.flow import Flow
from gateway.web.lane import Lane
from gateway.web.lingering import Lingering
from gateway.web.pump import Pump
from gateway.web.refusal import Refusal, RefusalLog
from gateway.web.remainder import MAX_REMAINDERS
from gateway.web.settings import WebSettings
from gateway.web.tls import ServerTls
from gateway.web.watchdog import Watchdog

LINGER_SECONDS = 0.02
STOP_IDLE_SECONDS = 1.0
"""A stopping worker still answers what clients send on their open connections within this time."""
STOP_WAITS_SECONDS = 2.0
"""After this time requests that wait, for a command or for their body, are told to end."""
STOP_SECONDS = 5.0
"""After this time a stopping worker ends, whatever is still under way."""
END_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))
TICK_SECONDS = 0.5
STOP_TICK_SECONDS = 0.05
HELD_LINES = 10
FILES_PER_STREAM = 4

_READ = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
_WRITE = select.EPOLLOUT | select.EPOLLONESHOT


class Worker(BaseWorker):  # type: ignore[misc]  # gunicorn has no types
    """Relies on gunicorn's documented worker life (init_process, run, notify, alive, sockets, wsgi), on
    its HTTP parser and on its WSGI reply; `tests/web/test_gunicorn.py` holds what it needs of them."""

    def run(self) -> None:
        """Serve until told to stop, then let what has begun end, for STOP_SECONDS at most."""
        return_large_blocks()
        settings: WebSettings = self.app.settings
        self._settings = settings
        self._tls: ServerTls | None = self.app.tls
        files = _raise_file_limit()
        streams = min(settings.max_streams, files // 2 // FILES_PER_STREAM)
        remainders = min(MAX_REMAINDERS, files // 8)
        self._refusals = RefusalLog(self.log, self.app.count_refusal)
        self._ending = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pump = Pump(limit=streams, log=self.log, done=self._give_back, remainders=remainders)
        self._exchange = Exchange(
            self.cfg, self.wsgi, self.log, settings=settings, has_room=self._pump.has_room, ending=self._ending
        )
        uploads = max(1, settings.threads // 4)
        self._answers = self._make_lane("answer", settings.threads)
        self._uploads = self._make_lane("upload", uploads)
        files -= streams * FILES_PER_STREAM + remainders
        room = min(settings.max_half_open, files // 4)
        self._crowd = Crowd(settings, files=files - room)
        self._burdens = Burdens(self.app.burdens)
        self._watchdog = Watchdog(self._burdens)
        self._arrivals = Arrivals(
            self.app.arrivals,
            settings.connections_per_address,
            burdens=self._burdens,
            room=room,
            patience_s=settings.handshake_s,
        )
        self._lingering = Lingering(time.monotonic())
        self._returned: deque[tuple[Connection, Next | Flow]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self.PIPE[0], select.EPOLLIN)  # gunicorn's: a signal came
        self._listeners = {listener.fileno(): listener for listener in self.sockets}
        self._names = {fd: listener.getsockname()[:2] for fd, listener in self._listeners.items()}
        for listener in self.sockets:
            listener.setblocking(False)
        self._accepting = False
        self._next_tick = 0.0
        self._accept_from(True)
        gc.collect()
        gc.freeze()  # what is here now stays: no collection needs to look at it again
        if self._tls is not None:
            self._tls.follow()
        self.app.begin(self.wsgi)
        notify(READY)
        while self.alive:
            self._turn()
        self._finish()

    def _make_lane(self, name: str, size: int) -> Lane[Connection, Next | Flow]:
        return Lane(name, size=size, backlog=4 * size, work=self._serve, done=self._give_back)

    def init_signals(self) -> None:
        """From here on a signal is heard; one that came since the fork is pending (`server.Master`)."""
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)

    # The poller's thread

    def _turn(self, tick: float = TICK_SECONDS) -> None:
        now = time.monotonic()
        sleep = min(tick, self._next_tick - now, LOOK_SECONDS if self._arrivals else tick)
        for fd, _ in self._epoll.poll(max(0.0, sleep)):
            now = time.monotonic()
            if fd in self._listeners:
                self._accept(fd, now)
            elif fd == self._wake:
                os.eventfd_read(fd)
            elif fd == self.PIPE[0]:
                os.read(fd, 4096)
            elif (connection := self._crowd.get(fd)) is not None:
                self._step(connection, now)
        while self._returned:
            self._take_back(*self._returned.popleft(), time.monotonic())
        if self._arrivals:
            for arrival in self._arrivals.due(now):
                self._begin(arrival, now)
        if now >= self._next_tick:
            self._next_tick = now + tick
            self._tick(now)

    def _accept(self, listener: int, now: float) -> None:
        for _ in range(64):  # then the others' turn
            if self._crowd.full and self._crowd.most_dispensable() is None:
                self._accept_from(False)  # threads have them all: the next tick looks again
                return
            try:
                sock, client = self._listeners[listener].accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptors or memory left: the next tick tries again
                self.log.error("cannot accept: %s", error.strerror)
                self._accept_from(False)
                return
            arrival = Arrival(sock, client[:2], listener, counted_address(client[0], self._settings), now)
            if self._arrivals.admit(arrival):
                self._begin(arrival, now)

    def _begin(self, arrival: Arrival, now: float) -> None:
        sock = arrival.sock
        try:
            sock.setblocking(False)
            tcp.watch(sock)
            if self._tls is not None:
                sock = self._tls.secure(sock, self._watchdog, arrival.key)
            connection = Connection(sock, arrival.client, self._names[arrival.listener], self._settings, now)
        except OSError:  # it left already
            sock.close()
            return
        # Only now: nobody goes for a client that has not come.
        while self._crowd.full and (victim := self._crowd.most_dispensable()) is not None:
            self._drop(victim)
        self._crowd.hold(connection)
        self._step(connection, now)

    def _accept_from(self, enabled: bool) -> None:
        if enabled == self._accepting:
            return
        self._accepting = enabled
        for fd in self._listeners:
            if enabled:
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            else:
                self._epoll.unregister(fd)

    def _step(self, connection: Connection, now: float) -> None:
        """Take a connection as far as it goes; nothing that a client does may end the poller."""
        try:
            closing = connection.phase is Phase.CLOSING
            step = connection.linger(self._lingering, now) if closing else connection.advance(now)
            self._place(connection, step, now)
        except Refusal as no:
            self._refuse(connection, no, now)
        except Exception:
            self.log.exception("a connection is dropped for a fault of ours")
            self._drop(connection)

    def _place(self, connection: Connection, step: Next, now: float) -> None:
        if step is Next.GONE:
            self._drop(connection)
        elif step in (Next.READ, Next.WRITE):
            self._crowd.hold(connection)
            events = _READ if step is Next.READ else _WRITE
            if connection.polled:
                self._epoll.modify(connection.fd, events)
            else:
                self._epoll.register(connection.fd, events)
                connection.polled = True
        else:
            self._crowd.release(connection)
            connection.phase = Phase.ANSWERING
            lane = self._answers if step is Next.ANSWER else self._uploads
            if not lane.submit(connection):
                self._crowd.take_back()
                raise refusal.overloaded()

    def _take_back(self, connection: Connection, step: Next | Flow, now: float) -> None:
        if connection.phase is Phase.STREAMING:
            connection.rest(now)
        else:
            self._crowd.take_back()
        if isinstance(step, Flow):
            connection.phase = Phase.STREAMING
            self._pump.take(step)
            return
        if connection.sock.fileno() < 0:  # a handler that had taken it over has closed it
            return
        connection.sock.settimeout(0)
        if step is Next.GONE:
            connection.end(now)
        if step is Next.WRITE:
            self._place(connection, step, now)
        else:
            self._step(connection, now)

    def _refuse(self, connection: Connection, no: Refusal, now: float) -> None:
        self._tell(connection, no)
        connection.end(now)
        self._step(connection, now)

    def _drop(self, connection: Connection) -> None:
        self._crowd.forget(connection)
        with contextlib.suppress(OSError):
            connection.sock.close()

    def _tick(self, now: float) -> None:
        self.notify()
        self._sum_up()
        for connection in self._crowd.expired(now):
            if connection.spoke:
                self._refuse(connection, refusal.too_slow(connection.phase.name.lower()), now)
            else:
                self._drop(connection)
        for connection in self._crowd.crowding(now):
            self._drop(connection)
        if self.ppid != os.getppid():
            self.log.warning("the master process is gone: stopping")
            self.alive = False
        self._accept_from(self.alive)

    def _finish(self) -> None:
        now = time.monotonic()
        for listener in self._listeners if self._accepting else ():
            self._accept(listener, now)  # whom the kernel has let in already
        self._accept_from(False)
        for arrival in self._arrivals.all():
            self._begin(arrival, now)
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()
        self._pump.finish()
        began, self._next_tick = now, 0.0
        while (len(self._crowd) or len(self._pump) or self._returned) and now < began + STOP_SECONDS:
            self._crowd.hurry(began + STOP_IDLE_SECONDS)
            self._turn(STOP_TICK_SECONDS)
            now = time.monotonic()
            if now >= began + STOP_WAITS_SECONDS:
                os.eventfd_write(self._ending, 1)
        self._pump.stop()
        self._sum_up()

    def _sum_up(self) -> None:
        self._refusals.sum_up()
        if closed := self._arrivals.count_closed():
            self.log.info("closed %d connections of addresses that open too many a second", closed)
        held = self._burdens.take_news()
        for address in held[:HELD_LINES]:
            self.log.warning("%s is held off for %d s: its TLS kept us busy with nothing", address, HOLD_SECONDS)
        if len(held) > HELD_LINES:
            self.log.warning("so are %d more addresses", len(held) - HELD_LINES)

    # The lanes' threads

    def _serve(self, connection: Connection) -> Next | Flow:
        try:
            return self._serve_while_busy(connection)
        except Exception:
            self.log.exception("a connection is closed for a fault of ours")
            return Next.GONE

    def _give_back(self, connection: Connection, step: Next | Flow) -> None:
        self._returned.append((connection, step))
        os.eventfd_write(self._wake, 1)

    def _serve_while_busy(self, connection: Connection) -> Next | Flow:
        while True:
            try:
                connection.sock.settimeout(REPLY_SECONDS)
                uploaded = connection.lane is Next.UPLOAD
                answered = self._exchange.answer(connection, last=not self.alive)
                if answered is not Next.READ:
                    return answered
                now = time.monotonic()
                connection.rest(now)
                if uploaded:
                    return Next.READ
                if not connection.writable():
                    connection.wait_until_read(now)
                    return Next.WRITE
                step = connection.frame(now)
                if step is Next.READ and self._answers.roomy and self.alive:
                    connection.sock.settimeout(LINGER_SECONDS)
                    step = connection.receive()
                if step is not Next.ANSWER or self._answers.waiting:
                    return step
            except ClientGone:
                return Next.GONE
            except Refusal as no:
                self._tell(connection, no)
                return Next.GONE

    def _tell(self, connection: Connection, no: Refusal) -> None:
        self._refusals.note(connection.client[0], no)
        connection.say(no.encode(self.app.cors(self.wsgi, {"HTTP_ORIGIN": connection.origin})))


def _raise_file_limit() -> int:
    """Take as many descriptors as we may have: the soft limit is low for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

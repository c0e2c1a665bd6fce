"""serve(): gunicorn's master process, in this process, with our worker and no configuration files."""

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from gateway.notify import ALIVE, alive_every, notify, reloading
from gateway.rates import Rates
from gateway.web.burdens import BURST_MS
from gateway.web.settings import WebSettings
from gateway.web.tls import ServerTls
from gateway.web.worker import END_SIGNALS, Worker

Wsgi = Callable[..., Any]
Cors = Callable[[Any, Mapping[str, Any]], Mapping[str, str]]
"""Asked with the application and a WSGI environment of which Origin (HTTP_ORIGIN) alone is known."""

GRACEFUL_SECONDS = 10
"""The master's patience with a worker, which ends by itself after STOP_SECONDS."""
_FIRST_LISTEN_FD = 3  # sd_listen_fds(3)


def serve(
    app_factory: Callable[[], Wsgi],
    settings: WebSettings,
    *,
    begin: Callable[[Any], None] = lambda app: None,
    count_refusal: Callable[[int], object] = lambda status: None,
    cors: Cors = lambda app, environ: {},
) -> None:
    """Serve until SIGTERM; does not return, but raises SystemExit.

    `app_factory` makes the WSGI application. It runs before the workers are forked, and again on SIGHUP (if it raises
    then, the old one stays), so it may neither start threads nor open connections: that is for `begin`, which is called
    with the application in every worker. Takes systemd's sockets in place of `settings.listen` if there are any.
    SIGTERM and SIGHUP let begun requests end, for 5 s at most; live replies that would go on are cut, to be resumed.
    `count_refusal` is told, in the workers, the status of each request that the edge refuses by itself; `cors` tells
    what such a reply adds for the page that asked. Workers send READY=1 themselves: the unit needs `NotifyAccess=all`.

    Raises ValueError if the certificate cannot be loaded, or if without TLS a socket of systemd's is
    bound to anything but a loopback address.
    """
    for host in _inherited_hosts():
        settings.check_address(host)
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        tls = ServerTls(settings.tls_cert, settings.tls_key)
    # gunicorn's master would say READY=1 before any worker accepts.
    notify_socket = os.environ.pop("NOTIFY_SOCKET", None)
    Master(_Application(app_factory, settings, tls, notify_socket, begin, count_refusal, cors)).run()


class Master(Arbiter):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's master, of whose workers none misses its end.

    A worker has the master's handlers until it sets its own: a SIGTERM between would be the master's, and lost.
    """

    def __init__(self, app: BaseApplication) -> None:
        self._alive_every = alive_every()
        self._said_alive = 0.0
        super().__init__(app)

    def spawn_worker(self) -> Any:
        """Fork a worker, with the signals that end it held back; in the worker this does not return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, END_SIGNALS)
        try:
            return super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, END_SIGNALS)

    def reload(self) -> None:
        """On SIGHUP; a worker of the new ones says when it is over."""
        notify(reloading(), to=self.app.notify_socket)
        super().reload()

    def murder_workers(self) -> None:
        """Each second, from the master's loop: a worker that hangs is ended, and the master says that it does not."""
        super().murder_workers()
        if self._alive_every is not None and time.monotonic() - self._said_alive >= self._alive_every / 2:
            self._said_alive = time.monotonic()
            notify(ALIVE, to=self.app.notify_socket)


class Log(Logger):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's, whose words go where those of this process go, if it has said where."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        if logging.getLogger().handlers:
            self.error_log.handlers.clear()
            self.error_log.propagate = True


class _Application(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """What gunicorn asks for; worker and master find settings, TLS and the service manager here."""

    def __init__(
        self,
        app_factory: Callable[[], Wsgi],
        settings: WebSettings,
        tls: ServerTls | None,
        notify_socket: str | None,
        begin: Callable[[Any], None],
        count_refusal: Callable[[int], object],
        cors: Cors,
    ) -> None:
        self.settings = settings
        self.tls = tls
        self.begin = begin
        self.count_refusal = count_refusal
        self.cors = cors
        self.arrivals = Rates()  # of all workers, which are forked later
        self.burdens = Rates(BURST_MS)
        self._app_factory = app_factory
        self.notify_socket = notify_socket
        super().__init__()

    def load_config(self) -> None:
        for name, value in _configuration(self.settings).items():
            if name in self.cfg.settings:  # gunicorn 23 has fewer
                self.cfg.set(name, value)
        self.cfg.set("post_fork", self._post_fork)

    def load(self) -> Wsgi:
        made = self._app_factory()
        _settle()
        return made

    def reload(self) -> None:
        """On SIGHUP, in the master: a factory that fails now must not end what serves well."""
        try:
            self.callable = self._app_factory()
        except Exception:
            logging.getLogger("gunicorn.error").exception("cannot reload: keeping the application in use")
        _settle()
        super().reload()

    def _post_fork(self, _arbiter: Any, _worker: Any) -> None:
        if self.notify_socket is not None:
            os.environ["NOTIFY_SOCKET"] = self.notify_socket


def _settle() -> None:
    """What the master has loaded stays, and workers share it: a collection writes to every object that it looks at, and
    by that gives who was forked a copy of it."""
    gc.unfreeze()  # an application that a reload has replaced
    gc.collect()
    gc.freeze()


def _configuration(settings: WebSettings) -> dict[str, Any]:
    host, port = settings.listen
    shared_memory = "/dev/shm"
    return {
        "bind": f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        "backlog": 2048,
        "worker_class": Worker,
        "logger_class": Log,
        "workers": settings.workers,
        "threads": settings.threads,
        "keepalive": max(1, int(settings.keepalive_s)),
        "graceful_timeout": GRACEFUL_SECONDS,
        "preload_app": True,  # one copy of the application in memory, and a reload without a pause
        # Its heartbeat file must not be on a disk: a disk that hangs would hang the worker.
        "worker_tmp_dir": shared_memory if os.access(shared_memory, os.W_OK) else None,
        "certfile": settings.tls_cert and str(settings.tls_cert),  # ours loads them; this says https
        "keyfile": settings.tls_key and str(settings.tls_key),
        "limit_request_line": 8190,
        "limit_request_fields": 64,
        "limit_request_field_size": 16 * 1024,
        "sendfile": False,  # the reply writer is no socket
        # Nobody in front of us is believed.
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "forwarder_headers": "",
        "proxy_allow_ips": "",
        "control_socket_disable": True,
    }


def _inherited_hosts() -> Iterator[str]:
    """The addresses of the sockets that systemd gave us, by the rules of sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return
    for fd in range(_FIRST_LISTEN_FD, _FIRST_LISTEN_FD + int(os.environ.get("LISTEN_FDS", "0"))):
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
                raise ValueError("listen: the inherited socket is not a TCP socket")
            yield sock.getsockname()[0]

"""The gateway's three services in a node, started in the order and the way systemd would start them.

    with Services(tmp_path) as services:
        token = services.create_token(actions="exec:run", guests="101")
        services.wait_ready()  # a gateway is ready once it has the keys that the first token brings

`start` and what follows it run in a node; `wait_ready` and `create_token` also on its host, where the listening
socket is the host's: all files are in `state`, a directory that both see. Standard library only.
"""

import contextlib
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

REPOSITORY = Path(__file__).parents[2]
COMMANDS = {"audit": "audit-writer", "supervisor": "supervise", "web": "serve"}

_CLUSTER_CA = Path("/etc/pve/pve-root-ca.pem")
_START_SECONDS = 30.0  # a busy two-core CI machine; half a second on an idle one
_COMMAND_SECONDS = 120.0  # `setup` starts pvesh a dozen times: more than 30 s where ten suites share two cores
_STOP_SECONDS = 40.0  # a web service waits 30 s for what it has begun
_POLL_SECONDS = 0.005
_LONGEST_SOCKET_PATH = 107  # sun_path holds 108 bytes, the last one NUL (unix(7))

Settings = Mapping[str, Mapping[str, Any]]


class ServicesError(Exception):
    """A service did not start, stop or answer; the message ends with what it logged."""


class Services:
    """One gateway: its configuration, its files below `state`, and its processes, by the names of COMMANDS.

    `python` runs them. `listener` is the web service's listening socket, as a .socket unit's; without it a free
    port of 127.0.0.1 is taken. `settings` go over the configuration made here, section by section; a second
    gateway in one node needs a `supervisor.instance` of its own. `environment` is added to the processes'.
    """

    def __init__(
        self,
        state: Path,
        *,
        python: Path | str = sys.executable,
        listener: socket.socket | None = None,
        settings: Settings | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.state = state.resolve()
        self.python = str(python)
        self.config = self.state / "config.yaml"
        self.ca = self.state / "ca.pem"
        self.audit = self.state / "audit"
        self.spool = self.state / "spool"
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=2048)
        self._settings = settings or {}
        self._environment = environment or {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._notify: dict[str, bytes] = {}
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all three, and return when each has said READY=1; raises ServicesError, with none left running."""
        self._write_files()
        try:
            self._await_ready(self._spawn("audit"))  # it makes the key that the supervisor reads
            supervisor, web = self._spawn("supervisor"), self._spawn("web")
            with web.notify:
                self._await_ready(supervisor)
                self._await_ready(web)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all three by SIGTERM, the web service first; those that are gone are no error."""
        for name in reversed(COMMANDS):
            self._terminate(name)

    def close(self) -> None:
        """Stop, and give up the listening socket and the sockets' directory; logs and data stay."""
        self.stop()
        self._listener.close()
        remove_sockets(self.state)

    def restart(self, name: str) -> None:
        """Stop the service if it runs, start it, and return when it has said READY=1."""
        self._terminate(name)
        self._await_ready(self._spawn(name))

    def reload(self, name: str) -> None:
        """SIGHUP, as `systemctl reload` sends it; returns when the service's successor in place has said READY=1."""
        process, address = self._processes[name], self._notify[name]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(address)
            process.send_signal(signal.SIGHUP)
            self._await_ready(_Started(name, process, notify))

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the service's main process a signal; after SIGKILL return when it is gone."""
        self._processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self._processes[name].wait(_STOP_SECONDS)

    def wait_end(self, name: str, seconds: float) -> None:
        """Return when the service's main process has ended; raises subprocess.TimeoutExpired."""
        self._processes[name].wait(seconds)

    def pid(self, name: str) -> int:
        """The service's main process: of `web` gunicorn's master, whose worker is its child."""
        return self._processes[name].pid

    def log(self, name: str) -> Path:
        """What the service has written to stdout and stderr, over all its lives."""
        return self.state / "log" / f"{name}.log"

    def wait_ready(self, seconds: float = _START_SECONDS) -> None:
        """Return at the first 200 of /health/ready; raises ServicesError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                status, body = self._get("/health/ready")
                if status == 200:
                    return
                said = f"{status} {body.decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as error:
                said = repr(error)
            if time.monotonic() > deadline:
                raise ServicesError(f"not ready after {seconds:.0f} s: {said}\n{self._logged('web')}")
            time.sleep(_POLL_SECONDS)

    def create_token(
        self, *, actions: str = "all", guests: str = "all", expires: str = "1d", name: str = "test"
    ) -> str:
        """A new token, made by the administrator's command; raises ServicesError."""
        return self.command(
            *("token", "create", "--name", name, "--allow", actions, "--guests", guests, "--expires", expires)
        ).strip()

    def command(self, *arguments: str) -> str:
        """What `pve-exec-gateway ARGUMENTS` prints with this configuration; raises ServicesError if it fails."""
        done = subprocess.run(
            self._command_line(*arguments),
            check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self._full_environment(),
            timeout=_COMMAND_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise ServicesError(f"pve-exec-gateway {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _write_files(self) -> None:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.state / "log").mkdir(exist_ok=True)
        shutil.copyfile(_CLUSTER_CA, self.ca)
        sockets = _make_socket_directory(self.state)
        chosen: dict[str, dict[str, Any]] = {
            "listen": {"address": "127.0.0.1", "port": self.port},
            "supervisor": {"socket": f"{sockets}/s/supervisor.sock"},
            "audit": {
                "directory": f"{self.audit}",
                "socket": f"{sockets}/a/audit.sock",
                "key_file": f"{self.state}/keys/audit.key",
            },
            "tokens": {
                "directory": f"{self.state}/tokens",
                "key_file": f"{self.state}/keys/token.keys",
                "last_used": f"{self.state}/last-used",
            },
            "spool": {"directory": f"{self.spool}"},
            "pve": {"changes": f"{self.state}/changes"},
            "lxc": {
                "launcher": f"{REPOSITORY}/build/launcher",
                "nursery": f"{REPOSITORY}/build/nursery",
                "pct": f"{REPOSITORY}/tests/pvesim/pct.py",
            },
        }
        for section, values in self._settings.items():
            chosen[section] = {**chosen.get(section, {}), **values}
        lines = [f"node: {socket.gethostname()}"]
        for section, values in chosen.items():
            lines += [f"{section}:", *(f"  {key}: {json.dumps(value)}" for key, value in values.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def _command_line(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "gateway", "--config", str(self.config), *arguments]

    def _full_environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(REPOSITORY), **self._environment}

    def _spawn(self, name: str) -> "_Started":
        """Begin to run the service, with NOTIFY_SOCKET and, for `web`, LISTEN_FDS (sd_listen_fds(3))."""
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind("")  # an abstract address of the kernel's choice
        environment = {**self._full_environment(), "NOTIFY_SOCKET": "@" + notify.getsockname()[1:].decode()}
        command, passed = self._command_line(COMMANDS[name]), []
        if name == "web":
            environment["LISTEN_FDS"] = "1"
            passed = [self._listener.fileno()]
            # The pid that LISTEN_PID names is known to the process itself alone.
            command = ["/bin/bash", "-c", f'export LISTEN_PID=$$; exec "$@" 3<&{passed[0]}', "sh", *command]
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=passed,
                cwd="/", start_new_session=True,
            )  # fmt: skip
        self._processes[name], self._notify[name] = process, notify.getsockname()
        return _Started(name, process, notify)

    def _await_ready(self, started: "_Started") -> None:
        with started.notify as notify, _pidfd(started.process.pid) as pidfd:
            poll = select.poll()
            poll.register(notify, select.POLLIN)
            poll.register(pidfd, select.POLLIN)
            happened = dict(poll.poll(_START_SECONDS * 1000))
            while notify.fileno() in happened:
                if notify.recv(4096).startswith(b"READY=1"):
                    return
                happened = dict(poll.poll(_START_SECONDS * 1000))  # RELOADING=1 comes before it
        how = "ended at once" if happened else f"is not ready after {_START_SECONDS:.0f} s"
        raise ServicesError(f"the {started.name} service {how}:\n{self._logged(started.name)}")

    def _terminate(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServicesError(f"the {name} service did not stop in {_STOP_SECONDS:.0f} s") from None

    def _get(self, path: str) -> tuple[int, bytes]:
        context = make_client_context(self.ca)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
        with contextlib.closing(connection):
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()

    def _logged(self, name: str) -> str:
        log = self.log(name)
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""


@dataclass(frozen=True)
class _Started:
    """A service that has been spawned and has not yet said READY=1."""

    name: str
    process: subprocess.Popen[bytes]
    notify: socket.socket


def make_client_context(ca: Path) -> ssl.SSLContext:
    """Verifies a node's certificate against its cluster's CA.

    PVE's CA has no keyUsage extension, which Python asks for by default from 3.13 on (VERIFY_X509_STRICT).
    """
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def remove_sockets(state: Path) -> None:
    """Remove the sockets of the services of `state`, which must have ended."""
    run = state / "run"
    shutil.rmtree(run.resolve(), ignore_errors=True)
    if run.is_symlink():
        run.unlink()


def _make_socket_directory(state: Path) -> Path:
    """`state`/run; where that is too long for a socket's path, a directory in /tmp that it is a link to."""
    run = state / "run"
    if len(os.fsencode(run / "s/supervisor.sock")) <= _LONGEST_SOCKET_PATH:
        run.mkdir(mode=0o700, exist_ok=True)
    elif not run.exists():  # also a link into a /tmp that a reboot has emptied
        run.unlink(missing_ok=True)
        run.symlink_to(tempfile.mkdtemp(prefix="pveg-", dir="/tmp"))
    return run.resolve()


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)

"""Tasks that really run: each is a process in a session of its own, whose output is its log (RESTEnvironment.pm)."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from tests.pvesim.api.call import Call, read_start_time
from tests.pvesim.api.failure import Failure
from tests.pvesim.api.upid import LOGS, Upid, decode

_MAX_FD = 4096
_KILL_AFTER = 5.0  # check_worker: SIGTERM, five seconds, SIGKILL
_warnings = 0


class Interrupted(Exception):
    """The task was told to stop."""


def fork_worker(call: Call, kind: str, about: str | int, work: Callable[[], None]) -> str:
    """Run `work` as a task and return its UPID; in the foreground for pvesh, with its log also on stdout."""
    ready, go = os.pipe()
    begun = int(time.time())
    sys.stdout.flush()
    pid = os.fork()  # beside other threads, whose work the child does none of
    if pid == 0:
        os.close(go)
        _run(call, kind, ready, work)
    os.close(ready)
    upid = Upid(call.node, pid, read_start_time(pid), begun, kind, str(about), call.user)
    upid.log.parent.mkdir(parents=True, exist_ok=True)
    upid.log.touch(0o640)
    os.write(go, str(upid).encode())
    os.close(go)
    if call.is_cli:
        os.waitpid(pid, 0)
        print(upid.log.read_text(errors="replace"), end="", flush=True)
    else:
        threading.Thread(target=_reap, args=(pid,), daemon=True).start()
    return str(upid)


def warn(text: str) -> None:
    """log_warn: the task's end is `WARNINGS: n` then."""
    global _warnings
    _warnings += 1
    print(f"WARN: {text}", flush=True)


def run_later(seconds: float, work: Callable[[], None]) -> None:
    """Have `work` done by a process that outlives this one, as a daemon of the node would."""
    sys.stdout.flush()
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            os.closerange(3, _MAX_FD)
            time.sleep(seconds)
            try:
                work()
            finally:
                os._exit(0)
        os._exit(0)


def is_running(task: Upid) -> bool:
    return read_start_time(task.pid) == task.pstart != 0


def stop(task: Upid) -> None:
    """check_worker(…, 1): all that it started is told once, and killed when it does not end in time."""
    for number, seconds in ((signal.SIGTERM, _KILL_AFTER), (signal.SIGKILL, _KILL_AFTER)):
        if not is_running(task):
            return
        os.killpg(task.pid, number)
        deadline = time.monotonic() + seconds
        while is_running(task) and time.monotonic() < deadline:
            time.sleep(0.05)


def every_task() -> list[Upid]:
    """All that have a log, newest first."""
    found = [task for file in LOGS.glob("?/UPID:*") if (task := decode(file.name))]
    return sorted(found, key=lambda task: (task.starttime, task.pid), reverse=True)


def _reap(pid: int) -> None:
    os.waitpid(pid, 0)


def _run(call: Call, kind: str, ready: int, work: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        os.setsid()
        upid = os.read(ready, 1000).decode()
        log = os.open(LOGS / upid.split(":")[4][7] / upid, os.O_WRONLY | os.O_APPEND)
        null = os.open("/dev/null", os.O_RDONLY)
        for number, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(number, target)
        os.closerange(3, _MAX_FD)  # what clients of the API are connected to
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGINT, _interrupt)
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
        end = _carry_out(call, kind, work)
        sys.stdout.flush()
        os.write(1, f"{end}\n".encode())
        code = 0 if end.startswith(("TASK OK", "TASK W")) else 255
    finally:
        os._exit(code)


def _carry_out(call: Call, kind: str, work: Callable[[], None]) -> str:
    """Runs it; the log's last line."""
    try:
        call.sim.faults.stall(kind)
        broken = call.sim.faults.take(("task",), kind)
        if broken:
            raise Failure(500, broken["text"])
        work()
    except Failure as failure:
        return f"TASK ERROR: {' '.join(str(failure).split(chr(10))).strip()}"
    except Interrupted:
        return "TASK ERROR: received interrupt"
    except Exception as error:  # a bug of the simulation; it shall be seen
        return f"TASK ERROR: simulation: {type(error).__name__}: {' '.join(str(error).split())}"
    return f"TASK WARNINGS: {_warnings}" if _warnings else "TASK OK"


def _interrupt(*_: object) -> None:
    raise Interrupted

"""A finding: what one check saw, and what to do about it; and how checks are run so that none holds up the others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from gateway.errors import GatewayError

PATIENCE = 20.0
"""Seconds for one check: more than any of them needs on a node that is well."""


class Verdict(StrEnum):
    """WARNING: it works, and will not for long, or something cannot be told. SKIPPED: it was not asked for."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """`detail`: what was seen; `remedy`: what to do, empty where nothing is."""

    name: str
    verdict: Verdict
    detail: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Check = tuple[str, Callable[[], Iterable[Finding]]]
"""A name, for when it breaks, and what finds."""


def good(name: str, detail: str) -> Finding:
    return Finding(name, Verdict.OK, detail)


def bad(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, Verdict.FAILED, detail, remedy)


def doubtful(name: str, detail: str, remedy: str) -> Finding:
    return Finding(name, Verdict.WARNING, detail, remedy)


def examine(checks: Iterable[Check], patience: float = PATIENCE) -> Iterator[Finding]:
    """The findings of all checks, in their order, as they come.

    One that does not end in time has failed, and so has one that breaks: a file system or a process that hangs must
    not hang the doctor, too. Its thread is left behind.
    """
    for name, check in checks:
        found: list[Finding] = []
        thread = threading.Thread(target=_run, args=(name, check, found), daemon=True)
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            yield from list(found)
            yield bad(name, f"no answer within {patience:.0f} s", "look for what hangs: `ps -eo pid,stat,wchan,args`")
        else:
            yield from found


def _run(name: str, check: Callable[[], Iterable[Finding]], found: list[Finding]) -> None:
    try:
        found.extend(check())
    except GatewayError as exc:
        found.append(bad(name, exc.detail, "do what it says, and run the doctor again"))
    except OSError as exc:
        found.append(bad(name, f"{exc.filename or 'the system'}: {exc.strerror}", "see the node's journal"))
    except Exception as exc:
        found.append(bad(name, f"the check broke: {type(exc).__name__}", "report it as a defect of the gateway"))

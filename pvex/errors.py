"""What can go wrong for pvex itself: each is one line on stderr that says what to do, and an exit code."""

from __future__ import annotations

import re
from typing import Any

FAILED = 125
"""pvex or the gateway failed: as docker, so that a command's own exit code is never taken for it."""
ANSWERED_NO = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
EXIT_CODES = {
    "0": "done; of `exec`, `attach` and `logs -f` the command's own exit code",
    "1": "`run`: in some guest it was not 0; or a question, `token can` too, was answered with no",
    "2": "wrong use: unknown options, an unknown profile or name, no token, no UTF-8, nobody there to ask",
    "124": "the command was ended, for its time was over",
    "125": "pvex or the gateway failed: not reached, not trusted, refused, or the end is not known",
    "126, 127": "the command could not be started, or there is none",
    "128+n": "signal n has ended the command; 130: Ctrl-C, 141: nobody reads our output",
}
"""For people; the README and the manual page say the same."""

_HINTS = {
    "unauthenticated": "the token has expired, was revoked or is none: get a new one and run `pvex login`",
    "guest_not_found": "`pvex ls` lists the guests that this token may see",
    "exec_not_found": "`pvex ps -a` lists the commands that are remembered",
    "guest_not_running": "`pvex start` starts it",
    "forbidden": "`pvex token self` shows what this token may do",
    "device_not_found": "`pvex devices ls` lists those there are",
    "token_not_found": "`pvex token ls` lists those that this one may administer",
    "snapshot_not_found": "`pvex snapshot ls` lists those there are",
    "task_not_found": "`pvex task ls` lists those of a node's guests that this token may see",
    "storage_not_found": "`pvex storages` lists those there are",
    "node_not_found": "`pvex nodes` lists those there are",
    "pool_not_found": "`pvex pools` lists those there are",
}
_WHERE = re.compile(r"; see GET /[^;]*$")
"""What the gateway says to programs, where we know better words."""


class ClientError(Exception):
    """The root: its text is for people, one line."""

    exit_code = FAILED


class UsageError(ClientError):
    """What was asked for makes no sense, or there is no such profile."""

    exit_code = USAGE


class Unreachable(ClientError):
    """No connection could be made: nothing was sent."""


class Untrusted(ClientError):
    """The gateway's certificate is not signed by the CA that we trust."""


class Cut(ClientError):
    """The connection ended before the answer did: what became of the request is not known."""


class Problem(ClientError):
    """The gateway's refusal, application/problem+json; `document` is all of it."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        self.status = status
        self.document = document
        self.code = str(document.get("code", ""))
        self.retryable = bool(document.get("retryable"))
        super().__init__(_describe(status, document))

    def at(self, place: str) -> Problem:
        """The same, with what it is about before it."""
        self.args = (f"{place}: {self}",)
        return self

    @property
    def passing(self) -> bool:
        """Whether the gateway, or a proxy before it, is only away for a moment."""
        return self.status in (502, 503, 504) and self.code in ("", "gateway_restarting", "supervisor_unavailable")


def _describe(status: int, document: dict[str, Any]) -> str:
    code = str(document.get("code", ""))
    text = str(document.get("detail") or document.get("title") or f"the gateway answered {status}")
    fields = [
        ": ".join(filter(None, (error.get("path"), error.get("message")))) for error in document.get("errors", ())
    ]
    if fields:
        text = "; ".join(fields)
    if "entry" in document:
        text = f"{document['entry']!r}: {text}"
    if code in _HINTS:
        text = _WHERE.sub("", text)
        text += f" ({_HINTS[code]})"
    words = [*text.splitlines(), *(str(line) for line in document.get("log", ())[-3:])]
    return " | ".join(words) + (f" [{code}]" if code else "")

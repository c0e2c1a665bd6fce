"""OpenFiles: a session of files for as long as one request lasts, and what is recorded of its end."""

from __future__ import annotations

import base64
from types import TracebackType
from typing import Any, Self

from gateway.api.call import Call
from gateway.api.services import Services
from gateway.audit.record import Event
from gateway.clientwatch import Watch
from gateway.errors import ClientGone, DriverUnsupported, GatewayError, InvalidRequest, PreconditionFailed
from gateway.errors_files import FileNotFound, FileRefused, FileTypeRefused, GuestDiskFull
from gateway.files.channel import Channel
from gateway.files.session import Session
from gateway.supervisor.link.files import FilesLink

_ANSWERS = (
    DriverUnsupported,
    FileNotFound,
    FileRefused,
    FileTypeRefused,
    GuestDiskFull,
    InvalidRequest,
    PreconditionFailed,
)
"""What a guest can answer that was told to make a change (files.failures): it was not made."""


def show_name(name: bytes) -> tuple[str, str]:
    """A name or path as text and how to read that: UTF-8 where it is that, else base64, as output is told."""
    try:
        return name.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(name).decode("ascii"), "base64"


def path_data(path: bytes) -> dict[str, Any]:
    """A path in a record."""
    text, encoding = show_name(path)
    return {"path": text} if encoding == "utf-8" else {"path": text, "encoding": encoding}


class OpenFiles:
    """Ends its session when it is left, as `ok` if `done` was called before."""

    def __init__(self, link: FilesLink, watch: Watch | None) -> None:
        self.audit_id = link.audit_id
        self.channel = Channel(link.reading, link.writing, watch)
        self.session = Session(self.channel)
        self._link = link
        self._outcome: dict[str, Any] | None = None
        self._acts = False
        self._so_far: dict[str, Any] = {}
        self._open = True

    @classmethod
    def begin(cls, services: Services, call: Call, event: Event, data: dict[str, Any]) -> Self:
        """Opens one. Raises what the supervisor refuses it for, and what has become of the caller meanwhile."""
        watch = call.watch
        link = services.supervisor.open_files(call.vmid, call.origin, event, data, watch)
        files = cls(link, watch)
        try:
            call.standing.current()
        except BaseException as exc:
            files.end_with(exc)
            raise
        return files

    def acts(self) -> None:
        """The guest is told to make the change now: if its answer does not come, nobody knows whether it has."""
        self._acts = True

    def done(self, **data: Any) -> None:
        """What was asked for has been done: this is recorded of it."""
        self._outcome = {"reason": "ok", **data}

    def so_far(self, **data: Any) -> None:
        """What has been done by now: this is recorded should the rest fail."""
        self._so_far = data

    def end_with(self, exc: BaseException | None) -> None:
        """Ends it; `exc` is what it was broken off by. Any number of times."""
        if not self._open:
            return
        self._open = False
        unsure = self._acts and not isinstance(exc, _ANSWERS)
        broken_off = {"reason": "unknown"} if unsure else _outcome(exc)
        self._link.end(self._outcome or {**broken_off, **self._so_far})
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self.end_with(exc)


def _outcome(exc: BaseException | None) -> dict[str, Any]:
    if isinstance(exc, ClientGone):
        return {"reason": "client_gone"}
    if isinstance(exc, GatewayError):
        return {"reason": "failed", "code": exc.code, "words": exc.detail[:256]}
    return {"reason": "failed"} if exc is None else {"reason": "failed", "words": type(exc).__name__}

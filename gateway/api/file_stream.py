"""FileStream: a file's bytes on their way from a guest to a client, at the speed of the slower one."""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack
from typing import Any

from gateway.api.file_session import OpenFiles
from gateway.errors import ClientGone, GatewayError
from gateway.errors_files import GuestFilesFailed
from gateway.files.channel import STALL_SECONDS, stalled
from gateway.files.failures import to_error
from gateway.files.wire import End, Failure, Name, Progress, Status
from gateway.web.live import Live


class FileStream(Live):
    """The rest of what a session reads, behind `first`; `size` is how much there is in all, None until its end.

    A file that is cut short meanwhile cuts the reply: it has told a length that does not hold.
    """

    def __init__(
        self, files: OpenFiles, first: bytes, size: int | None, told: dict[str, Any], holds: ExitStack
    ) -> None:
        """`told` is for the record, beside what was sent."""
        self._files = files
        self._first = first
        self._size = size
        self._told = told
        self._holds = holds
        self._hash = hashlib.sha256()
        self._sent = 0
        self._ended = False
        self._broken: Exception | None = None
        self._waits_since = time.monotonic()

    def sources(self) -> tuple[int, ...]:
        return (self._files.channel.reading,)

    def produce(self) -> bytes | None:
        try:
            return self._produce()
        except GatewayError as error:
            self._broken = error
            raise

    def _produce(self) -> bytes | None:
        piece, self._first = self._first, b""
        if not piece:
            read = self._read()
            if read is None:
                return None
            piece = read
        if not piece:
            if time.monotonic() - self._waits_since >= STALL_SECONDS:
                raise stalled(STALL_SECONDS)
            return b""
        self._heard()
        self._hash.update(piece)
        self._sent += len(piece)
        return piece

    def _heard(self) -> None:
        self._waits_since = time.monotonic()

    def _read(self) -> bytes | None:
        """What has come; None at the end."""
        frame = self._files.channel.take()
        if isinstance(frame, Failure):
            raise to_error(frame)
        if isinstance(frame, Status | Name | Progress):
            raise GuestFilesFailed("our process in the guest answered out of order; somebody there interferes")
        if isinstance(frame, End):
            self._ended = True
            if self._size is not None and self._sent != self._size:
                raise GuestFilesFailed("the file was cut short while it was read; send the request again")
            return None
        return frame or b""

    def wake_at(self) -> float:
        return self._waits_since + STALL_SECONDS

    def gone(self) -> None:
        self._broken = self._broken or ClientGone()

    def refuse(self, error: GatewayError) -> None:
        self._broken = error
        raise error

    def stop(self) -> bool:
        return True

    def close(self) -> None:
        whole = self._sent == self._size if self._size is not None else self._ended
        if whole and self._broken is None:
            self._files.done(**self._told, bytes=self._sent, sha256=self._hash.hexdigest())
        self._files.end_with(self._broken)
        self._holds.close()

"""Pump: hands our standard input to a command, piece by piece; what is sent twice arrives once."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from pvex.errors import ClientError, Problem
from pvex.events import PATIENCE, Retry

if TYPE_CHECKING:
    from pvex.api import Api

PIECE = 256 << 10
_OVER = frozenset({"exec_ended", "stdin_closed", "exec_not_found"})


class Pump(threading.Thread):
    """Reads `fd` to its end. It dies with the process: a read from a terminal cannot be called back."""

    def __init__(self, api: Api, exec_id: str, fd: int = 0, *, patience: float = PATIENCE) -> None:
        super().__init__(name="stdin", daemon=True)
        self._api = api.twin()
        self._path = f"/execs/{exec_id}/stdin"
        self._fd = fd
        self._patience = patience
        self.failure: ClientError | None = None
        """Why input was not handed on to its end, where the command's end was not the cause."""

    def run(self) -> None:
        offset = 0
        try:
            while data := self._read():
                self._put(data, offset, eof=False)
                offset += len(data)
            self._put(b"", offset, eof=True)
        except Problem as problem:
            self.failure = None if problem.code in _OVER else problem
        except ClientError as error:
            self.failure = error

    def _read(self) -> bytes:
        try:
            return os.read(self._fd, PIECE)
        except OSError:  # a terminal that has gone away, a disk that fails: nothing follows
            return b""

    def _put(self, data: bytes, offset: int, *, eof: bool) -> None:
        retry = Retry(self._patience)
        while True:
            try:
                self._api.call("PUT", self._path, data=data, query={"offset": offset, "eof": eof})
                return
            except ClientError as error:
                if not (isinstance(error, Problem) and error.code == "stdin_blocked"):
                    retry.after(error, None)

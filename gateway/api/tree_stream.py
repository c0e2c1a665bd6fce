"""TreeStream: a directory's archive on its way from a guest to a client, at the speed of the slower one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from gateway.api.file_session import OpenFiles
from gateway.api.file_stream import FileStream
from gateway.files.tar_out import TarWriter
from gateway.files.wire import FRAME_MAX


class TreeStream(FileStream):
    """All that `writer` makes of what the session tells. A tree that cannot be told to its end cuts the reply."""

    def __init__(self, files: OpenFiles, writer: TarWriter, holds: ExitStack) -> None:
        self._writer = writer
        self._counts: dict[str, Any] = {"tar": True}
        super().__init__(files, b"", None, self._counts, holds)

    def _read(self) -> bytes | None:
        made = bytearray()
        while len(made) < FRAME_MAX and not self._writer.ended:
            frame = self._files.channel.take()
            if frame is None:
                break
            self._heard()
            made += self._writer.feed(frame)
        if made:
            return bytes(made)
        if not self._writer.ended:
            return b""
        self._counts.update(entries=self._writer.entries, left_out=self._writer.left_out)
        self._ended = True
        return None

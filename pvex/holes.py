"""HoleWriter: a file in which long runs of zeros take no room on disk."""

from __future__ import annotations

from typing import BinaryIO

_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)


class HoleWriter:
    """Writes to a new regular file; `finish` gives it its length."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0

    def write(self, data: bytes) -> None:
        """Appends it; whole blocks of zeros are passed over."""
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            if block == _ZEROS:
                self._file.seek(_BLOCK, 1)
            else:
                self._file.write(block)
        self._size += len(data)

    def finish(self) -> None:
        """Nothing follows."""
        self._file.flush()
        self._file.truncate(self._size)

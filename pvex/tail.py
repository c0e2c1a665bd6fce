"""Where the last lines of an exec's output begin, found from its end: what is before them is not fetched."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pvex.events import follow, read_data
from pvex.paths import segment

if TYPE_CHECKING:
    from pvex.api import Api

_FIRST_BYTES = 64 << 10
_GROWTH = 8
_NEWLINE = 10


def find_tail(api: Api, exec_id: str, lines: int) -> int:
    """The place behind which the last `lines` lines stand, of stdout and stderr as they came, for `events.follow`.

    What has no newline yet is a line, too. Raises ClientError.
    """
    path = f"/execs/{segment(exec_id)}"
    heads = [api.send("HEAD", f"{path}/{stream}").headers for stream in ("stdout", "stderr")]
    end = sum(int(head["X-Output-Bytes"]) for head in heads)
    size = _FIRST_BYTES
    while True:
        start = max(0, end - size)
        found = _find(api, exec_id, lines, start)
        if found is not None:
            return found
        if start == 0:
            return 0
        size *= _GROWTH


def _find(api: Api, exec_id: str, lines: int, start: int) -> int | None:
    """The same, looked for from `start` on; None where it is before that."""
    behind_newlines: deque[int] = deque(maxlen=lines + 1)
    end = start
    for event in follow(api, exec_id, start=start, stay=False):
        if event["type"] in ("stdout", "stderr"):
            data = read_data(event)
            begin = event["seq"] - len(data)
            behind_newlines.extend(begin + place + 1 for place, byte in enumerate(data) if byte == _NEWLINE)
        if event["type"] in ("stdout", "stderr", "gap"):
            end = event["seq"]
    unfinished = not behind_newlines or behind_newlines[-1] != end
    needed = lines if unfinished else lines + 1
    if needed == 0:
        return end
    return behind_newlines[-needed] if len(behind_newlines) >= needed else None

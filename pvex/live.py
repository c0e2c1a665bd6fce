"""Live: a few lines at the foot of a terminal that change, while what is over scrolls up above them."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

from pvex.show import coloured, cut, pad, paint, plain, width

if TYPE_CHECKING:
    from pvex.fleet import Share

_EVERY_SECONDS = 0.1


class Live:
    """Shows a fleet on stdout, which is a terminal."""

    def __init__(self, shares: list[Share]) -> None:
        self._shares = shares
        self._width = max((width(plain(share.name)) for share in shares), default=0)
        self._lines = 0
        self._drawn_at = 0.0
        self._colours = coloured(sys.stdout)

    def tell(self, share: Share, stream: str | None, line: bytes) -> None:
        """Something has happened; changes of state are shown at once."""
        over = stream is None and share.state in ("ended", "failed", "skipped")
        if over or time.monotonic() - self._drawn_at >= _EVERY_SECONDS:
            self._draw(self._describe(share) if over else None)

    def finish(self) -> None:
        """Takes the lines at the foot away."""
        sys.stdout.write(self._erase())
        sys.stdout.flush()

    def _draw(self, above: str | None) -> None:
        columns, rows = shutil.get_terminal_size()
        running = [share for share in self._shares if share.state == "running"]
        over = sum(share.state in ("ended", "failed", "skipped") for share in self._shares)
        bad = sum(share.state in ("ended", "failed") and not share.good for share in self._shares)
        foot = [self._describe(share) for share in running[: max(1, rows - 3)]]
        foot.append(f"{over} of {len(self._shares)} guests are done, {bad} failed, {len(running)} run")
        lines = [*([above] if above else []), *foot]
        text = self._erase() + "".join(f"{line}\x1b[0m\n" for line in (self._fit(line, columns) for line in lines))
        sys.stdout.write(text)
        sys.stdout.flush()
        self._lines = len(foot)
        self._drawn_at = time.monotonic()

    def _erase(self) -> str:
        lines, self._lines = self._lines, 0
        return f"\x1b[{lines}A\x1b[J" if lines else ""

    def _describe(self, share: Share) -> str:
        word = "ok" if share.good else share.state if share.state != "ended" else f"exit {share.code}"
        text = share.error or share.last_line
        time_ = f"{share.seconds:.1f}s" if share.seconds else ""
        return f"{pad(plain(share.name), self._width)}  {word:<8} {time_:>7}  {plain(text) if text else ''}".rstrip()

    def _fit(self, line: str, columns: int) -> str:
        word = "running" if "  ok  " in line else "unknown" if "  exit " in line or "  failed " in line else ""
        return paint(cut(line, columns - 1), word, on=self._colours)

"""A dashboard and Prometheus' answers as a picture: each panel an SVG in its place, photographed by Chromium."""

from __future__ import annotations

import html
import math
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COLUMN, _ROW, _GAP = 50, 30, 2
_COLOURS = ("#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#ff7383", "#8ab8ff", "#c0d8ff")
_STYLE = (
    "body{margin:0;background:#111217;font-family:'DejaVu Sans',sans-serif}"
    "svg{position:absolute;background:#181b1f} text{fill:#ccccdc;font-size:9px}"
    ".title{font-size:11px;font-weight:bold} .stat{font-size:24px;fill:#73bf69} .grid{stroke:#2c3235}"
    "h1{position:absolute;margin:12px;color:#ccccdc;font-size:17px}"
)
_HEAD = 40
_CHROMIUM = ("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")
_TOO_SMALL = 1e-4
_SECONDS = ((86400.0, "days"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_PLAIN = ((1e6, "M"), (1e3, "k"), (1.0, ""))
_SCALES = {"s": _SECONDS, "bytes": _BYTES, "Bps": _BYTES}
_BEHIND = {"Bps": "/s", "ops": "/s", "reqps": "/s"}


@dataclass(frozen=True)
class Line:
    """A series: its name in the legend, and its points by time."""

    name: str
    points: dict[float, float]


def draw(board: dict[str, Any], answers: dict[str, Any], into: Path) -> None:
    """Raises CalledProcessError where Chromium does not photograph it."""
    panels = board["panels"]
    parts = [f"<style>{_STYLE}</style><h1>{html.escape(board['title'])}</h1>"]
    for panel, found in zip(panels, answers["panels"], strict=True):
        parts.append(_draw_panel(panel, _lines_of(panel, found), answers["began"], answers["ended"]))
    height = _HEAD + max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * _ROW
    with tempfile.TemporaryDirectory() as directory:
        page = Path(directory, "page.html")
        page.write_text("<!doctype html><meta charset=utf-8>" + "\n".join(parts))
        size = f"--window-size={24 * _COLUMN},{height}"
        command = [*_CHROMIUM, f"--user-data-dir={directory}/profile", size, f"--screenshot={into}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)


def _lines_of(panel: dict[str, Any], found: list[list[dict[str, Any]]]) -> list[Line]:
    lines = []
    for target, series in zip(panel["targets"], found, strict=True):
        for one in series:
            name = _name(target["legendFormat"], one["metric"])
            points = {at: value for at, text in one["values"] if math.isfinite(value := float(text))}
            lines.append(Line(name, points))
    return sorted(lines, key=lambda line: line.name) if len(panel["targets"]) == 1 else lines


def _name(form: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda word: labels.get(word[1], ""), form)


def _draw_panel(panel: dict[str, Any], lines: list[Line], began: float, ended: float) -> str:
    place, defaults = panel["gridPos"], panel["fieldConfig"]["defaults"]
    width, height = place["w"] * _COLUMN - _GAP, place["h"] * _ROW - _GAP
    left, top = place["x"] * _COLUMN, _HEAD + place["y"] * _ROW
    unit = defaults.get("unit", "short")
    inner = f'<text class="title" x="8" y="16">{html.escape(panel["title"])}</text>'
    if panel["type"] == "stat":
        last = next((line.points[max(line.points)] for line in lines if line.points), None)
        told = "no data" if last is None else _show(last, unit)
        inner += f'<text class="stat" text-anchor="middle" x="{width / 2}" y="{height / 2 + 16}">{told}</text>'
    else:
        inner += _Chart(width, height, unit, defaults.get("custom", {}), began, ended).draw(lines)
    return f'<svg style="left:{left}px;top:{top}px" width="{width}" height="{height}">{inner}</svg>'


class _Chart:
    """Lines over time, stacked or on a logarithmic scale where the panel says so."""

    def __init__(
        self, width: float, height: float, unit: str, custom: dict[str, Any], began: float, ended: float
    ) -> None:
        self._left, self._right, self._top, self._bottom = 52.0, width - 12.0, 28.0, height - 52.0
        self._unit = unit
        self._began, self._ended = began, ended
        self._stacked = custom.get("stacking", {}).get("mode") == "normal"
        self._log = custom.get("scaleDistribution", {}).get("type") == "log"

    def draw(self, lines: list[Line]) -> str:
        if self._stacked:
            lines = _stack(lines)
        values = [value for line in lines for value in line.points.values()]
        self._ticks = _log_ticks(values) if self._log else _ticks(max(values, default=0.0))
        drawn = [self._grid()]
        for number, line in reversed(list(enumerate(lines))):
            drawn.append(self._line(line, _COLOURS[number % len(_COLOURS)]))
        return "".join([*drawn, self._legend(lines)])

    def _x(self, at: float) -> float:
        return self._left + (at - self._began) / (self._ended - self._began) * (self._right - self._left)

    def _y(self, value: float) -> float:
        low, high = self._ticks[0], self._ticks[-1]
        if self._log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self._bottom - (value - low) / (high - low) * (self._bottom - self._top)

    def _grid(self) -> str:
        parts = []
        for tick in self._ticks:
            y = self._y(tick)
            parts.append(f'<line class="grid" x1="{self._left}" x2="{self._right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text text-anchor="end" x="{self._left - 5}" y="{y + 3:.1f}">{_show(tick, self._unit)}</text>'
            )
        minute = math.ceil(self._began / 60) * 60
        while minute < self._ended:
            x = self._x(minute)
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{self._top}" y2="{self._bottom}"/>')
            clock = time.strftime("%H:%M", time.gmtime(minute))
            parts.append(f'<text text-anchor="middle" x="{x:.1f}" y="{self._bottom + 13}">{clock}</text>')
            minute += 60 if self._right > 400 else 120
        return "".join(parts)

    def _line(self, line: Line, colour: str) -> str:
        if not line.points:
            return ""
        points = " ".join(f"{self._x(at):.1f},{self._y(value):.1f}" for at, value in sorted(line.points.items()))
        if not self._stacked:
            return f'<polyline fill="none" stroke="{colour}" stroke-width="1.3" points="{points}"/>'
        first, last = self._x(min(line.points)), self._x(max(line.points))
        corners = f"{last:.1f},{self._bottom} {first:.1f},{self._bottom}"
        return f'<polygon fill="{colour}" points="{points} {corners}"/>'

    def _legend(self, lines: list[Line]) -> str:
        parts, x, y = [], self._left, self._bottom + 27
        for number, line in enumerate(lines):
            width = 18 + 5.6 * len(line.name)
            if x + width > self._right and x > self._left:
                x, y = self._left, y + 11
            colour = _COLOURS[number % len(_COLOURS)]
            parts.append(f'<rect x="{x}" y="{y - 5}" width="9" height="3" fill="{colour}"/>')
            parts.append(f'<text x="{x + 12}" y="{y}">{html.escape(line.name)}</text>')
            x += width
        return "".join(parts)


def _stack(lines: list[Line]) -> list[Line]:
    """Each with those before it below; drawn from the last, the first stands in front."""
    stacked, below = [], dict[float, float]()
    for line in lines:
        below = {at: below.get(at, 0.0) + line.points.get(at, 0.0) for at in below.keys() | line.points.keys()}
        stacked.append(Line(line.name, below))
    return stacked


def _ticks(most: float) -> list[float]:
    """From 0 to above `most`, by a round number."""
    most = most or 1.0
    size = 10 ** math.floor(math.log10(most / 3))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if most / (size * factor) <= 5)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def _log_ticks(values: list[float]) -> list[float]:
    positive = [value for value in values if value > _TOO_SMALL] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return [10.0**power for power in range(low, max(high, low + 1) + 1)]


def _show(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    scale = _SCALES.get(unit, _PLAIN)
    size, name = next(((size, name) for size, name in scale if abs(value) >= size), scale[-1])
    number = f"{value / size:.4g}"
    return f"{number}{' ' if name else ''}{name}{_BEHIND.get(unit, '')}" if value else f"0{_BEHIND.get(unit, '')}"

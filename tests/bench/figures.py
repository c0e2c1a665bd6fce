"""From samples to figures, and from figures to the project's targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Figures = Mapping[str, float]

READY_S = 1.0
IDLE_MB = 130.0
OVERHEAD_MS = 3.0
SHARE_OF_BARE = 0.9
RAW_MIB_S = 300.0
NDJSON_MIB_S = 60.0
GROWN_MB = 32.0
FIRST_BYTE_MS = 6.0
IDLE_STREAM_KIB = 200.0
BESIDE_IDLE_TIMES = 2.0
ECHO_MS = 5.0


@dataclass(frozen=True)
class Target:
    """One promise: `value` holds if it is on the right side of `bound`."""

    promise: str
    value: float
    bound: float
    unit: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        margin = self.value - self.bound if self.at_least else self.bound - self.value
        verdict = f"holds, {margin:.2f} {self.unit} to spare" if self.holds else f"FAILS by {-margin:.2f} {self.unit}"
        sign = ">=" if self.at_least else "<="
        return f"{self.promise:<46} {self.value:8.2f} {sign} {self.bound:8.2f} {self.unit:<5}  {verdict}"


def targets(figures: Figures) -> list[Target]:
    """The targets, each bound computed from the same run's figures of the bare command and of the disk."""
    allowed = figures["bare_p50_ms"] + OVERHEAD_MS + figures["fdatasync_p50_ms"]
    share = SHARE_OF_BARE * figures["bare_per_s_8"]
    first = figures["bare_first_byte_p50_ms"] + FIRST_BYTE_MS
    return [
        Target("exec p50, bare + 3 ms + fdatasync allowed", figures["exec_p50_ms"], allowed, "ms"),
        Target("exec p99, bare p99 allowed", figures["exec_p99_ms"], figures["bare_p99_ms"], "ms"),
        Target("8 clients, 90 % of 8 bare loops wanted", figures["exec_per_s_8"], share, "/s", at_least=True),
        Target("start to ready", figures["ready_s"], READY_S, "s"),
        Target("idle memory (PSS)", figures["idle_mb"], IDLE_MB, "MB"),
        Target("1 GiB as a download", figures["download_mib_s"], RAW_MIB_S, "MiB/s", at_least=True),
        Target("1 GiB followed as it is made", figures["follow_mib_s"], RAW_MIB_S, "MiB/s", at_least=True),
        Target("256 MiB of lines as NDJSON", figures["ndjson_mib_s"], NDJSON_MIB_S, "MiB/s", at_least=True),
        Target("memory meanwhile (PSS)", figures["grown_mb"], GROWN_MB, "MB"),
        Target("first byte p50, bare + 6 ms allowed", figures["first_byte_p50_ms"], first, "ms"),
        Target("each of 500 idle streams (PSS)", figures["idle_stream_kib"], IDLE_STREAM_KIB, "KiB"),
        Target("`true` beside them, times that alone", figures["beside_idle_times"], BESIDE_IDLE_TIMES, "x"),
        Target("terminal echo p50", figures["echo_p50_ms"], ECHO_MS, "ms"),
    ]


def median(samples: Sequence[float]) -> float:
    return percentile(samples, 50)


def percentile(samples: Sequence[float], percent: int) -> float:
    """The nearest-rank percentile: always one of the samples."""
    ordered = sorted(samples)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]

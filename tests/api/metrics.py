"""Metrics as a test reads them: by Prometheus' own parser."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

PREFIX = "pve_exec_gateway_"
PROMTOOL = shutil.which("promtool", path=f"{os.environ.get('PATH', os.defpath)}:{Path(__file__).parents[2] / '.test'}")
"""Prometheus' own checks; `make test` has it."""


class Scrape:
    """One reply of GET /metrics."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = list(text_string_to_metric_families(text))

    def value(self, name: str, **labels: str) -> float:
        """The sum over all samples of that name with these labels."""
        return sum(sample.value for sample in self.samples(name, **labels))

    def samples(self, name: str, **labels: str) -> Iterator[Sample]:
        for family in self.families:
            for sample in family.samples:
                if sample.name == PREFIX + name and labels.items() <= sample.labels.items():
                    yield Sample(sample.labels, sample.value)


class Sample(NamedTuple):
    labels: dict[str, str]
    value: float


def lint(text: str) -> str:
    """What `promtool check metrics` has to say; nothing where it is not installed."""
    if PROMTOOL is None:
        return ""
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    return done.stdout + done.stderr

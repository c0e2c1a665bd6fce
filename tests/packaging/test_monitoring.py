"""Alert rules and dashboard: the rules do what their tests say, and both ask for metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric

from gateway.histogram import SHORT, Histogram
from gateway.metrics import families
from gateway.supervisor.execs.figures import Figures
from tests.api.metrics import PROMTOOL

REPOSITORY = Path(__file__).resolve().parents[2]
RULES = REPOSITORY / "packaging/prometheus/rules.yml"
DASHBOARD = REPOSITORY / "packaging/grafana/dashboard.json"

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: make .test/promtool")


@needs_promtool
def test_rules_do_what_their_tests_say() -> None:
    """Each alert fires where it should and nowhere else (rules_test.yml)."""
    assert PROMTOOL is not None
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(
            [PROMTOOL, *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    """And says what to do."""
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tested = Path(__file__).with_name("rules_test.yml").read_text()
    assert len(alerts) == len(set(alerts)) == RULES.read_text().count("description:")
    assert all(f'alertname="{name}"' in tested for name in alerts)


def test_nobody_asks_for_a_metric_that_is_not_there() -> None:
    """Names in rules, their tests and the dashboard are names that /metrics has."""
    known = {sample for family in _all_families() for sample in _sample_names(family.name, family.type)}
    pages = (RULES, DASHBOARD, Path(__file__).with_name("rules_test.yml"))
    for page in pages:
        asked = set(re.findall(r"(?<!:)\bpve_exec_gateway_[a-z0-9_]+\b(?!:)", page.read_text()))
        assert asked and asked <= known, (page.name, asked - known)


def test_the_dashboard_can_be_loaded() -> None:
    """Every panel has a place of its own and a question, and leaves data source and nodes to its viewer."""
    board = json.loads(DASHBOARD.read_text())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(places) == len(set(places))
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"] and all("$instance" in target["expr"] for target in panel["targets"]), panel["title"]


def _all_families() -> list[Metric]:
    empty: dict[str, list[Any]] = {"requests": [], "seconds": [], "calls": [], "call_seconds": []}
    now = dict.fromkeys(("queued", "surviving", "places", "remembered", "spool_bytes", "spool_limit", "connections"), 0)
    execs = {**Figures("lxc-attach").to_wire(), "driver": "lxc-attach", "running": {}, **now}
    status = dict.fromkeys(("records", "refused", "failures", "anchors_sent", "anchors_failed", "lag", "queued"), 0)
    audit = {**status, "filled": 0, "ok": True, "sync_seconds": Histogram(SHORT).to_wire()}
    return [
        *families.build_info("pve1"), *families.up({}), *families.ready({}),
        *families.requests(empty), *families.pve_calls({"web": empty}), *families.execs(execs),
        *families.audit(audit), *families.tokens({}), *families.certificate(0),
    ]  # fmt: skip


def _sample_names(name: str, kind: str) -> list[str]:
    if kind == "counter":
        return [f"{name}_total"]
    return [f"{name}_bucket", f"{name}_sum", f"{name}_count"] if kind == "histogram" else [name]

"""Writes each task's result as a line of JSON to the file that PLAY_RESULTS names."""

from __future__ import annotations

DOCUMENTATION = """
name: results
type: notification
short_description: results as lines of JSON
description: for tests
"""

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "results"

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._write("failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write("unreachable", result)

    def _write(self, outcome: str, result: Any) -> None:
        line = {
            "outcome": outcome,
            "host": result._host.get_name(),
            "task": result._task.get_name(),
            **json.loads(json.dumps(result._result, default=str)),
        }
        with open(os.environ["PLAY_RESULTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

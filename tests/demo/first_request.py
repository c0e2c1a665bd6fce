"""The request that the demo shows: the line a user can repeat, what it answers, whether it succeeded."""

import json
import subprocess

from tests.pvesim.services import REPOSITORY

COMMAND = r"""
. .demo/env
curl -sS --cacert "$GATEWAY_CA" -H "Authorization: Bearer $GATEWAY_TOKEN" -H "Content-Type: application/json" \
  "$GATEWAY_URL/exec/$GATEWAY_VMID" -d '{"command": "echo hello from $(hostname)"}'
""".strip()

_SECONDS = 30


def send() -> str:
    """Run COMMAND from the repository's top: what it printed."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", COMMAND],
            check=False, cwd=REPOSITORY, capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer in {_SECONDS} s"
    return done.stdout + done.stderr


def succeeded(answer: str) -> bool:
    """Whether it is a result, and its command exited with 0."""
    try:
        result = json.loads(answer)
    except ValueError:
        return False
    return isinstance(result, dict) and result.get("exit_code") == 0


def pretty(answer: str) -> str:
    """JSON indented, anything else as it is."""
    try:
        return json.dumps(json.loads(answer), indent=2, ensure_ascii=False)
    except ValueError:
        return answer

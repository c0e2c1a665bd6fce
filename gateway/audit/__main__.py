"""`python -m gateway.audit <settings as JSON>`: the writer process, and nothing else in its memory."""

from __future__ import annotations

import sys

from gateway.audit.settings import AuditSettings
from gateway.audit.writer import run_writer
from gateway.confinement import begin_as_first, keep_memory_private, stay_apart
from gateway.errors import GatewayError
from gateway.logs import log_to_manager


def main() -> int:
    log_to_manager()
    try:
        begin_as_first()
        keep_memory_private()
        stay_apart()
        run_writer(AuditSettings.from_json(sys.argv[1]))
    except (GatewayError, OSError) as exc:
        print(f"audit writer: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

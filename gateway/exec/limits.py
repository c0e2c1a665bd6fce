"""Turns what was asked into what will be done: the configuration's defaults and maxima, applied in one place."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.config import Config
from gateway.errors import FieldError, InvalidRequest
from gateway.exec.spec import ExecSpec


@dataclass(frozen=True)
class Limits:
    """The limits one exec runs under: seconds, and bytes kept of each stream."""

    timeout: float
    kill_grace: float
    queue_timeout: float
    output_limit: int


def resolve_limits(spec: ExecSpec, settings: Config, *, spooled: bool) -> Limits:
    """The limits for `spec`. Raises InvalidRequest naming each field that is over its maximum.

    What is spooled (streamed or detached) may keep up to `spool.per_exec` of each stream, and does by default.
    """
    config, per_exec = settings.exec, settings.spool.per_exec
    kept, most_kept = config.output_limit, config.output_limit_max
    if spooled:
        kept, most_kept = per_exec, max(most_kept, per_exec)
    wanted = {
        "timeout": (spec.timeout, config.timeout, config.timeout_max),
        "kill_grace": (spec.kill_grace, config.kill_grace, config.kill_grace_max),
        "queue_timeout": (spec.queue_timeout, config.queue_timeout, config.queue_timeout_max),
        "output.limit": (spec.output.limit, kept, most_kept),
    }
    over = [
        FieldError(path, "over_maximum", f"at most {maximum:.15g} is allowed here").to_json()
        for path, (value, _, maximum) in wanted.items()
        if value is not None and value > maximum
    ]
    if over:
        raise InvalidRequest("a limit is over what this gateway's configuration allows; see `errors`", errors=over)
    chosen = {path: default if value is None else value for path, (value, default, _) in wanted.items()}
    return Limits(
        timeout=float(chosen["timeout"]),
        kill_grace=float(chosen["kill_grace"]),
        queue_timeout=float(chosen["queue_timeout"]),
        output_limit=int(chosen["output.limit"]),
    )

"""GET /metrics: what the gateway's processes have counted, each asked for its own; one that is away hides no other."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateway.api.call import Call, Reply
from gateway.api.handlers.health import find_checks
from gateway.api.services import Services
from gateway.auth.records import TokenState
from gateway.certificate import read_validity
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from prometheus_client import Metric


def show_metrics(services: Services, call: Call) -> Reply:
    """All of them, as text."""
    from gateway.metrics import text  # not before somebody asks: a gateway that nobody scrapes does without

    return Reply(text.render(_families(services)), media_type=text.MEDIA_TYPE)


def _families(services: Services) -> Iterator[Metric]:
    from gateway.metrics import families

    config, up = services.config, {"web": True, "supervisor": True, "audit": True}
    yield from families.build_info(config.node)
    counted: dict[str, Mapping[str, Any]] = {"web": services.figures.read()}
    yield from families.requests(counted["web"])
    try:
        counted["supervisor"] = services.supervisor.figures()
        yield from families.execs(counted["supervisor"])
    except GatewayError:
        up["supervisor"] = False
    yield from families.pve_calls(counted)
    try:
        yield from families.audit(services.audit.ping())
    except GatewayError:
        up["audit"] = False
    yield from families.up(up)
    yield from families.ready({check["name"]: check["ok"] for check in find_checks(services)})
    with contextlib.suppress(GatewayError):  # the check `tokens` tells
        yield from families.tokens(_count_tokens(services))
    if config.tls is not None:
        with contextlib.suppress(OSError, ValueError):  # the doctor tells
            yield from families.certificate(read_validity(config.tls.certificate).ends.timestamp())


def _count_tokens(services: Services) -> dict[str, int]:
    now = services.tokens.clock()
    found = Counter(record.state(now) for record in services.tokens.list())
    return {state: found[state] for state in TokenState}

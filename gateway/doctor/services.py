"""The gateway's own processes: supervisor, audit writer, web, and the token store that they share."""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from gateway.audit.client import AuditClient
from gateway.audit.record import Event, build_record
from gateway.audit.search import Query
from gateway.auth.records import TokenState
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.doctor.finding import Finding, bad, doubtful, good
from gateway.errors import GatewayError
from gateway.supervisor.link.client import SupervisorClient

_WEB_SECONDS = 5.0
_NEARLY_FULL = 0.8
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def check_supervisor(supervisor: SupervisorClient) -> Iterator[Finding]:
    """It answers, and what it sees of the node is as it must be: it may have started before something changed."""
    remedy = "see `systemctl status pve-exec-gateway-supervisor` and its journal"
    try:
        health = supervisor.health()
    except GatewayError as exc:
        yield bad("supervisor", exc.detail, remedy)
        return
    missing = [check["detail"] or check["name"] for check in health["checks"] if not check["ok"]]
    if missing:
        yield bad("supervisor", f"it answers and misses something: {'; '.join(missing)}", remedy)
    else:
        yield good("supervisor", f"it answers; {health['running']} execs are running")


def check_audit(audit: AuditClient, node: str) -> Iterator[Finding]:
    """A record of this very check becomes durable, and is found in the log again."""
    remedy = "no command runs meanwhile: see `systemctl status pve-exec-gateway-audit`, its journal and its disk"
    record = build_record(Event.NODE_CHECK, remote="local", node=node)
    try:
        receipt = audit.commit(record)
        found = audit.search(Query(audit_id=receipt.audit_id, limit=1)).records
        status = audit.ping()
    except GatewayError as exc:
        yield bad("audit", exc.detail, remedy)
        return
    if [entry["seq"] for entry in found] != [receipt.seq]:
        yield bad("audit", f"record {receipt.seq} has a receipt, and is not in the log", remedy)
    elif not status["ok"]:
        yield bad("audit", str(status["why"]), remedy)
    elif status["filled"] >= _NEARLY_FULL:
        yield doubtful(
            "audit", f"the log has taken {status['filled']:.0%} of audit.max_bytes", "raise it, or make room"
        )
    else:
        yield good("audit", f"record {receipt.seq} is durable, after {status['last_sync_ms']:.1f} ms on the disk")


def check_chain(audit: AuditClient) -> Iterator[Finding]:
    """The log, or as much of it as can be read in a few seconds, is as it was written."""
    part = audit.verify()
    if part.fault is not None:
        yield bad("audit_chain", str(part.fault), "somebody has changed the log: keep it, and run `audit verify`")
    else:
        rest = "; `audit verify` looks at all of them" if part.next else ""
        yield good("audit_chain", f"records {part.first} to {part.last} are as they were written{rest}")


def newest_record(audit: AuditClient) -> datetime | None:
    """When the newest record was made; None where nobody can tell."""
    try:
        found = audit.search(Query(limit=1)).records
        return datetime.fromisoformat(str(found[0]["ts"])) if found else None
    except (GatewayError, ValueError):
        return None


def check_tokens(tokens: TokenStore) -> Iterator[Finding]:
    """Tokens can be verified, and there is one that may do something."""
    try:
        tokens.check()
        now = tokens.clock()
        active = sum(record.state(now) is TokenState.ACTIVE for record in tokens.list())
    except GatewayError as exc:
        yield bad("tokens", exc.detail, "restore the key ring from a backup, or see the store's owner and mode")
        return
    if active:
        yield good("tokens", f"{active} tokens are active")
    else:
        yield doubtful(
            "tokens", "no token is active: nobody may do anything", "see `pve-exec-gateway token create --help`"
        )


def check_web(config: Config) -> Iterator[Finding]:
    """The API answers on its port, with the certificate that is on the disk, and calls itself ready."""
    host, port = _ANY.get(config.listen.address, config.listen.address), config.listen.port
    remedy = "see `systemctl status pve-exec-gateway` and its journal"
    try:
        status, answer, shown = _ask(config, host, port)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        yield bad("web", f"port {port} of {host} does not answer as the API does: {_reason(exc)}", remedy)
        return
    if config.tls is not None and shown not in _certificates(config.tls.certificate):
        text = f"it shows another certificate than {config.tls.certificate}"
        yield bad("web", text, f"it takes a new one within 10 s; else {remedy}")
    elif status != 200:
        missing = [check["name"] for check in answer["checks"] if not check["ok"]]
        yield bad("web", f"it answers, and is not ready: {', '.join(missing)}", "see these checks here")
    else:
        yield good("web", f"ready on port {port} of {host}")


def _ask(config: Config, host: str, port: int) -> tuple[int, dict[str, list[dict[str, str]]], bytes | None]:
    """Status and answer of GET /health/ready, and the certificate that was shown; which is compared, not trusted."""
    if config.tls is None:
        connection = http.client.HTTPConnection(host, port, timeout=_WEB_SECONDS)
    else:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_WEB_SECONDS, context=context)
    try:
        connection.connect()
        sock = connection.sock
        shown = sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
        connection.request("GET", "/health/ready")
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read(1 << 20)), shown
    finally:
        connection.close()


def _certificates(file: Path) -> list[bytes]:
    return [ssl.PEM_cert_to_DER_cert(pem) for pem in _PEM.findall(file.read_text("ascii", "replace"))[:1]]


def _reason(exc: Exception) -> str:
    return exc.strerror or type(exc).__name__ if isinstance(exc, OSError) else type(exc).__name__

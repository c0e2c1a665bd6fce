"""All checks, in the order in which one needs another."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.audit.client import AuditClient
from gateway.auth.tokens import TokenStore
from gateway.config import Config
from gateway.doctor import access, guest, node, requirements, services
from gateway.doctor.finding import Check, Finding, examine
from gateway.pve.guests import GuestMap
from gateway.supervisor.link.client import SupervisorClient


def check_all(config: Config, tokens: TokenStore, vmid: int | None) -> Iterator[Finding]:
    """Every finding, as it comes. `vmid`: the guest in which commands are run; None leaves these out."""
    guests = GuestMap(config.pve.etc, config.node)
    supervisor, audit = SupervisorClient(config.supervisor.socket, guests), AuditClient(config.audit.socket)
    checks: list[Check] = [
        ("kernel", lambda: requirements.check_requirements(config)),
        ("pmxcfs", lambda: node.check_pmxcfs(config)),
        ("quorum", lambda: node.check_quorum(config)),
        ("certificate", lambda: node.check_certificate(config.tls)),
        ("supervisor", lambda: services.check_supervisor(supervisor)),
        ("audit", lambda: services.check_audit(audit, config.node)),
        ("audit_chain", lambda: services.check_chain(audit)),
        ("clock", lambda: node.check_clock(services.newest_record(audit))),
        ("tokens", lambda: services.check_tokens(tokens)),
        ("web", lambda: services.check_web(config)),
        ("pve_token", lambda: access.check_access(config.pve)),
    ]
    if vmid is None:
        checks.append(("guest", guest.skip))
    else:
        proof = guest.GuestProof(config, supervisor, audit, vmid)
        checks += [
            ("guest_attach", proof.attach),
            ("guest_kill", proof.kill),
            ("guest_cgroup", proof.cgroup),
            ("guest_audit", proof.audit),
        ]
    try:
        yield from examine(checks)
    finally:
        supervisor.close()
        audit.close()

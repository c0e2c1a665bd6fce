"""The node itself: its cluster file system and quorum, its clock, the API's certificate."""

from __future__ import annotations

import ctypes
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.certificate import read_validity
from gateway.config import Config, PveConfig, TlsConfig
from gateway.doctor.finding import Finding, bad, doubtful, good

_TIMEX_BYTES = 208  # struct timex of adjtimex(2) on 64 bits
_TIME_ERROR = 5
_SOON = timedelta(days=14)


def check_pmxcfs(config: Config) -> Iterator[Finding]:
    """/etc/pve answers, is this node's, and knows the cluster's guests."""
    etc = config.pve.etc
    remedy = "see `systemctl status pve-cluster`, and `node` and `pve.etc` in the configuration"
    try:
        members, guests = read_members(config.pve), json.loads((etc / ".vmlist").read_bytes())["ids"]
    except (OSError, ValueError, KeyError, TypeError):
        yield bad("pmxcfs", f"{etc}/.members and .vmlist cannot be read", remedy)
        return
    if members.get("nodename") != config.node or not (etc / "nodes" / config.node).is_dir():
        yield bad("pmxcfs", f"{etc} is not of node {config.node}", remedy)
        return
    yield good("pmxcfs", f"{etc} answers and knows {len(guests)} guests")


def check_quorum(config: Config) -> Iterator[Finding]:
    """Whether this node may change what the cluster shares."""
    try:
        members = read_members(config.pve)
    except (OSError, ValueError):
        yield bad("quorum", f"{config.pve.etc}/.members cannot be read", "see `systemctl status pve-cluster`")
        return
    cluster = members.get("cluster")
    if not isinstance(cluster, dict):
        yield good("quorum", "the node is no member of a cluster")
    elif cluster.get("quorate") == 1:
        yield good("quorum", f"cluster {cluster.get('name')} of {cluster.get('nodes')} nodes is quorate")
    else:
        yield bad(
            "quorum",
            f"cluster {cluster.get('name')} has no quorum here: commands run, but no guest or token can be changed",
            "see `pvecm status` and the network to the other nodes",
        )


def read_members(config: PveConfig) -> dict[str, Any]:
    """The cluster as pmxcfs sees it. Raises OSError, ValueError."""
    members = json.loads((config.etc / ".members").read_bytes())
    if not isinstance(members, dict):
        raise ValueError("not an object")
    return members


def check_clock(last_record: datetime | None) -> Iterator[Finding]:
    """Tokens expire and records are dated by it. `last_record`: when the newest record of the audit log was made."""
    now = datetime.now(UTC)
    if last_record is not None and last_record > now + timedelta(seconds=5):
        yield bad(
            "clock",
            f"it says {_moment(now)}, and the newest record of the audit log is of {_moment(last_record)}",
            "set the clock: see `chronyc tracking`; the log goes on, with a record that says so",
        )
    elif ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _TIME_ERROR:
        yield doubtful("clock", "nothing keeps it in time", "install chrony, or see `timedatectl timesync-status`")
    else:
        yield good("clock", f"kept in time; it is {_moment(now)}")


def check_certificate(tls: TlsConfig | None) -> Iterator[Finding]:
    """The API's certificate is valid, not for a short time only, and its key fits."""
    if tls is None:
        yield good("certificate", "none: the API is plain HTTP, on a loopback address")
        return
    remedy = "PVE's own is renewed by `pvecm updatecerts --force`; see tls.certificate and tls.key"
    try:
        validity = read_validity(tls.certificate)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except OSError as exc:  # SSLError is one: the key is not its key
        yield bad("certificate", f"{tls.certificate} and {tls.key}: {exc.strerror or 'unusable'}", remedy)
        return
    except ValueError as exc:
        yield bad("certificate", str(exc), remedy)
        return
    now, ends = datetime.now(UTC), _moment(validity.ends)
    if now > validity.ends:
        yield bad("certificate", f"{tls.certificate} expired at {ends}", remedy)
    elif now < validity.begins:
        yield bad("certificate", f"{tls.certificate} is valid only from {_moment(validity.begins)}", remedy)
    elif validity.ends - now < _SOON:
        yield doubtful("certificate", f"{tls.certificate} expires at {ends}", remedy)
    else:
        yield good("certificate", f"{tls.certificate} is valid until {ends}")


def _moment(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _no_password() -> str:
    """OpenSSL would ask the terminal for an encrypted key's."""
    raise ValueError("the key is encrypted: the gateway could not read it")

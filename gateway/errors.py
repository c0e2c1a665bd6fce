"""Every failure the gateway reports, each with a stable `code`, an HTTP status and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class FieldError:
    """One field of a request that cannot be taken: its path and why, never the sent value."""

    path: str
    code: str
    message: str

    def to_json(self) -> dict[str, str]:
        return {"path": self.path, "code": self.code, "message": self.message}


class GatewayError(Exception):
    """The root. `detail` is safe to show to the caller; `evidence` holds members such as vmid, node, errors."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, **evidence: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.evidence = evidence

    def to_wire(self) -> dict[str, Any]:
        """The form that crosses our own sockets; `errors_all.from_wire` makes the same error of it again."""
        return {"code": self.code, "detail": self.detail, "evidence": self.evidence}


class InternalError(GatewayError):
    """A defect of ours. The detail names the request id; the traceback is in the log only."""


class ConfigError(GatewayError):
    """The configuration cannot be used. The detail names the dotted key and the line. CLI exit code 2."""

    code = "config_invalid"
    title = "Configuration invalid"


class MalformedRequest(GatewayError):
    """The bytes are not what they promise to be: bad JSON, a body cut short, a query that is not UTF-8."""

    code, status, title = "malformed_request", 400, "Malformed request"


class ConfirmationMissing(GatewayError):
    """What cannot be undone is asked for without `?confirm=` and the guest's vmid."""

    code, status, title = "confirmation_missing", 400, "Not confirmed"


class Unauthenticated(GatewayError):
    """No token, or none that is valid now; one body for every cause."""

    code, status, title = "unauthenticated", 401, "Authentication required"


class Forbidden(GatewayError):
    """The token is known and may not do this anywhere."""

    code, status, title = "forbidden", 403, "Not allowed"


class CommandNotGranted(GatewayError):
    """The token may run commands in this guest, but not this one, or not so; `field` names what is refused."""

    code, status, title = "command_not_granted", 403, "Command not granted"

    @classmethod
    def for_field(cls, field: str, vmid: int, **evidence: Any) -> CommandNotGranted:
        """The one body for it: the grants themselves are shown by GET /tokens/self."""
        detail = f"this token's grants do not allow this `{field}` in this guest; see GET /tokens/self for what they do"
        return cls(detail, field=field, vmid=vmid, **evidence)


class PolicyRefused(GatewayError):
    """Node policy allows this to nobody; `refused` names each thing and the configuration key that could allow it."""

    code, status, title = "policy_refused", 403, "Refused by node policy"

    @classmethod
    def for_things(cls, refused: Iterable[tuple[str, str | None]]) -> PolicyRefused:
        """`refused`: what is not allowed, each with the key that could allow it; None where nothing can."""
        listed = [{"what": what, "key": key} for what, key in refused]
        named = "; ".join(f"{item['what']} ({item['key'] or 'never'})" for item in listed)
        return cls(f"the node's configuration does not allow: {named}"[:2000], refused=listed[:20])


class PrivilegeExceeded(GatewayError):
    """The token that was asked for could do more than the caller itself; `exceeds` names in what."""

    code, status, title = "privilege_exceeded", 403, "More than the caller may grant"


class OriginRefused(GatewayError):
    """A page of another site asked a browser for this WebSocket; `web.allowed_origins` names those that may."""

    code, status, title = "origin_refused", 403, "Origin not allowed"


class NotFound(GatewayError):
    """No such path in this API."""

    code, status, title = "not_found", 404, "Not found"


class GuestNotFound(GatewayError):
    """No such guest, or one that the token may not know of: the two look the same."""

    code, status, title = "guest_not_found", 404, "No such guest"

    @classmethod
    def for_vmid(cls, vmid: int, **evidence: Any) -> GuestNotFound:
        """The one body for a guest that does not exist, or is out of reach."""
        return cls.for_name("", vmid=vmid, **evidence)

    @classmethod
    def for_name(cls, _: str, **evidence: Any) -> GuestNotFound:
        """The same for what can be no vmid, and is told nowhere: `vmid` is a number."""
        return cls("no such guest within this token's grants; see GET /tokens/self", **evidence)


class ExecNotFound(GatewayError):
    """No such exec, or another token's, or one whose retention has passed."""

    code, status, title = "exec_not_found", 404, "No such exec"

    @classmethod
    def for_id(cls, exec_id: str) -> ExecNotFound:
        """The one body for an exec that does not exist, is another token's, or has an impossible id."""
        return cls("no such exec of this token, or its retention has passed; see GET /execs", exec_id=exec_id)


class TokenNotFound(GatewayError):
    """No such token, or one that may do more than the caller, who cannot administer it then: the two look the same."""

    code, status, title = "token_not_found", 404, "No such token"

    @classmethod
    def for_id(cls, token_id: str, **evidence: Any) -> TokenNotFound:
        """The one body for a token that does not exist, is out of reach, or has an impossible id."""
        return cls("no such token within this token's own grants; see GET /tokens", token_id=token_id, **evidence)


class DeviceNotFound(GatewayError):
    """The node has no device of that name, or not any more."""

    code, status, title = "device_not_found", 404, "No such device"

    @classmethod
    def for_path(cls, path: str) -> DeviceNotFound:
        return cls(f"this node has no {path} (any more); see GET /devices", path=path)


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not; `allow` lists those that do."""

    code, status, title = "method_not_allowed", 405, "Method not allowed"


class UpgradeRequired(GatewayError):
    """The path speaks WebSocket, version 13, and nothing else (RFC 6455, 4.2.2)."""

    code, status, title = "upgrade_required", 426, "Upgrade required"


class GuestNotRunning(GatewayError):
    """The guest is stopped, or stopped while the command was being started."""

    code, status, title = "guest_not_running", 409, "Guest is not running"


class GuestFrozen(GatewayError):
    """The guest is frozen (suspended, or being snapshotted or backed up) and would hang a command."""

    code, status, title, retryable = "guest_frozen", 409, "Guest is frozen", True


class GuestSilent(GatewayError):
    """The guest's own file systems do not answer, or cannot be entered: what is in them is not known."""

    code, status, title, retryable = "guest_silent", 409, "Guest's files do not answer", True


class GuestAgentUnavailable(GatewayError):
    """The guest is a virtual machine whose guest agent is not set up, or does not answer."""

    code, status, title, retryable = "guest_agent_unavailable", 409, "Guest agent unavailable", True


class GuestUnsupported(GatewayError):
    """The guest is of a kind, or on a node, that this gateway cannot run commands in."""

    code, status, title = "guest_unsupported", 409, "Guest not supported"


class ExecEnded(GatewayError):
    """The exec has ended, so it can no longer be acted upon."""

    code, status, title = "exec_ended", 409, "Exec has ended"


class ExecQueued(GatewayError):
    """The exec waits for a place: it has no command yet that could be acted upon. DELETE cancels it."""

    code, status, title, retryable = "exec_queued", 409, "Exec has not begun", True


class TokenDead(GatewayError):
    """The token is revoked, or has expired, and cannot be changed so; `state` names it."""

    code, status, title = "token_dead", 409, "Token is not active"


class TokenLive(GatewayError):
    """The token is active: it is revoked before its record is deleted."""

    code, status, title = "token_live", 409, "Token is active"


class TooManyTokens(GatewayError):
    """The store holds as many tokens as it may."""

    code, status, title = "too_many_tokens", 409, "Too many tokens"


class RotationUnderWay(GatewayError):
    """The secret before the current one is valid still; `until` says how long."""

    code, status, title = "rotation_under_way", 409, "Rotation under way"


class KeyRingRefused(GatewayError):
    """The key ring cannot be changed so: an unknown key, the one that signs, or one that live tokens need."""

    code, status, title = "key_ring_refused", 409, "Key ring not changed"


class StdinOffset(GatewayError):
    """The input does not go on where the input so far ends; `expected` is the offset to go on from."""

    code, status, title = "stdin_offset_mismatch", 409, "Input does not follow what came before"


class StdinClosed(GatewayError):
    """The exec takes no input: it was started without an open stdin, or its end has been sent."""

    code, status, title = "stdin_closed", 409, "Input is closed"


class StdinBlocked(GatewayError):
    """The command does not read its input, and what may wait for it does already; `offset` is where to go on."""

    code, status, title, retryable = "stdin_blocked", 409, "The command does not read its input", True


class WriterTaken(GatewayError):
    """Another attached client holds the exec's input; others may only read."""

    code, status, title, retryable = "writer_taken", 409, "Another client has the input", True


class NotATerminal(GatewayError):
    """The exec was started without `tty`."""

    code, status, title = "not_a_terminal", 409, "Exec has no terminal"


class IdempotencyConflict(GatewayError):
    """The Idempotency-Key has been used for another request."""

    code, status, title = "idempotency_conflict", 409, "Idempotency-Key was used for another request"


class NotADevice(GatewayError):
    """What was named is no device below /dev: another path, a directory, a file, a link that leads out of it."""

    code, status, title = "not_a_device", 422, "Not a device"


class DriverUnsupported(GatewayError):
    """The guest's driver cannot do what was asked; `unsupported` names the fields or operations. Nothing has run."""

    code, status, title = "driver_unsupported", 422, "Not supported for this guest"


class NotAcceptable(GatewayError):
    """No media type of the Accept header is one that this operation can answer in."""

    code, status, title = "not_acceptable", 406, "Not acceptable"


class PreconditionFailed(GatewayError):
    """If-Match names another version than the one there is; `etag` is its own."""

    code, status, title = "precondition_failed", 412, "Changed meanwhile"


class PayloadTooLarge(GatewayError):
    """The request body is larger than `web.max_body`."""

    code, status, title = "payload_too_large", 413, "Request body too large"


class RangeNotSatisfiable(GatewayError):
    """The range begins past the end of the output; `size` is its length so far."""

    code, status, title = "range_not_satisfiable", 416, "Range not satisfiable"


class OutputDropped(GatewayError):
    """The range touches bytes that were not kept; `kept` lists the ranges that were."""

    code, status, title = "output_dropped", 416, "Output was not kept"


class UnsupportedMediaType(GatewayError):
    """The body is not application/json."""

    code, status, title = "unsupported_media_type", 415, "Unsupported media type"


class InvalidRequest(GatewayError):
    """Well-formed, but fields are unknown, missing, of the wrong type or out of range; see `errors`."""

    code, status, title = "invalid_request", 422, "Invalid request"

    @classmethod
    def for_field(cls, path: str, rule: str, code: str = "impossible") -> InvalidRequest:
        """Of one field that can be no such thing; `rule` says what it can be."""
        return cls(f"`{path}` cannot be that: {rule}", errors=[FieldError(path, code, rule).to_json()])


class GrantInvalid(GatewayError):
    """A grant, its guests, networks or lifetime cannot be understood."""

    code, status, title = "grant_invalid", 422, "Invalid grant"


class TooManyExecs(GatewayError):
    """A limit on running execs is reached and the queue time has passed."""

    code, status, title, retryable = "too_many_execs", 429, "Too many running execs", True


class TooManyRequests(GatewayError):
    """One token has as many requests under way as it may."""

    code, status, title, retryable = "too_many_requests", 429, "Too many requests under way", True


class RateLimited(GatewayError):
    """A token, or an address, asks more often than it may; `limit`, `remaining` and `reset` say how often that is."""

    code, status, title, retryable = "rate_limited", 429, "Too many requests in too short a time", True


class TooManyLogins(GatewayError):
    """Too many tokens that are not valid came from one address or network: in place of a 401. A valid one is taken."""

    code, status, title, retryable = "too_many_logins", 429, "Too many invalid tokens", True


class Overloaded(GatewayError):
    """The gateway has as many streams under way as it may (`web.max_streams`), or requests that wait for PVE."""

    code, status, title, retryable = "overloaded", 503, "Too much under way", True


class AuditUnavailable(GatewayError):
    """No durable audit record could be had, so nothing was done."""

    code, status, title, retryable = "audit_unavailable", 503, "Audit log unavailable", True


class SupervisorUnavailable(GatewayError):
    """The supervisor does not answer; whether a command began is unknown where `detail` says so."""

    code, status, title, retryable = "supervisor_unavailable", 503, "Supervisor unavailable", True


class GatewayRestarting(GatewayError):
    """The web process ends and can wait no longer. A command that began goes on: its Idempotency-Key tells of it."""

    code, status, title, retryable = "gateway_restarting", 503, "Gateway is restarting", True


class TokenStoreError(GatewayError):
    """The token store or its keys cannot be used: absent, damaged, open to others. No token is valid then."""

    code, status, title, retryable = "token_store_unavailable", 503, "Token store unavailable", True


class NodeNotReady(GatewayError):
    """The node lacks what running commands safely needs; `missing` names it."""

    code, status, title, retryable = "node_not_ready", 503, "Node not ready", True


class SpoolFull(GatewayError):
    """The spool's limits leave no room for another exec."""

    code, status, title, retryable = "spool_full", 507, "Spool full", True


class ClientGone(Exception):
    """The client left before its reply: nobody reads an answer, so this never becomes one."""

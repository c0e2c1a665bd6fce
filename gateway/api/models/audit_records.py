"""The records of the audit log, version 1: one model for each kind of event; the documented schema is made of these.

Within a version events and members may be added; one that goes, or means something else, makes version 2. In a record
that was too long, any text, list or object below `data` may be a Cut instead.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.audit.record import VERSION, Event

MOMENT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"
KEYED_HASH = r"^hmac-sha256:[0-9a-f]{64}$"


class Member(BaseModel):
    """A part of a record. What a later program has added is passed over.

    Its validator is made when something is validated: the web service only describes records, and starts sooner so.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, defer_build=True)


class Cut(Member):
    """Stands for a value too long to be kept: its first characters, its length, and a keyed hash to find it by."""

    cut: str
    bytes: int
    hash: str = Field(pattern=KEYED_HASH)


Text = str | Cut
Texts = list[Text] | Cut
TextByName = dict[str, Text] | Cut


class RecordActor(Member):
    """The token that acted. A stranger's is what it claimed to be."""

    token_id: str | None = None
    name: str | None = None


class AuditRecord(Member):
    """What all records have. `audit_id` names the operation: an intent, its outcome and its abort share it.

    `prev` is the mac of the record before; `mac` covers every other byte of the line. `peer` is the uid of the process
    that had it written; the log's own records have none.
    """

    v: Literal[1] = VERSION
    seq: int = Field(ge=1)
    ts: str = Field(pattern=MOMENT)
    event: Event
    audit_id: str
    peer: int | None = None
    request_id: str | None = None
    actor: RecordActor | None = None
    remote: str | None = None
    action: str | None = None
    vmid: int | None = None
    node: str | None = None
    exec_id: str | None = None
    prev: str
    mac: str


class Stdin(Member):
    """Input given with the request."""

    bytes: int
    hash: str = Field(pattern=KEYED_HASH)


class IntentData(Member):
    """What is about to run. Marked arguments, and all values of `env`, are keyed hashes."""

    command: Texts
    env: TextByName
    cwd: Text | None
    user: Text | None
    stdin: Stdin | None
    timeout: float | None
    background: str
    on_disconnect: str
    placement: str
    labels: TextByName
    config_id: str
    incarnation: str


class ExecIntent(AuditRecord):
    """A command is about to run. It is durable before that."""

    event: Literal[Event.EXEC_INTENT]
    data: IntentData | Cut
    idempotency_key: str | None = None
    fingerprint: str | None = None


class OutcomeData(Member):
    """How it ended; `reason` is `unknown` where nobody can tell whether it ran, and then stands alone."""

    reason: str
    exit_code: int | None = None
    signal: str | None = None
    spawn_error: dict[str, Any] | None = None
    output: dict[str, Any] | None = None
    killed: int | None = None
    survivors: int | None = None
    timing: dict[str, Any] | None = None


class ExecOutcome(AuditRecord):
    """A command has ended."""

    event: Literal[Event.EXEC_OUTCOME]
    data: OutcomeData | Cut


class ChangeEnd(Member):
    """`reason`: `ok`, `failed`, `unknown`, or `requested` of the HA manager. `words` are PVE's; `upid` is its task.

    `undone`: of a guest whose making failed, whether nothing of it is left.
    What pvesh did as root@pam has an `exit_code`, and the `status` that its failure would have had in PVE's API.
    """

    reason: str | None = None
    upid: str | None = None
    code: str | None = None
    words: Text | None = None
    exit_code: int | None = None
    status: int | None = None
    undone: bool | None = None


class ChangeOutcome(AuditRecord):
    """A change of a guest or a storage has ended. One that has an intent alone still goes on."""

    event: Literal[Event.GUEST_OUTCOME, Event.STORAGE_OUTCOME]
    data: ChangeEnd | Cut


class FileData(Member):
    """Which path in the guest, in base64 where `encoding` says so, and how. `new`: only if nothing stands there."""

    path: Text
    encoding: str | None = None
    head: bool | None = None
    recursive: bool | None = None
    new: bool | None = None
    mode: str | None = None
    user: str | None = None
    group: str | None = None


class FileAsked(AuditRecord):
    """A file in a guest is about to be read, written or removed."""

    event: Literal[Event.FILE_READ, Event.FILE_WRITE, Event.FILE_DELETE]
    data: FileData | Cut


class FileEnd(Member):
    """`reason`: `ok`, `failed` (nothing was changed), `client_gone` (the same), or `unknown`: of a change nobody can
    tell. `bytes` from `offset` on went to or fro, and have this `sha256`; of a directory `entries` were told."""

    reason: str
    code: str | None = None
    words: Text | None = None
    offset: int | None = None
    bytes: int | None = None
    sha256: str | None = None
    entries: int | None = None
    created: bool | None = None


class FileOutcome(AuditRecord):
    """What came of that. One that has an intent alone still goes on."""

    event: Literal[Event.FILE_OUTCOME]
    data: FileEnd | Cut


class SignalData(Member):
    """The signal's number, to the `command` or its `tree`."""

    signal: int
    to: Literal["command", "tree"]


class ExecSignal(AuditRecord):
    """A signal is about to be sent."""

    event: Literal[Event.EXEC_SIGNAL]
    data: SignalData


class ExecActed(AuditRecord):
    """An exec is about to be ended, or to be given input; the token's first input to it is recorded."""

    event: Literal[Event.EXEC_CANCEL, Event.EXEC_INPUT]


class AbortedData(Member):
    """Which event, and why."""

    aborted: str
    reason: str


class Aborted(AuditRecord):
    """What was announced under this `audit_id` has not been done."""

    event: Literal[
        Event.EXEC_ABORTED, Event.TOKEN_ABORTED, Event.GUEST_ABORTED, Event.FILE_ABORTED, Event.STORAGE_ABORTED
    ]
    data: AbortedData


class DeniedData(Member):
    """Why, and of which operation. `omitted`: so many were not recorded before this one, for there were too many.

    `named_vmid`: another guest than the path's that the request is about, a clone's or a backup's.
    """

    reason: str
    operation: str | None = None
    named_vmid: int | None = None
    omitted: int | None = None
    field: str | None = None
    program: Text | None = None
    refused: Any = None
    token_id: str | None = None
    upid: str | None = None
    exceeds: Any = None


class Denied(AuditRecord):
    """A request was refused."""

    event: Literal[Event.REQUEST_DENIED]
    data: DeniedData | Cut


class LogOpened(Member):
    """`reason`: created, started, rotated, renamed, deleted, truncated, foreign_bytes or damaged.

    `latest`: no record before this one carries a later moment.
    """

    reason: str
    new_file: bool
    foreign_bytes: int
    latest: str | None = None


class LogRotated(Member):
    """The file that was closed."""

    closed: str


class LogPruned(Member):
    """The file that was deleted, and its last record, so that a log may begin behind it."""

    file: str
    bytes: int
    last_seq: int
    last_mac: str
    last_ts: str | None = None


class LogTorn(Member):
    """Half a line, as a crash leaves it, and the file it was moved to."""

    saved: str
    bytes: int
    sha256: str


class LogRecovered(Member):
    """Records were refused for `seconds`, and why."""

    why: str
    seconds: float
    refused: int


class LogFull(Member):
    """Nothing may be announced until there is room."""

    why: str


class LogClockSet(Member):
    """The wall clock was set, by `seconds` where that is known; `before` is later than `after` at a start."""

    before: str | None
    after: str
    seconds: float | None


class LogCopiesLost(Member):
    """So many copies never reached a sink."""

    sink: str
    records: int
    why: str


class AuditLogOpened(AuditRecord):
    """A file was begun, or taken up again."""

    event: Literal[Event.AUDIT_OPENED]
    data: LogOpened


class AuditLogRotated(AuditRecord):
    """A file was closed."""

    event: Literal[Event.AUDIT_ROTATED]
    data: LogRotated


class AuditLogPruned(AuditRecord):
    """A file is about to be deleted."""

    event: Literal[Event.AUDIT_PRUNED]
    data: LogPruned


class AuditLogTorn(AuditRecord):
    """Something that was no record stood at the end."""

    event: Literal[Event.AUDIT_TORN]
    data: LogTorn


class AuditLogRecovered(AuditRecord):
    """The log takes records again."""

    event: Literal[Event.AUDIT_RECOVERED]
    data: LogRecovered


class AuditLogFull(AuditRecord):
    """The log has reached its size."""

    event: Literal[Event.AUDIT_FULL]
    data: LogFull


class AuditLogClock(AuditRecord):
    """The clock jumped."""

    event: Literal[Event.AUDIT_CLOCK]
    data: LogClockSet


class AuditLogLost(AuditRecord):
    """Copies were lost. The log itself has every record."""

    event: Literal[Event.AUDIT_LOST]
    data: LogCopiesLost


KINDS: tuple[type[AuditRecord], ...] = (
    ExecIntent,
    ExecOutcome,
    ChangeOutcome,
    FileAsked,
    FileOutcome,
    ExecSignal,
    ExecActed,
    Aborted,
    Denied,
    AuditLogOpened,
    AuditLogRotated,
    AuditLogPruned,
    AuditLogTorn,
    AuditLogRecovered,
    AuditLogFull,
    AuditLogClock,
    AuditLogLost,
)

_NAMED = {event for kind in KINDS for event in get_args(kind.model_fields["event"].annotation)}
_OTHERS = tuple(event for event in Event if event not in _NAMED)


class Change(AuditRecord):
    """Anything else is about to be changed: guests, storages, tokens, keys. `data` says what, without its secrets."""

    event: Literal[_OTHERS]  # type: ignore[valid-type]
    data: dict[str, Any] | None = None


AnyRecord = (
    ExecIntent
    | ExecOutcome
    | ChangeOutcome
    | FileAsked
    | FileOutcome
    | ExecSignal
    | ExecActed
    | Aborted
    | Denied
    | AuditLogOpened
    | AuditLogRotated
    | AuditLogPruned
    | AuditLogTorn
    | AuditLogRecovered
    | AuditLogFull
    | AuditLogClock
    | AuditLogLost
    | Change
)
"""One record; `event` tells which."""


class AuditEntry(AuditRecord):
    """A record of any kind. What stands in `data` is told, event by event, by `pve-exec-gateway audit schema`."""

    data: dict[str, Any] | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None


def record_schema() -> dict[str, Any]:
    """JSON Schema of one line of the log."""
    schema = TypeAdapter(AnyRecord).json_schema()
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A record of the audit log, version 1"}
    return {**title, **schema}

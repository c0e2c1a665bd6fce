"""Header fields as the API's description tells of them: those that a request may carry, and those of replies."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.api.schemas import Schema

_ULID = "[0-9A-HJKMNP-TV-Z]{26}"


@dataclass(frozen=True)
class Field:
    """One header field. `statuses`: the replies that it stands in where not every one of the operation has it.

    `always`: no such reply is without it.
    """

    description: str
    schema: Schema
    statuses: frozenset[int] = frozenset()
    always: bool = False

    def stands_in(self, status: int) -> bool:
        return not self.statuses or status in self.statuses

    def show(self) -> Schema:
        """The header object of a reply."""
        required = {"required": True} if self.always else {}
        return {"description": self.description, **required, "schema": self.schema}


_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}

ASKED = {
    "If-Match": Field(
        "The ETag of the version that is meant; if there is another by now, nothing is changed (412). Default: any.",
        _TEXT,
    ),
    "If-None-Match": Field(
        "Of a GET: the ETags of what the caller has; if it is one of these still, 304 and no body. Of a PUT `*`: only "
        "if nothing stands there yet (412).",
        _TEXT,
    ),
    "If-Range": Field("The ETag of the version that a Range is meant of; of another one everything is sent.", _TEXT),
    "Content-Digest": Field(
        "`sha-256=:<base64>:` of the body (RFC 9530); if that is not what comes, nothing is replaced.", _TEXT
    ),
    "Range": Field("One range, like `bytes=0-99` or `bytes=-100`; several are ignored.", _TEXT),
    "Prefer": Field(
        "`respond-async` starts the exec and answers 202 at once, where Accept takes JSON (RFC 7240).", _TEXT
    ),
    "Idempotency-Key": Field(
        "1 to 255 visible ASCII characters. The same key with the same request, from the same token, gives the first "
        "one's exec; with another request it is refused (`idempotency_conflict`).",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]{1,255}$"},
    ),
    "Origin": Field(
        "The page that asks, where a browser does: the gateway's own, or one of `web.allowed_origins`.", _TEXT
    ),
    "Sec-WebSocket-Protocol": Field(
        "`pvex.v1`; from a browser `pvex.ticket.<ticket>`, too, where `?ticket=` is not given.", _TEXT
    ),
    "Last-Event-ID": Field(
        "`seq` of the last event seen: go on behind it. Default: 0, from the beginning.",
        {"type": "string", "pattern": "^[0-9]{0,18}$"},
    ),
}
"""What requests may carry beside Authorization, Accept and Content-Type, which OpenAPI has elsewhere."""

QUOTA = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset")

TOLD = {
    "X-Request-Id": Field(
        "Names this request in the logs and the audit log; a problem's `request_id` is the same.",
        {"type": "string", "pattern": f"^req_{_ULID}$"},
        always=True,
    ),
    "RateLimit-Limit": Field(
        "Requests that the token may send in a burst; absent where its rate is not limited.", _COUNT
    ),
    "RateLimit-Remaining": Field("How many of them are left.", _COUNT),
    "RateLimit-Reset": Field("Seconds until there are as many as `RateLimit-Limit` again.", _COUNT),
    "Retry-After": Field(
        "Seconds to wait before asking again; in every problem of 429 and 503.", _COUNT, frozenset({429, 503})
    ),
    "WWW-Authenticate": Field("How to authenticate: `Bearer`.", _TEXT, frozenset({401}), always=True),
    "Upgrade": Field("`websocket`.", _TEXT, frozenset({101, 426}), always=True),
    "Sec-WebSocket-Version": Field("`13`.", _TEXT, frozenset({426}), always=True),
    "Content-Range": Field(
        "The range that this is, and the whole's length: of a running command's output `*`. Of 416: the length alone.",
        {"type": "string", "pattern": r"^bytes ([0-9]+-[0-9]+|\*)/([0-9]+|\*)$"},
        frozenset({206, 416}),
        always=True,
    ),
    "ETag": Field(
        "The version of the token, or of the guest's configuration, for If-Match; of the file, for If-Range; of a "
        "document, for If-None-Match.",
        {"type": "string", "pattern": '^(W/)?"[!#-~]*"$'},
    ),
    "Last-Modified": Field("When the guest says that the file was changed last.", _TEXT),
    "Content-Digest": Field("`sha-256=:<base64>:` of the body, where it has at most 1 MiB (RFC 9530).", _TEXT),
    "X-File-Type": Field("What stands at the path.", {"type": "string", "enum": ["file", "directory"]}),
    "X-File-Mode": Field("Its permissions, in octal: `0644`.", {"type": "string", "pattern": "^[0-7]{4}$"}),
    "X-File-Uid": Field("Its owner's number in the guest.", _COUNT),
    "X-File-Gid": Field("Its group's number in the guest.", _COUNT),
    "X-File-User": Field("Its owner's name, where the guest's /etc/passwd has one.", _TEXT),
    "X-File-Group": Field("Its group's name, where the guest's /etc/group has one.", _TEXT),
    "Idempotency-Replayed": Field(
        "`true` when an earlier request with this Idempotency-Key began the exec; else absent.",
        {"type": "string", "enum": ["true"]},
    ),
    "Location": Field("The path of the exec or the task (200, 202), of the token or the guest (201).", _TEXT),
    "Preference-Applied": Field("`respond-async`.", _TEXT, frozenset({202}), always=True),
    "Sec-WebSocket-Protocol": Field("`pvex.v1`.", _TEXT, frozenset({101}), always=True),
    "X-Output-Bytes": Field("The stream's length so far in bytes, dropped ones counted.", _COUNT),
    "X-Output-Complete": Field(
        "`true` when no more will come; else `false`.", {"type": "string", "enum": ["true", "false"]}
    ),
    "X-Output-Dropped": Field(
        "Ranges of bytes that were not kept, like `100-199,300-399`; absent where all were.", _TEXT
    ),
}
"""What replies may carry; each is a component of the description."""

OF_PROBLEMS = ("Retry-After", "WWW-Authenticate", "Upgrade", "Sec-WebSocket-Version", "Content-Range")
"""Fields that the status of a problem brings with it (api.problems.problem_headers)."""

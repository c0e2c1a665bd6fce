"""The whole document: what is said once, and every operation of ROUTES below its path."""

from __future__ import annotations

from collections.abc import Iterable

from gateway import __version__
from gateway.api.openapi.examples import Examples, load_examples
from gateway.api.openapi.headers import TOLD
from gateway.api.openapi.naming import TAGS, name_schemas
from gateway.api.openapi.operations import describe_operation, path_parameters
from gateway.api.openapi.problems import describe_codes, problem_schemas, share_responses
from gateway.api.route import Route
from gateway.api.routes import ROUTES
from gateway.api.schemas import Schema
from gateway.auth.actions import MEANINGS

_ABOUT = """\
Run commands in the guests of a Proxmox VE node, and drive the guests themselves, over HTTPS.

**Tokens.** Send `Authorization: Bearer pveg_...`. A token may do what its grants say: *actions* on *guests*. Each \
operation names the action that it needs (`x-action`; all of them stand in `x-actions`). A guest outside of the grants \
is answered as one that does not exist.

**Failures** are `application/problem+json` with a stable `code`; `x-problem-codes` lists all of them with their \
meaning, and each operation those that it can give. A command's own exit code is no failure of a request.

**Time and size.** Seconds are numbers and may have a fraction where that is said; sizes are bytes; times are RFC 3339 \
in UTC, but for those that PVE counts in seconds since 1970. Lists come in pages: `limit`, and `after` with the \
`next` of the page before.

**Again.** A request that failed with `retryable` may be sent again; one that runs a command, with the same \
`Idempotency-Key`. A reply that says `Retry-After` says how long to wait. `RateLimit-*` tell how much a token may ask.

**Changes** of guests are tasks of PVE's: 202 names the task (`upid`, `Location`), and `wait` turns that into 200 with \
its end. Everything that changes something is in the audit log before it is done.
"""


def build_openapi(routes: Iterable[Route] = ROUTES, examples: Examples | None = None) -> Schema:
    """The whole document. Same input, same output: it is committed and compared.

    `examples`: those of each operation by its id; None takes those that were recorded.
    """
    schemas = problem_schemas()
    known = load_examples() if examples is None else examples
    paths: dict[str, Schema] = {}
    for route in routes:
        if not route.described:
            continue
        operation = describe_operation(route, schemas, known.get(route.operation_id, ()))
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    operations = [operation for path in paths.values() for operation in path.values()]
    used = {tag for operation in operations for tag in operation["tags"]}
    return name_schemas(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "pve-exec-gateway",
                "version": __version__,
                "summary": "Run commands in the guests of a Proxmox VE node.",
                "description": _ABOUT,
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [
                {"url": "/", "description": "The gateway that this was read from."},
            ],
            "tags": [{"name": tag, "description": text} for tag, text in TAGS.items() if tag in used],
            "x-actions": {str(action): meaning for action, meaning in MEANINGS.items()},
            "x-problem-codes": describe_codes(),
            "paths": paths,
            "components": {
                "parameters": path_parameters(paths),
                "headers": {name: field.show() for name, field in TOLD.items()},
                "responses": share_responses(operations),
                "schemas": schemas,
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "Of this gateway: `pveg_...`; `pve-exec-gateway token create` makes one.",
                    }
                },
            },
        }
    )

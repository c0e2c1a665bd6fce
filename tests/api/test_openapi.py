"""The description of the API: it is the one that is served and committed, and it tells of every way to be answered."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.api.openapi import build_openapi
from gateway.api.problems import MEDIA_TYPE
from gateway.api.routes import ROUTES
from gateway.errors import InternalError, InvalidRequest, RateLimited
from gateway.web import refusal
from gateway.web.codes import EDGE_CODES
from gateway.web.refusal import Refusal

from .fakes import Api

SPEC = Path(__file__).parents[2] / "openapi" / "openapi.yaml"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(json.dumps(build_openapi()))


def test_is_served(api: Api, document: Any) -> None:
    """The description is public and is the one that the code gives."""
    assert api.request("GET", "/openapi.json").json == document


def test_is_committed(document: Any) -> None:
    """openapi/openapi.yaml is what `pve-exec-gateway openapi` prints: change both together (make spec)."""
    assert yaml.safe_load(SPEC.read_text(encoding="utf-8")) == document


def test_refers_to_what_it_holds(document: Any) -> None:
    """Every reference has its target, every schema is used, and every operation has an id of its own."""
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    refs = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs == schemas.keys()
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert sorted(operations) == sorted(route.operation_id for route in ROUTES)


def told_codes(document: Any, operation: Any) -> dict[str, set[str]]:
    """The codes of an operation's problems, by status."""
    told = {}
    for status, given in operation["responses"].items():
        ref = given.get("$ref", "").rsplit("/", 1)[-1]
        reply = document["components"]["responses"][ref] if ref else given
        if MEDIA_TYPE in reply.get("content", {}):
            told[status] = set(re.findall("`([a-z_]+)`", reply["description"]))
    return told


def edge_refusals() -> list[Refusal]:
    """One of each kind that the web server can answer with: what its functions make, and of gunicorn's parser."""
    makers = [
        maker for _, maker in inspect.getmembers(refusal, inspect.isfunction) if maker.__module__ == refusal.__name__
    ]
    given: dict[str, Any] = {"limit": 1, "what": "head", "error": ValueError()}
    made = [maker(*map(given.__getitem__, inspect.signature(maker).parameters)) for maker in makers]
    return [*made, *(Refusal(*arguments) for arguments in refusal._PARSE_ERRORS.values())]


def test_tells_what_the_edge_answers(document: Any) -> None:
    """Every code that the web server, the door and the pipeline can answer is declared at every operation."""
    refusals = edge_refusals()
    assert {(no.status, no.code) for no in refusals} == {(s, code) for s, codes in EDGE_CODES.items() for code in codes}
    common = [RateLimited, InvalidRequest, InternalError]
    for path in document["paths"].values():
        for operation in path.values():
            told = told_codes(document, operation)
            for status, code in [(e.status, e.code) for e in refusals] + [(e.status, e.code) for e in common]:
                assert code in told[str(status)], (operation["operationId"], code)


def test_tells_the_errors_of_its_own(document: Any) -> None:
    """Each operation's own errors, those of a status that it also answers well included."""
    for route in ROUTES:
        told = told_codes(document, document["paths"][route.path][route.method.lower()])
        for error in route.possible_errors:
            assert error.code in told[str(error.status)], (route.operation_id, error.code)


def test_tells_the_ways_to_run(document: Any) -> None:
    """A result, a stream in two formats, or 202; and the headers that ask for them."""
    run = document["paths"]["/exec/{vmid}"]["post"]
    assert list(run["responses"]["200"]["content"]) == ["application/json", "application/x-ndjson", "text/event-stream"]
    assert run["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("/ExecView")
    assert {"Location", "Idempotency-Replayed"} <= run["responses"]["202"]["headers"].keys()
    assert {"Prefer", "Idempotency-Key"} <= {parameter["name"] for parameter in run["parameters"]}
    assert {"406", "409", "429", "503", "507"} <= run["responses"].keys()


def test_tells_the_events(document: Any) -> None:
    """The members of every kind of event, told apart by `type`."""
    schemas = document["components"]["schemas"]
    kinds = [schemas[kind["$ref"].rsplit("/", 1)[1]] for kind in schemas["ExecEvent"]["anyOf"]]
    words = [word for kind in kinds for word in kind["properties"]["type"]["enum"]]
    assert words == ["start", "stdout", "stderr", "gap", "heartbeat", "end"]
    events = document["paths"]["/execs/{id}/events"]["get"]
    assert list(events["responses"]["200"]["content"]) == ["application/x-ndjson", "text/event-stream"]
    assert "content" not in events["responses"]["204"]
    assert {"from", "follow", "Last-Event-ID"} <= {parameter["name"] for parameter in events["parameters"]}


def test_tells_of_bytes(document: Any) -> None:
    """Input and output are bytes of any kind."""
    put = document["paths"]["/execs/{id}/stdin"]["put"]
    assert list(put["requestBody"]["content"]) == ["application/octet-stream"]
    assert not put["requestBody"]["required"]
    get = document["paths"]["/execs/{id}/stdout"]["get"]
    assert list(get["responses"]["206"]["content"]) == ["application/octet-stream"]
    assert {"offset", "follow", "Range"} <= {parameter["name"] for parameter in get["parameters"]}


def test_tells_of_websockets(document: Any) -> None:
    """101, and 426 for who does not ask for one."""
    for path in ("/exec/{vmid}/terminal", "/execs/{id}/attach"):
        responses = document["paths"][path]["get"]["responses"]
        assert {"101", "426", "403"} <= responses.keys()
        assert "content" not in responses["101"]

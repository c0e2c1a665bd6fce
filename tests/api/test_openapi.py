"""The description of the API: it is the one that is served and committed, and it tells of every way to be answered."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.api.headers import JSON
from gateway.api.openapi import build_openapi
from gateway.api.openapi.examples import load_examples
from gateway.api.openapi.members import OF_SCHEMAS
from gateway.api.openapi.naming import name_schemas
from gateway.api.openapi.text import write_yaml
from gateway.api.problems import MEDIA_TYPE
from gateway.api.routes import ROUTES
from gateway.errors import InternalError, InvalidRequest, RateLimited
from gateway.errors_all import all_errors
from gateway.web import refusal
from gateway.web.codes import EDGE_CODES
from gateway.web.refusal import Refusal
from tests.contract import check_message, check_reply, check_request, find_reply

from .fakes import Api

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WITHIN = ("unsure",)
"""What the audit writer tells its clients, and they nobody."""
SPEC = Path(__file__).parents[2] / "openapi" / "openapi.yaml"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(json.dumps(build_openapi()))


def test_is_served(api: Api, document: Any) -> None:
    """The description is public and is the one that the code gives, in both forms."""
    assert api.request("GET", "/openapi.json").json == document
    response = api.request("GET", "/openapi.yaml")
    assert response.content_type == "application/yaml"
    assert yaml.load(response.data, YAML_LOADER) == document


def test_is_committed(document: Any) -> None:
    """openapi/openapi.yaml is what `pve-exec-gateway openapi` prints: change both together (make spec)."""
    text = SPEC.read_text(encoding="utf-8")
    assert yaml.load(text, YAML_LOADER) == document, "run `make spec`"
    assert text == write_yaml(), "run `make spec`: only its words differ"


def test_is_valid(document: Any) -> None:
    """OpenAPI 3.1, by its own schema and what that cannot say."""
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_refers_to_what_it_holds(document: Any) -> None:
    """Every reference has its target, every component is used, and every operation has an id of its own."""
    text = json.dumps(document)
    for kind, components in document["components"].items():
        if kind != "securitySchemes":
            refs = {part.split('"')[0] for part in text.split(f"#/components/{kind}/")[1:]}
            assert refs == components.keys(), kind
    operations = [operation["operationId"] for operation in every_operation(document)]
    assert sorted(operations) == sorted(route.operation_id for route in ROUTES if route.described)


def test_every_operation_is_told_in_full(document: Any) -> None:
    """A new route says what everything of it is: itself, its tag, its parameters, its own success."""
    tags = {tag["name"] for tag in document["tags"]}
    for operation in every_operation(document):
        name = operation["operationId"]
        assert set(operation["tags"]) <= tags, f"{name}: give its path's first word a tag in api/openapi/naming.py"
        assert operation["summary"] and operation["description"], name
        assert {"101", "200", "201", "202", "204"} & operation["responses"].keys(), name
        shared = document["components"]["parameters"]
        for given in operation.get("parameters", ()):
            parameter = shared[given["$ref"].rsplit("/", 1)[1]] if "$ref" in given else given
            assert parameter["description"], f"{name}: describe its parameter {parameter['name']}"


def test_every_operation_has_an_example(document: Any) -> None:
    """Of its request and of a reply that is no problem, recorded from a real run (`make examples`)."""
    for operation in every_operation(document):
        name = operation["operationId"]
        advice = f"{name} has no recorded example: tell of it in tests/examples/story.py and run `make examples`"
        if name in ("showOpenapi", "showOpenapiYaml"):
            continue  # they are the example
        if "x-websocket" in operation:
            assert operation["x-websocket"]["example"], advice
            continue
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content.get("examples"), advice
        for media_type in {mime for reply in replies_of(document, operation) for mime in reply.get("content", ())}:
            if media_type != MEDIA_TYPE:
                contents = [reply.get("content", {}).get(media_type, {}) for reply in replies_of(document, operation)]
                assert any(content.get("examples") for content in contents), f"{advice} ({media_type})"


def test_examples_are_as_described(document: Any) -> None:
    """Each recorded reply is what the description says of its status, each request what it may be; none is unused."""
    operations = {operation["operationId"]: operation for operation in every_operation(document)}
    methods = {route.operation_id: route.method for route in ROUTES}
    for operation_id, exchanges in load_examples().items():
        assert operation_id in operations, f"{operation_id} is no more: remove its recorded examples"
        for exchange in exchanges:
            where = f"{operation_id}: {exchange.name}"
            text = exchange.came if isinstance(exchange.came, str) else json.dumps(exchange.came)
            told = {"X-Request-Id": "req_" + "0" * 26, "Content-Type": exchange.came_as, **(exchange.told or {})}
            told |= {"Retry-After": "1", "Upgrade": "websocket", "Sec-WebSocket-Protocol": "pvex.v1"}
            stands = find_reply(operation_id, exchange.status)["headers"]
            fields = [(name, value) for name, value in told.items() if name in (*stands, "Content-Type")]
            body = b"" if exchange.came is None else text.encode()
            check_reply(methods[operation_id], exchange.path, exchange.status, fields, body)
            if exchange.sent_as == JSON and exchange.status < 400:
                check_request(operation_id, exchange.sent, where)
            for message in exchange.messages:
                if message["from"] == "gateway" and "text" in message:
                    check_message(message["text"])


def test_two_schemas_never_share_a_name() -> None:
    """References would mean one of them alone."""
    one, other = {"type": "string"}, {"type": "integer"}
    with pytest.raises(ValueError, match="the same name"):
        name_schemas({"components": {"schemas": {"State": one, "ExecState": other}}})


def test_suits_generators(document: Any) -> None:
    """What they trip over does not stand in it: nameless alternatives, numbers of unknown width, maps by patterns,
    defaults that are objects, two ways to be answered well, a constructor's name (Go's `NewGuest` makes a `Guest`)."""
    schemas = document["components"]["schemas"]
    taken = {f"New{name}" for name in schemas} & schemas.keys()
    assert not taken
    for where, schema in every_schema(document):
        kinds = schema.get("type")
        kinds = set(kinds if isinstance(kinds, list) else [kinds]) - {"null", None}
        assert len(kinds) <= 1, where
        assert schema.get("format") or not kinds & {"integer", "number"}, where
        assert not {"patternProperties", "const"} & schema.keys(), where
        assert not isinstance(schema.get("default"), dict), where
        choices = [choice for choice in schema.get("anyOf", schema.get("oneOf", [])) if choice != {"type": "null"}]
        assert len(choices) < 2 or where.count("/") == 0, f"{where}: give it a name"
    for operation in every_operation(document):
        told = [reply.get("content", {}) for status, reply in operation["responses"].items() if status[0] == "2"]
        assert len({json.dumps(content[JSON]["schema"]) for content in told if JSON in content}) < 2, operation


def every_schema(document: Any) -> Iterator[tuple[str, Any]]:
    """Every schema and where it stands: a component's own name alone, else a path."""

    def within(where: str, schema: Any) -> Iterator[tuple[str, Any]]:
        yield where, schema
        for name, inner in schema.get("properties", {}).items():
            yield from within(f"{where}/{name}", inner)
        for word in ("items", "additionalProperties"):
            if isinstance(schema.get(word), dict):
                yield from within(f"{where}/{word}", schema[word])

    for name, schema in document["components"]["schemas"].items():
        yield from within(name, schema)
    for operation in every_operation(document):
        name = operation["operationId"]
        bodies = [operation.get("requestBody", {}), *replies_of(document, operation)]
        for parameter in operation.get("parameters", ()):
            if "schema" in parameter:
                yield from within(f"{name}/{parameter['name']}", parameter["schema"])
        for body in bodies:
            for media_type, content in body.get("content", {}).items():
                yield from within(f"{name}/{media_type}", content["schema"])


def every_operation(document: Any) -> list[Any]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def names_of(operation: Any) -> set[str]:
    """Of its parameters, but for those of the path."""
    return {parameter["name"] for parameter in operation["parameters"] if "name" in parameter}


def replies_of(document: Any, operation: Any) -> list[Any]:
    """Of its own, those that refer to a component resolved."""
    shared = document["components"]["responses"]
    return [
        shared[reply["$ref"].rsplit("/", 1)[1]] if "$ref" in reply else reply
        for reply in operation["responses"].values()
    ]


def told_codes(document: Any, operation: Any) -> dict[str, set[str]]:
    """The codes of an operation's problems, by status."""
    told = {}
    for status, given in operation["responses"].items():
        ref = given.get("$ref", "").rsplit("/", 1)[-1]
        reply = document["components"]["responses"][ref] if ref else given
        if MEDIA_TYPE in reply.get("content", {}):
            told[status] = set(reply["x-problem-codes"])
            assert told[status] == set(re.findall("`([a-z_]+)`", reply["description"]))
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
    for route in (route for route in ROUTES if route.described):
        told = told_codes(document, document["paths"][route.path][route.method.lower()])
        for error in route.possible_errors:
            assert error.code in told[str(error.status)], (route.operation_id, error.code)


def evidence() -> Iterator[tuple[str, str]]:
    """Every member that an error is given by name, anywhere in the program, and where."""
    errors = {error.__name__ for error in all_errors()}
    for path in (SPEC.parents[1] / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func.value if isinstance(node.func, ast.Attribute) else node.func
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if name in errors:
                    yield from ((keyword.arg, f"{path.name}:{node.lineno}") for keyword in node.keywords if keyword.arg)


def test_tells_what_problems_tell(document: Any) -> None:
    """Every piece of evidence that an error carries is a member of Problem."""
    told = document["components"]["schemas"]["Problem"]["properties"]
    missing = {name: where for name, where in evidence() if name not in {*told, *_WITHIN}}
    assert not missing, f"describe them in api/openapi/problems.py: {missing}"


def test_every_member_is_told(document: Any) -> None:
    """Each schema and each of its members has a description."""
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), f"{name}: its docstring is its description"
        for member, told in schema.get("properties", {}).items():
            assert "$ref" in told or told.get("description"), f"{name}.{member}: say it in api/openapi/members.py"


def test_nothing_is_told_of_what_is_no_more(document: Any) -> None:
    """What api/openapi/members.py says of one schema's member has that schema and that member."""
    schemas = document["components"]["schemas"]
    named = [key.partition(".") for key in OF_SCHEMAS]
    assert [(name, member) for name, _, member in named if member not in schemas[name]["properties"]] == []


def test_tells_the_ways_to_run(document: Any) -> None:
    """A result, a stream in two formats, or 202; and the headers that ask for them."""
    run = document["paths"]["/exec/{vmid}"]["post"]
    assert list(run["responses"]["200"]["content"]) == ["application/json", "application/x-ndjson", "text/event-stream"]
    assert run["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("/ExecResult")
    assert {"Location", "Idempotency-Replayed"} <= run["responses"]["202"]["headers"].keys()
    assert {"Prefer", "Idempotency-Key"} <= names_of(run)
    assert {"406", "409", "429", "503", "507"} <= run["responses"].keys()


def test_tells_the_events(document: Any) -> None:
    """The members of every kind of event and of every message, told apart by `type`."""
    schemas = document["components"]["schemas"]
    for union, wanted in (
        ("ExecEvent", ["start", "stdout", "stderr", "gap", "heartbeat", "end"]),
        ("TerminalClientMessage", ["start", "ack", "resize", "signal", "stdin_eof"]),
        ("TerminalGatewayMessage", ["started", "ack", "gap", "end", "error"]),
    ):
        mapping = schemas[union]["discriminator"]["mapping"]
        assert list(mapping) == wanted
        for word, target in mapping.items():
            kind = schemas[target.rsplit("/", 1)[1]]["properties"]["type"]
            assert word in kind.get("enum", [kind.get("const")])
    events = document["paths"]["/execs/{id}/events"]["get"]
    assert list(events["responses"]["200"]["content"]) == ["application/x-ndjson", "text/event-stream"]
    assert "content" not in events["responses"]["204"]
    assert {"from", "follow", "Last-Event-ID"} <= names_of(events)


def test_tells_of_bytes(document: Any) -> None:
    """Input and output are bytes of any kind."""
    put = document["paths"]["/execs/{id}/stdin"]["put"]
    assert list(put["requestBody"]["content"]) == ["application/octet-stream"]
    assert not put["requestBody"]["required"]
    get = document["paths"]["/execs/{id}/stdout"]["get"]
    assert list(get["responses"]["206"]["content"]) == ["application/octet-stream"]
    assert {"offset", "follow", "Range"} <= names_of(get)


def test_tells_of_websockets(document: Any) -> None:
    """101, and 426 for who does not ask for one."""
    for path in ("/exec/{vmid}/terminal", "/execs/{id}/attach"):
        responses = document["paths"][path]["get"]["responses"]
        assert {"101", "426", "403"} <= responses.keys()
        assert "content" not in responses["101"]
        told = document["paths"][path]["get"]["x-websocket"]
        assert told["subprotocol"] == "pvex.v1" and {"1000", "1001", "4409"} <= told["close_codes"].keys()

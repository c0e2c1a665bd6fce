"""POST /exec/{vmid}: it works first, then the refusals."""

from __future__ import annotations

import base64
import io
import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api.parse import parse_json
from gateway.errors import AuditUnavailable, ClientGone, GuestFrozen, InvalidRequest, TooManyExecs
from gateway.exec.spec import ExecSpec

from .fakes import Api, assert_problem


def test_runs_and_answers_at_the_top_level(api: Api) -> None:
    """The result carries stdout, stderr and exit_code at its top level, and the body goes on unchanged."""
    body = b'{ "command": ["echo", "ok"] }'
    response = api.request("POST", "/exec/101", api.token(), data=body, content_type="application/json")
    assert response.status_code == 200
    result = response.json
    assert (result["stdout"], result["stderr"], result["exit_code"]) == ("ok\n", "", 0)
    assert result["encoding"] == {"stdout": "utf-8", "stderr": "utf-8"}
    assert api.supervisor.bodies == [body]
    assert api.audit.records == []


def test_binary_output_is_base64(api: Api) -> None:
    """Output that is not UTF-8 comes back whole, in base64, and says so."""
    api.supervisor.stdout = bytes(range(256))
    result = api.request("POST", "/exec/101", api.token(), json={"command": ["x"]}).json
    assert result["encoding"]["stdout"] == "base64"
    assert base64.b64decode(result["stdout"]) == bytes(range(256))


def test_a_cut_character_is_counted(api: Api) -> None:
    """A character that the output limit went through is dropped whole, and the counts say so."""
    api.supervisor.stdout = b"a\xe2\x82" + b"\xac" + b"b"
    api.supervisor.dropped_at = 3
    result = api.request("POST", "/exec/101", api.token(), json={"command": ["x"]}).json
    assert result["stdout"] == "ab"
    counts = result["output"]["stdout"]
    assert (counts["dropped"], counts["dropped_at"]) == (13, 1)
    assert counts["bytes"] - counts["dropped"] == 2


@pytest.mark.parametrize("text", ["\u2028", "\x00", "é", "😀", "</script>", "\x1b[0m"])
def test_text_survives_json(api: Api, text: str) -> None:
    """Every character arrives as it was written."""
    api.supervisor.stdout = text.encode()
    assert api.request("POST", "/exec/101", api.token(), json={"command": ["x"]}).json["stdout"] == text


SENT = "hunter2"


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, ["command"]),
        ({"command": 5}, ["command"]),
        ({"command": []}, ["command"]),
        ({"command": ["a", 5]}, ["command.1"]),
        ({"command": ["a"], "comand": SENT}, ["comand"]),
        ({"command": ["a"], "env": {"FOO": 1}}, ["env.FOO"]),
        ({"command": ["a"], "env": {"A=B": SENT}}, ["env"]),
        ({"command": ["a"], "output": {"limit": -1}}, ["output.limit"]),
        ({"command": ["a"], "output": {"lim": 1}}, ["output.lim"]),
        ({"command": ["a"], "output": SENT}, ["output"]),
        ({"command": ["a"], "background": SENT}, ["background"]),
        ({"command": ["a"], "timeout": SENT}, ["timeout"]),
        ({"command": ["a"], "timeout": True}, ["timeout"]),
        ({"command": ["a"], "timeout": 0, "cwd": ""}, ["cwd", "timeout"]),
        ({"command": ["a"], "user": "a b " + SENT}, ["user"]),
        ({"command": ["a"], "redact": ["x"]}, ["redact.0"]),
        ({"command": ["a"], "labels": {"a b": SENT}}, ["labels.a b"]),
        ({"command": ["a"], "labels": {"a": 1}}, ["labels.a"]),
        ({"command": SENT, "shell": ["sh", None]}, ["shell.1"]),
        ([SENT], [""]),
        (SENT, [""]),
        (None, [""]),
    ],
)
def test_fields_are_named_and_values_are_not(api: Api, body: Any, paths: list[str]) -> None:
    """A field that cannot be taken is named by its path; what was sent in it is never repeated."""
    data = json.dumps(body)
    response = api.request("POST", "/exec/101", api.token(), data=data, content_type="application/json")
    problem = assert_problem(response, 422, "invalid_request")
    assert sorted(error["path"] for error in problem["errors"]) == paths
    assert SENT not in response.text
    assert api.supervisor.bodies == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"command": ["a"]',
        b'{"command": ["a"]} x',
        b'{"command": "hunter2\xff"}',
        b'\xef\xbb\xbf{"command": ["a"]}',
        b'{"command": "\\ud800"}',
        b"{'command': 'hunter2'}",
        b"[" * 10_000,
        '{"command": "hunter2"}'.encode("utf-16"),
    ],
)
def test_malformed_json_is_told_by_its_place(api: Api, body: bytes) -> None:
    """What is not JSON is 400, with line and column and nothing of its content."""
    response = api.request("POST", "/exec/101", api.token(), data=body, content_type="application/json")
    problem = assert_problem(response, 400, "malformed_request")
    assert "line" in problem["detail"] and "column" in problem["detail"]
    assert SENT not in response.text


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"command": ["a"], "command": ["b"]}', "command"),
        (b'{"command": ["a"], "env": {"A": "1", "B": "2", "A": "3"}}', "A"),
    ],
)
def test_a_key_given_twice_is_refused(api: Api, body: bytes, path: str) -> None:
    """Two equal keys mean one thing to one reader and another to the next, so nothing is run."""
    response = api.request("POST", "/exec/101", api.token(), data=body, content_type="application/json")
    problem = assert_problem(response, 422, "invalid_request")
    assert problem["errors"] == [{"path": path, "code": "duplicate_key", "message": "given twice"}]


@pytest.mark.parametrize("member", ["env", "unknown"])
def test_an_object_has_so_many_members(api: Api, member: str) -> None:
    """4,096 are taken, of a field that is one; more are one mistake, and not one for each."""
    words = {f"N{number}": "1" for number in range(4097)}
    data = json.dumps({"command": ["a"], member: words}).encode()
    response = api.request("POST", "/exec/101", api.token(), data=data, content_type="application/json")
    problem = assert_problem(response, 422, "invalid_request")
    assert [error["code"] for error in problem["errors"]] == ["too_many_members"]
    del words["N0"]
    assert api.request("POST", "/exec/101", api.token(), json={"command": ["a"], "env": words}).status_code == 200


@pytest.mark.parametrize("media_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json"])
def test_other_media_types_are_refused(api: Api, media_type: str | None) -> None:
    """Only application/json is read."""
    response = api.request("POST", "/exec/101", api.token(), data=b'{"command":["a"]}', content_type=media_type)
    problem = assert_problem(response, 415, "unsupported_media_type")
    assert "application/json" in problem["detail"]


@pytest.mark.parametrize("media_type", ["application/json", "Application/JSON; charset=UTF-8"])
def test_json_media_types_are_taken(api: Api, media_type: str) -> None:
    """application/json with or without the one charset it can have."""
    response = api.request("POST", "/exec/101", api.token(), data=b'{"command":["a"]}', content_type=media_type)
    assert response.status_code == 200


class Unread(io.BytesIO):
    """A body that must not be touched."""

    def read(self, *_: Any) -> bytes:
        raise AssertionError("the body was read")


def test_a_body_too_large_is_not_read(api: Api) -> None:
    """A body that says that it is over the limit is 413 before one byte of it is read."""
    response = api.request(
        "POST",
        "/exec/101",
        api.token(),
        input_stream=Unread(),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": str(1 << 30)},
    )
    assert assert_problem(response, 413, "payload_too_large")["limit"] == 65536


def test_a_chunked_body_too_large_is_cut(api: Api) -> None:
    """A body without a length is read up to the limit and no further."""
    stream = io.BytesIO(b" " * 100_000)
    response = api.request(
        "POST",
        "/exec/101",
        api.token(),
        input_stream=stream,
        content_type="application/json",
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    assert_problem(response, 413, "payload_too_large")
    assert stream.tell() == 65537


def test_a_body_cut_short_is_malformed(api: Api) -> None:
    """A body that ends before its Content-Length runs nothing."""
    response = api.request(
        "POST",
        "/exec/101",
        api.token(),
        input_stream=io.BytesIO(b'{"command":["a"]}'),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "18"},
    )
    assert_problem(response, 400, "malformed_request")
    assert api.supervisor.bodies == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GuestFrozen("guest 101 is frozen", vmid=101), 409),
        (TooManyExecs("full", retry_after=7), 429),
        (AuditUnavailable("no"), 503),
        (InvalidRequest("over", errors=[{"path": "timeout", "code": "over_maximum", "message": "at most 5"}]), 422),
    ],
)
def test_errors_of_the_domain_pass(api: Api, error: Any, status: int) -> None:
    """What the supervisor refuses is told with its own code, status and evidence."""
    api.supervisor.fails = error
    response = api.request("POST", "/exec/101", api.token(), json={"command": ["a"]})
    problem = assert_problem(response, status, error.code)
    assert problem["retryable"] is error.retryable
    assert error.evidence.items() <= problem.items()
    if status == 429:
        assert response.headers["Retry-After"] == "7"


def test_a_defect_is_a_plain_500(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen exception tells the client a request id; its words are in the log only."""
    api.supervisor.fails = RuntimeError(SENT)
    response = api.request("POST", "/exec/101", api.token(), json={"command": ["a"]})
    problem = assert_problem(response, 500, "internal_error")
    assert SENT not in response.text
    assert problem["request_id"] in caplog.text and SENT in caplog.text


def test_a_client_that_left_gets_no_answer(api: Api) -> None:
    """ClientGone passes through to the server, which closes the connection."""
    api.supervisor.fails = ClientGone()
    with pytest.raises(ClientGone):
        api.request("POST", "/exec/101", api.token(), json={"command": ["a"]})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)
FIELDS = [*ExecSpec.model_fields, "unknown"]
bodies = st.one_of(
    json_values,
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=8),
    st.builds(lambda rest: {"command": ["true"], **rest}, st.dictionaries(st.sampled_from(FIELDS), json_values)),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies)
def test_no_json_body_is_a_500(api: Api, body: Any) -> None:
    """Whatever JSON is sent: 200, 400 or 422, never a defect."""
    data = json.dumps(body).encode()
    response = api.request("POST", "/exec/101", api.token(), data=data, content_type="application/json")
    assert response.status_code in (200, 400, 422), response.data
    if response.status_code != 200:
        assert_problem(response, response.status_code, response.get_json(force=True)["code"])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_no_bytes_are_a_500(api: Api, data: bytes) -> None:
    """Whatever bytes are sent as JSON: a problem, never a defect."""
    response = api.request("POST", "/exec/101", api.token(), data=data, content_type="application/json")
    assert response.status_code in (400, 422)


@pytest.mark.parametrize("number", ["1" * 5000, "-" + "9" * 400, "1e999", "NaN", "Infinity", "-0", "1.0000000001e-300"])
@pytest.mark.parametrize("field", ["timeout", "kill_grace", "redact"])
def test_strange_numbers_are_no_500(api: Api, field: str, number: str) -> None:
    """Numbers past every bound are refused like any other wrong value."""
    value = f"[{number}]" if field == "redact" else number
    data = f'{{"command": ["a"], "{field}": {value}}}'
    response = api.request("POST", "/exec/101", api.token(), data=data, content_type="application/json")
    assert response.status_code in (200, 400, 422)


@pytest.mark.parametrize(
    "body",
    [
        {"command": [1] * 100_000},
        {"command": ["a"], "redact": ["x"] * 100_000},
        {"command": ["a"], "shell": [None] * 100_000},
        {"command": ["a"], **{f"k{n}": 1 for n in range(100_000)}},
        {"command": ["a"], "env": {f"k{n}": 1 for n in range(4_000)}},
    ],
    ids=["arguments", "redact", "shell", "members", "env"],
)
def test_a_body_full_of_mistakes_costs_little(body: Any) -> None:
    """The work for a refusal grows with the body, not with its square: found with 24 KB that took 8 seconds."""
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        parse_json(ExecSpec, json.dumps(body).encode())
    assert time.process_time() - began < 3


MANY = 2_000_000


@pytest.mark.parametrize(
    "body",
    [
        b'{"command": [' + b'"",' * MANY + b'""]}',
        b'{"x": [' + b"[]," * MANY + b"[]]}",
        b'{"command": ["a"], "env": [' + b"{}," * MANY + b"{}]}",
        b"[" * MANY,
        b'"' * MANY,
    ],
    ids=["arguments", "lists", "objects", "deep", "quotes"],
)
def test_a_body_of_countless_values_is_not_taken_apart(body: bytes) -> None:
    """Sixteen mebibytes of the shortest values there are would become gigabytes of objects, in seconds that nobody else
    is served in."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest) as refused:
            parse_json(ExecSpec, body)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()
    assert refused.value.evidence["errors"][0]["code"] == "too_many_values"


@pytest.mark.parametrize("text", [',"[' * 1_000_000, "\\" * 3_000_000 + '"', '\\"' * 2_000_000, "\n,{" * 1_000_000])
def test_what_stands_in_text_is_no_value(text: str) -> None:
    """Input of any length may hold whatever JSON is made of, and a command as many arguments as Linux takes."""
    spec = parse_json(ExecSpec, json.dumps({"command": ["a"] + ["", "a"] * 78_000, "stdin": text}).encode())
    assert isinstance(spec, ExecSpec) and spec.stdin == text and len(spec.command) == 156_001

"""A17, A18: input is bytes too: none given is an end at once, all given arrives once."""

from __future__ import annotations

import base64
import hashlib
import random

from tests.conformance.cases import Case, for_every_driver, over_every_way
from tests.conformance.drivers import Ability
from tests.exec.streams import Follower, detach, stream
from tests.exec.websocket import STDOUT, Closed, Output, WebSocket

MIB = 1 << 20


@over_every_way()
def test_no_input_is_an_empty_one(case: Case) -> None:
    """A17: `cat` without input ends at once."""
    outcome = case.run(["cat"], timeout=5)
    assert (outcome.ending, outcome.stdout) == (("exited", 0, None), b"")


@over_every_way()
def test_input_of_the_request_arrives(case: Case) -> None:
    """A18: every byte value arrives, then the end."""
    data = bytes(range(256)) * 200
    outcome = case.run(["cat"], stdin=base64.b64encode(data).decode(), stdin_encoding="base64")
    assert outcome.stdout == data
    assert (
        case.run(["sha256sum"], stdin="\u00e9\n").stdout[:64]
        == hashlib.sha256("\u00e9\n".encode()).hexdigest().encode()
    )


@over_every_way(Ability.LARGE_INPUT)
def test_input_that_nobody_reads_is_no_error(case: Case) -> None:
    """A command that leaves 600 KiB of input unread ends as it would have."""
    assert case.run("exit 4", stdin="x" * 600_000).ending == ("exited", 4, None)


@for_every_driver(Ability.STDIN_OPEN)
def test_open_input_by_offset(case: Case) -> None:
    """A18: input sent later goes on behind `stdin`; the same offset twice is written once; a hole is refused."""
    api = case.guest.api
    exec_id = detach(api, case.guest.vmid, "cat", stdin="01", stdin_open=True)
    place = f"/execs/{exec_id}/stdin"
    assert api.request("PUT", f"{place}?offset=2", raw=b"234").json() == {"offset": 5, "eof": False}
    assert api.request("PUT", f"{place}?offset=2", raw=b"234").json() == {"offset": 5, "eof": False}
    hole = api.request("PUT", f"{place}?offset=6", raw=b"x")
    assert (hole.status, hole.code, hole.json()["expected"]) == (409, "stdin_offset_mismatch", 5)
    assert api.request("PUT", f"{place}?offset=4&eof=1", raw=b"45").json() == {"offset": 6, "eof": True}
    assert api.get(f"/execs/{exec_id}?wait=10").json()["exit_code"] == 0
    assert api.get(f"/execs/{exec_id}/stdout").body == b"012345"
    late = api.request("PUT", f"{place}?offset=6", raw=b"x")
    assert (late.status, late.code) == (409, "exec_ended")


@for_every_driver(Ability.STDIN_OPEN)
def test_the_end_of_input_may_come_after_the_commands(case: Case) -> None:
    """A command that needs no EOF ends before it comes: what it has taken may be sent again, and the end with it."""
    api = case.guest.api
    exec_id = detach(api, case.guest.vmid, ["head", "-c", "4"], stdin_open=True)
    place = f"/execs/{exec_id}/stdin"
    assert api.request("PUT", f"{place}?offset=0", raw=b"1234").json() == {"offset": 4, "eof": False}
    assert api.get(f"/execs/{exec_id}?wait=10").json()["exit_code"] == 0
    for query, data in (("?eof=1", b""), ("?offset=4&eof=1", b""), ("?offset=0&eof=1", b"1234"), ("?offset=2", b"34")):
        again = api.request("PUT", place + query, raw=data)
        assert (again.status, again.json()) == (200, {"offset": 4, "eof": True}), query
    for query, data in (("", b"5"), ("?offset=0&eof=1", b"12345"), ("?offset=5", b"")):
        more = api.request("PUT", place + query, raw=data)
        assert (more.status, more.code) == (409, "exec_ended"), query


@for_every_driver(Ability.STDIN_OPEN, Ability.STREAMS)
def test_end_of_input_while_it_runs(case: Case) -> None:
    """A18: each piece is answered before the next is sent, and the end comes when it is told."""
    api = case.guest.api
    with stream(api, case.guest.vmid, {"command": "cat; echo over", "stdin_open": True}) as reply:
        events, follower = reply.events(), Follower()
        exec_id = next(events)["exec"]["id"]
        for word in (b"one", b"two"):
            assert api.request("PUT", f"/execs/{exec_id}/stdin", raw=word).status == 200
            assert follower.take(next(events)) == ("stdout", word)
        assert api.request("PUT", f"/execs/{exec_id}/stdin?eof=1", raw=b"").json() == {"offset": 6, "eof": True}
        assert follower.take(next(events)) == ("stdout", b"over\n")


@for_every_driver(Ability.STDIN_OPEN)
def test_large_input_arrives_whole(case: Case) -> None:
    """A18: 64 MiB in one chunked PUT have the same hash in the guest."""
    api = case.guest.api
    block = random.Random(1).randbytes(MIB)
    exec_id = detach(api, case.guest.vmid, "sha256sum", stdin_open=True)
    connection = api.connect()
    try:
        headers = {"Authorization": f"Bearer {api.token}"}
        connection.request(
            "PUT", f"/execs/{exec_id}/stdin?eof=1", (block for _ in range(64)), headers, encode_chunked=True
        )
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b'{"offset":%d,"eof":true}' % (64 * MIB))
    finally:
        connection.close()
    digest = hashlib.sha256()
    for _ in range(64):
        digest.update(block)
    assert api.get(f"/execs/{exec_id}?wait=20").json()["exit_code"] == 0
    assert api.get(f"/execs/{exec_id}/stdout").body[:64] == digest.hexdigest().encode()


@for_every_driver(Ability.STDIN_OPEN, Ability.STREAMS)
def test_input_over_a_websocket(case: Case) -> None:
    """A18: 8 MiB as binary messages, the first of them twice, come back equal; every one is acknowledged."""
    data = random.Random(2).randbytes(8 * MIB)
    came, sent, acknowledged = bytearray(), 0, 0
    with WebSocket(case.guest.api, f"/exec/{case.guest.vmid}/terminal") as socket:
        socket.say("start", command=["cat"], stdin_open=True)
        socket.receive_until("started")
        socket.send_input(0, data[:1000])
        while not isinstance(heard := socket.receive(), Closed):
            if isinstance(heard, Output):
                assert (heard.channel, heard.offset) == (STDOUT, len(came))
                came += heard.data
            elif heard["type"] == "ack":
                acknowledged = heard["offset"]
            while sent < len(data) and sent - acknowledged <= MIB // 2:
                socket.send_input(sent, data[sent : sent + MIB // 4])
                sent += MIB // 4
                if sent == len(data):
                    socket.say("stdin_eof")
    assert (heard.code, acknowledged) == (1000, len(data))
    assert came == data

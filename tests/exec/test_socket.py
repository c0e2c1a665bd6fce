"""C12: the supervisor's socket serves root alone, and garbage, huge and half frames on it do no harm."""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.exec.origin import Origin
from gateway.exec.permit import Permit
from gateway.supervisor.link.protocol import CLIENT_LEFT
from tests.exec.api import Api
from tests.exec.gateways import Gateway
from tests.exec.inside import exec_cgroups, new_mark
from tests.exec.sockets import connect, socket_of
from tests.exec.waiting import BUSY, until
from tests.pvesim import guests


@pytest.fixture
def path(gateway: Gateway) -> Path:
    """The supervisor's socket, as its configuration names it."""
    return socket_of(gateway)


def frame(header: object, *blobs: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">II", len(text), sum(map(len, blobs))) + text + b"".join(blobs)


def test_only_its_owner_reaches_the_socket(path: Path) -> None:
    """The socket is 0600 in a 0700 directory of root."""
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.stat().st_uid == 0


def test_another_user_is_refused(path: Path) -> None:
    """Even where the file's mode lets it in, a peer of another uid is closed before its first word is read."""
    places = [path.parent, *(parent for parent in path.parents if parent.stat().st_mode & 0o001 == 0)]
    modes = {place: place.stat().st_mode & 0o777 for place in (path, *places)}
    try:
        for place in modes:
            place.chmod(0o777)
        script = (
            "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(sys.argv[1]);"
            "s.sendall(bytes.fromhex(sys.argv[2])); print(len(s.recv(100)))"
        )
        asked = frame({"op": "health"})
        done = subprocess.run(
            [sys.executable, "-c", script, str(path), asked.hex()],
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert done.stdout.strip() == "0" or "ConnectionResetError" in done.stderr or "BrokenPipe" in done.stderr
        with connect(path) as own:
            own.sendall(asked)
            assert len(own.recv(100)) > 0, "root is served by the same socket"
    finally:
        for place, mode in modes.items():
            place.chmod(mode)


ORIGIN = Origin("t", "t", (Permit(((100, 999),)),), (), "r", "q").to_wire()
NONSENSE: list[bytes] = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    struct.pack(">II", 0, 0),
    struct.pack(">II", 1 << 31, 0),
    struct.pack(">II", 2, 0xFFFFFFFF) + b"{}",
    struct.pack(">II", 0xFFFFFFFF, 0xFFFFFFFF),
    frame(b"not json"),
    frame([1, 2]),
    frame("text"),
    frame(b"[" * 100_000),
    frame(b'{"a":' * 50_000),
    frame({}),
    frame({"op": None}),
    frame({"op": "no-such"}),
    frame({"op": ["run"]}),
    frame({"op": "run", "origin": ORIGIN}),
    frame({"op": "run", "origin": ORIGIN, "vmid": "101", "config_id": "x", "blobs": [2]}, b"{}"),
    frame({"op": "run", "origin": ORIGIN, "vmid": True, "config_id": "x", "blobs": [2]}, b"{}"),
    frame({"op": "run", "origin": ORIGIN, "vmid": 101, "config_id": 5, "blobs": [2]}, b"{}"),
    frame({"op": "run", "origin": ORIGIN, "vmid": 101, "config_id": "x", "blobs": [1, 1, 1]}, b"{}"),
    frame({"op": "run", "origin": ORIGIN, "vmid": 101, "config_id": "x", "blobs": [-1, 3]}, b"{}"),
    frame({"op": "run", "origin": {**ORIGIN, "guests": "all"}, "vmid": 101, "config_id": "x", "blobs": [2]}, b"{}"),
    frame({"op": "run", "origin": {**ORIGIN, "more": 1}, "vmid": 101, "config_id": "x", "blobs": [2]}, b"{}"),
    frame({"op": "get", "origin": ORIGIN, "id": 7}),
    frame({"op": "get", "origin": ORIGIN, "id": "../../../etc/passwd"}),
    frame({"op": "get", "origin": ORIGIN, "id": "ex_", "wait": "long"}),
    frame({"op": "get", "origin": ORIGIN, "id": {"a": 1}}),
    frame({"op": "output", "origin": ORIGIN, "id": "x", "stream": "../life.jsonl", "offset": 0, "length": 10}),
    frame({"op": "output", "origin": ORIGIN, "id": "x", "stream": "stdout", "offset": "a", "length": 10}),
    frame({"op": "list", "origin": ORIGIN, "limit": "many"}),
    frame({"op": "list", "origin": ORIGIN, "limit": 1e400}),
    frame({"op": "list", "origin": ORIGIN, "limit": -5, "labels": [1]}),
    frame({"op": "kill", "origin": ORIGIN, "id": None}),
    frame({"op": "health"}) * 2,
]


@pytest.mark.parametrize("sent", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_closed_or_refused(path: Path, gateway: Gateway, sent: bytes) -> None:
    """Whatever is sent, the connection is closed or answered with an error; no traceback, and the rest is served."""
    said = gateway.log("supervisor").count("Traceback")
    with connect(path) as sock:
        try:
            sock.sendall(sent)
            answer = sock.recv(65536)
        except ConnectionError:
            answer = b""
        assert answer == b"" or b'"error"' in answer, answer
    assert gateway.log("supervisor").count("Traceback") == said, gateway.log("supervisor")[-1500:]
    with connect(path) as sock:
        sock.sendall(frame({"op": "health"}))
        assert b'"ok"' in sock.recv(65536)


def test_random_frames_do_no_harm(api: Api, path: Path, gateway: Gateway) -> None:
    """600 mutated requests, none of which runs anything that was not asked for; descriptors are all given back."""
    pid, choose, mark = gateway.services.pid("supervisor"), random.Random(12), new_mark()
    api.run(101, ["true"])
    fds, said = len(os.listdir(f"/proc/{pid}/fd")), gateway.log("supervisor").count("Traceback")
    body = json.dumps({"command": ["true"], "timeout": 5}).encode()
    good = frame({"op": "run", "origin": ORIGIN, "vmid": 103, "config_id": mark, "blobs": [len(body)]}, body)
    for _ in range(600):
        sent = bytearray(good)
        for _ in range(choose.randrange(1, 4)):
            sent[choose.randrange(len(sent))] = choose.randrange(256)
        with connect(path) as sock:
            sock.settimeout(0.2)
            try:
                sock.sendall(sent[: choose.choice([len(sent), choose.randrange(len(sent))])])
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)
            except OSError:
                continue
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= fds, why="descriptors are back")
    assert api.run(101, ["true"])["reason"] == "exited"
    assert gateway.log("supervisor").count("Traceback") == said, gateway.log("supervisor")[-1500:]


def test_half_frames_hold_nobody_up(api: Api, path: Path, gateway: Gateway) -> None:
    """300 connections that never finish their frame: others are served meanwhile, and all is given back."""
    body = b"x" * 100
    half = struct.pack(">II", 500, 16 << 20) + b'{"op":"run",' + body
    open_ones = [connect(path) for _ in range(300)]
    try:
        for sock in open_ones:
            sock.sendall(half)
        began = time.monotonic()
        assert api.run(101, ["true"])["reason"] == "exited"
        assert time.monotonic() - began < 1 + BUSY
    finally:
        for sock in open_ones:
            sock.close()
    pid = gateway.services.pid("supervisor")
    until(lambda: len(os.listdir(f"/proc/{pid}/fd")) < 200, why="they are gone")


def test_peer_whose_client_left_mid_run_ends_it(path: Path, gateway: Gateway) -> None:
    """A run whose client has left, as the peer says before it closes: the command is ended."""
    mark = new_mark()
    body = json.dumps({"command": ["sleep", mark], "kill_grace": 0}).encode()
    header: dict[str, Any] = {"op": "run", "origin": ORIGIN, "vmid": 101, "config_id": "x", "blobs": [len(body)]}
    with connect(path) as sock:
        sock.sendall(frame(header, body))
        until(lambda: exec_cgroups(101), why="it runs")
        sock.sendall(CLIENT_LEFT)
    until(lambda: not exec_cgroups(101), why="it has ended with its client")
    assert guests.get(101).init_pid()


def test_peer_names_no_exec(api: Api, path: Path, gateway: Gateway) -> None:
    """An `exec_id` in a request to run is not believed: it is given an id of its own, and shown no other's output."""
    secret, body = new_mark(), json.dumps({"command": ["echo", "mine"]}).encode()
    mine = api.run(101, ["echo", secret])
    for other in (mine["id"], "ex_", "../x"):
        header = {"op": "run", "origin": ORIGIN, "vmid": 101, "config_id": "x", "blobs": [len(body)]}
        with connect(path) as sock:
            sock.sendall(frame({**header, "exec_id": other, "replayed": True}, body))
            answer = sock.recv(65536)
        size = struct.unpack(">I", answer[:4])[0]
        reply = json.loads(answer[8 : 8 + size])["ok"]
        assert (reply["exec"]["reason"], reply["replayed"], answer[8 + size :]) == ("exited", False, b"mine\n")
        assert reply["exec"]["id"] not in (other, mine["id"])

"""Files over loopback HTTPS: MiB/s each way, to a guest's tmpfs and to its disk, and the memory taken; many as a tar.

`python -m tests.bench.files` runs a simulated node of its own, takes a minute with 2 GiB (`--mib 256` less), and leaves
nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import socket
import ssl
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.figures import median
from tests.bench.machine import run_alone
from tests.bench.memory import proportional_memory
from tests.pvesim import guests
from tests.pvesim.services import COMMANDS, REPOSITORY, Services, make_client_context

VMID = 101
PIECE = 1 << 20
SMALL = 200
FILES = 1000
TARGET_MIB_S = 200
_PLACES = {"tmpfs": "/run/bench", "disk": "/root/bench"}
_STATE = REPOSITORY / ".demo/bench-files"
_SAMPLE_SECONDS = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.files")
    parser.add_argument("--mib", type=int, default=2048, metavar="N")
    asked = parser.parse_args()
    return run_alone(_STATE, lambda: run(asked.mib))


def run(mib: int) -> int:
    """Measures; runs in the node. 0 also when a target is missed: a benchmark tells, it does not judge."""
    with contextlib.closing(Services(_STATE / "gateway", settings={})) as services:
        services.start()
        token = services.create_token(actions="file:read,file:write")
        services.wait_ready()
        client = Client(services, token)
        guests.get(VMID).attach(["mount", "-t", "tmpfs", "tmpfs", "/run"])
        client.put("/run/small", 1)
        small = {method: client.timed_ms(method) for method in ("PUT", "GET")}
        print(f"4 KiB written: {small['PUT']:.1f} ms, read: {small['GET']:.1f} ms (medians of {SMALL})", flush=True)
        for name, path in _PLACES.items():
            guests.get(VMID).attach(["mkdir", f"{path}-tree"])
            sent, fetched = client.timed_tree(f"{path}-tree")
            print(f"{FILES} files as one tar to {name}: {sent:.2f} s, back: {fetched:.2f} s", flush=True)
            guests.get(VMID).attach(["rm", "-rf", f"{path}-tree"])
            for what, carry in (("written to", client.put), ("read from", client.get)):
                with sampled(services) as memory:
                    began, worked = time.perf_counter(), processor_seconds(services.pid("web"))
                    carry(path, mib)
                    speed = mib / (time.perf_counter() - began)
                    worked = (processor_seconds(services.pid("web")) - worked) * 1024 / mib
                verdict = "" if speed >= TARGET_MIB_S else f", less than {TARGET_MIB_S}"
                print(
                    f"{mib} MiB {what} {name}: {speed:.0f} MiB/s{verdict}; services {memory[0]:.0f} MB before, "
                    f"{max(memory):.0f} MB at most; the web works {worked:.2f} s for each GiB",
                    flush=True,
                )
            guests.get(VMID).attach(["rm", path])
    return 0


def processor_seconds(pid: int) -> float:
    """What a process and its children have had of the processors, threads and system calls included (proc(5))."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if pid in (int(stat.parent.name), int(fields[1])):
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def sampled(services: Services) -> Iterator[list[float]]:
    """The services' memory in MB, before and again and again meanwhile."""
    pids = [services.pid(name) for name in COMMANDS]
    memory: list[float] = []
    over = threading.Event()

    def look() -> None:
        with contextlib.suppress(OSError):  # a process of an earlier request has just ended
            memory.append(proportional_memory(pids))

    def sample() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            look()

    while not memory:
        look()
    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()


class Client:
    """A connection of its own for each request, read and written in large pieces: what a good client costs."""

    def __init__(self, services: Services, token: str) -> None:
        self._address = ("127.0.0.1", services.port)
        self._context = make_client_context(services.ca)
        self._token = token
        self._piece = os.urandom(PIECE)

    def put(self, path: str, mib: int) -> None:
        with self._begin("PUT", path, mib * PIECE) as sock:
            for _ in range(mib):
                sock.sendall(self._piece)
            head, body = self._read_head(sock)
            assert b" 201 " in head or b" 200 " in head, head + body

    def get(self, path: str, mib: int) -> None:
        left = mib * PIECE
        with self._begin("GET", path, 0) as sock:
            head, body = self._read_head(sock)
            assert b" 200 " in head, head + body
            left -= len(body)
            room = bytearray(PIECE)
            while left:
                got = sock.recv_into(room)
                assert got, "the reply was cut"
                left -= got

    def timed_tree(self, path: str) -> tuple[float, float]:
        """Seconds for an archive of FILES small files in ten directories to be unpacked, and to be read again."""
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as tar:
            for number in range(FILES):
                info = tarfile.TarInfo(f"directory-{number % 10}/file-{number}")
                info.size = 4096
                tar.addfile(info, io.BytesIO(self._piece))
        data = made.getvalue()
        began = time.perf_counter()
        with self._begin("PUT", path, len(data), "Content-Type: application/x-tar\r\n") as sock:
            sock.sendall(data)
            head, body = self._read_head(sock)
            assert b" 200 " in head, head + body
        sent = time.perf_counter()
        with self._begin("GET", path, 0, "Accept: application/x-tar\r\n") as sock:
            head, body = self._read_head(sock)
            assert b" 200 " in head, head + body
            size = len(body)
            while piece := sock.recv(PIECE):
                size += len(piece)
            assert size > FILES * 4096, size
        return sent - began, time.perf_counter() - sent

    def timed_ms(self, method: str) -> float:
        """The median of many small ones, each with a handshake of its own."""
        taken = []
        for _ in range(SMALL):
            began = time.perf_counter()
            with self._begin(method, "/run/small", 4096 if method == "PUT" else 0) as sock:
                if method == "PUT":
                    sock.sendall(self._piece[:4096])
                self._read_head(sock)
            taken.append((time.perf_counter() - began) * 1000)
        return median(taken)

    def _begin(self, method: str, path: str, size: int, more: str = "") -> ssl.SSLSocket:
        plain = socket.create_connection(self._address, timeout=60)
        sock = self._context.wrap_socket(plain, server_hostname="localhost")
        sock.sendall(
            f"{method} /guests/{VMID}/files?path={path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Length: {size}\r\n{more}\r\n".encode()
        )
        return sock

    def _read_head(self, sock: ssl.SSLSocket) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            assert piece, data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body


if __name__ == "__main__":
    sys.exit(main())

"""The API's HTTPS server: pveproxy's way with connections, bodies, errors and failed logins (AnyEvent.pm)."""

import gzip
import http.server
import json
import re
import ssl
import time
import traceback
import urllib.parse
from http import HTTPStatus
from typing import Any

from tests.pvesim import pmxcfs
from tests.pvesim.api import access, routes
from tests.pvesim.api.call import Listed, Simulation
from tests.pvesim.api.facts import check, load
from tests.pvesim.api.failure import Failure
from tests.pvesim.api.faults import REQUEST_FAULTS

_MAX_BODY = 512 << 10  # $limit_max_post
_BASE = "/api2/json"
_SEND_SECONDS = 60.0  # for one answer: an agent's 16 MiB of NUL are 100 MB of JSON


class Server(http.server.ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], sim: Simulation) -> None:
        self.sim = sim
        super().__init__(address, Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pmxcfs.ROOT / "local/pve-ssl.pem", pmxcfs.ROOT / "local/pve-ssl.key")
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: Any) -> None:
        """A client that left in the middle is no error."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pve-api-daemon/3.0", ""
    timeout = 5  # pveproxy's keep-alive
    server: Server

    def do_GET(self) -> None:
        self._respond()

    do_POST = do_PUT = do_DELETE = do_GET

    def _respond(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        if length > _MAX_BODY:
            self.close_connection = True
            self._send(501, "for data too large", b"for data too large", "text/plain")
            return
        body = self.rfile.read(length)
        path = urllib.parse.unquote(url.path.removeprefix(_BASE))
        if url.path == "/sim/faults" and self.command == "PUT":
            self.server.sim.faults.replace(json.loads(body))
            self._send(200, "OK", b"{}", "application/json")
            return
        fault = self.server.sim.faults.take(REQUEST_FAULTS, path, self.command) or {"kind": ""}
        if fault["kind"] == "late":
            time.sleep(fault["seconds"])
        if fault["kind"] == "status":
            self.close_connection = True
            self._send(fault["status"], fault["text"], b"", "text/plain")
            return
        status, reason, answer = self._answer(url, path, body)
        if fault["kind"] == "slow":
            time.sleep(fault["seconds"])
        text = re.sub(r"\x7f", "\\\\u007f", json.dumps(answer, ensure_ascii=False)).encode()
        if status >= 590:  # the proxy's own: the status line is all there is
            self._send(status, reason, b"", "text/plain")
        elif fault["kind"] == "drop":
            self.close_connection = True
        elif fault["kind"] == "garbage":
            self._send(200, "OK", b"<html>" + text[:9], "text/html")
        else:
            self._send(status, reason, text, "application/json;charset=UTF-8")

    def _answer(self, url: urllib.parse.SplitResult, path: str, body: bytes) -> tuple[int, str, dict[str, Any]]:
        begun, sim = time.monotonic(), self.server.sim
        try:
            if not sim.faults.has_pmxcfs():
                time.sleep(sim.refusal_delay)
                raise Failure(500, "RPCEnvironment init request failed: Unable to load access control list: "
                              "Connection refused\n")  # fmt: skip
            if not url.path.startswith(f"{_BASE}/"):
                raise Failure(501, "no such uri")
            given = {**self._parameters(body), **decode_form(url.query)}
            if (self.command, path) == ("POST", "/access/ticket"):
                asked = check(load()["POST", path], given)
                user = asked["username"] + (f"@{asked['realm']}" if "realm" in asked else "")
                return 200, "OK", {"data": access.make_ticket(user, asked["password"])}
            data = routes.call(sim, access.authenticate(self.command, dict(self.headers)), self.command, path, given)
        except Failure as failure:
            if failure.status == 401:
                time.sleep(max(0.0, sim.refusal_delay - (time.monotonic() - begun)))
            self.close_connection = True
            errors = {"errors": failure.errors} if failure.errors else {}
            return failure.status, failure.message.split("\n")[0], {"data": None, "message": failure.message, **errors}
        except Exception as error:  # a bug of the simulation; it shall be seen
            traceback.print_exc()
            return 500, f"simulation: {type(error).__name__}", {"data": None, "message": f"simulation: {error!r}"}
        if isinstance(data, Listed):
            return 200, "OK", {"data": data.data, "total": data.total}
        return 200, "OK", {"data": data}

    def _parameters(self, body: bytes) -> dict[str, Any]:
        if not body:
            return {}
        if self.headers.get_content_type() == "application/json":
            parameters: dict[str, Any] = json.loads(body)
            return parameters
        return decode_form(body.decode("latin-1"))

    def _send(self, status: int, reason: str, body: bytes, kind: str) -> None:
        encoding = b""
        if "gzip" in self.headers.get("Accept-Encoding", "") and len(body) > 1024:
            body, encoding = gzip.compress(body, 1), b"Content-Encoding: gzip\r\n"
        keep = b"close" if self.close_connection else b"Keep-Alive"
        head = f"HTTP/1.1 {status} {reason or HTTPStatus(status).phrase}\r\n".encode()  # UTF-8, as PVE writes it
        head += b"Content-Type: %s\r\nContent-Length: %d\r\nConnection: %s\r\n" % (kind.encode(), len(body), keep)
        self.connection.settimeout(_SEND_SECONDS)
        self.wfile.write(head + encoding + b"\r\n" + body)
        self.connection.settimeout(self.timeout)

    def log_message(self, *_: Any) -> None:
        """Nothing: a request can hold what nobody should read."""


def decode_form(text: str) -> dict[str, Any]:
    """A form's parameters as pveproxy reads them; an **empty value forgets those of the same name before it** [M]."""
    found: dict[str, Any] = {}
    for pair in re.split("[&;]", text) if text else ():
        name, _, value = pair.partition("=")
        name = urllib.parse.unquote_plus(name)
        if not value:
            found[name] = None
            continue
        old, new = found.get(name), urllib.parse.unquote_plus(value)
        found[name] = new if old is None else [*(old if isinstance(old, list) else [old]), new]
    return found

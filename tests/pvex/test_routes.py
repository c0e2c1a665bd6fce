"""Every operation of the API has a command of pvex, which asks for it as the API takes it; or there is a reason."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from inspect import signature
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from gateway.api.openapi.examples import Exchange, load_examples
from gateway.api.parse import parse_json, parse_query
from gateway.api.routes import ROUTES
from pvex.cli import main
from tests.contract import find_operation
from tests.pvex.test_help import every_command

_BY_ID = {route.operation_id: route for route in ROUTES}
_EXAMPLES = load_examples()
_UPID = "UPID:pve1:000000D1:0047CB57:6B02110F:vzstart:7300:gateway@pve!guests:"
_EXEC, _TOKEN = "ex_01M801507D4FVFVPQ2H0T8X4BN", "tk_01M801597XACENJ1FC7PV612HM"
_BACKUP = "local:backup/vzdump-lxc-7300-2026_11_21-21_45_00.tar.zst"

ASKED = {
    "runExec": "exec -d 7300 -- true",
    "listExecs": "ps",
    "showExec": f"inspect {_EXEC}",
    "killExec": f"kill {_EXEC}",
    "sendSignal": f"kill -s HUP {_EXEC}",
    "readEvents": f"logs {_EXEC}",
    "readStdout": f"logs --tail 5 {_EXEC}",
    "readStderr": f"logs --tail 5 {_EXEC}",
    "showOwnToken": "token self",
    "askOwnToken": "token can exec:run 7300 -u root -- systemctl restart nginx",
    "listTokens": "token ls",
    "createToken": "token create --name ci --allow exec:run --guests 7300 --expires 1h",
    "showToken": f"token show {_TOKEN}",
    "editToken": f"token edit {_TOKEN} --name ci",
    "deleteToken": f"token rm {_TOKEN}",
    "rotateToken": f"token rotate {_TOKEN}",
    "revokeToken": f"token revoke -y {_TOKEN}",
    "listAuditRecords": "audit --guest 7300",
    "verifyAuditLog": "audit --verify",
    "listGuests": "ls",
    "showGuest": "show 7300",
    "editGuest": "edit 7300 --memory 384 --set nameserver=192.0.2.53 --unset searchdomain --tag prod --no-onboot",
    "deleteGuest": "rm -y 7300",
    "showGuestAddresses": "ip 7300",
    "resizeGuestDisk": "resize 7300 rootfs +1G",
    "migrateGuest": "migrate 7300 pve2 --restart",
    "makeGuestTemplate": "template make -y 7300",
    "startGuest": "start 7300",
    "stopGuest": "stop 7300",
    "shutDownGuest": "shutdown 7300 --force",
    "rebootGuest": "reboot 7300",
    "suspendGuest": "suspend 7300",
    "resumeGuest": "resume 7300",
    "showNextVmid": "nextid",
    "listNodes": "nodes",
    "listStorages": "storages --node pve1 --content rootdir",
    "listPools": "pools",
    "listTasks": "task ls 7300 --node pve1 --since 2d --errors -n 600",
    "showTask": f"task show {_UPID}",
    "readTaskLog": f"task log {_UPID}",
    "stopTask": f"task stop {_UPID}",
    "createGuest": "create --template local:vztmpl/alpine.tar.zst --storage local-lvm --name web",
    "cloneGuest": "clone 7300 --name copy --full",
    "listSnapshots": "snapshot ls 7300",
    "takeSnapshot": "snapshot create 7300 before",
    "rollBackSnapshot": "snapshot rollback -y 7300 before",
    "deleteSnapshot": "snapshot rm 7300 before",
    "listBackups": "backup ls 7300",
    "makeBackup": "backup create 7300 --storage local",
    "deleteBackup": f"backup rm -y 7300 {_BACKUP}",
    "listTemplates": "template ls --available",
    "downloadTemplate": "template download alpine.tar.zst --storage local",
    "listDevices": "devices ls",
    "lookUpDevice": "devices lookup /dev/null",
    "listGuestDevices": "devices ls 7300",
    "giveDevices": "devices add 7300 /dev/null",
    "takeDevicesBack": "devices rm 7300 dev0",
    "giveMount": "mount 7300 /data --size 1G --backup",
    "readFile": "file ls 7300:/srv",
    "writeFile": "cp -q - 7300:/srv/motd",
    "deleteFile": "file rm -r -y 7300:/srv/motd",
    "showReadiness": "health",
}
"""A call of the command that asks for it."""

BY_TERMINAL = {
    "openTerminal": "exec",
    "attachExec": "attach",
    "putStdin": "exec",
}
"""Commands that need a terminal, or bytes to send; test_terminal.py and test_exec.py have them ask."""

WITHOUT = {
    "resizeTerminal": "a terminal of pvex says its size on its own WebSocket",
    "makeTicket": "for browsers, which cannot send a header with a WebSocket",
    "showLiveness": "for who watches the process; `health` tells more",
    "showMetrics": "for Prometheus",
    "showOpenapi": "for generators of clients",
    "showOpenapiYaml": "for generators of clients",
    "showDocs": "for browsers",
    "showDocsStart": "for browsers",
    "showDocsProgram": "for browsers",
    "showDocsStyle": "for browsers",
}
"""Why pvex has no use for it."""


def test_every_route_has_a_command() -> None:
    """Or a reason; and a command that is named here is one."""
    sets = [set(ASKED), set(BY_TERMINAL), set(WITHOUT)]
    assert set.union(*sets) == set(_BY_ID)
    assert sum(map(len, sets)) == len(_BY_ID)
    assert set(BY_TERMINAL.values()) <= {name for name, _ in every_command(main)}


def test_every_command_is_of_a_route() -> None:
    """But for those that ask no gateway, or more than one operation in turn."""
    called = set()
    for words in ASKED.values():
        called |= {name for name, _ in every_command(main) if f"{words} ".startswith(f"{name} ")}
    others = {"attach", "run", "login", "completion", "backup restore", "file stat", "task wait"}
    profiles = {"profile", "profile ls", "profile use", "profile rm"}
    assert {name for name, _ in every_command(main)} == called | others | profiles


class _Gateway(ThreadingHTTPServer):
    """Answers every operation as the API's description shows it, and takes what the API would take."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.wrong: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Gateway

    def _answer(self) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        operation = find_operation(self.command, path)
        assert operation is not None, self.path
        name = operation["operationId"]
        self.server.asked.append(name)
        body = self._read()
        route = _BY_ID[name]
        try:
            parse_query(route.query, query)
            if route.body is not None:
                parse_json(route.body, body)
        except Exception as error:
            self.server.wrong.append(f"{self.command} {self.path}: {error!r}")
        example = _choose(name, _EXAMPLES[name])
        came = {**example.came, **_changed(name, query)} if isinstance(example.came, dict) else example.came
        data = b"" if came is None else came.encode() if isinstance(came, str) else json.dumps(came).encode()
        self.send_response(example.status)
        self.send_header("Content-Type", example.came_as)
        self.send_header("Content-Length", str(len(data)))
        for field, value in {**_FACTS.get(name, {}), **(example.told or {})}.items():
            self.send_header(field, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


_FACTS = {
    "readFile": {
        "X-File-Type": "directory",
        "X-File-Mode": "0755",
        "X-File-Uid": "0",
        "X-File-Gid": "0",
        "Last-Modified": "Sun, 22 Nov 2026 08:00:00 GMT",
    },
    "readStdout": {"X-Output-Bytes": "12"},
    "readStderr": {"X-Output-Bytes": "0"},
}
"""Header fields that examples leave out."""


def _choose(name: str, examples: Any) -> Exchange:
    """A success; of files a directory's list."""
    wanted = "directory" if name == "readFile" else None
    chosen: Exchange = next(
        one for one in examples if one.status < 300 and one.status != 206 and wanted in (None, one.name)
    )
    return chosen


def _changed(name: str, query: str) -> dict[str, Any]:
    """What cannot be as it was recorded: the hash of nothing, and no page behind the second."""
    if name == "writeFile":
        return {"sha256": hashlib.sha256(b"").hexdigest()}
    return {"next": None} if "after=" in query else {}


@pytest.fixture(scope="module")
def answering() -> Iterator[_Gateway]:
    with _Gateway() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("output", ["table", "json"])
@pytest.mark.parametrize("operation_id", ASKED)
def test_a_command_asks(answering: _Gateway, tmp_path: Path, operation_id: str, output: str) -> None:
    """With what the API takes; what it answers is shown, and nothing is wrong with it."""
    answering.asked.clear()
    answering.wrong.clear()
    environment = {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "GATEWAY_URL": f"http://127.0.0.1:{answering.server_port}",
        "GATEWAY_TOKEN": "pveg_x",
        "GATEWAY_CA": None,
        "PVEX_DEBUG": "1",
        "PVEX_PROFILE": None,
    }
    apart: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in signature(CliRunner).parameters else {}
    words = ["-o", output, *ASKED[operation_id].split()]
    result = CliRunner(**apart).invoke(main, words, input="", env=environment, prog_name="pvex")
    assert (result.exit_code, answering.wrong) == (0, []), (result.exception, result.stderr)
    assert operation_id in answering.asked
    if output == "json" and _has_output(ASKED[operation_id]):
        json.loads(result.stdout)


def _has_output(words: str) -> bool:
    """Whether the command's answer is one that -o shapes."""
    found = max((name for name, _ in every_command(main) if f"{words} ".startswith(f"{name} ")), key=len)
    return any("--output" in option.opts for option in dict(every_command(main))[found].params)

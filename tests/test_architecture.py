"""Who may import whom (DESIGN, section 3), read off the source with `ast`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "gateway").rglob("*.py")
}

CLIENT = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "pvex").rglob("*.py")
}

# Each layer may import itself and the layers it names; `shared` everybody may import.
SHARED = {
    "gateway",
    "gateway.certificate",
    "gateway.clientwatch",
    "gateway.confinement",
    "gateway.errors",
    "gateway.errors_all",
    "gateway.errors_files",
    "gateway.errors_pve",
    "gateway.histogram",
    "gateway.jsonbytes",
    "gateway.logs",
    "gateway.memory",
    "gateway.notify",
    "gateway.rates",
    "gateway.ulid",
}
ALLOWED = {
    "cli": {"cli", "app", "api", "web", "auth", "audit", "config", "doctor", "supervisor", "exec.agent", "pve"},
    "app": {
        "app",
        "api",
        "auth",
        "audit",
        "config",
        "devices",
        "guests",
        "policy",
        "pve",
        "supervisor.link",
        "web.codes",
    },
    "api": {
        "api",
        "auth",
        "audit",
        "config",
        "devices",
        "doctor.finding",
        "doctor.node",
        "exec",
        "files",
        "guests",
        "metrics",
        "policy",
        "pve",
        "web.codes",
        "web.disconnect",
        "web.live",
        "web.safe",
        "supervisor.link",
        "supervisor.readiness",
    },
    "auth": {"auth", "exec", "audit.record"},
    "devices": {"devices", "policy.paths"},
    "audit": {"audit"},
    "guests": {"guests", "audit.record", "audit.unfinished", "devices", "exec", "policy", "pve"},
    "files": {"files"},
    "policy": {"policy", "config"},
    "doctor": {
        "doctor",
        "audit",
        "auth",
        "config",
        "exec",
        "metrics",
        "pve",
        "supervisor.link",
        "supervisor.readiness",
    },
    "exec": {"exec", "config"},
    "metrics": {"metrics"},
    "pve": {"pve", "exec.agent", "exec.order", "exec.origin", "auth.private", "config", "policy.root"},
    "web": {"web"},
    "supervisor": {
        "supervisor",
        "exec",
        "audit",
        "config",
        "files.accounts",
        "files.answers",
        "files.machine",
        "files.wire",
        "policy",
    },
    "__main__": {"cli"},
    "certificate": set(),
    "config": set(),
    "errors": set(),
    "histogram": set(),
    "logs": set(),
    "memory": set(),
    "clientwatch": set(),
    "confinement": set(),
    "jsonbytes": set(),
    "rates": set(),
    "ulid": set(),
    "notify": set(),
}
# The supervisor's rooms, each with those that stand below it: it may import them and what they may.
SUPERVISOR = {
    "kernel": set(),
    "limits": set(),
    "link": set(),
    "guests": {"kernel"},
    "output": set(),
    "launching": {"guests"},
    "spool": {"limits", "output"},
    "agent": {"launching", "output"},
    "execs": {"agent", "spool"},
    "files": {"execs"},
    "changes": {"execs"},
    "operations": {"changes", "files", "link"},
}
ONLY = {
    "flask": {"api.pipeline", "app"},
    "werkzeug": {"app"},
    "gunicorn": {"web"},
    "prometheus_client": {"metrics", "api.handlers.metrics"},
    "proxmoxer": {"pve"},
    "requests": {"pve"},
    "urllib3": {"pve"},
    "click": {"cli"},
    "itsdangerous": {"auth.keyring"},
    "yaml": {"config", "cli", "api.openapi.text"},
    "subprocess": {"supervisor"},
    "pty": {"supervisor"},
    "wsproto": {"api.terminal"},
}

DURABLE = {"audit", "auth.private", "supervisor.files"}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; imports for type checking are imports too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module


def is_in(module: str, place: str) -> bool:
    """Whether `module` (without `gateway.`) is `place` or inside it; cli_token belongs to cli."""
    return module == place or module.startswith((f"{place}.", f"{place}_"))


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    """cli > app > api > the domain > errors, and never back."""
    module = name.removeprefix("gateway").removeprefix(".")
    if not module:
        return
    layer = next(layer for layer in (*ALLOWED, module) if is_in(module, layer))
    assert layer in ALLOWED, f"{name}: give its layer a line in ALLOWED"
    for imported in imports(MODULES[name]):
        if imported.split(".")[0] == "gateway" and imported not in SHARED:
            target = imported.removeprefix("gateway.")
            assert any(is_in(target, place) for place in ALLOWED[layer]), f"{name} imports {imported}"


def below(room: str) -> set[str]:
    """The rooms that a room of the supervisor may import."""
    return SUPERVISOR[room].union(*(below(lower) for lower in SUPERVISOR[room]))


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.count(".") > 2 and ".supervisor." in name))
def test_rooms_of_the_supervisor_stand_on_each_other(name: str) -> None:
    """Each imports itself and the rooms below it; what wires them together stands above them all."""
    room = name.split(".")[2]
    for imported in imports(MODULES[name]):
        if imported.startswith("gateway.supervisor."):
            assert imported.split(".")[2] in {room, *below(room)}, f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_libraries_stay_in_their_rooms(name: str) -> None:
    """Flask ends at the pipeline, gunicorn at the edge; only the supervisor starts processes."""
    module = name.removeprefix("gateway").removeprefix(".")
    for imported in imports(MODULES[name]):
        rooms = ONLY.get(imported.split(".")[0])
        assert rooms is None or any(is_in(module, room) for room in rooms), f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_who_waits_for_the_disk(name: str) -> None:
    """Before a command runs the audit log alone does: nothing else on its way makes anything durable."""
    module = name.removeprefix("gateway").removeprefix(".")
    calls = {node.attr for node in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(node, ast.Attribute)}
    durable = calls & {"fsync", "fdatasync", "sync_file_range", "O_SYNC", "O_DSYNC"}
    assert not durable or any(is_in(module, room) for room in DURABLE), f"{name}: {durable}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_app_and_cli_load_configuration(name: str) -> None:
    """Everything else is given what it needs."""
    if name.split(".")[-1].startswith(("app", "cli", "config")):
        return
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "gateway.config":
            assert "load" not in {alias.name for alias in node.names}, name


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_say_what_they_own(name: str) -> None:
    """A module opens with a sentence, and stays small enough to hold one concept."""
    text = MODULES[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), name
    assert len(text.splitlines()) <= 440, f"{name}: look for the second concept in it"


CLIENT_LIBRARIES = {"click", "requests", "urllib3", "wsproto", "yaml"}


@pytest.mark.parametrize("name", sorted(CLIENT))
def test_the_client_stands_alone(name: str) -> None:
    """pvex imports itself, the standard library and its few libraries: a package of its own can hold it."""
    for imported in imports(CLIENT[name]):
        top = imported.split(".")[0]
        assert top == "pvex" or top in sys.stdlib_module_names or top in CLIENT_LIBRARIES, f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(CLIENT))
def test_modules_of_the_client_say_what_they_own(name: str) -> None:
    """As the gateway's: a sentence, and one concept."""
    text = CLIENT[name].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), name
    assert len(text.splitlines()) <= 300, f"{name}: look for the second concept in it"


def test_the_gateway_knows_no_client() -> None:
    """The other way round neither."""
    assert not [name for name, path in MODULES.items() if any(i.split(".")[0] == "pvex" for i in imports(path))]

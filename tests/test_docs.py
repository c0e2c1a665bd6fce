"""What the README and docs/ say of the API is what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from gateway.api.routes import ROUTES
from gateway.api.terminal_frames import Control
from gateway.errors_all import all_errors
from gateway.exec.view import Reason
from gateway.web.codes import EDGE_CODES

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
PROTOCOL = (REPOSITORY / "docs/terminal-protocol.md").read_text()


def test_every_error_code_is_explained() -> None:
    """A problem's code that a route can answer with stands in the README's table, with its status."""
    rows = [row for row in README.splitlines() if re.match(r"\| [0-9, ]+ \|", row)]
    codes = {error.code: error.status for route in ROUTES for error in route.errors}
    codes |= {code: status for status, known in EDGE_CODES.items() for code in known}
    for code, status in codes.items():
        assert any(f"`{code}`" in row and str(status) in row.split("|")[1] for row in rows), (code, status)


def test_no_error_code_is_made_up() -> None:
    """What the README's table calls a code is one."""
    known = {error.code for error in all_errors()} | {code for codes in EDGE_CODES.values() for code in codes}
    table = README.split("## Errors")[1].split("## ")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if re.match(r"\| [0-9, ]+ \|", row)]
    assert {code for row in rows for code in re.findall("`([a-z_]+)`", row)} <= known


def test_every_end_is_explained() -> None:
    """Each reason has its row."""
    assert all(f"\n| `{reason}` |" in README for reason in Reason)


def test_every_message_of_the_terminal_is_explained() -> None:
    """Each message type of pvex.v1 has its row in the protocol's page."""
    controls = [get_args(model.model_fields["type"].annotation)[0] for model in get_args(Control)]
    for kind in ("start", *controls, "started", "gap", "error", "end"):
        assert f"\n| `{kind}` |" in PROTOCOL, kind


def test_links_lead_somewhere() -> None:
    """A relative link names a file of this repository."""
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^):#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)

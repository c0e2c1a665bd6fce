"""/docs in a browser: drawn and tried out, closed in itself, and forgetful of the token."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from gateway.api.routes import ROUTES
from tests.exec.gateways import Gateway

SCREENSHOT = Path(__file__).parents[2] / "docs" / "api-reference.png"

_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
});
"""
_QUIET = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run")
_PATIENCE = 90_000
"""Milliseconds: a browser takes its time on a busy machine."""


class Visit:
    """One browser window on the gateway, and what happened in it."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(_NOTE_VIOLATIONS)

    def open(self, path: str) -> None:
        self.page.goto(self.origin + path)
        expect(self.page.locator(".opblock")).to_have_count(sum(route.described for route in ROUTES))

    def assert_closed(self) -> None:
        """Nothing was asked of anybody else, and the browser had nothing to refuse."""
        assert [url for url in self.requests if not url.startswith((f"{self.origin}/", "data:"))] == []
        assert self.page.evaluate("window.violations") == []
        assert self.errors == []

    def kept(self) -> Any:
        """What a browser would have of it when the page is closed."""
        stored = self.page.evaluate("[Object.entries(localStorage), Object.entries(sessionStorage)]")
        return [*stored[0], *stored[1], *self.page.context.cookies()]


@pytest.fixture(scope="module")
def browser(node: None) -> Iterator[Browser]:
    """Debian's Chromium."""
    program = shutil.which("chromium")
    assert program, "sh tests/demo/install.sh chromium"
    with sync_playwright() as playwright:
        expect.set_options(timeout=_PATIENCE)
        started = playwright.chromium.launch(executable_path=program, args=list(_QUIET), timeout=_PATIENCE)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, gateway: Gateway) -> Iterator[Visit]:
    """A new window, which has no cookies, storage or cache of another."""
    context = browser.new_context(ignore_https_errors=True, viewport={"width": 1180, "height": 900})
    context.set_default_timeout(_PATIENCE)
    yield Visit(context.new_page(), f"https://127.0.0.1:{gateway.services.port}")
    context.close()


def test_try_it(visit: Visit, gateway: Gateway) -> None:
    """A token is typed, a command is run by the example that stands there; afterwards nothing of it is left."""
    visit.open("/docs")
    page = visit.page
    page.locator(".btn.authorize").first.click()
    page.locator("#auth-bearer-value").fill(gateway.token_for_all)
    page.locator(".auth-btn-wrapper .authorize").click()
    page.locator(".auth-btn-wrapper .btn-done").click()
    run = page.locator("#operations-Execs-runExec")
    run.locator(".opblock-summary-control").click()
    run.locator(".try-out__btn").click()
    run.locator('tr[data-param-name="vmid"] input').fill("101")
    run.locator(".execute").click()
    reply = run.locator(".live-responses-table .response").first
    expect(reply.locator(".response-col_status")).to_contain_text("200")
    expect(reply).to_contain_text("Linux")
    visit.assert_closed()
    assert visit.kept() == []
    page.reload()
    expect(page.locator(".btn.authorize.unlocked").first).to_be_visible()


def test_nobody_chooses_what_it_shows(visit: Visit) -> None:
    """A link names an operation and nothing else: one with another description in it is no page."""
    for name in ("url", "configUrl"):
        refused = visit.page.goto(f"{visit.origin}/docs?{name}=https://192.0.2.1/openapi.json")
        assert refused is not None and refused.status == 422
    visit.errors.clear()  # the browser's own words for that status
    visit.open("/docs#/Execs/runExec")
    expect(visit.page.locator("#operations-Execs-runExec.is-open")).to_be_visible()
    visit.assert_closed()
    if os.environ.get("RECORD_EXAMPLES"):
        visit.page.screenshot(path=SCREENSHOT)


def test_runs_nothing_else(visit: Visit) -> None:
    """What a flaw of the renderer's would have run, the browser refuses: inline scripts, eval, other hosts."""
    visit.open("/docs")
    page = visit.page
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
    page.evaluate("const s = document.createElement('script'); s.text = 'window.ran = 2'; document.body.append(s)")
    page.evaluate("fetch('https://192.0.2.1/').catch(() => 0)")
    expect(page.locator("img[src=x]")).to_have_count(1)
    page.wait_for_function("window.violations.length >= 3")
    assert page.evaluate("window.ran") is None
    refused = {violation.split()[0] for violation in page.evaluate("window.violations")}
    assert refused == {"script-src-attr", "script-src-elem", "connect-src"}

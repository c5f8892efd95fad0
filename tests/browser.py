"""Fixtures for tests that drive a page in a real browser.

`tests/conftest.py` gives them to every test module.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
import pytest
from playwright.sync_api import (
    BrowserContext,
    ConsoleMessage,
    Error,
    Page,
    Request,
    expect,
    sync_playwright,
)

from dashboard.build import build
from dashboard.state import Service
from dashboard.theme import launch_options
from tests.contrast import too_faint

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing leaves the machine; routing requests in the test would switch the cache off.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
# Generous: it bounds a failure, and a busy machine is no failure.
expect.set_options(timeout=20_000)

LOCAL = {"127.0.0.1", "localhost", "::1"}


@dataclass
class Visit:
    """One page and everything that happened on it.

    Attributes:
        page: playwright's page.
        errors: console errors and uncaught exceptions.
        outside: addresses of requests that would have left the machine; none did.
        requests: addresses of all other requests, in order.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> Visit:
        for event, hear in self._hearers:
            self.page.on(event, hear)
        return self

    def leave(self) -> None:
        """Hear nothing more of the page, which others go on with."""
        for event, hear in self._hearers:
            self.page.remove_listener(event, hear)

    @property
    def _hearers(self) -> list[tuple[Any, Callable[..., None]]]:
        return [("console", self._say), ("pageerror", self._fail), ("request", self._note)]

    def _say(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _fail(self, error: Error) -> None:
        self.errors.append(error.stack or str(error))

    def _note(self, request: Request) -> None:
        (self.requests if _local(request.url) else self.outside).append(request.url)

    def assert_clean(self) -> None:
        """Nothing went wrong, and nothing left the machine."""
        assert self.outside == [], self.outside
        assert self.errors == [], self.errors


def _local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in {"data", "blob", "file"} or parts.hostname in LOCAL


AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"


def violations(page: Page) -> list[Any]:
    """What breaks WCAG A and AA on the page: the rule and what breaks it.

    As axe-core finds it; contrast that it leaves undecided is decided by the pixels.
    """
    page.evaluate(
        """async () => { // what fades in has its own colours then
          const ends = ({effect}) => Number.isFinite(effect.getComputedTiming().endTime);
          const ending = document.getAnimations().filter(ends);
          await Promise.allSettled(ending.map(({finished}) => finished)); }"""
    )
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found: list[Any] = page.evaluate(
        """async () => {
          const rules = {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']};
          const {violations} = await axe.run(document, rules);
          const told = (nodes) => nodes.slice(0, 3).map((one) => one.html);
          return violations.map(({id, nodes}) => [id, ...told(nodes)]); }"""
    )
    return [*found, *(["contrast by pixels", one] for one in too_faint(page))]


@contextmanager
def launched(service: Service, **options: Any) -> Iterator[str]:
    """The address of the page, while it runs in this process.

    Args:
        service: what it works with.
        **options: more for Gradio's `launch`.
    """
    demo = build(service)
    started = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options(), **options)
    _, address, _ = started
    yield address
    demo.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[BrowserContext]:
    """A headless Chromium: $CHROMIUM, or the one on the path. Its pages share one cache."""
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chrome")
    if not binary:
        pytest.skip("no chromium on the path; install one or name it in $CHROMIUM")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=list(FLAGS))
        yield browser.new_context()
        browser.close()


@pytest.fixture
def visit(chromium: BrowserContext) -> Iterator[Callable[..., Visit]]:
    """``visit(url, width=, height=, dark=, touch=)`` opens a page; at the end each must be clean.

    With `touch` it is on a phone, which has fingers and no mouse.
    """
    visits: list[Visit] = []
    phones: list[BrowserContext] = []

    def phone() -> BrowserContext:
        assert chromium.browser is not None
        phones.append(chromium.browser.new_context(has_touch=True, is_mobile=True))
        return phones[-1]

    def open_page(
        url: str, *, width: int = 1280, height: int = 900, dark: bool = False, touch: bool = False
    ) -> Visit:
        opened = Visit((phone() if touch else chromium).new_page()).watch()
        visits.append(opened)
        opened.page.set_viewport_size({"width": width, "height": height})
        opened.page.emulate_media(color_scheme="dark" if dark else "light")
        opened.page.goto(f"{url}?__theme={'dark' if dark else 'light'}")
        return opened

    yield open_page
    for opened in visits:
        opened.page.close()
    for context in phones:
        context.close()
    for opened in visits:
        opened.assert_clean()

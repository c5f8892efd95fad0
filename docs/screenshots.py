"""Makes the pictures of the documentation: ``make screenshots``.

Photographs of the running page, each tab filled, light, dark and on a phone, then the contact
sheets, which take some minutes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from dashboard.build import build
from dashboard.theme import launch_options
from docs import contact_sheet

DOCS = Path(__file__).parent
PAGES = DOCS / "pages"
TIMEOUT = 120_000
LOOKS = {"light": (1280, 900), "dark": (1280, 900), "phone": (390, 844)}
"""Width and height of the window, by the name of the picture."""


def draw_all(page: Page, grid: str, least: int) -> None:
    """Scroll through a grid of panels: each is drawn once it is near, also far down a phone."""
    cards = page.locator(f"{grid} .ts-card:not([data-kind='note'])")
    cards.nth(least - 1).wait_for(timeout=TIMEOUT)
    for card in cards.all():
        card.scroll_into_view_if_needed()
        card.locator(".js-plotly-plot").wait_for(timeout=TIMEOUT)


def explain(page: Page) -> None:
    """The first tab once its map has been tested."""
    page.locator("#film button").first.wait_for(timeout=TIMEOUT)
    page.locator("#test", has_text="checks").wait_for(timeout=TIMEOUT)


def compare(page: Page) -> None:
    """The second tab with its default methods."""
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-run")
    draw_all(page, "#compare-result", least=4)


def features(page: Page) -> None:
    """The third tab, with the patches and the channels of a layer."""
    page.get_by_role("tab", name="Features").click()
    page.click("#patch-run")
    page.locator("#patches .js-plotly-plot").wait_for(timeout=TIMEOUT)
    page.click("#feature-run")
    draw_all(page, "#feature-maps", least=4)


def metrics(page: Page) -> None:
    """The fourth tab with its default methods and metrics."""
    page.get_by_role("tab", name="Metrics").click()
    page.click("#metric-run")
    draw_all(page, "#metric-result", least=1)


TABS: Mapping[str, Callable[[Page], None]] = {
    "explain": explain, "compare": compare, "features": features, "metrics": metrics
}  # fmt: skip


def photograph(browser: Browser, url: str, look: str) -> None:
    """Write a picture of every tab, filled, in one look."""
    width, height = LOOKS[look]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{url}?__theme={'dark' if look == 'dark' else 'light'}")
    for name, fill in TABS.items():
        fill(page)
        page.wait_for_timeout(1500)
        page.screenshot(path=PAGES / f"{name}-{look}.jpg", type="jpeg", quality=82, full_page=True)
        if look == "light" and name in ("explain", "compare"):
            page.evaluate("window.scrollTo(0, 0)")
            file = "screenshot.png" if name == "explain" else "compare.png"
            page.screenshot(path=DOCS / file)
    page.close()


def main() -> None:
    """Launch the page, photograph it, stop it; write the contact sheets."""
    PAGES.mkdir(exist_ok=True)
    demo = build()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        for look in LOOKS:
            photograph(browser, url, look)
        browser.close()
    demo.close()
    contact_sheet.write_all()


if __name__ == "__main__":
    main()

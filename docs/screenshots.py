"""Makes the pictures of the documentation: ``make screenshots``.

First the contact sheets, which take some minutes, then photographs of the running page.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dashboard.build import build
from dashboard.theme import launch_options
from docs import contact_sheet

DOCS = Path(__file__).parent
TIMEOUT = 120_000


def compare(page: Page) -> None:
    """The second tab with its default methods."""
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-run")
    page.locator("#compare-result .js-plotly-plot").nth(3).wait_for(timeout=TIMEOUT)
    page.wait_for_timeout(1000)


def main() -> None:
    """Write the contact sheets; launch the page, photograph it, stop it."""
    contact_sheet.write_all()
    demo = build()
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    binary = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(f"{url}?__theme=light")
        page.locator("#result .js-plotly-plot").wait_for(timeout=TIMEOUT)
        page.get_by_text("Instant (").wait_for(timeout=TIMEOUT)  # the layers are there before it
        page.wait_for_timeout(1000)
        page.screenshot(path=DOCS / "screenshot.png")
        compare(page)
        page.screenshot(path=DOCS / "compare.png")
        browser.close()
    demo.close()


if __name__ == "__main__":
    main()

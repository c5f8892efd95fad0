"""The address of a view: an upload is in it after Share only, and opens for somebody else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from dashboard.state import Service
from tests.browser import Visit, launched
from tests.conftest import SAMPLES
from tests.test_dashboard_browser import TIMEOUT, opened, title

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service(checks=False)) as address:
        yield address


def test_an_upload_opens_elsewhere_once_it_is_shared(
    visit: Callable[..., Visit], url: str, tmp_path: Path
) -> None:
    with Image.open(SAMPLES / "rocket.jpg") as image:
        image.save(tmp_path / "private.jpg", quality=90)
    own = opened(visit(url))
    page, link = own.page, own.page.locator("#link textarea")
    page.click("#share")
    expect(link).to_have_value(re.compile("picture=coffee.jpg"), timeout=TIMEOUT)
    expect(page.locator("#link")).not_to_contain_text("sees your picture")

    page.get_by_label("Remove Image").click()
    page.locator("#picture input[type=file]").set_input_files(tmp_path / "private.jpg")
    title(page, "Why missile?")
    page.locator("#prediction .ts-class-main").nth(1).click()
    title(page, "Why projectile?")
    page.wait_for_url(re.compile("target="))
    assert not re.search("picture|shared|private", page.url)
    page.click("#share")
    expect(link).to_have_value(re.compile(r"[?&]shared=[\w-]{32}"), timeout=TIMEOUT)
    expect(page.locator("#link")).to_contain_text("sees your picture")
    address = link.input_value()
    assert page.url == address

    other = visit("about:blank")
    other.page.goto(address)
    title(other.page, "Why projectile?")
    other.page.locator("#prediction .ts-class-main").nth(0).click()
    title(other.page, "Why missile?")
    assert "shared=" in other.page.url, "it stays in the address while the picture does"
    other.page.get_by_role("button", name="cat", exact=True).click()
    title(other.page, "Why tiger cat?")
    other.page.wait_for_url(re.compile("picture=chelsea.jpg"))
    assert "shared=" not in other.page.url


def test_a_name_that_nobody_gave_says_so_and_shows_the_example(
    visit: Callable[..., Visit], url: str
) -> None:
    page = visit("about:blank").page
    page.goto(f"{url}?shared=..%2F..%2Fetc%2Fpasswd")
    expect(page.get_by_text("no longer shared")).to_be_visible(timeout=TIMEOUT)
    title(page, "Why espresso?")

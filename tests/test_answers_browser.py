"""Results on the page never pass for answers to another question than the page asks."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Locator, Page, Route, TimeoutError, expect

from dashboard.state import Service
from tests.browser import Visit, launched
from tests.test_dashboard_browser import TIMEOUT, choose, drawn, layer_list, opened, title

log = logging.getLogger(__name__)

SCRIPT = Path(__file__).parent.parent / "dashboard" / "components" / "answers.js"
STALE = re.compile(r"\bts-stale\b")


# -- the script alone ---------------------------------------------------------------------------


class Area:
    """The script on an empty page, with one area."""

    def __init__(self, page: Page) -> None:
        page.set_content('<div id="explain-answer"><button>Save</button></div>')
        page.add_script_tag(path=SCRIPT)
        self.page = page

    def call(self, function: str, *values: Any) -> Any:
        return self.page.evaluate(
            "([name, values]) => window.timmscope.answers[name](...values)", [function, values]
        )

    def ask(self, method: str, target: object, settings: object = None) -> float:
        *_, stamp = self.call("ask", "explain", NAMES, method, target, settings or {}, 0)
        return float(stamp)

    def answer(self, at: float, **answer: Any) -> None:
        about = {"label": "RISE, cat", "same": {}, "settings": None, **answer}
        self.call("arrived", {"area": "explain", "asked_at": at, **about})

    def changed(self, method: str, target: object, settings: object = None) -> None:
        self.call("changed", "explain", NAMES, method, target, settings or {})

    @property
    def painting(self) -> bool:
        """Whether the button that says "good enough" is seen."""
        return bool(
            self.page.evaluate(
                "() => document.getElementById('explain-answer').classList.contains('ts-painting')"
            )
        )

    @property
    def state(self) -> tuple[bool, str, bool]:
        """Whether the area is grey, its ribbon, and whether its button is off."""
        grey, ribbon, off = self.page.evaluate(
            """() => {
              const area = document.getElementById('explain-answer');
              return [area.classList.contains('ts-stale'), area.dataset.ribbon ?? '',
                      area.querySelector('button').inert];
            }"""
        )
        return grey, ribbon, off


NAMES = ["method", "target", "settings"]
FRESH, OLD = (False, "", False), (True, "For: RISE, cat", True)


@pytest.fixture
def area(visit: Callable[..., Visit]) -> Area:
    return Area(visit("about:blank").page)


def test_an_answer_is_grey_while_another_question_is_asked(area: Area) -> None:
    area.answer(area.ask("rise", 3))
    assert area.state == FRESH
    area.changed("rise", 4)
    assert area.state == OLD
    area.changed("rise", 3)
    assert area.state == FRESH, "the person has changed their mind"


def test_an_answer_to_a_question_before_the_last_is_grey(area: Area) -> None:
    first, second = area.ask("rise", 3), area.ask("gradcam", 3)
    assert second > first
    area.answer(first)
    assert area.state == OLD
    area.answer(second, label="Grad-CAM, cat")
    assert area.state == FRESH


def test_values_that_mean_the_same_are_no_other_question(area: Area) -> None:
    area.answer(area.ask("rise", None), same={"target": [None, "", 3]})
    area.changed("rise", 3)
    assert area.state == FRESH
    area.changed("rise", 4)
    assert area.state == OLD
    area.answer(area.ask("rise", 4), same={"target": "any"})
    area.changed("rise", 5)
    assert area.state == FRESH


def test_only_the_settings_of_the_methods_shown_matter(area: Area) -> None:
    area.answer(area.ask("rise", 3, {"rise": {"masks": 9}}), settings=["rise"])
    area.changed("rise", 3, {"rise": {"masks": 9}, "lime": {"samples": 5}})
    assert area.state == FRESH
    area.changed("rise", 3, {"rise": {"masks": 8}})
    assert area.state == OLD


def test_a_cancelled_question_says_how_to_go_on(area: Area) -> None:
    area.answer(area.ask("rise", 3))
    area.ask("lime", 3)
    area.call("cancelled", "explain", "Explain")
    assert area.state == (True, "Cancelled. Press Explain", True)
    area.ask("lime", 3)
    assert area.state == OLD


PARTIAL = {"partial": "120 of 4,000 masks, standard error 9.0%", "painting": True}


def test_a_map_that_is_being_painted_says_how_far_it_is(area: Area) -> None:
    at = area.ask("rise", 3)
    area.answer(at, **PARTIAL)
    assert area.state == (False, PARTIAL["partial"], False)
    assert area.painting
    area.changed("rise", 4)
    assert area.state == OLD
    assert not area.painting, "what is replaced is never good enough"
    area.changed("rise", 3)
    area.answer(at)
    assert area.state == FRESH
    assert not area.painting


def test_a_map_that_is_good_enough_bears_its_samples(area: Area) -> None:
    at = area.ask("rise", 3)
    area.answer(at, **PARTIAL)
    assert area.call("enough", "explain") > at
    assert not area.painting, "nobody needs to say so twice"
    area.answer(at, **{**PARTIAL, "painting": False})
    assert area.state == (False, f"Stopped at {PARTIAL['partial']}", False)
    again = area.ask("rise", 3)
    area.answer(again, **PARTIAL)
    assert area.painting


def test_painting_that_is_cancelled_leaves_nothing_to_use(area: Area) -> None:
    at = area.ask("rise", 3)
    area.answer(at, **PARTIAL)
    area.call("cancelled", "explain", "Explain")
    assert area.state == (True, "Cancelled. Press Explain", True)
    assert not area.painting


def test_a_file_is_the_same_whatever_else_is_said_of_it(area: Area) -> None:
    one, again = ({"path": "/tmp/cat.jpg", "url": url} for url in ("a", "b"))
    area.answer(area.ask("rise", one))
    area.changed("rise", again)
    assert area.state == FRESH


# -- the page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service()) as address:
        yield address


@pytest.fixture
def page(visit: Callable[..., Visit], url: str) -> Page:
    return opened(visit(url)).page


MASKS = re.compile(r"^[\d,]+ of 4,000 masks, standard error")
STOPPED = re.compile(r"^Stopped at [\d,]+ of 4,000 masks, standard error")


def answer(page: Page) -> Any:
    return page.locator("#explain-answer")


def test_what_is_replaced_is_grey_at_once_and_stops(page: Page) -> None:
    choose(page, "#method", "RISE")
    expect(answer(page)).to_have_class(STALE, timeout=1000)
    expect(answer(page)).to_have_attribute("data-ribbon", "For: Grad-CAM, espresso")
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    expect(answer(page)).not_to_have_class(STALE)


def test_a_slow_map_is_painted_and_kept_when_it_is_good_enough(page: Page) -> None:
    enough = page.locator("#enough")
    expect(enough).to_be_hidden()
    choose(page, "#method", "RISE")
    title(page, "RISE")
    expect(answer(page)).to_have_attribute("data-ribbon", MASKS, timeout=TIMEOUT)
    expect(answer(page)).not_to_have_class(STALE)
    expect(page.locator("#result .ts-caption").first).to_contain_text("of 4,000 masks")
    first = answer(page).get_attribute("data-ribbon") or ""
    expect(answer(page)).not_to_have_attribute("data-ribbon", first, timeout=TIMEOUT)
    enough.click()
    expect(enough).to_be_hidden()
    expect(answer(page)).to_have_attribute("data-ribbon", STOPPED, timeout=TIMEOUT)
    expect(page.locator("#result .ts-title").first).to_contain_text("RISE")
    with page.expect_download(timeout=TIMEOUT) as waited:
        page.get_by_role("button", name="Save JSON").click()
    report = json.loads(waited.value.path().read_text())
    ribbon = answer(page).get_attribute("data-ribbon") or ""
    assert f"{report['partial']['done']:,} of 4,000 masks" in ribbon
    assert f"stop_after={report['partial']['done']}" in report["python"]
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    expect(answer(page)).to_have_attribute("data-ribbon", "")
    page.get_by_role("button", name="Back to RISE").click()
    title(page, "RISE")
    expect(answer(page)).to_have_attribute("data-ribbon", ribbon)
    expect(page.locator("#enough")).to_be_hidden()
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    choose(page, "#method", "RISE")
    expect(page.locator("#enough")).to_be_visible(timeout=TIMEOUT)  # all of it
    page.click("#cancel")


def test_painting_stops_for_what_replaces_it(page: Page) -> None:
    choose(page, "#method", "RISE")
    expect(answer(page)).to_have_attribute("data-ribbon", MASKS, timeout=TIMEOUT)
    choose(page, "#method", "HiResCAM")
    title(page, "HiResCAM")
    page.wait_for_timeout(1500)
    expect(page.locator("#result .ts-title").first).to_contain_text("HiResCAM")
    expect(page.locator("#enough")).to_be_hidden()


def test_what_is_cancelled_says_so_and_stays_grey(page: Page) -> None:
    choose(page, "#method", "RISE")
    expect(page.locator("#cost")).to_contain_text("passes", timeout=TIMEOUT)
    page.locator("#cancel").click()
    expect(answer(page)).to_have_attribute("data-ribbon", "Cancelled. Press Explain")
    expect(answer(page)).to_have_class(STALE)
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    expect(answer(page)).to_have_attribute("data-ribbon", "")


def test_an_earlier_answer_comes_back_though_nothing_was_to_be_cancelled(page: Page) -> None:
    choose(page, "#method", "Eigen-CAM")
    title(page, "Eigen-CAM")
    page.locator("#cancel").click()
    page.get_by_role("button", name="Back to Grad-CAM, espresso").click()
    title(page, "Grad-CAM")
    expect(answer(page)).to_have_attribute("data-ribbon", "")
    expect(answer(page)).not_to_have_class(STALE)
    page.wait_for_url(re.compile(r"^[^?]*(\?(?!.*eigencam).*)?$"))
    choose(page, "#method", "RISE")
    expect(answer(page)).to_have_class(STALE, timeout=1000)


def test_a_setting_stops_the_painting_and_says_so(page: Page) -> None:
    choose(page, "#method", "RISE")
    expect(answer(page)).to_have_attribute("data-ribbon", MASKS, timeout=TIMEOUT)
    masks = page.locator("#method-settings").get_by_label("Masks").last
    before = masks.input_value()
    masks.fill("3000")
    masks.press("Tab")
    expect(answer(page)).to_have_class(STALE)
    expect(answer(page)).to_have_attribute("data-ribbon", "For: RISE, espresso")
    masks.fill(before)
    masks.press("Tab")
    expect(page.locator("#cost")).to_contain_text("4,001", timeout=TIMEOUT)
    expect(answer(page)).to_have_class(STALE)
    page.locator("#run").click()
    expect(answer(page)).to_have_attribute("data-ribbon", MASKS, timeout=TIMEOUT)


def test_a_setting_that_is_set_back_leaves_the_answer_true(page: Page) -> None:
    choose(page, "#method", "SmoothGrad")
    title(page, "SmoothGrad")
    expect(answer(page)).to_have_attribute("data-ribbon", "", timeout=TIMEOUT)
    samples = page.locator("#method-settings").get_by_label("number input for Samples")
    for value, ribbon in (("9", "For: SmoothGrad, espresso"), ("25", "")):
        samples.fill(value)
        samples.press("Tab")
        expect(answer(page)).to_have_attribute("data-ribbon", ribbon)


def test_a_comparison_is_grey_once_the_methods_are_others(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-methods input").first.press("Backspace")
    page.locator("#compare-methods input").first.press("Backspace")
    page.locator("h1").click()  # the open list lies over the button
    page.locator("#compare-run").click()
    drawn(page, "#compare-result")
    area = page.locator("#compare-answer")
    expect(area).not_to_have_class(STALE)
    page.locator("#compare-methods input").first.press("Backspace")
    expect(area).to_have_class(STALE)
    expect(area).to_have_attribute("data-ribbon", "For: 2 methods, espresso")


QUICK = ["Grad-CAM", "Eigen-CAM", "Saliency", "RISE", "LayerCAM"]
CLASSES = ["lynx", "tabby", "Egyptian cat"]
OPEN_LIST = re.compile(
    r"TypeError: Cannot read properties of undefined \(reading '0'\)\s+at \S+/assets/Index-"
)
"""Gradio's own list, where it is open while its choices become fewer; it recovers."""
MODELS = ["tf_efficientnet_lite0", "world_resnet"]
"""Two that load at once."""


def hurry(page: Page, choices: random.Random) -> None:
    """One choice of a person in a hurry, told in case the tour fails."""
    what = choices.choice([*HURRIES, "method"])
    HURRIES[what](page, choices)
    pause = choices.choice([0, 30, 120, 400])
    log.warning("%s, then %d ms", what, pause)
    page.wait_for_timeout(pause)


def picked(page: Page, field: str, text: str) -> None:
    """Type into a list and press Enter, unless it is gone or goes: some methods have no layer."""
    box = page.locator(f"{field} input").first
    if box.is_visible():
        with suppress(TimeoutError):
            box.click(timeout=500)
            box.fill(text, timeout=500)
            box.press("Enter", timeout=500)


def pressed(found: Locator, choices: random.Random) -> None:
    """Press one of these, if there is one that can be pressed now."""
    count = found.count()
    if count:
        one = found.nth(choices.randrange(count))
        with suppress(TimeoutError):
            one.click(timeout=500)


def crop(page: Page, choices: random.Random) -> None:
    """Move the box around what the model sees, or take the whole picture."""
    options = page.locator("#crop-options")
    if not page.locator("#crop-box").is_visible():
        options.get_by_role("button").first.click()
    pressed(options.locator("#crop-box button:visible"), choices)


def setting(page: Page, choices: random.Random) -> None:
    """Change a parameter of the method, whichever that is."""
    pressed(page.locator("#method-settings input[type=checkbox]:visible"), choices)


def elsewhere(page: Page, choices: random.Random) -> None:
    """Look at another tab and come back."""
    for name in (choices.choice(["Compare", "Features", "Metrics"]), "Explain"):
        page.get_by_role("tab", name=name).click()


HURRIES: dict[str, Callable[[Page, random.Random], None]] = {
    "method": lambda page, dice: choose(page, "#method", dice.choice(QUICK)),
    "class": lambda page, dice: picked(page, "#target", dice.choice(CLASSES)),
    "picture": lambda page, dice: pressed(page.locator("#photographs button:visible"), dice),
    "cancel": lambda page, dice: page.locator("#cancel").click(),
    "layer": lambda page, dice: picked(page, "#layer", dice.choice(["blocks.2", "bn2"])),
    "setting": setting,
    "model": lambda page, dice: picked(page, "#model", dice.choice(MODELS)),
    "crop": crop,
    "vs": lambda page, dice: pressed(page.locator(".ts-class-versus:visible"), dice),
    "film": lambda page, dice: pressed(page.locator("#film button:visible"), dice),
    "history": lambda page, dice: pressed(page.locator("#history button:visible"), dice),
    "elsewhere": elsewhere,
}
"""What a person in a hurry does."""


def tour(page: Page, seed: int, choices: int) -> None:
    """Many rapid choices, the last an instant method; then page and question agree."""
    log.warning("tour %d", seed)
    dice = random.Random(seed)
    layer_list(page)
    for _ in range(choices):
        hurry(page, dice)
    choose(page, "#method", "HiResCAM")
    title(page, "HiResCAM")
    expect(answer(page)).to_have_attribute("data-ribbon", "", timeout=TIMEOUT)
    page.wait_for_timeout(1500)
    expect(answer(page)).to_have_attribute("data-ribbon", "")
    shown = page.locator("#result .ts-title").first.inner_text()
    chosen = page.locator("#target input").first.input_value()
    why = f"Why {chosen.partition(' · ')[0]}"
    for rival in page.locator(".ts-class-versus[aria-pressed=true]").all():
        label = rival.get_attribute("aria-label") or ""
        why += f" rather than {label.removeprefix('Stop comparing with ')}"
    assert shown == f"{why}?HiResCAM"


@pytest.mark.parametrize("seed", [0, 1])
def test_after_many_rapid_choices_page_and_question_agree(page: Page, seed: int) -> None:
    tour(page, seed, 8)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 150, 5))
def test_fifty_tours_of_thirty_choices_end_in_agreement(
    visit: Callable[..., Visit], url: str, first: int
) -> None:
    seen = opened(visit(url))
    for seed in range(first, first + 5):
        tour(seen.page, seed, 30)
    seen.errors[:] = [one for one in seen.errors if not OPEN_LIST.match(one)]


def test_an_answer_waits_for_the_pages_own_files(chromium: BrowserContext, url: str) -> None:
    """On a busy machine the page may ask its first question before they are there."""
    assert chromium.browser is not None
    held: list[Route] = []
    with chromium.browser.new_context() as context:
        page = context.new_page()
        page.route(re.compile(r"answers\.js"), lambda route: held.append(route))
        page.goto(url)
        expect(page.locator("#prediction")).to_be_visible(timeout=TIMEOUT)
        page.wait_for_timeout(2000)
        assert held, "the file is asked for"
        while held:
            held.pop().continue_()
            page.wait_for_timeout(100)
        title(page, "Grad-CAM")


def test_the_answer_about_another_model_is_not_grey(page: Page) -> None:
    """Its layers are others; the one that was chosen for the model before means its own choice."""
    expect(layer_list(page)).to_have_value("bn2", timeout=TIMEOUT)
    choose(page, "#model", "world_resnet")
    expect(layer_list(page)).to_have_value("layer4", timeout=TIMEOUT)
    title(page, "Why striped disc?")
    page.wait_for_timeout(1500)
    expect(answer(page)).not_to_have_class(STALE)
    expect(answer(page)).to_have_attribute("data-ribbon", "")

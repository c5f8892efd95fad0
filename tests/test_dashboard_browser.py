"""The page in a real browser, used as a person would use it. Leaves pictures in screenshots/."""

from __future__ import annotations

import base64
import importlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, Route, expect

from core import ModelHandle, load_model
from core.errors import CancelledError
from core.types import Prediction
from dashboard.actions.predict import ClassList
from dashboard.state import Service, Tasks
from dashboard.state.tasks import Task
from tests.browser import launched
from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from tests.browser import Visit

pytestmark = pytest.mark.browser

SHOTS = Path(__file__).parent.parent / "screenshots"
TIMEOUT = 60_000
"""Milliseconds to wait for an answer on a busy machine."""


class Watched(Tasks):
    """Counts how often work reports, and how often it notices that it was cancelled."""

    reports = cancelled = 0

    def begin(
        self, name: str, report: Callable[[float, str], object], asked_at: float = 0.0
    ) -> Task:
        return Counted(super().begin(name, report, asked_at), self)


class Counted(Task):
    """A task whose reports are counted."""

    def __init__(self, task: Task, counts: Watched) -> None:
        vars(self).update(vars(task))
        self._counts = counts

    def __call__(self, done: int, expected: int) -> None:
        self._counts.reports += 1
        try:
            super().__call__(done, expected)
        except CancelledError:
            self._counts.cancelled += 1
            raise


@pytest.fixture(scope="module")
def tasks() -> Watched:
    return Watched()


@pytest.fixture(scope="module")
def url(tasks: Watched) -> Iterator[str]:
    service = Service(checks=False)
    service.tasks = tasks
    with launched(service) as address:
        yield address


@pytest.fixture
def page(visit: Callable[..., Visit], url: str) -> Page:
    return opened(visit(url)).page


def opened(visit: Visit) -> Visit:
    """The page once it shows the first explanation, and knows what the model offers."""
    visit.page.set_default_timeout(TIMEOUT)
    title(visit.page, "Why espresso?")
    expect(visit.page.locator("#cost")).to_contain_text("Instant", timeout=TIMEOUT)
    return visit


def title(page: Page, text: str | re.Pattern[str]) -> None:
    """Wait until the explanation is titled so."""
    expect(page.locator("#result .ts-title").first).to_contain_text(text, timeout=TIMEOUT)


def drawn(page: Page, area: str, count: int | None = None) -> None:
    """Wait until an area shows drawn figures."""
    figures = page.locator(f"{area} .js-plotly-plot")
    page.locator(area).scroll_into_view_if_needed()
    expect(figures.first).to_be_visible(timeout=TIMEOUT)
    if count is not None:
        expect(figures).to_have_count(count, timeout=TIMEOUT)


def choose(page: Page, dropdown: str, text: str) -> None:
    """Pick an entry of a dropdown by typing it."""
    field = page.locator(f"{dropdown} input").first
    field.click()
    field.press_sequentially(text)
    page.get_by_role("option", name=text).first.click()


def layer_list(page: Page) -> Locator:
    """The list of a method's layers, which a person has to unfold."""
    folder, found = page.locator("#advanced button").first, page.locator("#layer input").first
    if folder.is_visible() and not found.is_visible():
        folder.click()
    return found


def drop(page: Page, path: Path) -> None:
    """Drop a file from the desktop onto the picture that is there."""
    payload = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([name, payload]) => {
             const bytes = Uint8Array.from(atob(payload), c => c.charCodeAt(0));
             const transfer = new DataTransfer();
             transfer.items.add(new File([bytes], name, {type: 'image/jpeg'}));
             return transfer; }""",
        [path.name, payload],
    )
    image = page.locator("#picture img").first
    for event in ("dragenter", "dragover", "drop"):
        image.dispatch_event(event, {"dataTransfer": transfer})


def settled(visit: Visit) -> None:
    """Wait until the page asks for nothing more."""
    asked = -1
    while asked != len(visit.requests):
        asked = len(visit.requests)
        visit.page.wait_for_timeout(4000)


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


def map_view(page: Page) -> dict[str, Any]:
    """How the explanation's map is drawn."""
    return page.evaluate(
        """() => { const t = document.querySelector('#result .js-plotly-plot')._fullData
                     .find(t => t.type === 'heatmap');
                   return {opacity: t.opacity, first: t.colorscale[1][1]}; }"""
    )


def test_the_page_opens_on_an_explanation(page: Page) -> None:
    drawn(page, "#result", 1)
    expect(page.locator("#prediction .ts-class-main")).to_have_count(5)
    expect(page.locator("#result .ts-caption")).to_contain_text("layer bn2")
    expect(page.locator("#about-model")).to_contain_text("1,000 classes")


def test_a_person_explains_a_picture_of_their_own(page: Page) -> None:
    drop(page, SAMPLES / "chelsea.jpg")
    title(page, "tiger cat")
    choose(page, "#method", "Integrated Gradients")
    title(page, "Integrated Gradients")
    expect(page.locator("#summary")).to_contain_text("The map accounts for the score to within")
    choose(page, "#method", "LayerCAM")
    title(page, "LayerCAM")
    expect(layer_list(page)).to_have_value("bn2")
    choose(page, "#layer", "blocks.4")
    expect(page.locator("#result .ts-caption")).to_contain_text("layer blocks.4")
    choose(page, "#target", "lynx")
    title(page, "Why lynx?")
    drawn(page, "#result", 1)
    shot(page, "explain-1280-light")


def test_the_view_changes_without_a_request(visit: Callable[..., Visit], url: str) -> None:
    seen = opened(visit(url))
    page = seen.page
    drawn(page, "#result", 1)
    expect(page.locator("#film button").first).to_be_visible(timeout=TIMEOUT)
    settled(seen)
    before, count = map_view(page), len(seen.requests)
    choose(page, "#colormap", "viridis")
    slider = page.locator("#alpha input[type=range]")
    slider.fill("0.3")
    page.wait_for_function(
        """() => document.querySelector('#result .js-plotly-plot')._fullData
                 .some(t => t.type === 'heatmap' && Math.abs(t.opacity - 0.3) < 1e-6)"""
    )
    after = map_view(page)
    assert after["opacity"] == pytest.approx(0.3)
    assert after["first"] != before["first"]
    assert len(seen.requests) == count


def test_a_colormap_change_is_drawn_at_once(page: Page) -> None:
    """Before the next animation frame, so that the frame shows it."""
    drawn(page, "#result", 1)
    changed = page.evaluate(
        """async () => {
             await new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)));
             const plot = document.querySelector('#result .js-plotly-plot');
             const colours = () => JSON.stringify(plot._fullData.map(t => t.colorscale));
             const before = colours();
             window.timmscope.state = {...window.timmscope.state, colormap: 'cividis'};
             window.timmscope.redraw();
             return before !== colours();
           }"""
    )
    assert changed


def test_saved_files_hold_the_map(page: Page, tmp_path: Path) -> None:
    drawn(page, "#result", 1)
    for kind in ("png", "svg", "npz", "json"):
        with page.expect_download() as waiting:
            page.click(f"#save-{kind}")
        path = tmp_path / waiting.value.suggested_filename
        waiting.value.save_as(path)
        assert path.name == f"coffee-espresso-gradcam-bn2.{kind}"
        assert path.stat().st_size > 100
    with np.load(next(tmp_path.glob("*.npz"))) as saved:
        assert saved["values"].shape == (224, 224)


def test_a_bad_picture_is_refused_in_a_sentence_and_the_page_goes_on(
    page: Page, tmp_path: Path
) -> None:
    bad = tmp_path / "broken.jpg"
    bad.write_bytes((SAMPLES / "coffee.jpg").read_bytes()[:2000])
    page.get_by_label("Remove Image").click()
    expect(page.locator("#result .ts-caption")).to_contain_text("Add a picture")
    page.locator("#picture input[type=file]").set_input_files(bad)
    expect(page.locator("#picture-notes")).to_contain_text("broken.jpg", timeout=TIMEOUT)
    expect(page.locator("#result .ts-caption")).to_contain_text("see the note below it")
    expect(page.get_by_text("broken.jpg")).to_have_count(1)
    shot(page, "refused-1280-light")
    page.get_by_role("button", name="rocket").click()
    title(page, "missile")


def test_a_model_that_does_not_exist_is_told_once_on_every_tab(page: Page) -> None:
    page.locator("#model input").fill("resnt50")
    page.locator("#model input").press("Enter")
    told = page.get_by_text("no model 'resnt50'")
    expect(page.locator("#about-model")).to_contain_text("no model 'resnt50'", timeout=TIMEOUT)
    for told_at in ("#prediction .ts-class-note", "#result .ts-caption"):
        expect(page.locator(told_at)).to_contain_text("see the note below its")
    page.get_by_role("tab", name="Compare").click()
    page.click("#compare-run")
    expect(page.locator("#compare-result .ts-caption")).to_contain_text("see the note below its")
    expect(told).to_have_count(1)
    shot(page, "no-model-1280-light")


def test_a_model_of_scenes_is_offered_its_scenes(page: Page) -> None:
    expect(page.get_by_role("button", name="ringed star", exact=True)).to_be_hidden()
    page.locator("#model input").fill("world_vit")
    page.locator("#model input").press("Enter")
    expect(page.locator("#prediction")).to_contain_text("knows only generated scenes")
    expect(page.get_by_role("button", name="rocket")).to_be_hidden()
    page.get_by_role("button", name="ringed star", exact=True).click()
    title(page, re.compile("ringed star"))
    shot(page, "scenes-1280-light")


def test_a_method_the_model_cannot_run_says_why(page: Page) -> None:
    choose(page, "#method", "Attention rollout")
    expect(page.locator("#result .ts-caption")).to_contain_text("no softmax attention")
    expect(page.get_by_text("Not for this model:")).to_be_visible()


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for something on the server."""
    for _ in range(TIMEOUT // 100):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it never came to pass")


def test_a_long_run_can_be_cancelled(page: Page, tasks: Watched) -> None:
    choose(page, "#method", "SmoothGrad")
    title(page, "SmoothGrad")
    page.get_by_label("number input for Samples").fill("500")
    expect(page.locator("#cost")).to_contain_text("500 backward")
    before, cancelled = tasks.reports, tasks.cancelled
    page.click("#run")
    until(page, lambda: tasks.reports > before + 1)
    page.click("#cancel")
    until(page, lambda: tasks.cancelled > cancelled)

    def still() -> bool:
        reports = tasks.reports
        page.wait_for_timeout(2000)
        return tasks.reports == reports

    until(page, still)
    assert tasks.reports - before < 40, "all of it takes more than 60 passes"
    choose(page, "#method", "LayerCAM")
    title(page, "LayerCAM")


@pytest.fixture
def predicting(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The page's predictions arrive while the event is set."""
    go = threading.Event()
    module = importlib.import_module("dashboard.actions.predict")
    likely_classes = module.likely_classes

    def held(prediction: Prediction, domain_note: str) -> ClassList:
        assert go.wait(TIMEOUT / 1000)
        found: ClassList = likely_classes(prediction, domain_note)
        return found

    go.set()
    monkeypatch.setattr(module, "likely_classes", held)
    yield go
    go.set()


def test_a_result_asked_for_while_the_picture_is_predicted_stays(
    predicting: threading.Event, page: Page
) -> None:
    drawn(page, "#result", 1)
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-methods .remove-all").click()
    choose(page, "#compare-methods", "LayerCAM")
    page.locator("h1").click()
    predicting.clear()
    page.get_by_role("button", name="cat", exact=True).click()
    target = page.locator("#target input")
    expect(target).to_have_value("", timeout=TIMEOUT)
    page.click("#compare-run")
    drawn(page, "#compare-result", 2)
    predicting.set()
    expect(target).to_have_value(re.compile("tiger cat"), timeout=TIMEOUT)
    page.wait_for_timeout(2000)
    expect(page.locator("#compare-result .js-plotly-plot")).to_have_count(2)
    answer = page.locator("#compare-answer")
    expect(answer).to_have_attribute("data-ribbon", "")
    page.get_by_role("button", name="rocket", exact=True).click()
    expect(answer).to_have_attribute("data-ribbon", "For: LayerCAM, tiger cat", timeout=TIMEOUT)


def test_a_model_that_takes_long_to_load_can_be_left(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = {name: threading.Event() for name in ("test_resnet", "test_vit")}

    def held(name: str, **options: Any) -> ModelHandle:
        assert go[name].wait(2 * TIMEOUT / 1000)
        return load_model(name, **options)

    page.get_by_role("button", name="Weights and outputs").click()
    page.locator("#weights").get_by_text("Random").click()
    expect(page.locator("#about-model")).to_contain_text("andom", timeout=TIMEOUT)
    monkeypatch.setattr("dashboard.state.models.load_model", held)
    said = page.locator("#about-model")
    page.locator("#model input").fill("test_resnet")
    page.locator("#model input").press("Enter")
    expect(said).to_contain_text("Loading test_resnet", timeout=TIMEOUT)
    late: list[Route] = []
    page.route("**/cancel", lambda route: late.append(route))  # a busy machine answers late
    page.click("#cancel-loading")
    expect(said).to_contain_text("No longer waiting", timeout=TIMEOUT)
    expect(page.locator("#cancel-loading")).to_be_hidden()
    page.locator("#model input").fill("test_vit")
    page.locator("#model input").press("Enter")
    expect(said).to_contain_text("Loading test_vit", timeout=TIMEOUT)
    for request in late:
        request.continue_()
    page.wait_for_timeout(500)
    go["test_vit"].set()
    expect(said).to_contain_text("1,000 classes", timeout=TIMEOUT)
    go["test_resnet"].set()


def test_the_estimate_follows_the_settings(page: Page) -> None:
    expect(page.locator("#cost")).to_contain_text("Instant", timeout=TIMEOUT)
    choose(page, "#method", "Occlusion")
    expect(page.locator("#cost")).to_contain_text("forward passes")
    before = page.locator("#cost").text_content() or ""
    page.click("#cancel")
    stride = page.get_by_label(re.compile("Stride")).locator("visible=true").last
    stride.fill("64")
    stride.press("Tab")
    expect(page.locator("#cost")).not_to_have_text(before)


def test_settings_are_those_of_the_method_and_come_back_with_it(page: Page) -> None:
    settings = page.locator("#method-settings")
    expect(settings.get_by_label("ReLU")).to_be_visible()
    choose(page, "#method", "SmoothGrad")
    samples = settings.get_by_label("number input for Samples")
    expect(samples).to_have_value("25")
    expect(settings.get_by_label("ReLU")).to_have_count(0)
    samples.fill("5")
    expect(page.locator("#cost")).to_contain_text("5 backward")
    choose(page, "#method", "LayerCAM")
    expect(settings.get_by_label("ReLU")).to_be_visible()
    choose(page, "#method", "SmoothGrad")
    expect(samples).to_have_value("5")
    expect(page.locator("#cost")).to_contain_text("5 backward")
    settings.get_by_label("range slider for Samples").fill("9")
    expect(page.locator("#cost")).to_contain_text("9 backward")


def test_settings_that_mean_nothing_for_the_model_are_not_shown(page: Page) -> None:
    settings = page.locator("#method-settings")
    tokens = settings.get_by_label("Mask outlying tokens")
    expect(settings.get_by_label("ReLU")).to_be_visible()
    expect(tokens).to_have_count(0)
    choose(page, "#model", "world_vit")
    expect(tokens).to_be_visible(timeout=TIMEOUT)
    choose(page, "#method", "LayerCAM")
    expect(tokens).to_be_visible()
    choose(page, "#model", "world_resnet")
    expect(tokens).to_have_count(0, timeout=TIMEOUT)


def test_metrics_show_the_settings_of_those_chosen(page: Page) -> None:
    page.get_by_role("tab", name="Metrics").click()
    page.get_by_text("Settings of the metrics").click()
    settings = page.locator("#metric-settings")
    steps = settings.get_by_label("Steps")
    expect(steps).to_have_count(3)
    steps.first.fill("7")
    page.locator("#metrics").get_by_label("Insertion").uncheck()
    expect(steps).to_have_count(2)
    expect(steps.first).to_have_value("7")


def test_compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    choose(page, "#compare-methods", "Attention")
    page.locator("h1").click()
    page.click("#compare-run")
    drawn(page, "#compare-result")
    cards = page.locator("#compare-result .ts-card")
    expect(cards).to_have_count(8)
    cards.last.scroll_into_view_if_needed()
    drawn(page, "#compare-result", 7)
    expect(page.locator("#compare-result [data-tone=error]")).to_contain_text("softmax attention")
    shown = page.get_by_text("completeness error").locator("visible=true")
    expect(shown.first).to_be_visible()
    shot(page, "compare-1280-light")


def test_features(page: Page) -> None:
    page.get_by_role("tab", name="Features").click()
    page.click("#feature-run")
    drawn(page, "#feature-maps .ts-all", 16)
    expect(page.locator("#feature-statistics")).to_contain_text("channels")
    shot(page, "features-1280-light")


def test_a_map_is_tested_and_the_verdict_goes_with_it(page: Page) -> None:
    drawn(page, "#result", 1)
    page.click("#test")
    verdict = page.locator("#verdict .ts-card")
    expect(verdict.first).to_contain_text("Verdict: ", timeout=TIMEOUT)
    assert verdict.count() >= 4
    shot(page, "verdict-1280-light")
    choose(page, "#method", "HiResCAM")
    title(page, "HiResCAM")
    expect(verdict).to_have_count(0)


def test_metrics(page: Page) -> None:
    page.get_by_role("tab", name="Metrics").click()
    page.click("#metric-run")
    drawn(page, "#metric-result", 1)
    drawn(page, "#curve-step", 2)
    expect(page.locator("#scores")).to_contain_text("Random (control)")
    shot(page, "metrics-1280-light")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_fits_light_and_dark(
    visit: Callable[..., Visit], url: str, width: int, dark: bool
) -> None:
    page = opened(visit(url, width=width, height=844, dark=dark)).page
    name = f"{width}-{'dark' if dark else 'light'}"
    for tab in ("Explain", "Compare", "Features", "Metrics"):
        button = page.get_by_role("tab", name=tab)
        if not button.is_visible():
            page.locator(".overflow-menu button").first.click()
            button = page.locator(".overflow-dropdown button", has_text=tab)
        button.click()
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert overflow <= 0, tab
        shot(page, f"{tab.lower()}-{name}-empty")


def test_a_press_on_a_class_explains_it(page: Page) -> None:
    rows = page.locator("#prediction .ts-class-main")
    rows.nth(1).click()
    title(page, "Why cup?")
    expect(rows.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(rows.nth(0)).to_have_attribute("aria-pressed", "false")
    rows.nth(0).press("Enter")
    title(page, "Why espresso?")


def test_a_class_is_compared_with_another_by_one_press(page: Page) -> None:
    versus = page.get_by_role("button", name="Compare with cup")
    versus.click()
    title(page, "Why espresso rather than cup?")
    page.get_by_role("button", name="Compare with another class").click()
    expect(page.locator("#versus input")).to_have_value(re.compile("cup"))
    page.get_by_role("button", name="Stop comparing with cup").click()
    title(page, "Why espresso?")


def test_outputs_can_be_read_as_numbers_with_a_unit(page: Page) -> None:
    page.get_by_role("button", name="Weights and outputs").click()
    unit = page.locator("#measured-in input, #measured-in textarea")
    expect(unit).to_be_hidden()
    choose(page, "#activation", "Numbers")
    unit.fill("kPa")
    expect(page.locator("#prediction")).to_contain_text("kPa", timeout=TIMEOUT)
    expect(page.locator("#result")).to_contain_text("kPa", timeout=TIMEOUT)
    choose(page, "#activation", "Softmax")
    expect(unit).to_be_hidden()
    expect(page.locator("#prediction")).not_to_contain_text("kPa")


def test_which_method_to_take_is_said_and_goes_with_the_question(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.click("#recommend")
    advice = page.locator("#advice .ts-card")
    expect(advice).to_contain_text("symmetric relevance gain", timeout=TIMEOUT)
    expect(page.locator("#ranking")).to_contain_text("Centre (control)")
    shot(page, "recommend-1280-light")
    choose(page, "#target", "lynx")
    answer = page.locator("#recommend-answer")
    expect(answer).to_have_attribute("data-ribbon", "For: 4 methods, espresso", timeout=TIMEOUT)

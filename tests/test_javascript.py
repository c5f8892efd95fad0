"""The page's JavaScript, module by module, on an empty page of a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, Page

from core.views import maps
from core.views.colour import COLORMAPS
from dashboard.actions.hide import Mask
from dashboard.build import build
from dashboard.components import panels
from dashboard.state import Service
from tests.browser import Visit

pytestmark = pytest.mark.browser

COMPONENTS = Path(panels.__file__).parent
MODULES = sorted(COMPONENTS.glob("*.js"))
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tab(chromium: BrowserContext) -> Iterator[Page]:
    """One tab for all tests: opening one takes longer than most of them."""
    tab = chromium.new_page()
    yield tab
    tab.close()


@pytest.fixture
def blank(tab: Page) -> Iterator[Page]:
    """An empty page, on which nothing may go wrong."""
    tab.goto("about:blank")
    visit = Visit(tab).watch()
    yield tab
    visit.leave()
    visit.assert_clean()


@pytest.fixture
def page(blank: Page) -> Page:
    """An empty page with the modules whose functions are tested here."""
    for name in ("values.js", "answers.js"):
        blank.add_script_tag(path=COMPONENTS / name)
    return blank


def added(page: Page, name: str) -> Page:
    """The page with one more module."""
    page.add_script_tag(path=COMPONENTS / name)
    return page


def call(page: Page, function: str, *values: Any) -> Any:
    """What a function of `window.timmscope` gives; typed arrays come as lists."""
    text = page.evaluate(
        """([path, values]) => {
          const found = path.split(".").reduce((one, name) => one[name], window.timmscope);
          const listed = (key, value) => (ArrayBuffer.isView(value) ? [...value] : value);
          return JSON.stringify(found(...values) ?? null, listed);
        }""",
        [function, values],
    )
    return json.loads(text)


# -- modules ------------------------------------------------------------------------------------


def test_every_module_is_loaded_by_the_page() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in COMPONENTS.glob("*.py"))
    assert [path.name for path in MODULES if f'"{path.name}"' not in code] == []


def test_what_a_component_shares_with_others_comes_with_it() -> None:
    shared = {"answers", "values", "thumbnail"}
    made: list[Any] = list(build(Service()).blocks.values())
    heads = {type(one).__name__: one.head for one in made if getattr(one, "head", None)}
    assert len(heads) > 8
    missing = []
    for component, head in heads.items():
        files = re.findall(r"([\w-]+\.js)\?v=", head)
        for path in (one for one in MODULES if one.name in files):
            text = path.read_text(encoding="utf-8")
            used = {name for name in shared - {path.stem} if f"timmscope.{name}" in text}
            missing += [(component, path.name, one) for one in used if f"{one}.js" not in files]
    assert missing == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_is_strict_and_keeps_its_names_to_itself(path: Path, blank: Page) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line and not line.startswith("//")]
    assert lines[0].startswith("// "), "its first line says what it is for"
    assert code[:2] == ['"use strict";', "(() => {"]
    assert code[-1] == "})();"
    before = set(blank.evaluate("Object.keys(window)"))
    for _ in range(2):  # Gradio may load it again
        blank.add_script_tag(path=path)
    assert set(blank.evaluate("Object.keys(window)")) - before == {"timmscope"}


# -- values.js: packed maps ---------------------------------------------------------------------

MAPS = {
    "signed": RNG.normal(size=(7, 5)),
    "one value": np.full((3, 4), 2.5),
    "zero": np.zeros((2, 2)),
    "tiny": RNG.normal(size=(4, 4)) * 1e-30,
    "huge": RNG.normal(size=(4, 4)) * 1e30,
    "one cell": np.array([[-1.5]]),
    "far from zero": 1000 + RNG.random((6, 6)),
    "large": RNG.normal(size=(224, 224)),
}


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("name", MAPS)
def test_a_map_is_unpacked_as_python_unpacks_it(page: Page, name: str, dtype: Any) -> None:
    packed = maps.pack(MAPS[name], dtype)
    found = np.array(call(page, "values.unpack", packed), np.float32)
    expected = maps.unpack(packed)
    assert found.shape == MAPS[name].shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * float(np.ptp(MAPS[name])))


def test_a_smoothed_map_tells_its_own_values(page: Page) -> None:
    own, means = maps.pack(MAPS["signed"]), maps.pack(MAPS["signed"] / 2, "u1")
    trace = {"z": own, "zmin": -1, "colorbar": {"len": 1}}
    smoothing = {"z": means, "unsmoothed": {"zmin": -3}, "caption": ""}
    exact, halved = (maps.unpack(one).tolist() for one in (own, means))

    plain = call(page, "values.ofMap", trace, {"smoothing": None}, True)
    assert "customdata" not in plain
    np.testing.assert_allclose(plain["z"], exact, rtol=1e-5, atol=1e-6)
    smooth = call(page, "values.ofMap", trace, {"smoothing": smoothing}, True)
    np.testing.assert_allclose(smooth["z"], halved, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(smooth["customdata"], exact, rtol=1e-5, atol=1e-6)
    assert smooth["zmin"] == -1
    bare = call(page, "values.ofMap", trace, {"smoothing": smoothing}, False)
    assert bare["zmin"] == -3
    assert bare["z"] == bare["customdata"]
    assert bare["colorbar"] == {"len": 1}


def test_a_map_takes_the_range_that_it_shares_with_others_and_gives_it_back(page: Page) -> None:
    figure = {"layout": {}, "data": [{"z": 1, "zmin": 0, "zmax": 2, "colorbar": {"len": 1}}]}
    smoothing = {"z": 5, "unsmoothed": {"zmax": 3}, "caption": ""}
    alone = {"signed": False, "smoothing": smoothing, "figure": figure, "shared": None}
    assert call(page, "values.inRange", alone, True) == alone
    shared = {
        "signed": True,
        "drawn": {"zmin": -9, "zmax": 9, "colorbar": {"len": 7}},
        "unsmoothed": {"zmin": -99, "zmax": 99},
    }
    given = {**alone, "shared": shared}
    assert call(page, "values.inRange", given, False) == given
    found = call(page, "values.inRange", given, True)
    assert found["signed"]
    assert found["figure"]["data"] == [{"z": 1, **shared["drawn"]}]
    assert found["smoothing"] == {**smoothing, "unsmoothed": shared["unsmoothed"]}
    bare = call(page, "values.inRange", {**given, "smoothing": None}, True)
    assert bare["smoothing"] is None


# -- values.js: colours -------------------------------------------------------------------------


def panel(signed: bool, over: bool) -> dict[str, Any]:
    layout = {"images": [{}]} if over else {}
    return {"signed": signed, "figure": {"layout": layout, "data": []}}


@pytest.mark.parametrize("signed", [True, False])
def test_a_map_has_the_colours_of_its_kind_of_range(page: Page, signed: bool) -> None:
    tables = panels._colormaps()
    for colormap in ("auto", *COLORMAPS):
        found = call(page, "values.look", panel(signed, True), {"colormap": colormap}, tables)
        stops = tables[colormap]["signed" if signed else "unsigned"]
        shown = [[at, f"rgba({r},{g},{b},1)"] for at, (r, g, b), _ in stops]
        assert found["colorscale"] == shown, colormap


def alphas(found: dict[str, Any]) -> list[float]:
    return [float(colour.rpartition(",")[2].rstrip(")")) for _, colour in found["colorscale"]]


def test_only_a_map_over_a_picture_fades_and_lets_it_through(page: Page) -> None:
    tables, view = panels._colormaps(), {"alpha": "0.5", "fade": True}
    over = call(page, "values.look", panel(True, True), view, tables)
    assert over["opacity"] == 0.5
    assert min(alphas(over)) < 1
    alone = call(page, "values.look", panel(True, False), view, tables)
    assert alone["opacity"] == 1
    assert set(alphas(alone)) == {1.0}
    solid = call(page, "values.look", panel(True, True), {**view, "fade": False}, tables)
    assert set(alphas(solid)) == {1.0}


def test_an_unknown_colormap_is_the_default_one(page: Page) -> None:
    tables = panels._colormaps()
    odd, own = (
        call(page, "values.look", panel(False, True), {"colormap": name}, tables)
        for name in ("no such", "auto")
    )
    assert odd == own


# -- answers.js ---------------------------------------------------------------------------------

PICTURE, AGAIN = {"path": "/a.jpg", "url": "x"}, {"path": "/a.jpg", "url": "y"}
DIFFERENCES: list[tuple[str, Any, Any, dict[str, Any], bool]] = [
    ("method", "rise", "rise", {}, False),
    ("method", "rise", "lime", {}, True),
    ("method", "rise", None, {}, True),
    ("target", 3, "3", {}, True),
    ("target", None, 3, {"same": {"target": [None, "", 3]}}, False),
    ("target", "", 3, {"same": {"target": [None, "", 3]}}, False),
    ("target", 3, 4, {"same": {"target": [None, "", 3]}}, True),
    ("target", 4, 5, {"same": {"target": "any"}}, False),
    ("picture", PICTURE, AGAIN, {}, False),
    ("picture", PICTURE, {"path": "/b.jpg", "url": "x"}, {}, True),
    ("picture", PICTURE, None, {}, True),
    ("methods", ["a", "b"], ["b", "a"], {}, True),
    ("settings", {"rise": {"masks": 9}}, {"rise": {"masks": 8}}, {"settings": ["rise"]}, True),
    ("settings", {"lime": {"samples": 9}}, {"lime": {"samples": 8}}, {"settings": ["rise"]}, False),
    ("settings", None, {"rise": {}}, {"settings": ["rise"]}, False),
    ("settings", {}, {"rise": {}}, {"settings": None}, True),
    ("settings", {}, {"rise": {"masks": 8}}, {"settings": []}, False),
]
"""A field, what was asked, what the page asks now, the answer's facts, and whether it is stale."""


@pytest.mark.parametrize(("name", "asked", "now", "facts", "stale"), DIFFERENCES)
def test_an_answer_is_stale_if_what_it_depends_on_has_changed(
    page: Page, name: str, asked: Any, now: Any, facts: dict[str, Any], stale: bool
) -> None:
    page.set_content('<div id="explain-answer"></div>')
    stamp = call(page, "answers.ask", "explain", [name], asked, 0)[-1]
    about = {"label": "RISE, cat", "same": {}, "settings": None, **facts}
    call(page, "answers.arrived", {"area": "explain", "asked_at": stamp, **about})
    call(page, "answers.changed", "explain", [name], now)
    area = page.locator("#explain-answer")
    assert ("ts-stale" in (area.get_attribute("class") or "")) is stale
    assert area.get_attribute("data-ribbon") == ("For: RISE, cat" if stale else "")


def test_a_field_of_the_page_tells_all_areas_that_are_asked_by_it(page: Page) -> None:
    areas = {"explain": ["method", "model"], "compare": ["model"], "advice": ["layer"]}
    page.set_content("".join(f'<div id="{area}-answer"></div>' for area in areas))
    for area, names in areas.items():
        at = call(page, "answers.ask", area, names, *["one"] * len(names), 0)[-1]
        about = {"label": area, "same": {}, "settings": None}
        call(page, "answers.arrived", {"area": area, "asked_at": at, **about})

    def stale() -> list[str]:
        found: list[str] = page.locator(".ts-stale").evaluate_all("all => all.map(one => one.id)")
        return found

    call(page, "answers.changed", None, ["model", "crop"], "two", "1,2,3,4")
    assert stale() == ["explain-answer", "compare-answer"]
    call(page, "answers.changed", "advice", ["layer"], "two")
    assert len(stale()) == 3
    call(page, "answers.changed", None, ["model", "crop"], "one", "5,6,7,8")
    assert stale() == ["advice-answer"], "what else is asked is as it was"


RIBBONS: dict[str, tuple[list[tuple[str, Any]], str]] = {
    "nothing asked": ([("cancelled", None)], "Cancelled. Press Explain"),
    "asked": ([("ask", 1)], ""),
    "answered": ([("ask", 1), ("arrived", 1)], ""),
    "changed": ([("ask", 1), ("arrived", 1), ("changed", 2)], "For: RISE"),
    "back again": ([("ask", 1), ("arrived", 1), ("changed", 2), ("changed", 1)], ""),
    "cancelled, but answered": ([("ask", 1), ("arrived", 1), ("cancelled", None)], ""),
    "cancelled another": (
        [("ask", 1), ("arrived", 1), ("ask", 2), ("cancelled", None)], "Cancelled. Press Explain"
    ),
    "asked again": (
        [("ask", 1), ("arrived", 1), ("ask", 2), ("cancelled", None), ("ask", 2)], "For: RISE"
    ),
    "no stamp of ours": ([("changed", 2), ("arrived", 7)], ""),
}  # fmt: skip
"""What happens to an area, and what its ribbon says then."""


@pytest.mark.parametrize("case", RIBBONS)
def test_a_ribbon_says_what_has_happened(page: Page, case: str) -> None:
    events, said = RIBBONS[case]
    page.set_content('<div id="explain-answer"></div>')
    stamps: dict[Any, Any] = {}
    for event, value in events:
        if event == "ask":
            stamps[value] = call(page, "answers.ask", "explain", ["x"], value, 0)[-1]
        elif event == "arrived":
            about = {"label": "RISE", "same": {}, "settings": None}
            at = stamps.get(value, 0)
            call(page, "answers.arrived", {"area": "explain", "asked_at": at, **about})
        elif event == "changed":
            call(page, "answers.changed", "explain", ["x"], value)
        else:
            call(page, "answers.cancelled", "explain", "Explain")
    assert (page.locator("#explain-answer").get_attribute("data-ribbon") or "") == said


def test_what_follows_from_a_choice_is_cancelled_with_it(page: Page) -> None:
    page.set_content('<div id="explain-answer"></div>')
    call(page, "answers.chosen")
    given_up = call(page, "answers.cancelled", "explain", "Explain")
    *values, stamp = call(page, "answers.follow", "explain", ["x"], 1, 0)
    assert values == [1]
    assert 0 < stamp < given_up
    ribbon = page.locator("#explain-answer").get_attribute("data-ribbon")
    assert ribbon == "Cancelled. Press Explain"
    chosen = call(page, "answers.chosen")
    assert call(page, "answers.follow", "explain", ["x"], 1, 0)[-1] > chosen > given_up


def test_a_choice_ends_what_was_cancelled_and_a_late_answer_does_not(page: Page) -> None:
    page.set_content('<div id="explain-answer"></div>')
    area = page.locator("#explain-answer")
    about = {"area": "explain", "label": "RISE", "same": {}, "settings": None}

    def ask(value: int) -> float:
        return float(call(page, "answers.ask", "explain", ["x"], value, 0)[-1])

    def arrived(stamp: float, **more: Any) -> str:
        call(page, "answers.arrived", {**about, "asked_at": stamp, **more})
        return area.get_attribute("data-ribbon") or ""

    painted = {"partial": "9 of 10 masks", "painting": True}
    first = ask(1)
    call(page, "answers.cancelled", "explain", "Explain")
    assert arrived(first, **painted) == "Cancelled. Press Explain", "painted before, arrived after"
    assert area.get_attribute("class") == "ts-stale"
    assert arrived(first) == "", "it was finished before"
    call(page, "answers.cancelled", "explain", "Explain")
    assert arrived(1.0) == "Cancelled. Press Explain", "asked for while nothing was to be asked"
    assert area.get_attribute("class") == "ts-stale"
    call(page, "answers.replaced", "explain")
    assert area.get_attribute("data-ribbon") == "For: RISE"
    assert call(page, "answers.follow", "explain", ["x"], 1, 0)[-1] > first


def test_a_setting_stops_only_work_that_depends_on_it(page: Page) -> None:
    page.set_content('<div id="explain-answer"></div>')
    area, fields = page.locator("#explain-answer"), ["method", "settings"]
    nothing = call(page, "answers.setting", "explain", {"rise": {"masks": 8}})
    assert nothing == [{"rise": {"masks": 8}}, -1]
    at = call(page, "answers.ask", "explain", fields, "rise@layer4", {"rise": {"masks": 9}}, 0)[-1]
    about = {"label": "RISE", "same": {}, "settings": ["rise"], "painting": True, "partial": "9"}
    call(page, "answers.arrived", {"area": "explain", "asked_at": at, **about})
    kept = call(page, "answers.setting", "explain", {"rise": {"masks": 9}, "lime": {"samples": 5}})
    assert kept[1] == -1
    assert area.get_attribute("class") == "ts-painting"
    assert call(page, "answers.setting", "explain", {"rise": {"masks": 8}})[1] > at
    assert area.get_attribute("class") == "ts-stale", "its painting is stopped"
    call(page, "answers.changed", "explain", fields, "rise@layer4", {"rise": {"masks": 9}})
    assert area.get_attribute("class") == "ts-stale", "also if the setting comes back"
    assert area.get_attribute("data-ribbon") == "For: RISE"


def test_a_setting_that_is_set_back_is_taken_out(page: Page) -> None:
    added(page, "settings.js")

    def put(kept: Any, value: Any, *usual: Any) -> Any:
        return call(page, "settings.put", "rise", "masks", usual, value, kept)

    assert put(None, 8, 9) == {"rise": {"masks": 8}}
    lime = {"lime": {"samples": 5}}
    assert put({"rise": {"masks": 8}, **lime}, 7, 9) == {"rise": {"masks": 7}, **lime}
    assert put({"rise": {"masks": 8}, **lime}, 9, 9) == lime
    assert put({"rise": {"masks": 8, "seed": 1}}, 9, 9) == {"rise": {"seed": 1}}
    assert put({}, ["a", "b"], ["a", "b"]) == {}
    assert put({}, True) == {"rise": {"masks": True}}, "no value is usual"


def test_later_stamps_are_larger(page: Page) -> None:
    stamps = [call(page, "answers.stamp") for _ in range(20)]
    assert stamps == sorted(set(stamps))


# -- film.js: the map at another layer -----------------------------------------------------------

STRIP = """(stops) => {
  const { timmscope } = window;
  document.body.innerHTML = '<div id="film"><div class="ts-film-strip"></div></div>';
  timmscope.decode = (text) => JSON.parse(text);
  timmscope.thumbnail = () => {};
  window.put = [];
  const put = (panel) => window.put.push([panel.layer, timmscope.answers.askedOf("explain")]);
  timmscope.stage = { put };
  const value = (list) => JSON.stringify({
    panels: JSON.stringify({ panels: list.map((layer) => ({ layer })) }), about: "cat",
    stops: list.map((layer) => ({ layer, text: "7 × 7, 8 channels" })), chosen: list.at(-1),
  });
  window.props = { value: value(stops) };
  timmscope.film.mount(document.getElementById("film"), window.props, () => {}, () => {});
}"""


def explained(page: Page, method: str, about: str) -> None:
    """The explanation, which looks at the last layer, is there."""
    stamp = call(page, "answers.ask", "explain", ["method", "layer"], method, "", 0)[-1]
    said = {"label": f"{method}, {about}", "same": {"layer": [None, "", "late"]}, "settings": None}
    call(page, "answers.arrived", {"area": "explain", "asked_at": stamp, "about": about, **said})


def test_the_film_of_another_explanation_cannot_be_used(page: Page) -> None:
    added(page, "film.js").evaluate(STRIP, ["early", "late"])
    strip, last = page.locator(".ts-film-strip"), page.get_by_role("radio").last
    assert strip.evaluate("one => one.inert"), "nothing is explained yet"
    explained(page, "gradcam", "cat")
    assert not strip.evaluate("one => one.inert")
    assert last.get_attribute("aria-checked") == "true"
    page.get_by_role("radio").first.click()
    assert last.get_attribute("aria-checked") == "false"
    explained(page, "gradcam", "dog")
    assert strip.evaluate("one => [one.inert, one.className]") == [True, "ts-film-strip ts-stale"]
    explained(page, "gradcam", "cat")
    assert not strip.evaluate("one => one.inert")
    assert last.get_attribute("aria-checked") == "true", "the layer of the map that is there"


def test_a_verdict_on_another_map_is_let_go(page: Page) -> None:
    added(page, "verdict.js")
    explained(page, "gradcam", "cat")
    cleared = call(page, "verdict.clear", "Trust?")
    assert cleared[0]["value"] == "Trust?"
    assert cleared[0]["elem_classes"] == ["ts-badge-unasked"]
    assert cleared[1] is None
    found = {"about": "cat", "layer": "late", "badge": "Bad", "tone": "bad", "cards": "{}"}

    def shown(**other: Any) -> Any:
        badge, cards = call(page, "verdict.found", "Trust?", {**found, **other})
        return [badge.get("value"), badge.get("elem_classes"), cards]

    kept = [None, None, {"__type__": "update"}]
    assert shown() == ["Bad", ["ts-badge-bad"], "{}"]
    assert shown(badge="", tone="", cards=None) == ["Trust?", ["ts-badge-unasked"], None]
    for other in ({"about": "dog"}, {"about": ""}, {"layer": "early"}, {"layer": None}):
        assert shown(**other) == kept
    call(page, "answers.moved", "explain", {"layer": "early"})
    assert shown() == kept
    assert shown(layer="early") == ["Bad", ["ts-badge-bad"], "{}"]


def test_whoever_hears_of_another_layers_map_is_told_that_layer(page: Page) -> None:
    added(page, "film.js").evaluate(STRIP, ["early", "late"])
    explained(page, "gradcam", "cat")
    first = call(page, "answers.askedOf", "explain")
    page.get_by_role("radio").first.click()
    ((layer, told),) = page.evaluate("window.put")
    assert (layer, told["values"]["layer"]) == ("early", "early")
    assert told["key"] != first["key"], "the map at the layer before is kept"
    page.get_by_role("radio").last.click()
    assert page.evaluate("window.put[1][1].key") == first["key"]


# -- classes.js: the likeliest classes ------------------------------------------------------------

ROWS = """() => {
  document.body.innerHTML = '<div id="prediction"><div class="ts-class-list"></div></div><button id="else">else</button>';
  const row = (label, index) => ({ index, label, text: "50%", share: 0.5 });
  window.props = {};
  window.sent = [];
  window.predicted = (about, ...labels) => {
    window.props.value = JSON.stringify({ title: "Classes", rows: labels.map(row), about });
    window.heard?.();
  };
  window.predicted({ picture: "/a.jpg", model: "one", crop: null }, "cat", "dog");
  timmscope.classes.mount(document.getElementById("prediction"), window.props,
    (name, data) => window.sent.push(data), (_, hear) => { window.heard = hear; });
}"""  # noqa: E501


def test_rows_about_another_question_cannot_be_used(page: Page) -> None:
    added(added(page, "focus.js"), "classes.js").evaluate(ROWS)
    rows = page.locator(".ts-class-list")

    def asks(path: str, model: str, crop: Any = None) -> list[Any]:
        call(
            page,
            "classes.ask",
            ["picture", "model", "crop"],
            {"path": path, "url": "x"},
            model,
            crop,
        )
        found: list[Any] = rows.evaluate("one => [one.inert, one.classList.contains('ts-stale')]")
        return found

    dog = page.locator(".ts-class-main[title=dog]")
    assert asks("/a.jpg", "one", "") == [False, False]
    dog.focus()
    assert asks("/b.jpg", "one") == [True, True]
    focused = "document.activeElement.id || document.activeElement.title"
    assert page.evaluate(focused) == "prediction", "not lost"
    assert asks("/a.jpg", "one") == [False, False]
    assert page.evaluate(focused) == "dog", "the person has changed their mind"
    assert asks("/a.jpg", "two") == asks("/a.jpg", "one", "1,2,3,4") == [True, True]
    asks("/a.jpg", "two")
    page.evaluate("window.predicted({picture: '/a.jpg', model: 'two', crop: null}, 'dog', 'cup')")
    assert rows.evaluate("one => one.inert") is False
    assert page.evaluate(focused) == "dog", "its row is another one now"
    page.locator("#else").focus()
    page.evaluate("window.predicted({picture: '/a.jpg', model: 'one', crop: null}, 'cat')")
    assert rows.evaluate("one => one.inert") is True, "late: about the model before"
    assert page.evaluate(focused) == "else"


def test_a_press_says_which_class_is_explained_and_which_compared(page: Page) -> None:
    added(page, "classes.js").evaluate(ROWS)
    call(page, "classes.mark", 0, -1)

    def pressed(row: str, index: int, *now: Any) -> Any:
        page.locator(f".ts-class-{row}").nth(index).click()
        return call(page, "classes.pick", *now)

    assert pressed("main", 1, 0, -1) == [1, -1]
    assert pressed("main", 1, 0, 1) == [1, -1], "no class is compared with itself"
    assert pressed("main", 1, 0, 7) == [1, 7]
    assert pressed("versus", 1, 0, None) == [0, 1]
    call(page, "classes.mark", 0, 1)
    assert pressed("versus", 1, 0, 1) == [0, -1], "no longer compared"
    assert call(page, "classes.pick", None, "") == [None, -1]


SMALL_MAPS = """() => {
  window.shown = [];
  window.asked = 0;
  const showMaps = (shown) => window.shown.push(shown && [shown.note, shown.stale]);
  timmscope.classes = { showMaps };
  timmscope.decode = (text) => ({ panels: [], answer: JSON.parse(text).answer });
  window.props = { value: '{"note": "Small maps: Grad-CAM"}' };
  timmscope.classMaps.mount(document.body, window.props, () => { window.asked += 1; }, () => {});
}"""


def test_small_maps_that_are_cancelled_say_so(page: Page) -> None:
    added(page, "class_maps.js").evaluate(SMALL_MAPS)
    last = "window.shown.at(-1)"
    call(page, "classMaps.cancel")
    assert page.evaluate(last) is None, "none are wanted"
    call(page, "classMaps.toggle")
    assert page.evaluate(last) == ["Small maps …", True]
    call(page, "classMaps.cancel")
    said = ["Small maps: cancelled. Press the button to try again.", True]
    assert page.evaluate(last) == said
    call(page, "classMaps.toggle")
    assert page.evaluate(last) == ["Small maps …", True]
    assert page.evaluate("window.asked") == 2


def test_small_maps_wait_until_a_person_stays_at_a_layer(page: Page) -> None:
    added(page, "class_maps.js").evaluate(SMALL_MAPS)
    call(page, "classMaps.toggle")
    for layer in ("one", "two", "three"):
        call(page, "classMaps.follow", 200, ["layer"], layer)
    assert page.evaluate("window.asked") == 1
    page.wait_for_function("window.asked === 2")
    page.wait_for_timeout(300)
    assert page.evaluate("window.asked") == 2


# -- focus.js, answers.js: parts of the page that are out of use ---------------------------------


def test_the_focus_is_not_lost_while_an_answer_is_out_of_use(page: Page) -> None:
    page.set_content('<div id="explain-answer"><div><button>Use it</button></div></div>')
    added(page, "focus.js")
    explained(page, "gradcam", "cat")
    focused = "document.activeElement.id || document.activeElement.textContent"
    page.get_by_role("button").focus()
    call(page, "answers.changed", "explain", ["method", "layer"], "rise", "")
    assert page.evaluate(focused) == "explain-answer"
    call(page, "answers.changed", "explain", ["method", "layer"], "gradcam", "")
    assert page.evaluate(focused) == "Use it"
    # In one go: a browser takes the focus from a hidden element as soon as it draws.
    hidden = "document.querySelector('button').style.display = 'none';"
    page.evaluate(f"{hidden} timmscope.answers.enough('explain')")
    assert page.evaluate(focused) == "explain-answer"


def test_what_is_painted_is_neither_saved_nor_told_until_it_is_kept(page: Page) -> None:
    page.set_content('<div id="explain-answer"><div><p class="ts-when-done"></p></div></div>')
    save = page.locator(".ts-when-done")
    at = call(page, "answers.ask", "explain", ["method"], "rise", 0)[-1]
    about = {"area": "explain", "label": "RISE", "same": {}, "settings": None, "asked_at": at}
    partial = {**about, "partial": "9 of 10 masks"}
    call(page, "answers.arrived", {**partial, "painting": True})
    assert save.evaluate("one => one.inert")
    call(page, "answers.enough", "explain")
    assert save.evaluate("one => one.inert"), "it is not there yet"
    assert call(page, "answers.askedOf", "explain") is None
    call(page, "answers.arrived", partial)
    assert not save.evaluate("one => one.inert")
    assert call(page, "answers.askedOf", "explain")["values"] == {"method": "rise"}


def test_an_earlier_map_of_some_samples_comes_back_with_as_many(page: Page) -> None:
    names = ["method", "target", "stop_after"]
    same = {"target": [None, "cat"], "stop_after": [None, 160]}
    about = {"area": "explain", "label": "RISE, cat", "same": same, "settings": None}

    def ask(how: str, *values: Any) -> Any:
        asked: Any = call(page, f"answers.{how}", "explain", names, *values, None, 0)
        return asked

    at = ask("ask", "rise", None)[-1]
    call(page, "answers.arrived", {**about, "asked_at": at, "partial": "160 of 4,000 masks"})
    part = call(page, "answers.askedOf", "explain")
    assert part["values"] == {"method": "rise", "target": None, "stop_after": 160}
    whole = {**about, "same": {"target": [None, "cat"]}}
    call(page, "answers.arrived", {**whole, "asked_at": ask("ask", "rise", None)[-1]})
    assert call(page, "answers.askedOf", "explain")["key"] != part["key"]

    call(page, "answers.changed", "explain", names, "rise", None, 0)
    assert call(page, "answers.isFresh", "explain"), "an empty field of numbers says 0"

    call(page, "answers.resume", "explain", part)
    assert ask("follow", "lime", None)[2] is None, "that is another question"
    stamp = ask("follow", "rise", "cat")
    assert stamp[:3] == ["rise", "cat", 160]
    call(page, "answers.arrived", {**about, "asked_at": stamp[-1], "partial": "160 of 4,000 masks"})
    assert call(page, "answers.isFresh", "explain")
    assert call(page, "answers.askedOf", "explain")["key"] == part["key"]
    call(page, "answers.chosen")
    assert ask("follow", "rise", None)[2] == 160, "another picture came back with it"
    for how in ("ask", "replaced"):
        call(page, "answers.resume", "explain", part)
        call(page, f"answers.{how}", "explain", names, "rise", None, None, 0)
        assert ask("follow", "rise", None)[2] is None, "a person asks for all"


# -- stage.js: what is said of a hidden part -------------------------------------------------------

STAGED = """() => {
  const { timmscope } = window;
  window.Plotly = {};
  timmscope.state = { strongest: 100 };
  timmscope.classes = { change: (after) => { window.changed = after; } };
  window.sent = [];
  const root = { stage: true, own: {}, trigger: (name, data) => window.sent.push({ name, ...data }) };
  const frame = document.createElement("div");
  frame.innerHTML = '<div class="plot"><div class="svg-container"></div></div>';
  document.body.replaceChildren(Object.assign(document.createElement("figure"), { id: "card" }));
  const figure = document.getElementById("card");
  figure.append(frame);
  const plot = frame.querySelector(".plot");
  Object.assign(plot, { on: () => {}, layout: { xaxis: { range: [-0.5, 9.5] }, yaxis: { range: [9.5, -0.5] } } });
  const panel = { map: true, title: "Why cat?", figure: { data: [{}],
    layout: { margin: { l: 0, r: 0, t: 0, b: 0 }, images: [{ source: "data:,", sizex: 10, sizey: 10 }] } } };
  const card = { root, frame, figure, plot, panel, restyle: () => {} };
  root.cards = [card];
  timmscope.question = { shown: () => null };
  window.tell = () => { for (const hear of timmscope.hearers) hear(card); };
}"""  # noqa: E501


def asked_about(page: Page, model: str) -> float:
    stamp: float = call(page, "answers.ask", "explain", ["model", "target"], model, None, 0)[-1]
    return stamp


def is_shown(page: Page, stamp: float) -> None:
    """The answer to what was asked then is on the stage."""
    about = {"label": "Grad-CAM, cat", "same": {"target": [None, 3]}, "settings": None}
    call(page, "answers.arrived", {"area": "explain", "asked_at": stamp, **about})
    page.evaluate("window.tell()")


def test_what_is_said_of_a_hidden_part_belongs_to_the_question(page: Page) -> None:
    added(added(page, "hide_tool.js"), "stage.js").evaluate(STAGED)
    is_shown(page, asked_about(page, "one"))
    effect = page.locator(".ts-effect")

    def sent() -> list[Any]:
        found: list[Any] = page.evaluate("window.sent.splice(0)")
        return [one["asked_at"] for one in found if one["name"] == "submit"]

    def answer(stamp: float, words: str) -> str:
        reply = {"words": words, "after": {"3": {}}, "asked_at": stamp}
        call(page, "stage.answered", reply)
        return effect.inner_text()

    page.get_by_role("button", name="Draw a box to hide").click()
    page.locator(".ts-marks").press("Enter")
    (first,) = sent()
    assert answer(first, "cat goes down") == "cat goes down"
    call(page, "answers.changed", "explain", ["model", "target"], "one", 3)
    assert effect.inner_text() == "cat goes down", "the class that was taken"
    stamp = asked_about(page, "two")
    assert effect.inner_text() == ""
    assert page.evaluate("window.changed") is None
    assert answer(first, "too late") == ""
    is_shown(page, stamp)
    (second,) = sent()
    assert answer(first, "too late") == ""
    assert answer(second, "cat goes up") == "cat goes up"
    is_shown(page, asked_about(page, "two"))
    assert sent() == [], "the same is not asked again"


# -- values.js: the strongest part of a map -----------------------------------------------------


def test_the_strongest_values_are_those_of_the_largest_size(page: Page) -> None:
    rows = [[0.0, -4.0], [3.0, 1.0]]
    sizes = call(page, "values.sizesOf", rows)
    assert sizes == [0, 1, 3, 4]
    cuts = {percent: call(page, "values.cutOf", sizes, percent) for percent in (100, 75, 50, 25)}
    assert cuts == {100: 0, 75: 1, 50: 3, 25: 4}
    assert call(page, "values.cutOf", sizes, 0) is None, "infinity, which JSON does not know"


def test_weak_values_of_both_signs_are_clear(page: Page) -> None:
    stops = [[0, [0, 0, 0], 1], [0.5, [100, 100, 100], 1], [1, [200, 200, 200], 1]]
    found = call(page, "values.withoutWeak", stops, -2, 2, 1)
    assert [[at, a] for at, _, a in found] == [
        [0, 1], [0.25, 1], [0.25, 0], [0.75, 0], [0.75, 1], [1, 1],
    ]  # fmt: skip
    assert [colour[0] for _, colour, _ in found] == [0, 50, 50, 150, 150, 200]


# -- hide_tool.js: parts of a picture -------------------------------------------------------------


def part(page: Page, aspect: float, steps: str) -> Any:
    """A part after some steps, written in JavaScript with `part`."""
    page.add_script_tag(path=COMPONENTS / "hide_tool.js")
    return page.evaluate(
        f"""(aspect) => {{
          const part = new window.timmscope.Part(aspect);
          {steps}
          return part.pack();
        }}""",
        aspect,
    )


@pytest.mark.parametrize(
    ("aspect", "size"), [(1.0, (256, 256)), (0.5, (256, 128)), (4.0, (64, 256))]
)
def test_a_box_arrives_as_it_was_drawn(page: Page, aspect: float, size: tuple[int, int]) -> None:
    sent = part(page, aspect, "part.begin(); part.box(0.75, 0.5, 0.25, 0);")
    assert (sent["width"], sent["height"]) == size
    cells = Mask.read(sent).cells()
    expected = np.zeros((size[1], size[0]), dtype=bool)
    expected[: size[1] // 2, size[0] // 4 : 3 * size[0] // 4] = True
    np.testing.assert_array_equal(cells, expected)


def test_a_spot_is_round_and_stays_within_the_picture(page: Page) -> None:
    cells = Mask.read(part(page, 1.0, "part.spot(0.5, 0.5, 0.25); part.spot(0, 2, 0.1);")).cells()
    rows, columns = np.nonzero(cells)
    assert np.hypot(rows + 0.5 - 128, columns + 0.5 - 128).max() <= 64
    assert cells.sum() == pytest.approx(np.pi * 64**2, rel=0.02)


def test_steps_are_undone_and_done_again(page: Page) -> None:
    drawn = "part.begin(); part.box(0, 0, 0.5, 0.5); part.begin(); part.box(0.5, 0.5, 1, 1);"
    whole = Mask.read(part(page, 1.0, drawn)).cells()
    once = Mask.read(part(page, 1.0, f"{drawn} part.undo();")).cells()
    again = Mask.read(
        part(page, 1.0, f"{drawn} part.undo(); part.undo(); part.redo(); part.redo();")
    )
    assert (whole.sum(), once.sum()) == (2 * 128**2, 128**2)
    np.testing.assert_array_equal(again.cells(), whole)
    cleared = part(page, 1.0, f"{drawn} part.clear(); part.undo();")
    np.testing.assert_array_equal(Mask.read(cleared).cells(), whole)
    assert not Mask.read(part(page, 1.0, f"{drawn} part.clear();")).cells().any()


# -- question.js: the page's address --------------------------------------------------------------


def of_a_file(visit: Callable[..., Visit], tmp_path: Path) -> Page:
    """A page with an address that can be changed."""
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    return added(visit(blank.as_uri()).page, "question.js")


def address(visit: Callable[..., Visit], tmp_path: Path, asked: dict[str, Any]) -> str:
    """The query string after an answer to a question."""
    found: str = of_a_file(visit, tmp_path).evaluate(
        """async (asked) => {
          window.timmscope.examples = {"rocket.jpg": 10};
          window.timmscope.state = {alpha: 0.65, colormap: "viridis", strongest: 100};
          window.timmscope.question.answered(asked);
          await new Promise((done) => setTimeout(done, 50));
          return window.location.search;
        }""",
        asked,
    )
    return found


def test_the_address_tells_what_is_not_usual(visit: Callable[..., Visit], tmp_path: Path) -> None:
    asked = {
        "model": "resnet50", "weights": "pretrained", "target": 3, "versus": -1,
        "settings": {"rise": {"samples": 9}}, "picture": {"path": "/x/rocket.jpg"},
        "stop_after": 160,
    }  # fmt: skip
    found = parse_qs(address(visit, tmp_path, asked).removeprefix("?"))
    assert found["model"] == ["resnet50"]
    assert found["target"] == ["3"]
    assert found["stop_after"] == ["160"]
    assert found["colormap"] == ["viridis"]
    assert found["picture"] == ["rocket.jpg"]
    assert json.loads(found["settings"][0]) == {"rise": {"samples": 9}}
    assert {"weights", "versus", "alpha", "strongest"} & set(found) == set()


@pytest.mark.parametrize(
    "picture",
    [{"path": "/x/mine.jpg", "size": 10}, {"path": "/x/rocket.jpg", "size": 11}, None],
    ids=["another name", "an example's name only", "none"],
)
def test_a_picture_of_ones_own_is_not_in_the_address(
    visit: Callable[..., Visit], tmp_path: Path, picture: object
) -> None:
    found = address(visit, tmp_path, {"model": "resnet50", "picture": picture})
    assert "picture" not in found


CAT, DOG = {"path": "/x/cat.png", "url": "a"}, {"path": "/x/dog.png"}
ABOUT = ["resnet50", "pretrained", "found"]
ANEW = [None, -1, None]


@pytest.mark.parametrize(
    ("about", "chosen"),
    [
        ([{**CAT, "url": "b"}, *ABOUT], [3, 4, "whole"]),
        ([DOG, *ABOUT], ANEW),
        ([CAT, "resnet18", *ABOUT[1:]], ANEW),
        ([CAT, "resnet50", "random", "found"], ANEW),
        ([CAT, "resnet50", "pretrained", "sigmoid"], ANEW),
    ],
    ids=["the same", "picture", "model", "weights", "activation"],
)
def test_classes_stay_where_a_change_of_what_was_filled_in_is_told_late(
    visit: Callable[..., Visit], tmp_path: Path, about: list[Any], chosen: list[Any]
) -> None:
    page = of_a_file(visit, tmp_path)
    known = dict(zip(("picture", "model", "weights", "activation"), [CAT, *ABOUT], strict=True))
    call(page, "question.filled", {**known, "crop": "whole"})
    assert call(page, "question.afresh", 3, 4, "whole", *about) == chosen
    if chosen != ANEW:
        assert call(page, "question.classes", 3, 4, "whole") == [3, 4]
    assert call(page, "question.classes", 3, 4, "0,0,9,9") == [None, -1]


def test_back_at_the_picture_before_no_class_of_the_one_between_stays(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = of_a_file(visit, tmp_path)
    assert call(page, "question.afresh", 3, -1, None, CAT, *ABOUT) == ANEW
    assert call(page, "question.afresh", 3, -1, None, CAT, *ABOUT) == [3, -1, None], "told twice"
    assert call(page, "question.afresh", 3, -1, None, DOG, *ABOUT) == ANEW
    assert call(page, "question.afresh", 5, -1, "whole", CAT, *ABOUT) == ANEW
    assert call(page, "question.classes", 5, -1, "whole") == [None, -1]
    assert call(page, "question.classes", 5, -1, None) == [None, -1]


@pytest.mark.parametrize(("said", "samples"), [("160", 160), ("-3", None), ("1e9999", None)])
def test_an_address_says_of_how_many_samples_a_map_is(
    said: str, samples: int | None, visit: Callable[..., Visit], tmp_path: Path
) -> None:
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    page = visit(f"{blank.as_uri()}?method=rise&stop_after={said}&theme=").page
    added(added(page, "answers.js"), "question.js")
    call(page, "question.restored", DOG, *ABOUT, None)

    def follow(picture: Any, method: str) -> Any:
        names = ["picture", "model", "method", "stop_after"]
        return call(page, "answers.follow", "explain", names, picture, ABOUT[0], method, None, 0)[3]

    assert [follow(DOG, "rise"), follow(CAT, "rise"), follow(DOG, "lime")] == [samples, None, None]


def test_what_an_address_says_stays_until_a_person_chooses(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    page = added(visit(f"{blank.as_uri()}?target=7&picture=dog.png").page, "question.js")
    call(page, "question.restored", DOG, *ABOUT, None)
    assert call(page, "question.afresh", 7, 8, None, DOG, *ABOUT) == [7, 8, None]
    assert call(page, "question.afresh", 7, 8, None, CAT, *ABOUT) == ANEW


def test_a_prediction_takes_no_class_back_that_was_chosen_meanwhile(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    page = added(of_a_file(visit, tmp_path), "answers.js")
    names = ["picture", "target", "versus"]

    def ask(*values: Any) -> float:
        sent = call(page, "question.predicting", names, *values, 0)
        assert sent[:-1] == [*values]
        return float(sent[-1])

    first = {"target": 3, "versus": -1, "asked_at": ask(CAT, None, -1)}
    assert call(page, "question.predicted", first, None, -1) == [3, -1, 3, -1]
    assert call(page, "question.predicted", first, 5, -1) == [5, -1, 5, -1]
    assert call(page, "question.predicted", first, None, 6) == [None, 6, None, 6]
    later = {"target": 4, "versus": -1, "asked_at": ask(DOG, None, -1)}
    assert call(page, "question.predicted", first, None, -1) == [None, -1, None, -1]
    assert call(page, "question.predicted", later, None, -1) == [4, -1, 4, -1]


def test_the_address_is_not_written_with_every_step_of_a_slider(
    visit: Callable[..., Visit], tmp_path: Path
) -> None:
    written = of_a_file(visit, tmp_path).evaluate(
        """async () => {
          let count = 0;
          const write = window.history.replaceState.bind(window.history);
          window.history.replaceState = (...values) => { count += 1; write(...values); };
          window.timmscope.state = {alpha: 0};
          window.timmscope.question.answered({model: "resnet50"});
          for (let step = 1; step <= 50; step++) {
            window.timmscope.state.alpha = step / 100;
            window.timmscope.question.tell();
            await new Promise((done) => setTimeout(done, 10));
          }
          await new Promise((done) => setTimeout(done, 600));
          return [count, new URLSearchParams(window.location.search).get("alpha")];
        }"""
    )
    assert written[0] <= 4
    assert written[1] == "0.5", "the last step is told"


# -- linked.js, sorting.js, switches.js, ways_out.js ----------------------------------------------


def test_a_linked_map_tells_the_value_of_the_cell_that_is_pointed_at(page: Page) -> None:
    added(page, "linked.js")
    trace = {"z": [[1, 2], [3, 4]], "x0": 10, "dx": 20, "y0": 5, "dy": 10}
    points = {(10, 5): 1, (29, 9): 2, (12, 15): 3, (30, 19): 4, (41, 5): None, (10, -6): None}
    assert {at: call(page, "linked.valueAt", trace, *at) for at in points} == points
    raw = {**trace, "customdata": [[7, 8], [9, 10]]}
    assert call(page, "linked.valueAt", raw, 29, 9) == 8, "not the smoothed value that is drawn"
    assert call(page, "linked.told", 0.123456) == "0.123"
    assert call(page, "linked.told", 1234.5) == "1230"
    assert page.evaluate("window.timmscope.linked.told(undefined)") == "not seen"


@pytest.mark.parametrize(
    ("by", "order"),
    [("score", [2, 1, 4, 0, 3]), ("cost", [1, 4, 2, 0, 3]), ("", [0, 1, 2, 3, 4])],
)
def test_cards_are_ordered_by_numbers_and_equal_ones_as_they_came(
    page: Page, by: str, order: list[int]
) -> None:
    ranks = [{}, {"score": 1, "cost": 2}, {"score": 3, "cost": 5}, None, {"score": 1, "cost": 2}]
    assert call(added(page, "sorting.js"), "sorting.ordered", ranks, by) == order


CARDS = """(scores) => {
  const { timmscope } = window;
  const component = Object.assign(document.createElement("div"), { id: "maps", className: "ts-panels" });
  const grid = Object.assign(document.createElement("div"), { className: "ts-grid" });
  const root = { grid, cards: [] };
  for (const [name, cost] of [["", 0], ["a", 3], ["b", 1], ["c", 2]]) {
    const card = { root, panel: { name, ranks: name ? { cost } : {}, scores: name ? {} : scores } };
    card.figure = Object.assign(document.createElement("figure"), { className: "ts-card" });
    card.caption = document.createElement("figcaption");
    card.figure.append(card.caption);
    card.figure.card = card;
    root.cards.push(card);
    grid.append(card.figure);
  }
  component.append(grid);
  document.body.append(component);
  for (const fill of timmscope.fillers) fill(root);
  window.shown = () => [...grid.children].map(({ card, innerText }) => card.panel.name + innerText.trim().slice(-4));
}"""  # noqa: E501


def test_a_sorted_grid_keeps_cards_without_a_name_in_place_and_tells_scores(page: Page) -> None:
    added(page, "sorting.js").evaluate(CARDS, {"a": 0.5, "c": 0.75})

    def shown(by: str) -> Any:
        page.evaluate("(by) => window.timmscope.sorting.by('maps', by)", by)
        return page.evaluate("window.shown()")

    assert shown("") == ["", "a0.50", "b", "c0.75"]
    assert shown("score") == ["", "c0.75", "a0.50", "b"]
    assert shown("cost") == ["", "b", "c0.75", "a0.50"]
    page.evaluate("document.getElementById('maps').classList.add('ts-stale')")
    assert shown("score") == ["", "a", "b", "c"], "scores of another question do not count"


SWITCHED = """() => {
  const card = { title: document.createElement("b"), panel: null, set(panel) { this.panel = panel; } };
  document.body.append(card.title);
  const chart = (label) => ({ label, title: `About ${label}`, caption: `It is ${label}`, figure: label });
  window.filled = (...labels) => {
    card.panel = { title: "first", alternatives: labels.map(chart) };
    for (const fill of window.timmscope.fillers) fill({ cards: [card] });
    return [card.panel.title, document.querySelector(":checked")?.value ?? null,
      document.querySelectorAll("fieldset").length];
  };
  window.pressed = (label) => {
    document.querySelector(`[value=${label}]`).click();
    return [card.panel.title, card.panel.caption, card.panel.figure];
  };
}"""  # noqa: E501


def test_a_switch_shows_the_chart_that_was_chosen_also_in_the_next_result(page: Page) -> None:
    added(page, "switches.js").evaluate(SWITCHED)
    assert page.evaluate("window.filled('rank', 'ssim')") == ["first", "rank", 1]
    assert page.evaluate("window.pressed('ssim')") == ["About ssim", "It is ssim", "ssim"]
    assert page.evaluate("window.filled('rank', 'ssim')") == ["About ssim", "ssim", 1]
    assert page.evaluate("window.filled('rank', 'overlap')") == ["first", "rank", 1]
    assert page.evaluate("window.filled()") == ["first", None, 0]


def test_a_way_out_changes_a_field_or_names_in_a_list(page: Page) -> None:
    added(page, "ways_out.js")
    chosen = ["a", "b", "c"]

    def changed(value: Any, *replaces: str) -> Any:
        return call(page, "waysOut.changed", chosen, {"value": value, "replaces": replaces})

    assert changed("d") == "d"
    assert changed("d", "b") == ["a", "d", "c"]
    assert changed("c", "a", "b") == ["c"]
    assert changed("", "b") == ["a", "c"]

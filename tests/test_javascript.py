"""The page's JavaScript, module by module, on an empty page of a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from playwright.sync_api import Page

from core.views import maps
from core.views.colour import COLORMAPS
from dashboard.actions.hide import Mask
from dashboard.components import panels
from tests.browser import Visit

pytestmark = pytest.mark.browser

COMPONENTS = Path(panels.__file__).parent
MODULES = sorted(COMPONENTS.glob("*.js"))
RNG = np.random.default_rng(0)


@pytest.fixture
def page(visit: Callable[..., Visit]) -> Page:
    """An empty page with the modules whose functions are tested here."""
    empty = visit("about:blank").page
    for name in ("values.js", "answers.js"):
        empty.add_script_tag(path=COMPONENTS / name)
    return empty


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


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_is_strict_and_keeps_its_names_to_itself(
    path: Path, visit: Callable[..., Visit]
) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line and not line.startswith("//")]
    assert lines[0].startswith("// "), "its first line says what it is for"
    assert code[:2] == ['"use strict";', "(() => {"]
    assert code[-1] == "})();"
    empty = visit("about:blank").page
    before = set(empty.evaluate("Object.keys(window)"))
    for _ in range(2):  # Gradio may load it again
        empty.add_script_tag(path=path)
    assert set(empty.evaluate("Object.keys(window)")) - before == {"timmscope"}


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


def test_later_stamps_are_larger(page: Page) -> None:
    stamps = [call(page, "answers.stamp") for _ in range(20)]
    assert stamps == sorted(set(stamps))


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
    }  # fmt: skip
    found = parse_qs(address(visit, tmp_path, asked).removeprefix("?"))
    assert found["model"] == ["resnet50"]
    assert found["target"] == ["3"]
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

"""Panels in a real browser: what a person sees, does and must not be exposed to."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from core.inputs.preprocessing import Geometry
from core.views import charts, display, maps, panels
from dashboard.components import VIEW_JS, Panels
from dashboard.components.panels import encode
from dashboard.theme import launch_options

if TYPE_CHECKING:
    from tests.browser import Visit

pytestmark = pytest.mark.browser

H, W, GRID = 300, 400, 32
RAW = np.random.default_rng(0).normal(size=(GRID, GRID)).astype(np.float32)
STEP = float(np.ptp(RAW)) / 65535
DUST = np.random.default_rng(1).normal(size=(100, 100)).astype(np.float32)
"""A map that differs from pixel to pixel."""
PICTURE = Image.fromarray(
    np.indices((H, W)).sum(axis=0).astype(np.uint8)[..., None].repeat(3, axis=2)
)
CROP = Geometry(picture=(H, W), input=(GRID, GRID), box=(50, 0, 350, 300))
HOSTILE = "</script><img src=x onerror=window.hacked=1><b>bold</b>%{x}{{value}}${window.hacked=1}`"


def overlay(title: str, values: np.ndarray = RAW) -> panels.Panel:
    return maps.overlay_panel(PICTURE, values, CROP, title=title, caption="a caption")


def hostile() -> list[panels.Panel]:
    return [
        maps.overlay_panel(PICTURE, RAW, CROP, title=HOSTILE, caption=HOSTILE, unit=HOSTILE),
        charts.bars_panel([(HOSTILE, 0.5)], title=HOSTILE),
        charts.curves_panel([{"name": HOSTILE, "x": [0, 1], "y": [0, 1]}], HOSTILE, HOSTILE),
        panels.error_panel(HOSTILE, HOSTILE),
    ]


NAMES = [
    "Grad-CAM",
    "Integrated Gradients (steps=200)",
    "Integrated Gradients (steps=100, tolerance=0.05, baselines=black)",
    "LayerCAM at stages.2.blocks.10.conv_dw",
    "Expected Gradients",
    "LIME (samples=200)",
    "Transformer relevance",
    "Random (control)",
]


def matrices() -> list[panels.Panel]:
    """How far eight methods agree, with long names, and their curves."""
    table = [[1.0] * len(NAMES)] * len(NAMES)
    curves = [{"name": name, "x": [0, 1], "y": [0, 1], "auc": 0.125} for name in NAMES]
    return [charts.matrix_panel(table, NAMES), charts.curves_panel(curves, "x", "y")]


FILLS: dict[str, Callable[[], list[panels.Panel]]] = {
    "one": lambda: [overlay("one")],
    "again": lambda: [overlay("again", RAW[::-1])],
    "many": lambda: [
        *(overlay(f"map {i}") for i in range(3)),
        panels.error_panel("Rollout", "no attention here"),
        charts.bars_panel([("cat", 0.7), ("dog", 0.3)]),
        maps.map_panel(abs(RAW), "small"),
    ],
    "hostile": hostile,
    "dust": lambda: [overlay("dust", DUST)],
    "failed": lambda: [panels.error_panel("Rollout", "no attention here")],
    "matrix": matrices,
    "none": lambda: [],
}


GO = threading.Event()
"""Set once work may end."""


def at_work(progress: gr.Progress = gr.Progress()) -> list[panels.Panel]:  # noqa: B008
    """Tell of progress until the test says that it is enough."""
    while not GO.wait(0.1):
        progress(0.3, desc="1,200 of 4,000 steps, about 10 min left")
    return [overlay("done")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with gr.Blocks() as demo:
        with gr.Row():
            colormap = gr.Textbox("auto", label="colormap")
            alpha = gr.Number(0.5, label="alpha")
            strongest = gr.Number(100, label="strongest")
            fade = gr.Checkbox(False, label="fade")
            smooth = gr.Checkbox(True, label="smooth")
            apply = gr.Button("apply")
        with gr.Row():
            buttons = [gr.Button(name) for name in FILLS]
        heard = gr.Textbox(label="heard")
        with gr.Tab("First"):
            shown = Panels([panels.empty_panel("nothing yet")], elem_id="shown", card_width=260)
        with gr.Tab("Second"):
            Panels([overlay("hidden")], elem_id="hidden")
            late = gr.Button("late")
            unseen = Panels(elem_id="unseen")

        def hear(event: gr.EventData) -> str:
            values: dict[str, Any] = event._data
            return " ".join(f"{k}={v:.7g}" for k, v in sorted(values.items()))

        for button, fill in zip(buttons, FILLS.values(), strict=True):
            button.click(fill, outputs=shown)
        late.click(FILLS["one"], outputs=unseen)
        with gr.Tab("Third"):
            work = gr.Button("work")
            area = Panels([], elem_id="area")
            gr.Button("neighbour", elem_id="neighbour")
        work.click(at_work, outputs=area)
        shown.select(hear, outputs=heard)
        apply.click(None, [colormap, alpha, strongest, fade, smooth], js=VIEW_JS)
    demo.launch(prevent_thread_lock=True, quiet=True, **launch_options())
    assert demo.local_url
    yield demo.local_url
    demo.close()


Open = Callable[..., "Visit"]
DRAWN = ".ts-plot .hm image"


def fill(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def filled(page: Page, name: str = "one", maps: int = 1) -> Page:
    fill(page, name)
    expect(page.locator(f"#shown {DRAWN}")).to_have_count(maps)
    return page


def trace(page: Page, where: str = "#shown", index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate(
        """([where, index]) => {
          const [map] = document.querySelectorAll(where + ' .ts-plot')[index].data;
          return { opacity: map.opacity, colorscale: map.colorscale };
        }""",
        [where, index],
    )
    return found


def spot(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a picture's pixel lies, once nothing moves."""
    left, top = page.evaluate(
        """async ([x, y]) => {
          const plot = document.querySelector('#shown .ts-plot');
          const place = () => {
            plot.scrollIntoView({ block: 'center', behavior: 'instant' });
            return JSON.stringify(plot.getBoundingClientRect());
          };
          for (let still = 0, last = place(); still < 8; last = place()) {
            await new Promise(requestAnimationFrame);
            still = place() === last ? still + 1 : 0;
          }
          const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
          const { xaxis, yaxis } = plot._fullLayout;
          return [box.left + xaxis.d2p(x), box.top + yaxis.d2p(y)];
        }""",
        [x, y],
    )
    return left, top


def cell(x: float, y: float) -> np.float32:
    """The raw value over a picture's pixel."""
    left, top, right, bottom = CROP.box
    column = int((x + 0.5 - left) / (right - left) * GRID)
    row = int((y + 0.5 - top) / (bottom - top) * GRID)
    return RAW[row, column]


def centre(edge: float) -> float:
    """The middle of the cell that holds a pixel this far into the crop."""
    side = 300 / GRID
    return ((edge + 0.5) // side + 0.5) * side - 0.5


def apply_view(page: Page, colormap: str, alpha: float, fade: bool) -> None:
    page.get_by_label("colormap").fill(colormap)
    page.get_by_label("alpha").fill(str(alpha))
    page.get_by_label("fade").set_checked(fade)
    page.get_by_role("button", name="apply").click()


def test_empty_page_says_what_to_do(visit: Open, url: str) -> None:
    page = visit(url).page
    expect(page.locator("#shown figure")).to_have_text("nothing yet")


def test_draws_picture_map_outline_and_words(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    card = page.get_by_role("figure", name="one. a caption")
    expect(card.locator(".ts-title")).to_have_text("one")
    expect(card.locator(".ts-caption")).to_have_text("a caption")
    expect(card.locator(".layer-below image, .imagelayer image").first).to_be_attached()
    expect(card.locator(".shapelayer path")).to_have_count(3)
    lies = page.evaluate(
        """() => {
          const plot = document.querySelector('#shown .ts-plot');
          const box = plot.querySelector('.nsewdrag').getBoundingClientRect();
          const map = plot.querySelector('.hm image').getBoundingClientRect();
          return [(map.left - box.left) / box.width, map.width / box.width, box.width / box.height];
        }"""
    )
    assert lies == pytest.approx([50 / W, 300 / W, W / H], abs=0.01)


@pytest.mark.parametrize(("x", "y"), [(55, 5), (205, 155), (345, 295)])
def test_hover_tells_the_raw_value(visit: Open, url: str, x: int, y: int) -> None:
    page = filled(visit(url).page)
    page.mouse.move(*spot(page, x - 1, y))
    page.mouse.move(*spot(page, x, y))
    lines = page.locator("#shown .hovertext .line")
    expect(lines.first).to_have_text(f"x {centre(x - 50) + 50:.0f}, y {centre(y):.0f}")
    value = lines.last.text_content() or ""
    assert float(value) == pytest.approx(cell(x, y), abs=STEP, rel=0.005)


@pytest.mark.parametrize(("x", "y"), [(60, 10), (222, 111), (340, 290)])
def test_click_on_a_map_reaches_python(visit: Open, url: str, x: int, y: int) -> None:
    page = filled(visit(url).page)
    for name in ("again", "one"):
        fill(page, name)
        expect(page.locator("#shown .ts-title")).to_have_text(name)
    page.mouse.click(*spot(page, x, y))
    expect(page.get_by_label("heard")).to_have_value(re.compile(f"panel=0 .* x={x} y={y}$"))
    value = float(page.get_by_label("heard").input_value().split()[2].removeprefix("value="))
    assert value == pytest.approx(cell(x, y), abs=STEP)


def test_click_on_a_bar_tells_which(visit: Open, url: str) -> None:
    page = filled(visit(url).page, "many", 4)
    bars = page.locator("#shown figure").nth(4).locator(".trace.bars").last
    box = bars.locator("path").nth(1).bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 5, box["y"] + box["height"] / 2)
    expect(page.get_by_label("heard")).to_have_value("index=1 panel=4")


def test_view_changes_without_a_request(visit: Open, url: str) -> None:
    opened = visit(url)
    page = filled(opened.page, "many", 4)
    before, asked = trace(page), len(opened.requests)
    assert before["opacity"] == 0.65
    apply_view(page, "viridis", 0.25, False)
    page.wait_for_function(
        "[...document.querySelectorAll('#shown .ts-card[data-kind=map] .ts-plot')].slice(0, 3)"
        ".every((plot) => plot.data[0].opacity === 0.25)"
    )
    after = trace(page)
    assert after["colorscale"][0] == [0, "rgba(68,1,84,1)"]
    assert after["colorscale"] != before["colorscale"]
    page.wait_for_function(
        "document.querySelectorAll('#shown .ts-plot')[5].data[0].colorscale[0][1]"
        " === 'rgba(68,1,84,1)'"
    )
    assert trace(page, index=5)["opacity"] == 1
    assert [u for u in opened.requests[asked:] if not u.startswith(("data:", "blob:"))] == []


def test_view_holds_for_maps_that_arrive_later(visit: Open, url: str) -> None:
    page = visit(url).page
    expect(page.locator("#shown figure")).to_be_visible()
    apply_view(page, "gray", 0.3, False)
    fill(page, "one")
    expect(page.locator(f"#shown {DRAWN}")).to_have_count(1)
    assert trace(page)["opacity"] == 0.3
    assert trace(page)["colorscale"][-1] == [1, "rgba(255,255,255,1)"]
    page.get_by_role("tab", name="Second").click()
    expect(page.locator(f"#hidden {DRAWN}")).to_have_count(1)
    assert trace(page, "#hidden")["opacity"] == 0.3


def test_fade_lets_the_picture_through_where_a_signed_map_is_zero(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    assert dict(trace(page)["colorscale"])[0.5].endswith(",1)"), "nothing is hidden by default"
    apply_view(page, "auto", 0.65, True)
    page.wait_for_function(
        "document.querySelector('#shown .ts-plot').data[0].colorscale"
        ".some(([, colour]) => colour.endsWith(',0)'))"
    )
    stops = dict(trace(page)["colorscale"])
    assert stops[0.5].endswith(",0)")
    assert stops[0].endswith(",1)")
    assert stops[1].endswith(",1)")


def test_unknown_colormap_falls_back_to_the_default(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    before = trace(page)["colorscale"]
    apply_view(page, "constructor?", 0.9, False)
    page.wait_for_function("document.querySelector('#shown .ts-plot').data[0].opacity === 0.9")
    assert trace(page)["colorscale"] == before


def cells_drawn(page: Page) -> np.ndarray:
    """The values that are coloured, as the page holds them."""
    script = "() => document.querySelector('#shown .ts-plot').data[0].z.map((row) => [...row])"
    return np.array(page.evaluate(script))


def test_a_grainy_map_is_smoothed_until_the_reader_says_otherwise(visit: Open, url: str) -> None:
    opened = visit(url)
    page = filled(opened.page, "dust")
    caption, asked = page.locator("#shown .ts-caption"), len(opened.requests)
    expect(caption).to_have_text("a caption · shown smoothed, radius 2 px")
    span = display.display_limits(DUST)
    means = display.drawn(DUST).clip(*span)
    assert abs(cells_drawn(page) - means).max() <= (span[1] - span[0]) / 255
    page.get_by_role("checkbox", name="smooth").set_checked(False)
    page.get_by_role("button", name="apply").click()
    expect(caption).to_have_text("a caption")
    assert abs(cells_drawn(page) - DUST).max() <= np.ptp(DUST) / 65535
    _, high = display.display_limits(DUST, smooth=False)
    top = page.evaluate("() => document.querySelector('#shown .ts-plot').data[0].zmax")
    assert top == pytest.approx(high)
    bar = page.locator("#shown .cbaxis text, #shown .colorbar text").last
    expect(bar).to_have_text(f"≥{high:.2g}")
    page.get_by_role("checkbox", name="smooth").set_checked(True)
    page.get_by_role("button", name="apply").click()
    expect(caption).to_have_text("a caption · shown smoothed, radius 2 px")
    assert [u for u in opened.requests[asked:] if not u.startswith(("data:", "blob:"))] == []


@pytest.mark.parametrize("smooth", [True, False])
def test_hover_and_click_tell_the_raw_value_of_a_smoothed_map(
    visit: Open, url: str, smooth: bool
) -> None:
    page = filled(visit(url).page, "dust")
    page.get_by_role("checkbox", name="smooth").set_checked(smooth)
    page.get_by_role("button", name="apply").click()
    expect(page.locator("#shown .ts-caption")).to_have_text(
        "a caption" + (" · shown smoothed, radius 2 px" if smooth else "")
    )
    x, y = 201, 100  # in cell 50, 33 of a map of cells of 3 x 3 pixels
    raw = float(DUST[33, 50])
    page.mouse.move(*spot(page, x - 1, y))
    page.mouse.move(*spot(page, x, y))
    expect(page.locator("#shown .hovertext .line").last).to_have_text(re.compile(r"\d"))
    told = page.locator("#shown .hovertext .line").last.text_content() or ""
    assert float(told.replace("−", "-")) == pytest.approx(raw, rel=0.005, abs=1e-3)
    page.mouse.click(*spot(page, x, y))
    expect(page.get_by_label("heard")).to_have_value(re.compile("panel=0"))
    value = float(page.get_by_label("heard").input_value().split()[2].removeprefix("value="))
    assert value == pytest.approx(raw, abs=1e-3)


def test_zoom_survives_an_update(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    page.mouse.move(*spot(page, 100, 100))
    page.mouse.down()
    page.mouse.move(*spot(page, 200, 200), steps=5)
    page.mouse.up()
    span = "() => document.querySelector('#shown .ts-plot')._fullLayout.xaxis.range"
    page.wait_for_function(f"() => {{ const [a, b] = ({span})(); return b - a < 150; }}")
    zoomed = page.evaluate(span)
    fill(page, "again")
    expect(page.locator("#shown .ts-title")).to_have_text("again")
    page.wait_for_function("() => document.querySelector('#shown .ts-plot').data[0].z[0][0] !== 0")
    assert page.evaluate(span) == pytest.approx(zoomed)


def test_an_update_keeps_nodes_and_a_shrink_removes_them(visit: Open, url: str) -> None:
    page = filled(visit(url).page, "many", 4)
    first = page.locator("#shown figure").first.element_handle()
    purged = page.evaluate(
        "() => { window.gone = [...document.querySelectorAll('#shown .ts-plot')].slice(1);"
        " return window.gone.filter((plot) => plot._fullLayout).length; }"
    )
    assert purged == 4
    fill(page, "again")
    expect(page.locator("#shown figure")).to_have_count(1)
    assert page.evaluate("() => window.gone.filter((plot) => plot._fullLayout).length") == 0
    assert first is not None
    assert first.evaluate("(node) => node.isConnected && node.card.panel.title") == "again"
    fill(page, "none")
    expect(page.locator("#shown figure")).to_have_count(0)


def test_figure_gives_way_to_words_and_back(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    fill(page, "failed")
    card = page.get_by_role("figure", name="Rollout. no attention here")
    expect(card).to_have_attribute("data-tone", "error")
    expect(card.locator("svg")).to_have_count(0)
    filled(page)
    page.mouse.click(*spot(page, 200, 150))
    expect(page.get_by_label("heard")).to_have_value(re.compile("x=200 y=150$"))


def test_hidden_tab_draws_when_it_is_shown(visit: Open, url: str) -> None:
    page = visit(url).page
    expect(page.locator("#hidden svg")).to_have_count(0)
    page.get_by_role("tab", name="Second").click()
    expect(page.locator(f"#hidden {DRAWN}")).to_have_count(1)
    width = page.locator("#hidden .ts-plot .main-svg").first.bounding_box()
    assert width is not None
    assert width["width"] > 300
    fill(page, "late")
    expect(page.locator(f"#unseen {DRAWN}")).to_have_count(1)


def test_text_never_becomes_markup(visit: Open, url: str) -> None:
    page = filled(visit(url).page, "hostile")
    card = page.locator("#shown figure").first
    expect(card.locator(".ts-title")).to_have_text(HOSTILE)
    expect(page.locator("#shown .legendtext")).to_have_text(HOSTILE)
    expect(page.locator("#shown img, #shown b, #shown script")).to_have_count(0)
    page.mouse.move(*spot(page, 200, 150))
    expect(card.locator(".hovertext").last).to_be_visible()
    assert page.evaluate("() => window.hacked") is None


CONTRASTS = """() => {
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const rgba = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = rgba(getComputedStyle(node).backgroundColor);
      if (colour[3] === 1) return colour;
    }
    return [255, 255, 255, 1];
  };
  const found = {};
  const words = '.ts-title, .ts-caption, .ts-plot text, button, label span, [role=tab]';
  for (const node of document.querySelectorAll(words)) {
    const seen = node.textContent.trim() && node.getClientRects().length;
    if (!seen || node.closest('.hovertext')) continue;
    const style = getComputedStyle(node);
    const ink = rgba(node.tagName === 'text' ? style.fill : style.color);
    const [one, two] = [light(ink), light(ground(node))].sort((a, b) => b - a);
    found[`${node.tagName} ${node.textContent.trim().slice(0, 40)}`] = (one + 0.05) / (two + 0.05);
  }
  return found;
}"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_page_is_readable_and_fits(visit: Open, url: str, width: int, dark: bool) -> None:
    page = visit(url, width=width, dark=dark).page
    fill(page, "many")
    expect(page.locator("#shown figure")).to_have_count(6)
    for card in page.locator("#shown [data-kind=map]").all():
        card.scroll_into_view_if_needed()
        expect(card.locator(".hm image")).to_have_count(1)
    assert page.evaluate("() => document.body.classList.contains('dark')") is dark
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    faint = {name: ratio for name, ratio in page.evaluate(CONTRASTS).items() if ratio < 4.5}
    assert faint == {}
    inside = page.evaluate(
        "() => [...document.querySelectorAll('#shown .main-svg')].every((svg) =>"
        " svg.getBoundingClientRect().right <= innerWidth)"
    )
    assert inside


def test_page_does_not_jump_while_figures_draw(visit: Open, url: str) -> None:
    page = visit(url, width=390).page
    fill(page, "many")
    expect(page.locator("#shown figure")).to_have_count(6)
    page.wait_for_function("() => document.documentElement.scrollHeight > 1500")
    tall = page.evaluate("() => document.documentElement.scrollHeight")
    page.locator("#shown figure").last.scroll_into_view_if_needed()
    expect(page.locator("#shown figure").last.locator(".hm image")).to_have_count(1)
    assert page.evaluate("() => document.documentElement.scrollHeight") == pytest.approx(
        tall, abs=8
    )


def test_figures_follow_the_window(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_function(
        "() => document.querySelector('#shown .main-svg').getBoundingClientRect().width < 420"
    )
    page.set_viewport_size({"width": 1280, "height": 900})
    page.wait_for_function(
        "() => document.querySelector('#shown .main-svg').getBoundingClientRect().width > 500"
    )


def test_one_picture_travels_once() -> None:
    one, three = (len(encode([overlay("a")] * n)) for n in (1, 3))
    assert three - one < 2 * len(maps.picture_uri(PICTURE))
    assert encode([overlay("a")] * 3).count("data:image") == 1


def test_drawing_library_is_fetched_once_and_relative(visit: Open, url: str) -> None:
    opened = visit(url)
    page = filled(opened.page)
    page.get_by_role("tab", name="Second").click()
    expect(page.locator(f"#hidden {DRAWN}")).to_have_count(1)
    scripts = [u for u in opened.requests if "plotly-cartesian.min.js" in u]
    assert len(scripts) == 1
    sources = page.evaluate("() => window.gradio_config.components.map((c) => c.props.head ?? '')")
    assert sum('src="gradio_api/file=' in head for head in sources) == 4


SPILLED = """() => {
  const area = document.querySelector('#area');
  const box = area.getBoundingClientRect();
  const neighbour = document.querySelector('#neighbour').getBoundingClientRect();
  const tracker = area.querySelector('[data-testid=status-tracker]');
  const shown = [tracker, ...tracker.querySelectorAll('*')]
    .filter((node) => node.getClientRects().length && node.closest('svg') === null);
  const spilled = shown.filter((node) => {
    const { left, top, right, bottom } = node.getBoundingClientRect();
    return left < box.left - 1 || right > box.right + 1 || top < box.top - 1
      || bottom > box.bottom + 1;
  });
  return { shown: shown.length, spilled: spilled.map((node) => node.outerHTML.slice(0, 80)),
           over: box.bottom > neighbour.top + 1 };
}"""
OVERPRINTED = """() => {
  const texts = [...document.querySelectorAll('#area [data-testid=status-tracker] div')]
    .filter((node) => node.children.length === 0 && node.textContent.trim());
  const boxes = texts.map((node) => node.getBoundingClientRect());
  return boxes.some((a, i) => boxes.slice(i + 1).some((b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1));
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_progress_prints_over_nothing(visit: Open, url: str, width: int) -> None:
    page = visit(url, width=width).page
    page.get_by_role("tab", name="Third").click()
    for again in (False, True):
        GO.clear()
        page.get_by_role("button", name="work").click()
        said = page.locator("#area .progress-level-inner")
        expect(said).to_contain_text("1,200 of 4,000 steps")
        found = page.evaluate(SPILLED)
        ground = page.locator("#area [data-testid=status-tracker]").evaluate(
            "(node) => getComputedStyle(node).backgroundColor"
        )
        overprinted = page.evaluate(OVERPRINTED)
        GO.set()
        assert found["shown"] > 1
        assert found["spilled"] == []
        assert not found["over"]
        assert not overprinted
        assert float(re.findall(r"[\d.]+", ground)[-1]) >= 0.8, "an old map shows through"
        expect(page.locator(f"#area {DRAWN}")).to_have_count(1)
        assert not again or page.locator("#area .ts-card").count() == 1


RANGES = """() => [...document.querySelectorAll('#shown .ts-plot')].filter((p) => p._fullLayout)
  .map(({ _fullLayout: { xaxis, yaxis } }) => [...xaxis.range, ...yaxis.range])"""


def tap_point(page: Page, index: int) -> tuple[float, float]:
    """A point in the left upper part of a figure, once it is in view."""
    figure = page.locator("#shown figure").nth(index)
    figure.scroll_into_view_if_needed()  # a figure is drawn when it comes near
    plot = figure.locator(".nsewdrag").first
    plot.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    box = plot.bounding_box()
    assert box is not None
    return box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"]


@pytest.mark.parametrize("taps", [1, 2, 3])
def test_a_tap_tells_python_and_zooms_nothing(visit: Open, url: str, taps: int) -> None:
    page = filled(visit(url, width=390, height=844, touch=True).page, "hostile")
    page.evaluate(
        """() => {
          const { root } = document.querySelector('#shown figure').card;
          const trigger = root.trigger;
          window.told = 0;
          root.trigger = (...event) => { window.told += 1; trigger(...event); };
        }"""
    )
    for index in (2, 0):  # curves, then a map
        at = tap_point(page, index)
        before = page.evaluate(RANGES)
        for _ in range(taps):
            page.touchscreen.tap(*at)
            page.wait_for_timeout(100)
        page.wait_for_timeout(500)  # a zoom would have been drawn by now
        assert page.evaluate(RANGES) == before
    expect(page.get_by_label("heard")).to_have_value(re.compile("panel=0 "))
    assert page.evaluate("window.told") == taps
    assert page.evaluate("visualViewport.scale") == 1


def test_a_double_click_zooms_back_to_the_picture_and_no_further(visit: Open, url: str) -> None:
    page = filled(visit(url).page)
    (whole,) = page.evaluate(RANGES)
    page.mouse.dblclick(*spot(page, 200, 150))
    page.wait_for_timeout(500)
    assert page.evaluate(RANGES) == [whole]
    page.mouse.move(*spot(page, 100, 100))
    page.mouse.down()
    page.mouse.move(*spot(page, 200, 200), steps=5)
    page.mouse.up()
    page.wait_for_function(f"(whole) => ({RANGES})()[0][0] > whole[0] + 20", arg=whole)
    page.mouse.dblclick(*spot(page, 150, 150))
    page.wait_for_function(f"(whole) => Math.abs(({RANGES})()[0][0] - whole[0]) < 1", arg=whole)


COLLISIONS = """(edge) => {
  const card = document.querySelector('#shown figure');
  const room = card.querySelector('.main-svg').getBoundingClientRect();
  const texts = [...card.querySelectorAll('.main-svg text')].filter((t) => t.textContent.trim());
  const boxes = texts.map((text) => [text.textContent, text.getBoundingClientRect()]);
  const over = (a, b) => a.left < b.right - edge && b.left < a.right - edge
    && a.top < b.bottom - edge && b.top < a.bottom - edge;
  return boxes.flatMap(([name, a], i) => [
    ...boxes.slice(i + 1).filter(([, b]) => over(a, b)).map(([other]) => `${name} | ${other}`),
    ...(a.left < room.left - 1 || a.right > room.right + 1 ? [`${name} is cut off`] : []),
    ...(a.height < 8 ? [`${name} is tiny`] : []),
  ]);
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_names_of_many_methods_do_not_collide(visit: Open, url: str, width: int) -> None:
    page = visit(url, width=width).page
    fill(page, "matrix")
    card = page.locator("#shown figure").first
    expect(card.locator(".annotation")).to_have_count(len(NAMES))
    expect(card.locator(".heatmap-label, .hm ~ * text").first).to_be_attached()
    assert page.evaluate(COLLISIONS, 1) == []
    legend = page.locator("#shown figure").last.locator(".legendtext")
    expect(legend).to_have_count(len(NAMES))
    for text in legend.all_text_contents():
        assert text.startswith("0.125"), "what a narrow page cuts off is the end of the name"

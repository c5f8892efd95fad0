"""The contrast of texts that axe-core cannot decide, by the pixels that lie behind them.

axe reads style sheets: it gives up on a text over a picture, a gradient or another element's
content. Here each such text is made transparent, the page is photographed, and the text's colour
is compared with what is seen in its place.
"""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

ENOUGH, ENOUGH_LARGE = 4.5, 3.0
"""The least contrast of WCAG AA, and that of large text."""
BEHIND = 0.9
"""The share of the pixels behind a text that must contrast with it."""

UNDECIDED = """async () => {
  const found = await axe.run(document, {runOnly: ['color-contrast']});
  const nodes = found.incomplete.flatMap(({nodes}) => nodes);
  const visible = (element) => {
    let [left, top, right, bottom] = [-Infinity, -Infinity, Infinity, Infinity];
    for (let one = element.parentElement; one; one = one.parentElement) {
      const style = getComputedStyle(one);
      if (one === document.body || one === document.documentElement) break;
      if (style.overflow === 'visible') continue;
      const box = one.getBoundingClientRect();
      [left, top] = [Math.max(left, box.left), Math.max(top, box.top)];
      [right, bottom] = [Math.min(right, box.right), Math.min(bottom, box.bottom)];
    }
    return [left, top, right, bottom];
  };
  const opacity = (element) => {
    let share = 1;
    for (let one = element; one; one = one.parentElement) share *= getComputedStyle(one).opacity;
    return share;
  };
  const told = [], sheet = document.querySelector('.ts-sheet.ts-open, #view.ts-open');
  for (const {target, html} of nodes) {
    const element = document.querySelector(target.at(-1));
    if (!element?.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (sheet && !sheet.contains(element)) continue; // it lies in the shade of the sheet
    if (element.closest('[inert], [aria-hidden=true], [aria-disabled=true], :disabled')) continue;
    const style = getComputedStyle(element);
    const range = document.createRange();
    const [left, top, right, bottom] = visible(element);
    for (const child of element.childNodes) {
      if (child.nodeType !== Node.TEXT_NODE || !child.textContent.trim()) continue;
      range.selectNodeContents(child);
      for (const line of range.getClientRects()) {
        const from = [Math.max(line.left, left) + scrollX, Math.max(line.top, top) + scrollY];
        const to = [Math.min(line.right, right) + scrollX, Math.min(line.bottom, bottom) + scrollY];
        const box = [...from, ...to];
        if (box[2] - box[0] < 2 || box[3] - box[1] < 2) continue;
        const paint = element instanceof SVGElement ? style.fill : style.color;
        const size = parseFloat(style.fontSize), bold = Number(style.fontWeight) >= 700;
        const large = size >= 24 || (bold && size >= 18.66);
        told.push({box, paint, large, opacity: opacity(element), html: html.slice(0, 160)});
      }
    }
  }
  return told;
}"""
STILL = "*, *::before, *::after { transition: none !important; animation: none !important; }"
HIDDEN = """
*, *::before, *::after { color: transparent !important; text-shadow: none !important;
  -webkit-text-fill-color: transparent !important; caret-color: transparent !important; }
svg text { opacity: 0 !important; }
"""


def too_faint(page: Page) -> list[str]:
    """Texts that axe leaves undecided and whose contrast is too low; `axe` must be on the page."""
    texts: list[dict[str, Any]] = page.evaluate(UNDECIDED)
    if not texts:
        return []
    still, hidden = (page.add_style_tag(content=content) for content in (STILL, HIDDEN))
    photo = page.screenshot(full_page=True)
    for style in (hidden, still):  # one by one, so that no text fades in
        style.evaluate("style => { style.remove(); document.body.offsetWidth; }")
    with Image.open(io.BytesIO(photo)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float64)
    width: float = page.evaluate("document.documentElement.clientWidth")
    scale = pixels.shape[1] / width
    found = []
    for text in texts:
        left, top, right, bottom = (round(side * scale) for side in text["box"])
        behind = pixels[max(top, 0) : bottom, max(left, 0) : right].reshape(-1, 3)
        if not len(behind):
            continue
        ratios = contrast(_rgb(text["paint"]), text["opacity"], behind)
        least = ENOUGH_LARGE if text["large"] else ENOUGH
        if (ratios >= least).mean() < BEHIND:
            found.append(f"{np.quantile(ratios, 1 - BEHIND):.2f} {text['html']}")
    return found


def contrast(
    paint: tuple[NDArray[np.float64], float], opacity: float, behind: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The contrast of a colour with each pixel behind it, from 1 to 21, as WCAG defines it."""
    colour, alpha = paint[0], paint[1] * opacity
    text, ground = luminance(alpha * colour + (1 - alpha) * behind), luminance(behind)
    lighter, darker = np.maximum(text, ground), np.minimum(text, ground)
    found: NDArray[np.float64] = (lighter + 0.05) / (darker + 0.05)
    return found


def luminance(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """The relative luminance of sRGB colours from 0 to 255."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    found: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return found


def _rgb(paint: str) -> tuple[NDArray[np.float64], float]:
    """A computed colour, such as ``rgba(0, 0, 0, 0.5)``, and how opaque it is."""
    numbers = [float(one) for one in re.findall(r"[\d.]+", paint.replace("srgb", ""))]
    scale = 255.0 if paint.startswith("color(srgb") else 1.0
    return scale * np.array(numbers[:3]), numbers[3] if len(numbers) > 3 else 1.0

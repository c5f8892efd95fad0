"""How the whole page looks, and how it is launched.

Fonts are the system's, so the page asks no other machine for anything. Colours hold WCAG AA
contrast (4.5 for text) on light and on dark.
"""

from __future__ import annotations

import os
from typing import Any

# Read by Gradio when a page is built.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from dashboard.components.scripts import preloads

SANS = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container > .main {
  width: 100%;
  max-width: 1720px !important;
  padding: 0 24px 24px !important;
}

.dark { --color-accent: var(--primary-400) !important; }
html:not([data-verdict]) #verdict { display: none !important; }

/* The bar at the top: the name, and how maps look, in one line. */
#header {
  flex-wrap: nowrap;
  align-items: center;
  gap: 24px;
  padding: 8px 0;
  border-bottom: 1px solid var(--border-color-primary);
}
#brand { flex: none; width: auto; }
#brand h1 { margin: 0; font-size: 21px; font-weight: 750; letter-spacing: -0.01em; }
#brand h1 span { color: var(--primary-600); }
.dark #brand h1 span { color: var(--primary-400); }
#view, #view .form {
  flex-wrap: nowrap;
  align-items: center;
  gap: 20px;
  border: 0;
  box-shadow: none;
}
#view { flex: 1; justify-content: flex-end; }
#view .form { flex: 1; max-width: 1000px; background: none; }
#view .form > .block { flex: 1 1 auto; padding: 0; border: 0; background: none; }
#view .block :is(.container, .wrap, .slider_input_container) { gap: 8px; }
#view .block > .container, #view .block:has(input[type="range"]) > .wrap {
  display: flex;
  flex-direction: row;
  align-items: center;
}
#view [data-testid="block-info"] { margin: 0; white-space: nowrap; font-size: 13px; }
#view .head { flex: none; margin: 0; }
#view :is(.min_value, .max_value) { display: none; }
#view .tab-like-container { order: 1; }
#view .head { display: contents; }
#view input[type="number"] { width: 52px; padding: 2px 4px; }
#view .slider_input_container { flex: 1; min-width: 0; }
#view .slider_input_container input { min-width: 60px; }
#view .block:has(input[type="range"]) { min-width: 190px !important; }
#view label:has(input[type="checkbox"]) span { white-space: nowrap; font-size: 13px; }
#fade, #smooth { flex: none !important; width: auto; min-width: 0 !important; }
#colormap { max-width: 210px; }
#colormap input { padding: 4px 8px; }
#sidebar { width: 280px; flex: none !important; }
#page { gap: 24px; }
#ask { width: 280px; flex: none !important; }

/* An example is its picture above its name. */
:is(#photographs, #scenes) > .gallery { gap: 5px; flex-wrap: wrap; }
:is(#photographs, #scenes) .gallery-item {
  width: 51px;
  padding: 42px 2px 3px;
  border-radius: 10px;
  background-position: top;
  background-repeat: no-repeat;
  background-size: 100% 40px;
  font-size: 11px;
}
:is(#photographs, #scenes) .gallery-item > div {
  overflow: hidden;
  padding: 0;
  text-align: center;
  text-overflow: ellipsis;
  white-space: nowrap !important;
}

/* Beside the title, and coloured by the verdict. */
#explain-answer { position: relative; }
#test { font-weight: 600; }
.ts-badge-good { color: #166534 !important; background: #dcfce7 !important; }
.ts-badge-doubtful { color: #92400e !important; background: #fef3c7 !important; }
.ts-badge-bad { color: #991b1b !important; background: #fee2e2 !important; }
.dark .ts-badge-good { color: #bbf7d0 !important; background: #14532d !important; }
.dark .ts-badge-doubtful { color: #fde68a !important; background: #78350f !important; }
.dark .ts-badge-bad { color: #fecaca !important; background: #7f1d1d !important; }
#save { flex-wrap: wrap; gap: 8px; }
#save button { flex: none; min-width: 0; }

.ts-note :is(p, span) { font-size: 13.5px; line-height: 1.5; }

/* A result that does not answer what the page asks; see components/answers.js. */
.ts-answer:not([data-ribbon=""])::before {
  content: attr(data-ribbon);
  display: none;
  width: fit-content;
  padding: 3px 12px;
  border-radius: 999px;
  background: var(--neutral-700);
  color: #fff;
  font-size: 13px;
}
.ts-answer[data-ribbon]:not([data-ribbon=""])::before { display: block; }
.ts-answer:not(.ts-painting) .ts-enough { display: none !important; }
.ts-painting .ts-when-done, .ts-stale :is(
  .ts-grid, .ts-note, .ts-code, .ts-patch-words, .ts-patch-notes, .ts-class-title, .ts-class-note,
  button, .table-wrap, label
) {
  opacity: 0.35;
  filter: grayscale(1);
}
/* Gradio lays progress over results and their neighbours: it gets room, and a ground of its own. */
.ts-panels:has(> [data-testid="status-tracker"]:not(.hide)) { min-height: 112px; }
.ts-panels > [data-testid="status-tracker"]:not(.hide) {
  inset: 0 !important;
  justify-content: flex-start;
  gap: 4px;
  padding: 8px !important;
  background: color-mix(in srgb, var(--body-background-fill) 85%, transparent);
}
.ts-panels > [data-testid="status-tracker"] :is(.meta-text, .meta-text-center) {
  position: static;
  transform: none;
}
.ts-panels > [data-testid="status-tracker"] svg { width: 40px; height: 40px; }

footer, footer a, footer button { color: var(--body-text-color-subdued) !important; }
footer a:hover, footer button:hover { color: var(--body-text-color) !important; }

:is(button, a, input, textarea, [role="tab"]):focus-visible {
  outline: 2px solid var(--color-accent);
  outline-offset: 2px;
}

@media (min-width: 901px) {
  #save { position: static; }
  #test { position: absolute; z-index: 3; top: 0; right: 0; width: auto; }
  #result .ts-card[data-kind="map"] > .ts-title { min-height: 34px; padding-right: 220px; }
}

/* Plain buttons and choices of our own components. */
:is(.ts-crop-bar, .ts-draw, .ts-large-bar, .ts-options, .ts-pair, .ts-patch, .ts-ways-out)
  :is(button, select),
.ts-pair-open {
  padding: 5px 12px;
  border: 1px solid var(--border-color-primary);
  border-radius: 8px;
  background: var(--background-fill-primary);
  color: var(--body-text-color);
  font-size: 13px;
  cursor: pointer;
}

#phone-bar { display: none; }

/* A narrow screen: the answer first, and everything that is asked in sheets behind a bar. */
@media (max-width: 900px) {
  .gradio-container > .main { padding: 0 12px 84px !important; }
  #page, #explain { flex-direction: column; }
  #sidebar, #ask { width: 100% !important; }
  #sidebar { display: contents; }
  .ts-sheet, #view { display: none !important; }
  :is(.ts-sheet, #view).ts-open {
    position: fixed;
    z-index: 60;
    right: 0;
    bottom: 60px;
    left: 0;
    display: flex !important;
    max-height: 72vh;
    overflow-y: auto;
    padding: 16px;
    border-radius: 18px 18px 0 0;
    background: var(--body-background-fill);
    box-shadow: 0 0 0 100vmax rgba(15, 23, 42, 0.5);
  }
  #view.ts-open, #view.ts-open .form { flex-direction: column; align-items: stretch; }
  #view.ts-open .form { max-width: none; flex: none; }
  #phone-bar {
    position: fixed;
    z-index: 61;
    right: 0;
    bottom: 0;
    left: 0;
    display: block;
    border-top: 1px solid var(--border-color-primary);
    background: var(--body-background-fill);
  }
  footer .divider { display: none !important; }
}

@media (prefers-reduced-motion: reduce) {
  *, *::before, *::after { animation-duration: 0.01ms !important; transition: none !important; }
}
"""


# Gradio confines what it takes as `css` to the page's middle, which leaves out the footer.
HEAD = f'<meta name="color-scheme" content="light dark"><style>{CSS}</style>{preloads()}'


def theme() -> gr.themes.Base:
    """Indigo on cool grey, system fonts, quiet borders."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        color_accent="*primary_600",
        color_accent_soft_dark="*primary_900",
        body_background_fill="#ffffff",
        body_background_fill_dark="#0b0f19",
        body_text_color="*neutral_800",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_600",
    )


def launch_options() -> dict[str, Any]:
    """Arguments for ``Blocks.launch`` that suit a page for many visitors and long sessions.

    Run history stays off: it keeps every picture and result in the browser, and each update gets
    slower than the one before.
    """
    return {
        "theme": theme(),
        "head": HEAD,
        "run_history": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "max_file_size": "25mb",
        "state_session_capacity": 200,
        "max_threads": 200,
        "footer_links": ["api", "settings"],
    }

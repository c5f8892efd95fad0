"""The page: what it is about on the left, what to ask on the right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import ModuleType

import gradio as gr

from dashboard.api import serve
from dashboard.components import PhoneBar, on_event
from dashboard.state import Service
from dashboard.tabs import compare, explain, features, metrics, sidebar, view

HEADER = "<h1>Timm<span>scope</span></h1>"
TABS: Sequence[ModuleType] = (explain, compare, features, metrics)
"""The tabs of the page, in order.

A tab is a module with a `TITLE`, a function `layout()` that makes its widgets and returns a frozen
dataclass of them, and a function `wire(page, widgets)` that connects them with actions.
"""
OPEN_TAB_JS = """() => {
  const tab = new URLSearchParams(window.location.search).get("tab");
  return { __type__: "update", ...(%s.includes(tab) && { selected: tab }) };
}"""
"""Opens the tab that the page's address names, if it is one of these."""


def build(service: Service | None = None, tabs: Sequence[ModuleType] = TABS) -> gr.Blocks:
    """The dashboard, ready to launch with ``theme.launch_options()``.

    Args:
        service: models and running tasks; by default a new one.
        tabs: modules that make a tab each, in order; see `TABS`.
    """
    service = service or Service()
    demo: gr.Blocks

    def leave(visitor: gr.Request) -> None:
        """Nobody waits for the work of a page that was closed."""
        service.tasks.cancel_all(str(visitor.session_hash))

    with gr.Blocks(title="Timmscope", fill_width=True, delete_cache=(3600, 86400)) as demo:
        with gr.Row(elem_id="header", equal_height=True):
            gr.HTML(HEADER, elem_id="brand", padding=False)
            shown = view.layout()
            view.wire(shown)
        with gr.Row(equal_height=False, elem_id="page"):
            with gr.Column(scale=0, min_width=280, elem_id="sidebar"):
                side = sidebar.layout()
            with gr.Column(scale=1, min_width=320, elem_id="work"):
                page = sidebar.wire(service, demo, side, shown)
                with gr.Tabs() as shelf:
                    for tab in tabs:
                        name = tab.TITLE.lower()
                        with gr.Tab(tab.TITLE, id=name) as opened:
                            tab.wire(page, tab.layout())
                        opened.select(None, None, None, js=on_event("question.opened", name))
        PhoneBar(elem_id="phone-bar")
        # In the browser: what is in an output of the server is gone through with every later event.
        names = [tab.TITLE.lower() for tab in tabs]
        demo.load(None, None, shelf, js=OPEN_TAB_JS % json.dumps(names), show_progress="hidden")
        serve(service, demo)
        demo.unload(leave)
        # Slow work waits in a lane of its own, `Service.slow`: a queue would let quick work wait.
        demo.queue(default_concurrency_limit=None)
    return demo

"""The page: what it is about on the left, what to ask on the right."""

from __future__ import annotations

import gradio as gr

from dashboard import sidebar, view
from dashboard.state import Service
from dashboard.tabs import compare, explain, features, metrics

HEADER = "<h1>Timmscope</h1><p>See why a vision model decided.</p>"
TABS = {"Compare": compare, "Features": features, "Metrics": metrics}


def build(service: Service | None = None) -> gr.Blocks:
    """The dashboard, ready to launch with ``theme.launch_options()``.

    Args:
        service: models and answers; by default a new one.
    """
    service = service or Service()
    demo: gr.Blocks
    with gr.Blocks(title="Timmscope", fill_width=True, delete_cache=(3600, 86400)) as demo:
        gr.HTML(HEADER, elem_id="header", padding=False)
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=290, elem_id="sidebar"):
                side = sidebar.build(service, demo)
            with gr.Column(scale=4, min_width=320):
                maps = view.build()
                with gr.Tabs():
                    with gr.Tab("Explain", id="explain"):
                        explain.build(side, maps)
                    for name, tab in TABS.items():
                        with gr.Tab(name, id=name.lower()):
                            tab.build(side)
        demo.queue(max_size=32, default_concurrency_limit=2)
    return demo

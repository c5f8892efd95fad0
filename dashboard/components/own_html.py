"""The base of the page's own components."""

from __future__ import annotations

from typing import Any

import gradio as gr


class OwnHTML(gr.HTML):
    """Markup of ours in Gradio's own HTML component; its value goes to actions as it is."""

    def preprocess(self, payload: Any) -> Any:
        """What the page holds; actions check it."""
        return payload

    def get_block_name(self) -> str:
        """The page's own component that this one builds on."""
        return "html"

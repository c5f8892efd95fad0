"""What the page and the API know of who asks."""

from __future__ import annotations

import gradio as gr

PROGRESS = gr.Progress()
"""The progress bar of whoever asks."""


def report(share: float, text: str) -> None:
    """Tell whoever asks how far the work is.

    Args:
        share: of the work that is done, from 0 to 1.
        text: the same in words.
    """
    PROGRESS(share, desc=text)


def session(visitor: gr.Request, task: str) -> str:
    """The name of a visitor's task."""
    return f"{visitor.session_hash}/{task}"

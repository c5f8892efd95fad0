"""The page's own scripts and styles, as files that the browser fetches and keeps."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import gradio as gr

from core.inputs.assets import asset

HERE = Path(__file__).parent
PLOTLY = asset("plotly", "plotly-cartesian.min.js")
"""Plotly's own bundle of the charts in a plane: a third of what all its charts take to load."""
gr.set_static_paths([PLOTLY, *sorted(HERE.glob("*.js"))])


@cache
def source(name: str) -> str:
    """The text of a file of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def tags(*files: str | Path) -> str:
    """Script elements, in the order in which they run.

    Args:
        files: names of files of this folder, or paths.
    """
    return "".join(f'<script src="{_url(HERE / file)}"></script>' for file in files)


def preloads() -> str:
    """Elements by which the browser fetches all our files while it still builds the page."""
    files = [PLOTLY, *sorted(HERE.glob("*.js"))]
    return "".join(f'<link rel="preload" as="script" href="{_url(file)}">' for file in files)


def on_event(function: str, *arguments: object) -> str:
    """JavaScript by which an event calls a function of ours, with its values after `arguments`.

    A page on a busy machine may have its first answers before it has all of our files, so the call
    waits for the file.

    Args:
        function: its name within ``window.timmscope``.
        arguments: what it is given first.
    """
    given = "".join(f"{json.dumps(one)}, " for one in arguments)
    module = function.partition(".")[0]
    return (
        "async (...values) => {"
        f" for (let tries = 0; !window.timmscope?.{module} && tries < 1500; tries++)"
        " await new Promise((done) => setTimeout(done, 20));"
        f" return window.timmscope.{function}({given}...values); }}"
    )


@cache
def _url(path: Path) -> str:
    """Relative, so that it holds behind a proxy; another one whenever the file is another."""
    tag = hashlib.blake2s(path.read_bytes(), digest_size=6).hexdigest()
    return f"gradio_api/file={path.resolve().as_posix()}?v={tag}"

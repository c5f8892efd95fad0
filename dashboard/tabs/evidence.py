"""Where the evidence is: a part of the Metrics tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard import actions
from dashboard.components import Drawing
from dashboard.tabs.page import QUIET, Page


@dataclass(frozen=True)
class EvidenceWidgets:
    """A drawing, a box or a file; the fields of an `Evidence` have its names.

    Attributes:
        draw: opens the picture to be drawn on.
        drawing: what is marked on the picture.
        box: "left, top, right, bottom" in pixels of the picture.
        file: a mask or an annotation.
        label: of the annotation, only this class.
    """

    draw: gr.Button
    drawing: Drawing
    box: gr.Textbox
    file: gr.File
    label: gr.Textbox


def layout_drawing() -> dict[str, Any]:
    """A button that opens the picture, and what is marked on it."""
    draw = gr.Button("Draw evidence", size="md", scale=0, min_width=150, elem_id="draw")
    return {"draw": draw, "drawing": Drawing(elem_id="drawing", min_width=160)}


def layout_marks() -> dict[str, Any]:
    """A box or a file, for who does not draw."""
    *some, last = actions.metrics_on_evidence()
    gr.Markdown(
        f"Needed by {', '.join(some)} and {last}. A file overrides what is drawn, and what is "
        "drawn overrides the box.",
        elem_classes="ts-note",
    )
    with gr.Row(equal_height=False):
        box = gr.Textbox(
            label="Box",
            info="left, top, right, bottom in pixels of the picture",
            placeholder="150, 0, 450, 400",
            elem_id="box",
            min_width=220,
        )
        file = gr.File(
            label="Mask (.png), VOC (.xml) or COCO (.json)",
            file_types=[".png", ".xml", ".json"],
            height=140,
            elem_id="evidence-file",
            min_width=220,
        )
        label = gr.Textbox(
            label="Only objects of this class",
            info="The class in the annotation, or its number in a mask; leave empty for all",
            min_width=220,
        )
    return {"box": box, "file": file, "label": label}


def wire(page: Page, part: EvidenceWidgets) -> None:
    """Open the picture to be drawn on; forget the evidence when the picture changes."""
    question = page.inputs(actions.Question)
    show_canvas = page.handler("", actions.drawing_canvas, question, lambda canvas: canvas)
    part.draw.click(show_canvas, question.components, part.drawing, **QUIET)

    def forget() -> list[Any]:
        return [None, "", None]

    picture: Any = page.widgets["picture"]
    picture.change(forget, None, [part.file, part.box, part.drawing], queue=False, **QUIET)

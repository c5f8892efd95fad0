"""Where the evidence is: a part of the Metrics tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from dashboard import actions
from dashboard.components import Canvas
from dashboard.tabs.page import QUIET, Page


@dataclass(frozen=True)
class EvidenceWidgets:
    """A box, a file or a drawing; the fields of an `Evidence` have its names.

    Attributes:
        box: "left, top, right, bottom" in pixels of the picture.
        file: a mask or an annotation.
        label: of the annotation, only this class.
        drawing: what is painted over the picture.
        draw: puts the picture under the drawing.
        use: turns the drawing into a file.
    """

    box: gr.Textbox
    file: gr.File
    label: gr.Textbox
    drawing: Canvas
    draw: gr.Button
    use: gr.Button


def layout() -> EvidenceWidgets:
    """A box or a file on the left, a drawing on the right."""
    *some, last = actions.metrics_on_evidence()
    gr.Markdown(
        f"Needed by {', '.join(some)} and {last}. A file overrides the box.",
        elem_classes="ts-note",
    )
    with gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            box, file, label = _marks()
        with gr.Column(scale=2, min_width=300):
            drawing = Canvas(
                label="Drawing",
                type="numpy",
                image_mode="RGBA",
                sources=[],
                transforms=[],
                layers=False,
                brush=gr.Brush(default_size=24, colors=["#4f46e5"], color_mode="fixed"),
                height=320,
                visible=False,
                elem_id="drawing",
            )
            with gr.Row():
                draw = gr.Button("Draw on the picture", size="sm", elem_id="draw")
                use = gr.Button("Use the drawing", size="sm", elem_id="use-drawing")
    return EvidenceWidgets(box, file, label, drawing, draw, use)


def _marks() -> tuple[gr.Textbox, gr.File, gr.Textbox]:
    box = gr.Textbox(
        label="Box",
        info="left, top, right, bottom in pixels of the picture",
        placeholder="150, 0, 450, 400",
        elem_id="box",
    )
    file = gr.File(
        label="Mask (.png), VOC (.xml) or COCO (.json)",
        file_types=[".png", ".xml", ".json"],
        height=140,
        elem_id="evidence-file",
    )
    label = gr.Textbox(
        label="Only objects of this class",
        info="The class in the annotation, or its number in a mask; leave empty for all",
    )
    return box, file, label


def wire(page: Page, part: EvidenceWidgets) -> None:
    """Connect the drawing; forget the evidence when the picture changes."""
    question = page.inputs(actions.Question)
    show_canvas = page.handler(
        "",
        actions.drawing_canvas,
        question,
        lambda picture: gr.ImageEditor(picture, visible=True),
    )
    part.draw.click(show_canvas, question.components, part.drawing, **QUIET)
    drawn = page.inputs(actions.DrawingRequest, part)
    save = page.handler("", actions.save_drawing, drawn, lambda path: path)
    part.use.click(save, drawn.components, part.file, **QUIET)

    def forget() -> list[Any]:
        return [None, "", gr.ImageEditor(None, visible=False)]

    picture: Any = page.widgets["picture"]
    picture.change(forget, None, [part.file, part.box, part.drawing], queue=False, **QUIET)

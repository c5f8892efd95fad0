"""Metrics: does the map deserve trust, next to maps that know nothing?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import METRICS
from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.views.panels import empty_panel
from dashboard import actions
from dashboard.components.panels import Panels
from dashboard.controls import Choice, settings
from dashboard.handlers import asking, working
from dashboard.sidebar import QUIET, Sidebar
from dashboard.state import Question
from dashboard.tabs.common import METHOD_CHOICES, cancelling, follow_model, keep

EMPTY = [empty_panel("Choose methods and metrics, then press Measure.")]


class Canvas(gr.ImageEditor):
    """An editor that hands on the file of its first layer, for `core.inputs.image` to check."""

    def preprocess(self, payload: Any) -> str | None:  # type: ignore[override]
        """The path of what was painted; None if nothing was."""
        layers = payload.layers if payload is not None else []
        return layers[0].path if layers and layers[0] is not None else None

    def get_block_name(self) -> str:
        """The page's own component that this one builds on."""
        return "imageeditor"


@dataclass(frozen=True)
class Told:
    """The widgets in which a person says where the evidence is.

    Attributes:
        box: in words.
        file: a mask or an annotation.
        label: of the annotation, only this class.
    """

    box: gr.Textbox
    file: gr.File
    label: gr.Textbox


def build(side: Sidebar) -> None:
    """The tab, wired."""
    with gr.Row(equal_height=False):
        methods = gr.Dropdown(
            METHOD_CHOICES,
            value=["gradcam", "layercam"],
            multiselect=True,
            label="Methods",
            elem_id="metric-methods",
            scale=3,
            min_width=280,
        )
        layer = Choice([], label="Layer", info="For CAM methods", scale=1, min_width=160)
        random_maps = gr.Number(
            0,
            label="Among random maps",
            info="How many to set each map among; 0 for none",
            minimum=0,
            maximum=actions.MOST_RANDOM_MAPS,
            precision=0,
            elem_id="random_maps",
            scale=1,
            min_width=160,
        )
    metrics = gr.CheckboxGroup(
        actions.metric_choices(),
        value=["deletion", "insertion", "srg"],
        label="Metrics",
        info="* does not tell good maps from bad ones by itself; docs/metrics.md says why",
        elem_id="metrics",
    )
    with gr.Accordion("Where the evidence is", open=False, elem_id="evidence"):
        told = _evidence(side)
    with gr.Accordion("Settings", open=False), gr.Row():
        for key, cls in METRICS.items():
            if not cls.model_fields:
                continue
            with gr.Column(min_width=240):
                gr.Markdown(f"**{cls.label}** {cls.caveat}")
                settings({key: cls}, side.store, key)
    with gr.Row():
        run = gr.Button(
            "Measure", variant="primary", elem_id="metric-run", size="md", scale=0, min_width=160
        )
        stop = gr.Button("Cancel", size="md", scale=0, min_width=120)
    result = Panels(EMPTY, elem_id="metric-result", card_width=320, columns=2, min_height=260)
    table = gr.Dataframe(interactive=False, visible=False, label="Scores", elem_id="scores")
    with gr.Group(visible=False, elem_id="scrubbing") as scrubbing, gr.Row():
        curve = Choice([], label="Look into a curve", elem_id="curve", scale=2, min_width=220)
        share = gr.Slider(
            0, 100, 25, step=1, label="Pixels gone or back, %", elem_id="share", scale=3
        )
    frame = Panels([], elem_id="frame", card_width=260, columns=2)

    answered = gr.State()

    @working(side.service, "metrics")
    def measure(
        question: Question,
        on_progress: OnProgress,
        methods: list[str],
        metrics: list[str],
        settings: dict[str, Any],
        layer: str,
        box: str | None,
        file: str | None,
        label: str | None,
        random_maps: int,
    ) -> Any:
        found = actions.measure(
            side.service,
            question,
            methods,
            metrics,
            settings,
            layer or None,
            on_progress,
            actions.Evidence(box or "", file, label or ""),
            int(random_maps or 0),
        )
        rows = gr.Dataframe(found.table, headers=found.headers, visible=bool(found.table))
        curves = actions.curve_choices(found.curves)
        choice = gr.Dropdown(curves, value=curves[0][1] if curves else None)
        shown = gr.Group(visible=bool(curves))
        return found.panels, rows, choice, shown, [], found.question or question

    @working(side.service, "scrub")
    def curve_step(
        question: Question,
        on_progress: OnProgress,
        curve: str | None,
        share: float,
        settings: dict[str, Any],
        layer: str,
    ) -> Any:
        return actions.curve_step(
            side.service, question, curve, share, settings, layer or None, on_progress
        )

    follow_model(side, methods=methods, layers=layer)
    work = run.click(
        measure,
        [
            *side.question,
            methods,
            metrics,
            side.store,
            layer,
            told.box,
            told.file,
            told.label,
            random_maps,
        ],
        [result, table, curve, scrubbing, frame, answered],
        api_name="measure",
        trigger_mode="always_last",
        show_progress_on=result,
    )
    which = [*side.question, curve, share, side.store, layer]
    how: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
    looked = gr.on([curve.input, share.change], curve_step, which, frame, api_name="scrub", **how)
    first = work.success(curve_step, which, frame, api_visibility="private", **how)
    cancelling(side, stop, ["metrics", "scrub"], [work, looked, first])
    keep(
        side,
        answered,
        [work],
        {
            result: EMPTY,
            table: gr.Dataframe(visible=False),
            scrubbing: gr.Group(visible=False),
            frame: [],
        },
    )


def _evidence(side: Sidebar) -> Told:
    """A box, a file or a drawing: the widgets, wired."""
    gr.Markdown(
        "The pointing game, energy inside, mass and rank accuracy and IoU hold a map against it. "
        "A file counts before a box.",
        elem_classes="ts-note",
    )
    with gr.Row(equal_height=False):
        with gr.Column(min_width=240):
            box = gr.Textbox(
                label="A box",
                info="left, top, right, bottom in pixels of the picture",
                placeholder="150, 0, 450, 400",
                elem_id="box",
            )
            file = gr.File(
                label="A mask (PNG), VOC (.xml) or COCO (.json)",
                file_types=[".png", ".xml", ".json"],
                height=120,
                elem_id="truth-file",
            )
            label = gr.Textbox(
                label="Only objects of this class",
                info="As the annotation calls it, or its number in a mask; empty for all",
            )
        with gr.Column(scale=2, min_width=300):
            editor = Canvas(
                label="A drawing",
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
                start = gr.Button("Draw on the picture", size="sm", elem_id="draw")
                use = gr.Button("Use the drawing", size="sm", elem_id="use-drawing")

    @asking
    def canvas(question: Question) -> Any:
        try:
            return gr.ImageEditor(actions.canvas(side.service, question), visible=True)
        except TimmscopeError as error:
            raise gr.Error(str(error)) from None

    @asking
    def drawn(question: Question, drawing: str | None) -> str:
        try:
            return actions.drawn(side.service, question, drawing)
        except TimmscopeError as error:
            raise gr.Error(str(error)) from None

    start.click(canvas, side.question, editor, **QUIET)
    use.click(drawn, [*side.question, editor], file, **QUIET)
    picture: Any = side.question[0]
    picture.change(
        lambda: [None, "", gr.ImageEditor(None, visible=False)],
        None,
        [file, box, editor],
        queue=False,
        **QUIET,
    )
    return Told(box, file, label)

"""Metrics: how good maps are, beside maps that do not depend on the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core import METRICS
from core.errors import TimmscopeError
from core.views.panels import Panel, empty_panel
from dashboard import actions
from dashboard.actions import CurveStepRequest, MeasureRequest, MeasureResult
from dashboard.components import (
    POINT_JS,
    Choice,
    CurveStage,
    GroupedChoice,
    Panels,
    WaysOut,
    settings_group,
)
from dashboard.tabs import evidence
from dashboard.tabs.answers import (
    AnswerArea,
    answer_column,
    ask,
    cancel_on_click,
    keep_true,
    on_way_out,
)
from dashboard.tabs.page import AT_ONCE, METHODS_INFO, Page, follow_model, layer_list

TITLE = "Metrics"
WAYS_OUT = {"metric_methods": "methods", "metric_layer": "layer", "metric_metrics": "metrics"}
"""Fields that buttons on cards of what went wrong change, and their widgets."""
EMPTY = [empty_panel("Choose methods and metrics, then press Measure.")]


@dataclass(frozen=True)
class MetricWidgets:
    """The tab.

    Attributes:
        methods: the methods' keys.
        layer: the layer of CAM methods.
        random_maps: how many random maps to rank each map against.
        metrics: the metrics' keys, by the question they answer.
        evidence: where the evidence is.
        metric_settings: holds the metrics' parameters.
        run: starts measuring.
        cancel: stops whatever the tab is doing.
        result: the curve that is inspected, large.
        steps: holds what chooses a step of the curve.
        curve: whose steps can be inspected.
        share: of the pixels removed or restored, in per cent.
        beside: holds the step.
        step: the picture at this step, and its prediction.
        table: scores.
        others: further curves, and the reasons for missing scores.
        ways_out: hears of buttons that change what is measured.
    """

    methods: gr.Dropdown
    layer: Choice
    random_maps: gr.Number
    metrics: GroupedChoice
    evidence: evidence.EvidenceWidgets
    metric_settings: gr.Column
    run: gr.Button
    cancel: gr.Button
    result: CurveStage
    steps: gr.Group
    curve: Choice
    share: gr.Slider
    beside: gr.Column
    step: Panels
    table: gr.Dataframe
    others: Panels
    ways_out: WaysOut


def layout() -> MetricWidgets:
    """The methods, the answer with the curve first, then what can be measured."""
    methods = _methods()
    with gr.Row(equal_height=False):
        run = gr.Button(
            "Measure", variant="primary", elem_id="metric-run", size="md", scale=0, min_width=140
        )
        cancel = gr.Button("Cancel", size="md", scale=0, min_width=100)
        drawing = evidence.layout_drawing()
    with answer_column("measure"):
        answer = _answer()
    return MetricWidgets(**methods, run=run, cancel=cancel, **answer, **_choices(drawing))


def _methods() -> dict[str, Any]:
    with gr.Row(equal_height=False):
        methods = gr.Dropdown(
            actions.method_choices(),
            value=["gradcam", "layercam"],
            multiselect=True,
            allow_custom_value=True,
            label="Methods",
            info=METHODS_INFO,
            elem_id="metric-methods",
            scale=3,
            min_width=280,
        )
        layer = layer_list(info="For CAM methods", scale=1, min_width=160)
        random_maps = gr.Number(
            0,
            label="Rank against random maps",
            info="Number of random maps; 0 for none",
            minimum=0,
            maximum=actions.MAX_RANDOM_MAPS,
            precision=0,
            elem_id="random-maps",
            scale=1,
            min_width=220,
        )
    return {"methods": methods, "layer": layer, "random_maps": random_maps}


def _answer() -> dict[str, Any]:
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            result = CurveStage(
                EMPTY, elem_id="metric-result", card_width=280, columns=1, min_height=140
            )
            with gr.Group(visible=False) as steps:
                curve = Choice([], label="Inspect a curve", elem_id="curve")
                share = gr.Slider(
                    0, 100, 25, step=1, label="Pixels removed or restored (%)", elem_id="share"
                )
        with gr.Column(scale=2, min_width=280, visible=False) as beside:
            step = Panels([], elem_id="curve-step", card_width=240, columns=1)
    table = gr.Dataframe(interactive=False, visible=False, label="Scores", elem_id="scores")
    others = Panels([], elem_id="metric-others", card_width=320, columns=2)
    ways_out = WaysOut(WAYS_OUT, elem_id="metric-ways-out")
    return {
        "result": result,
        "steps": steps,
        "curve": curve,
        "share": share,
        "beside": beside,
        "step": step,
        "table": table,
        "others": others,
        "ways_out": ways_out,
    }


def _choices(drawing: dict[str, Any]) -> dict[str, Any]:
    gr.Markdown(
        "### What to measure\n\\* Not a reliable test on its own",
        elem_classes="ts-note",
    )
    metrics = GroupedChoice(
        actions.metric_groups(), ["deletion", "insertion", "srg"], elem_id="metrics"
    )
    with gr.Accordion("Evidence from a box or a file", open=False, elem_id="evidence"):
        marks = evidence.layout_marks()
    with gr.Accordion("Settings of the metrics", open=False):
        settings = gr.Column(elem_id="metric-settings")
    return {
        "metrics": metrics,
        "evidence": evidence.EvidenceWidgets(**drawing, **marks),
        "metric_settings": settings,
    }


def wire(page: Page, tab: MetricWidgets) -> None:
    """Connect the tab."""
    hidden = {
        tab.table: gr.Dataframe(visible=False),
        tab.steps: gr.Group(visible=False),
        tab.beside: gr.Column(visible=False),
        tab.step: [],
        tab.others: [],
    }
    area = AnswerArea("measure", "Measure", tab.result, hidden, ("curve_step",), "metric-run")
    follow_model(page, methods=tab.methods, layers=tab.layer)
    evidence.wire(page, tab.evidence)
    _show_settings(page, tab)
    measured = _measure(page, tab, area)
    _curve_steps(page, tab, measured)
    cancel_on_click(page, tab.cancel, area)
    on_way_out(tab.ways_out, {name: getattr(tab, widget) for name, widget in WAYS_OUT.items()})


def _show_settings(page: Page, tab: MetricWidgets) -> None:
    """Show the parameters of the chosen metrics only."""

    def draw(metrics: list[str], settings: actions.Settings) -> None:
        chosen = [METRICS[key] for key in metrics if METRICS[key].model_fields]
        if not chosen:
            gr.Markdown("The chosen metrics have no settings.", elem_classes="ts-note")
        with gr.Row():
            for cls in chosen:
                with gr.Column(min_width=240):
                    gr.Markdown(f"**{cls.label}** {cls.caveat}")
                    settings_group(cls, settings, page.settings)

    triggers = [page.demo.load, tab.metrics.change]
    with tab.metric_settings:
        gr.render([tab.metrics, page.settings], triggers, show_progress="hidden")(draw)


def _measure(page: Page, tab: MetricWidgets, area: AnswerArea) -> Dependency:
    def show(found: MeasureResult) -> dict[Any, Any]:
        curves = actions.curve_choices(found.curves)
        first = max(1, found.inspected)
        return {
            tab.result: area.answer(replace(found, panels=found.panels[:first])),
            tab.table: gr.Dataframe(found.table, headers=found.headers, visible=bool(found.table)),
            tab.curve: gr.Dropdown(curves, value=curves[0][1] if curves else None),
            tab.steps: gr.Group(visible=bool(curves)),
            tab.beside: gr.Column(visible=bool(curves)),
            tab.step: [],
            tab.others: found.panels[first:],
        }

    inputs = page.inputs(MeasureRequest, tab, tab.evidence)
    chosen: list[Any] = [tab.methods, tab.layer, tab.metrics]
    keep_true(page, area, inputs, [*(one.input for one in chosen), tab.ways_out.select])
    failed = area.on_fault("This could not be measured", lambda request: request.chosen)
    options = ask(page, area, actions.measure, inputs, show, failed)
    options["outputs"] = [*area.outputs, tab.curve]
    shown = {name: getattr(tab, name) for name in ("methods", "metrics", "layer", "random_maps")}
    measured: Dependency = gr.on(
        [tab.run.click, page.address.restore_tab("metrics", shown)], **options
    )
    return measured


def _curve_steps(page: Page, tab: MetricWidgets, measured: Dependency) -> None:
    """Show one step of a curve: the first one when curves arrive, then the one chosen.

    The cursor on the curve moves at once, in the browser.
    """

    def failed(request: CurveStepRequest, error: TimmscopeError) -> list[Panel]:
        return [
            actions.fault_card(
                "This step could not be shown", request.question, error, "metric-run"
            )
        ]

    chosen: list[Any] = [tab.curve, tab.share]
    gr.on([tab.curve.change, tab.share.change], None, chosen, None, js=POINT_JS, **AT_ONCE)
    inputs = page.inputs(CurveStepRequest, tab)
    step = page.handler(
        "curve_step", actions.curve_step, inputs, lambda found: found.panels, failed
    )
    options: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden"}
    gr.on(
        [tab.curve.input, tab.share.change],
        step,
        inputs.components,
        tab.step,
        **options,
    )
    measured.success(step, inputs.components, tab.step, **options)

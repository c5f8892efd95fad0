"""Metrics: how good maps are, beside maps that do not depend on the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from core import METRICS
from core.errors import TimmscopeError
from core.views.panels import Panel, empty_panel
from dashboard import actions
from dashboard.actions import CurveStepRequest, MeasureRequest, MeasureResult
from dashboard.components import Choice, Panels, settings_group
from dashboard.tabs import evidence
from dashboard.tabs.answers import AnswerArea, answer_column, ask, cancel_on_click, keep_true
from dashboard.tabs.page import METHODS_INFO, Page, follow_model

TITLE = "Metrics"
EMPTY = [empty_panel("Choose methods and metrics, then press Measure.")]


@dataclass(frozen=True)
class MetricWidgets:
    """The tab.

    Attributes:
        methods: the methods' keys.
        layer: the layer of CAM methods.
        random_maps: how many random maps to rank each map against.
        metrics: the metrics' keys.
        evidence: where the evidence is.
        metric_settings: holds the metrics' parameters.
        run: starts measuring.
        cancel: stops whatever the tab is doing.
        result: curves.
        table: scores.
        steps: holds what chooses a step of a curve.
        curve: whose steps can be inspected.
        share: of the pixels removed or restored, in per cent.
        step: the picture at this step, and its prediction.
    """

    methods: gr.Dropdown
    layer: Choice
    random_maps: gr.Number
    metrics: gr.CheckboxGroup
    evidence: evidence.EvidenceWidgets
    metric_settings: gr.Column
    run: gr.Button
    cancel: gr.Button
    result: Panels
    table: gr.Dataframe
    steps: gr.Group
    curve: Choice
    share: gr.Slider
    step: Panels


def layout() -> MetricWidgets:
    """What to measure at the top, curves and scores below, then the steps of a curve."""
    return MetricWidgets(**_question(), **_answer())


def _question() -> dict[str, Any]:
    widgets: dict[str, Any] = {}
    with gr.Row(equal_height=False):
        widgets["methods"] = gr.Dropdown(
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
        widgets["layer"] = Choice([], label="Layer", info="For CAM methods", scale=1, min_width=160)
        widgets["random_maps"] = gr.Number(
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
    widgets["metrics"] = gr.CheckboxGroup(
        actions.metric_choices(),
        value=["deletion", "insertion", "srg"],
        label="Metrics",
        info="* Not a reliable test on its own; see docs/metrics.md",
        elem_id="metrics",
    )
    with gr.Accordion("Where the evidence is", open=False, elem_id="evidence"):
        widgets["evidence"] = evidence.layout()
    with gr.Accordion("Settings of the metrics", open=False):
        widgets["metric_settings"] = gr.Column(elem_id="metric-settings")
    return widgets


def _answer() -> dict[str, Any]:
    with gr.Row():
        run = gr.Button(
            "Measure", variant="primary", elem_id="metric-run", size="md", scale=0, min_width=160
        )
        cancel = gr.Button("Cancel", size="md", scale=0, min_width=120)
    with answer_column("measure"):
        return {"run": run, "cancel": cancel, **_results()}


def _results() -> dict[str, Any]:
    result = Panels(EMPTY, elem_id="metric-result", card_width=320, columns=2, min_height=260)
    table = gr.Dataframe(interactive=False, visible=False, label="Scores", elem_id="scores")
    with gr.Group(visible=False, elem_id="curve-steps") as steps, gr.Row():
        curve = Choice([], label="Inspect a curve", elem_id="curve", scale=2, min_width=220)
        share = gr.Slider(
            0, 100, 25, step=1, label="Pixels removed or restored (%)", elem_id="share", scale=3
        )
    step = Panels([], elem_id="curve-step", card_width=260, columns=2)
    return {
        "result": result,
        "table": table,
        "steps": steps,
        "curve": curve,
        "share": share,
        "step": step,
    }


def wire(page: Page, tab: MetricWidgets) -> None:
    """Connect the tab."""
    hidden = {
        tab.table: gr.Dataframe(visible=False),
        tab.steps: gr.Group(visible=False),
        tab.step: [],
    }
    area = AnswerArea("measure", "Measure", tab.result, hidden, tasks=("curve_step",))
    follow_model(page, methods=tab.methods, layers=tab.layer)
    evidence.wire(page, tab.evidence)
    _show_settings(page, tab)
    measured = _measure(page, tab, area)
    _curve_steps(page, tab, measured)
    cancel_on_click(page, tab.cancel, area)


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
        return {
            tab.result: area.answer(found),
            tab.table: gr.Dataframe(found.table, headers=found.headers, visible=bool(found.table)),
            tab.curve: gr.Dropdown(curves, value=curves[0][1] if curves else None),
            tab.steps: gr.Group(visible=bool(curves)),
            tab.step: [],
        }

    inputs = page.inputs(MeasureRequest, tab, tab.evidence)
    keep_true(page, area, inputs, [tab.methods.input, tab.layer.input, tab.metrics.input])
    failed = area.on_fault("This could not be measured")
    options = ask(page, area, actions.measure, inputs, show, failed)
    options["outputs"] = [*area.outputs, tab.curve]
    return tab.run.click(api_name="measure", **options)


def _curve_steps(page: Page, tab: MetricWidgets, measured: Dependency) -> None:
    """Show one step of a curve: the first one when curves arrive, then the one chosen."""

    def failed(request: CurveStepRequest, error: TimmscopeError) -> list[Panel]:
        return [actions.fault_card("This step could not be shown", request.question, error)]

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
        api_name="curve_step",
        **options,
    )
    measured.success(step, inputs.components, tab.step, api_visibility="private", **options)

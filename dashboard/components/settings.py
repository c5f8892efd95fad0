"""Widgets made from the parameters that methods and metrics declare."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import gradio as gr
from gradio.components import Component

from core.registry import Parameters
from dashboard.actions.explain import CONTRAST
from dashboard.actions.question import Settings, params_of
from dashboard.components.scripts import on_event

MAX_SLIDER_STEPS = 600
"""A range of more steps is typed, not dragged."""


def widget_for(schema: dict[str, Any], value: Any) -> Component:
    """The widget for one parameter.

    Args:
        schema: the parameter's JSON schema.
        value: what the widget starts with.
    """
    common: dict[str, Any] = {
        "label": schema["title"],
        "info": schema.get("description"),
        "value": value,
        "interactive": True,
    }
    kind = schema.get("type")
    if kind == "boolean":
        return gr.Checkbox(**common)
    if kind == "array":
        return gr.CheckboxGroup(choices=schema["items"]["enum"], **common)
    if "enum" in schema:
        return gr.Dropdown(choices=schema["enum"], **common)
    if kind in ("integer", "number"):
        return _number(schema, common)
    return gr.Textbox(**common)


def _number(schema: dict[str, Any], common: dict[str, Any]) -> Component:
    """A slider, or a box to type in where the range is open or wide."""
    low, high = schema.get("minimum"), schema.get("maximum")
    whole = schema["type"] == "integer"
    step = 1 if whole else 0.01
    if low is None or high is None or (high - low) / step > MAX_SLIDER_STEPS:
        return gr.Number(precision=0 if whole else None, minimum=low, maximum=high, **common)
    # Without the button that resets: it would go back to what the person set, not to the default.
    return gr.Slider(low, high, step=step, buttons=[], **common)


def settings_group(
    cls: type[Parameters],
    settings: Settings | None,
    store: gr.JSON,
    supports: Collection[str] | None = None,
) -> None:
    """Widgets for the parameters of one method or metric; for use within ``gr.render``.

    What a person changes goes into `store` as ``{key: {parameter: value}}`` without a request, so
    it is there again when they come back to the method. What they set back is taken out again.

    Args:
        cls: the method or metric.
        settings: what the store holds.
        store: collects what differs from the defaults.
        supports: the needs that the model meets; a parameter that changes nothing without another
            one is left out. None for all parameters.
    """
    fields = {
        name: schema
        for name, schema in cls.schema_of_fields().items()
        if supports is None or set(schema.get("needs", ())) <= set(supports)
    }
    changed = params_of(settings, cls.key, cls)
    if not fields:
        return
    with gr.Group():
        for name, schema in fields.items():
            # A group of checkboxes fails in the browser where a widget of another kind takes its
            # place when another method is chosen; a column of its own keeps the place.
            apart = gr.Column() if schema.get("type") == "array" else nullcontext()
            with apart:
                widget: Any = widget_for(schema, changed.get(name, schema.get("default")))
            # A default that another question changes is kept where a person says it.
            usual = [] if name in CONTRAST else [schema.get("default")]
            # Not `change`, which also fires when a widget appears.
            put = on_event("settings.put", cls.key, name, usual)
            widget.input(None, [widget, store], store, js=put)

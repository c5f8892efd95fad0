"""Widgets made from what methods and metrics say of their own parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from core.registry import Parameters

LARGEST_SLIDER = 600
"""A range wider than this is typed, not dragged."""


class Choice(gr.Dropdown):
    """A dropdown whose choices follow the model or the picture.

    What is chosen is checked where it is used: a caller of the API never saw the choices.
    """

    def preprocess(self, payload: Any) -> Any:
        """Whatever was chosen or sent."""
        return payload

    def api_info(self) -> dict[str, Any]:
        """Anything, for callers of the API."""
        return {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "as on the page"}

    def get_block_name(self) -> str:
        """The page's own component that this one builds on."""
        return "dropdown"


def control(schema: dict[str, Any]) -> Component:
    """The widget for one parameter's JSON schema."""
    label, info = schema["title"], schema.get("description")
    common: dict[str, Any] = {"label": label, "info": info, "value": schema.get("default")}
    kind = schema.get("type")
    if kind == "boolean":
        return gr.Checkbox(**common)
    if kind == "array":
        return gr.CheckboxGroup(choices=schema["items"]["enum"], **common)
    if "enum" in schema:
        return gr.Dropdown(choices=schema["enum"], **common)
    if kind in ("integer", "number"):
        low, high = schema.get("minimum"), schema.get("maximum")
        step = 1 if kind == "integer" else 0.01
        if low is None or high is None or (high - low) / step > LARGEST_SLIDER:
            return gr.Number(
                precision=0 if kind == "integer" else None, minimum=low, maximum=high, **common
            )
        return gr.Slider(low, high, step=step, **common)
    return gr.Textbox(**common)


def settings(
    registry: Mapping[str, type[Parameters]], store: gr.JSON, shown: str
) -> dict[str, gr.Group]:
    """A group of widgets for every member of a registry that has parameters.

    What a person changes goes into `store` as ``{key: {parameter: value}}``, within the page.

    Args:
        registry: the methods or metrics.
        store: collects what differs from the defaults.
        shown: the key whose group is visible at first.
    """
    groups = {}
    for key, cls in registry.items():
        fields = cls.schema_of_fields()
        if not fields:
            continue
        with gr.Group(visible=key == shown) as groups[key]:
            for name, schema in fields.items():
                widget = control(schema)
                widget.change(None, [widget, store], store, js=_store_js(key, name))  # type: ignore[attr-defined]
    return groups


def _store_js(key: str, name: str) -> str:
    key, name = json.dumps(key), json.dumps(name)
    return f"(value, kept) => ({{...kept, [{key}]: {{...(kept ?? {{}})[{key}], [{name}]: value}}}})"


def params_of(
    kept: dict[str, dict[str, Any]] | None, key: str, cls: type[Parameters]
) -> dict[str, Any]:
    """The parameters a person set for `key`, of those it has."""
    given = kept.get(key) if isinstance(kept, Mapping) else None
    if not isinstance(given, Mapping):
        return {}
    return {name: value for name, value in given.items() if name in cls.model_fields}

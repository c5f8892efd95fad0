"""Gradio's own fields, but for what they hand on to Python."""

from __future__ import annotations

from typing import Any

import gradio as gr


class Choice(gr.Dropdown):
    """A dropdown whose choices follow the model or the picture.

    The value is checked where it is used: a caller of the API never saw the choices.
    """

    def preprocess(self, payload: Any) -> Any:
        """Whatever was chosen or sent."""
        return payload

    def _warn_if_invalid_choice(self, value: Any) -> None:
        """Nothing: the value may arrive before the choices."""

    def api_info(self) -> dict[str, Any]:
        """Text or a whole number, for callers of the API."""
        return {"anyOf": [{"type": "string"}, {"type": "integer"}], "description": "as on the page"}

    def get_block_name(self) -> str:
        """The component of the page that this one builds on."""
        return "dropdown"


class Picture(gr.Image):
    """A picture as the uploaded file, which `core.inputs.image` decodes and checks."""

    def preprocess(self, payload: Any) -> str | None:
        """The path of the uploaded file."""
        return None if payload is None else payload.path

    def get_block_name(self) -> str:
        """The component of the page that this one builds on."""
        return "image"

"""Gradio's own fields, but for what they hand on to Python."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr
from gradio.data_classes import JsonData


@dataclass(frozen=True)
class ProposedClasses:
    """The classes that a prediction proposes; question.js takes them unless others are chosen.

    Attributes:
        target: the class to explain.
        versus: the class to compare it with.
        asked_at: the stamp that the question came with.
    """

    target: int | str | None
    versus: int | str | None
    asked_at: float = 0.0


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


class Chosen(gr.JSON):
    """What a person has chosen in a long list, without the list.

    The browser copies an event's inputs, and of a dropdown all its choices: a thousand classes took
    most of the time until the page answered.
    """

    def follow(self, choice: Choice) -> None:
        """Keep it and the list that it is chosen from alike.

        Call it before other events of the list, which then find the new value here.
        """
        same: dict[str, Any] = {"js": "(value) => value", "show_progress": "hidden"}
        choice.input(None, choice, self, **same)
        self.change(None, self, choice, **same)

    def postprocess(self, value: Any) -> JsonData | None:
        """The value itself; text is not read as JSON."""
        if isinstance(value, ProposedClasses):
            value = asdict(value)
        return None if value is None else JsonData(value)

    def get_block_name(self) -> str:
        """The component of the page that this one builds on."""
        return "json"


class Picture(gr.Image):
    """A picture as the uploaded file, which `core.inputs.image` decodes and checks."""

    def preprocess(self, payload: Any) -> str | None:
        """The path of the uploaded file."""
        return None if payload is None else payload.path

    def get_block_name(self) -> str:
        """The component of the page that this one builds on."""
        return "image"

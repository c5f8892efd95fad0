"""Functions of a question as handlers of the page's events.

Gradio hands a handler each input on its own, and takes the names of its API from the handler's
parameters. Here a function names what is its own, and the handler gets the inputs of the question
in front of these.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from inspect import Parameter
from typing import Any

import gradio as gr

from core.errors import CancelledError
from core.inputs.batch import OnProgress
from dashboard.state import Question, Service

Handler = Callable[..., Any]
ASKED = [
    Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=hint)
    for name, hint in typing.get_type_hints(Question).items()
]
"""The inputs of a question, in its order."""


def asking(function: Handler) -> Handler:
    """A handler from ``function(question, *own)``."""

    @functools.wraps(function)
    def handler(*inputs: Any) -> Any:
        return function(_question(inputs), *inputs[len(ASKED) :])

    return _signed(handler, [*ASKED, *_parameters(function)[1:]])


def working(service: Service, task: str) -> Callable[[Handler], Handler]:
    """A handler from ``function(question, on_progress, *own)`` that reports and can be cancelled.

    The next of the same visitor's `task` stops the one before.
    """

    def decorate(function: Handler) -> Handler:
        @functools.wraps(function)
        def handler(*inputs: Any) -> Any:
            *given, request, progress = inputs
            on_progress = begin(service, task, request, progress)
            try:
                return function(_question(given), on_progress, *given[len(ASKED) :])
            except CancelledError:
                return gr.skip()

        bar = gr.Progress()
        last = [
            Parameter("request", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request),
            Parameter(
                "progress", Parameter.POSITIONAL_OR_KEYWORD, default=bar, annotation=gr.Progress
            ),
        ]
        return _signed(handler, [*ASKED, *_parameters(function)[2:], *last])

    return decorate


def begin(
    service: Service, task: str, request: gr.Request, progress: gr.Progress | None = None
) -> OnProgress:
    """Start a visitor's task: reports to the progress bar, stops when cancelled."""

    def report(share: float, text: str) -> None:
        if progress is not None:
            progress(share, desc=text)

    return service.begin(session(request, task), report)


def session(request: gr.Request, task: str) -> str:
    """Who asks for what."""
    return f"{request.session_hash}/{task}"


def _question(inputs: Sequence[Any]) -> Question:
    return Question(*inputs[: len(ASKED)])


def _parameters(function: Handler) -> list[Parameter]:
    """A function's parameters with what their annotations mean, not what they say."""
    hints = typing.get_type_hints(function)
    return [
        p.replace(annotation=hints.get(name, Any))
        for name, p in inspect.signature(function).parameters.items()
    ]


def _signed(handler: Handler, parameters: list[Parameter]) -> Handler:
    handler.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    handler.__annotations__ = {p.name: p.annotation for p in parameters}
    return handler

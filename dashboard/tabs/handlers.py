"""One handler for every action of the page: progress, cancelling, and what went wrong."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from inspect import Parameter
from typing import Any, Protocol, TypeVar

import gradio as gr

from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from core.runtime.model_call import failure_of
from dashboard import gpu
from dashboard.actions import brief
from dashboard.components import Answer, ProposedClasses
from dashboard.state import Service
from dashboard.state.tasks import Task
from dashboard.tabs.binding import Inputs
from dashboard.visitor import PROGRESS, session

logger = logging.getLogger(__name__)

R_contra = TypeVar("R_contra", contravariant=True)
R = TypeVar("R")
T = TypeVar("T")
OnFault = Callable[[R, TimmscopeError], Any]
"""The outputs of an event whose action failed."""

STAMP = Parameter("asked_at", Parameter.POSITIONAL_OR_KEYWORD, annotation=float)
"""When the visitor asked, by the visitor's clock."""
LAST = [
    Parameter("visitor", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request),
    Parameter(
        "progress", Parameter.POSITIONAL_OR_KEYWORD, default=PROGRESS, annotation=gr.Progress
    ),
]
"""What Gradio adds to an event's inputs."""


class Action(Protocol[R_contra]):
    """What the page can do; see `dashboard.actions`."""

    def __call__(
        self, service: Service, request: R_contra, on_progress: OnProgress | None = None, /
    ) -> Any:
        """The result, or an iterator of results that replace each other."""


def handler(
    service: Service,
    task: str,
    action: Action[R],
    inputs: Inputs[R],
    show: Callable[[Any], Any],
    on_fault: OnFault[R] | None = None,
    on_cancel: Callable[[R], Any] | None = None,
    *,
    stamped: bool = False,
) -> Callable[..., Any]:
    """The handler of an event that runs an action.

    A `TimmscopeError`, and whatever else a model raised, becomes what `on_fault` returns, by
    default a message in a corner of the page. A cancelled action leaves the page as it is, unless
    `on_cancel` says otherwise. Any other error is a fault in our own code: it is logged with its
    traceback and passed on.

    Args:
        service: models and running tasks.
        task: what is running; the same visitor's next task of that name cancels this one. Empty
            for an action that needs no cancelling.
        action: called with the service, the request and a progress callback.
        inputs: make the request.
        show: the event's outputs from the action's result.
        on_fault: the event's outputs from the request and the error.
        on_cancel: the event's outputs from the request.
        stamped: whether the last input says when the visitor asked; every `Answer` among the
            outputs, and `ProposedClasses`, bears that time.
    """
    compute = gpu.borrowing(action, service)

    def outcomes(*values: Any) -> Iterator[Any]:
        *given, visitor, progress = values
        asked_at = float(given.pop() or 0) if stamped else 0.0
        request = inputs.build(given)
        on_progress = _begin(service, task, visitor, progress, asked_at)
        try:
            if on_progress is not None:
                on_progress.check()  # a cancellation may have overtaken it
            for result in _results(compute, service, request, on_progress):
                yield _bearing(show(result), asked_at)
        except CancelledError:
            yield on_cancel(request) if on_cancel else gr.skip()
        except Exception as error:
            known = failure_of(error)
            if known is None:
                logger.exception("%s failed", getattr(action, "__name__", task))
                raise
            if stamped and not asked_at:  # a program asked, which sees no other part of the page
                known = TimmscopeError(str(known), known.ways_out)
            if on_fault is None:
                raise gr.Error(brief(known), print_exception=False) from None
            yield _bearing(on_fault(request, known), asked_at)

    def once(*values: Any) -> Any:
        return next(outcomes(*values))

    run = outcomes if inspect.isgeneratorfunction(action) else once
    return _with_signature(run, [*inputs.parameters, *([STAMP] if stamped else []), *LAST], action)


def _results(
    action: Action[R], service: Service, request: R, on_progress: OnProgress | None
) -> Iterator[Any]:
    if inspect.isgeneratorfunction(action):
        yield from action(service, request, on_progress)
    else:
        yield action(service, request, on_progress)


def _bearing(outputs: Any, asked_at: float) -> Any:
    """The outputs, with the time at which they were asked for."""
    if not asked_at or not isinstance(outputs, Mapping):
        return outputs
    return {
        component: replace(value, asked_at=asked_at)
        if isinstance(value, Answer | ProposedClasses)
        else value
        for component, value in outputs.items()
    }


def _begin(
    service: Service, task: str, visitor: gr.Request, progress: gr.Progress, asked_at: float
) -> Task | None:
    if not task:
        return None

    def report(share: float, text: str) -> None:
        progress(share, desc=text)

    return service.tasks.begin(session(visitor, task), report, asked_at)


def _with_signature(
    run: Callable[..., Any], parameters: list[Parameter], action: Action[Any]
) -> Callable[..., Any]:
    """The same function, with the names and the description that Gradio shows in its API."""
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__ = getattr(action, "__name__", run.__name__)
    run.__doc__ = (action.__doc__ or "").partition("\n\n")[0]
    return run

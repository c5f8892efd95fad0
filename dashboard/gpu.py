"""The graphics processor that a ZeroGPU Space lends, for as long as an answer takes.

There, a function marked with `spaces.GPU` runs in a process of its own that has the processor. Its
arguments and its result go from process to process, so they hold no service, no callback and no
error of ours but as a value. The process keeps a service of its own, whose models are on `cuda`;
those of the page are on the CPU, and only tell which layers and methods there are.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from core.errors import TimmscopeError
from core.runtime.model_call import failure_of
from dashboard.state import Service
from dashboard.visitor import report

SECONDS = 60
"""For how long the processor is lent at most, for one answer."""
ON_CPU = {
    "open_model", "describe_model", "describe_method", "estimate", "drawing_canvas", "share",
    "method_guide", "methods", "metrics", "models", "layers", "_extend",
}  # fmt: skip
"""Functions that compute nothing worth the processor."""


@dataclass(frozen=True)
class Outcome:
    """What an action gave, as it goes from process to process.

    Attributes:
        value: its result.
        error: what a person can cause or cure; None if it went well.
    """

    value: Any = None
    error: TimmscopeError | None = None

    def take(self) -> Any:
        """The result.

        Raises:
            TimmscopeError: there is none.
        """
        if self.error is not None:
            raise self.error
        return self.value


def is_lent() -> bool:
    """Whether this is a ZeroGPU Space."""
    wanted = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
    return wanted and find_spec("spaces") is not None


def borrowing(action: Callable[..., Any], service: Service) -> Callable[..., Any]:
    """The same action, on the lent processor where there is one.

    What runs there cannot be cancelled; it ends with its time.

    Args:
        action: an action of the page or an endpoint of the API.
        service: of the page.
    """
    if not is_lent() or action.__name__ in ON_CPU:
        return action
    lend = importlib.import_module("spaces").GPU(duration=SECONDS)
    own = functools.cache(lambda: service.on("cuda"))  # made in the process that has the processor

    def many(request: Any) -> Iterator[Outcome]:
        yield from _outcomes(action, own(), request)

    def single(request: Any) -> Outcome:
        return next(many(request))

    if inspect.isgeneratorfunction(action):
        lent_often = lend(many)

        @functools.wraps(action)
        def steps(service: Service, request: Any, on_progress: Any = None) -> Iterator[Any]:
            for outcome in lent_often(request):
                yield outcome.take()

        return steps
    lent_once = lend(single)

    @functools.wraps(action)
    def answer(service: Service, request: Any, on_progress: Any = None) -> Any:
        return lent_once(request).take()

    return answer


def _outcomes(action: Callable[..., Any], service: Service, request: Any) -> Iterator[Outcome]:
    """What an action gives; of an error that a person can cause or cure, the error."""
    on_progress = service.tasks.begin("gpu", report)
    try:
        found = action(service, request, on_progress)
        for value in found if inspect.isgeneratorfunction(action) else [found]:
            yield Outcome(value)
    except Exception as error:
        told = failure_of(error)
        if told is None:
            raise
        yield Outcome(error=told)

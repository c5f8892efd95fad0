"""Endpoints as Gradio offers them.

An endpoint's parameters are the fields of its request: names, types, defaults and descriptions come
from the dataclass, and values from outside are checked against it. The work runs in a thread whose
result is given up when the caller cancels, and which stops at its next step.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import itertools
import logging
import re
import typing
from collections.abc import Callable, Iterator
from functools import partial
from inspect import Parameter
from typing import Any

import gradio as gr
from anyio import to_thread
from gradio.events import api
from pydantic import TypeAdapter, ValidationError

from core.errors import CancelledError, TimmscopeError
from core.inputs.batch import OnProgress
from core.runtime.model_call import failure_of
from dashboard import gpu
from dashboard.api.endpoints import ENDPOINTS
from dashboard.state import Service
from dashboard.visitor import report, session

logger = logging.getLogger(__name__)

Endpoint = Callable[[Service, Any, OnProgress | None], Any]
NUMBER = itertools.count(1)
"""Tells the calls of one caller apart."""


def serve(service: Service, demo: gr.Blocks) -> None:
    """Offer every endpoint, and nothing else that the page consists of.

    Args:
        service: models and running tasks.
        demo: the page, which is being built.
    """
    for event in demo.fns.values():
        event.api_visibility, event.api_name = "private", f"page_{event.api_name}"
    for endpoint in ENDPOINTS:
        event = api(
            handler(service, demo, endpoint),
            api_name=endpoint.__name__,
            api_description=description(endpoint),
        )
        words = descriptions(typing.get_type_hints(endpoint)["request"])
        parameters = parameters_of(typing.get_type_hints(endpoint)["request"])
        inputs: list[Any] = list(demo.fns[event["id"]].inputs)
        for parameter, taken in zip(parameters, inputs, strict=True):
            taken._api_info["additional_description"] = words[parameter.name]


def handler(service: Service, demo: gr.Blocks, endpoint: Endpoint) -> Callable[..., Any]:
    """The function that Gradio calls for an endpoint; see `answer` for its errors.

    Args:
        service: models and running tasks.
        demo: whose threads do the work.
        endpoint: what is offered.
    """
    hints = typing.get_type_hints(endpoint)
    parameters = parameters_of(hints["request"])
    names = [parameter.name for parameter in parameters]
    compute = gpu.borrowing(endpoint, service)

    async def run(*given: Any) -> Any:
        caller, *values = given
        task = session(caller, f"{endpoint.__name__}-{next(NUMBER)}")
        on_progress = service.tasks.begin(task, report)
        work = partial(
            answer, service, compute, hints["request"], dict(zip(names, values, strict=True)),
            on_progress,
        )  # fmt: skip
        try:
            return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=demo.limiter)
        except asyncio.CancelledError:
            service.tasks.cancel(task)
            raise

    caller = Parameter("caller", Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    signature = inspect.Signature([caller, *parameters], return_annotation=hints["return"])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [caller, *parameters]}
    run.__name__ = endpoint.__name__
    run.__doc__ = documentation(endpoint, hints["request"])
    return run


def answer(
    service: Service,
    endpoint: Endpoint,
    request: type[Any],
    values: dict[str, Any],
    on_progress: OnProgress | None,
) -> Any:
    """What an endpoint gives for values from outside.

    Raises:
        gr.Error: the caller can cure it; a sentence, and what to try.
    """
    try:
        return endpoint(service, checked(request, values), on_progress)
    except Exception as error:
        told = failure_of(error)
        if told is None:
            logger.exception("%s failed", endpoint.__name__)
            raise
        if not isinstance(told, CancelledError):
            logger.info("%s was refused: %s", endpoint.__name__, told)
        raise gr.Error(told_with_ways_out(told, request), print_exception=False) from None


def told_with_ways_out(error: TimmscopeError, request: type[Any]) -> str:
    """The sentence of an error, then the parameters that help, as far as a request has them.

    >>> from core.errors import unknown
    >>> from dashboard.api.requests import OfModel
    >>> told_with_ways_out(unknown("model", "resnt50", ["resnet50"]), OfModel)
    "no model 'resnt50'; did you mean 'resnet50'? Try model=resnet50."
    """
    names = {field.name for field in dataclasses.fields(request)}
    tries = [
        f"{way.field}={way.value}" if way.field in names else f"{way.value} among {way.field}s"
        for way in error.ways_out
        if way.field in names or f"{way.field}s" in names
    ]
    sentence = str(error)
    if not tries:
        return sentence
    return f"{sentence}{'' if sentence[-1:] in '.?!' else '.'} Try {' or '.join(tries)}."


def checked(request: type[Any], values: dict[str, Any]) -> Any:
    """The request that values from outside make.

    A file must be one that Gradio has taken in, which it marks: a bare path would reach the disk.

    Raises:
        TimmscopeError: a value is missing, of another type, or out of range.
    """
    try:
        return TypeAdapter(request).validate_python(values, context={"validate_meta": True})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        if typing.get_type_hints(request)[name] in (gr.FileData, gr.FileData | None):
            raise TimmscopeError(f"{name} is no file; send one with handle_file(...)") from None
        given = repr(first.get("input"))[:80]
        raise TimmscopeError(f"{name} = {given}: {first['msg']}") from None


def parameters_of(request: type[Any]) -> list[Parameter]:
    """The parameters that a request's fields make; those without a default come first."""
    hints = typing.get_type_hints(request)
    found = [
        Parameter(
            field.name,
            Parameter.POSITIONAL_OR_KEYWORD,
            default=_default(field),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(request)
    ]
    return sorted(found, key=lambda parameter: parameter.default is not Parameter.empty)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return Parameter.empty if field.default is dataclasses.MISSING else field.default


def description(endpoint: Endpoint) -> str:
    """What an endpoint gives, in a sentence."""
    text = inspect.getdoc(endpoint) or ""
    return " ".join(text.partition("\n\nRaises:")[0].split())


def documentation(endpoint: Endpoint, request: type[Any]) -> str:
    """What an endpoint gives, and what each of its parameters means."""
    words = descriptions(request)
    names = [parameter.name for parameter in parameters_of(request)]
    lines = [description(endpoint), "", "Args:", *(f"    {n}: {words[n]}" for n in names)]
    return "\n".join(lines if names else lines[:1])


def descriptions(request: type[Any]) -> dict[str, str]:
    """What each field of a request means, by name; those of its bases too."""
    found: dict[str, str] = {}
    for cls in reversed(request.__mro__):
        found |= dict(_attributes(cls.__dict__.get("__doc__") or ""))
    return found


def _attributes(text: str) -> Iterator[tuple[str, str]]:
    """Name and description of each entry below "Attributes:" in a docstring."""
    entries = inspect.cleandoc(text).partition("Attributes:\n")[2]
    for name, words in re.findall(r"^    (\w+): (.+?)(?=^    \w|\Z)", entries, re.S | re.M):
        yield name, " ".join(words.split())

"""Widgets bound to the fields of a request, by name.

Gradio hands an event's handler the values of its inputs one by one, in order. Here the order
follows from the request: each of its fields is read from the widget of the same name. Another
option of an action is a field of its request and a widget of that name.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.components import Component

R = TypeVar("R")


class Told(dict[str, Any]):
    """What a component of ours says of an event, by name, as plain data."""

    @classmethod
    def by(cls, event: gr.EventData) -> Told:
        """What an event says; empty if somebody sent something else."""
        return cls(event._data if isinstance(event._data, dict) else {})


@dataclasses.dataclass(frozen=True)
class Inputs(Generic[R]):
    """The inputs of an event, and the request that their values make.

    Attributes:
        request: a dataclass.
        widgets: by field, in the order of the event's inputs.
        constants: values of fields without a widget.
        parameters: of a handler, without the visitor and the progress bar.
    """

    request: type[R]
    widgets: Mapping[str, Component]
    constants: Mapping[str, Any]
    parameters: Sequence[Parameter]

    @property
    def components(self) -> list[Component]:
        """The event's inputs."""
        return list(self.widgets.values())

    def build(self, values: Sequence[Any]) -> R:
        """The request, from the values of the parameters in order."""
        names = [parameter.name for parameter in self.parameters]
        plain = [Told.by(one) if isinstance(one, gr.EventData) else one for one in values]
        named = {**dict(zip(names, plain, strict=True)), **self.constants}
        built: R = _build(self.request, named)
        return built


def inputs_of(request: type[R], *sources: object, **constants: Any) -> Inputs[R]:
    """Bind every field of a request to the widget of its name.

    A field that is itself a dataclass, such as the question, is bound field by field. A field of
    type `Told` is what a component tells of the event.

    Args:
        request: a dataclass.
        sources: widgets by name, as mappings or as dataclasses; a later one goes first.
        constants: values of fields without a widget.

    Raises:
        TypeError: a field has neither widget nor constant nor default.
    """
    known = _widgets(sources)
    widgets, parameters = {}, []
    for name, hint, required in _leaves(request):
        if name in constants:
            continue
        if name in known:
            widgets[name] = known[name]
        elif hint is Told:
            hint = gr.EventData  # for which Gradio gives the event
        else:
            if required:
                raise TypeError(f"{request.__name__}.{name} has no widget of that name")
            continue
        parameters.append(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=hint))
    return Inputs(request, widgets, constants, parameters)


def _widgets(sources: Sequence[object]) -> dict[str, Component]:
    named: dict[str, Any] = {}
    for source in sources:
        named |= source if isinstance(source, Mapping) else vars(source)
    return {name: widget for name, widget in named.items() if isinstance(widget, Component)}


def _leaves(cls: type) -> Iterator[tuple[str, Any, bool]]:
    """Name, type and whether it is required, of each field and of the fields of its dataclasses."""
    for field, hint in _fields(cls):
        if _is_dataclass(hint):
            yield from _leaves(hint)
        else:
            missing = dataclasses.MISSING
            yield field.name, hint, field.default is field.default_factory is missing


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    given = {}
    for field, hint in _fields(cls):
        if _is_dataclass(hint):
            given[field.name] = _build(hint, values)
        elif field.name in values:
            given[field.name] = values[field.name]
    return cls(**given)


def _fields(cls: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return ((field, hints[field.name]) for field in dataclasses.fields(cls))


def _is_dataclass(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)

"""The same method beside itself, with another setting."""

from __future__ import annotations

from collections.abc import Sequence

from core import METHODS
from core.errors import TimmscopeError
from core.methods.configuration import Configuration
from core.registry import key_of
from dashboard.actions.question import Choices

LAYER = "@"
"""Stands for the layer among the parameters of a method."""


def parameter_choices(method: str) -> Choices:
    """What can be changed of a method, with the default of each.

    >>> parameter_choices("gradcam")[:2]
    [('Layer', '@'), ('ReLU (True)', 'relu')]
    """
    cls = METHODS[key_of(method)]
    layer: Choices = [("Layer", LAYER)] if cls().layer_needs() else []
    fields = cls.schema_of_fields().items()
    return layer + [(f"{one['title']} ({one.get('default')})", name) for name, one in fields]


def add_variant(methods: Sequence[str], method: str, parameter: str, value: str) -> list[str]:
    """The methods chosen, the method itself, and the same with another setting.

    Args:
        methods: the names chosen so far.
        method: the method's key.
        parameter: the parameter's name; `LAYER` for the layer.
        value: its value, as text.

    Raises:
        TimmscopeError: nothing is set, or the value does not do.

    >>> add_variant(["gradcam"], "gradcam", "relu", "false")
    ['gradcam', 'gradcam(relu=False)']
    """
    key, value = METHODS[key_of(method)].key, value.strip()
    if not parameter or not value:
        raise TimmscopeError("Choose what to change, and give a value.")
    text = f"{key}@{value}" if parameter == LAYER else f"{key}({parameter}={value})"
    return list(dict.fromkeys([*methods, key, Configuration.parse(text).name]))

"""Configuration: a method with its parameters and its layer, under one readable name.

One method may be asked several times, with other parameters or at another layer. Results are
therefore kept by the name of the configuration, such as ``integrated_gradients(baselines=blur)`` or
``gradcam@layer3``, and the same text can be typed wherever a method is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from core.errors import TimmscopeError
from core.methods.base import METHODS, Method
from core.models.handle import ModelHandle
from core.models.named_layer import LayerLike, layer_name
from core.registry import changed_parameters, parse_instance


@dataclass(frozen=True)
class Configuration:
    """A method with its parameters, and the layer it looks at.

    Attributes:
        method: the method.
        layer: the layer's name, or the module itself, whose name an explainer of that model finds;
            None for the layer that the question names, or else the default.
    """

    method: Method
    layer: LayerLike | None = None

    @property
    def name(self) -> str:
        """The full name, with every parameter that is not the default.

        >>> Configuration(METHODS.make("lime", {"samples": 20})).name
        'lime(samples=20)'
        >>> Configuration(METHODS.make("gradcam"), "layer3").name
        'gradcam@layer3'
        """
        layer = type(self.layer).__name__ if isinstance(self.layer, nn.Module) else self.layer
        at = f"@{layer}" if layer else ""
        return f"{self.method.key}{at}{changed_parameters(self.method)}"

    @classmethod
    def parse(
        cls, text: str, params: Mapping[str, Mapping[str, object]] | None = None
    ) -> Configuration:
        """A configuration from its name.

        Args:
            text: ``method``, ``method@layer``, ``method(parameter=value, ...)`` or
                ``method@layer(parameter=value)``.
            params: parameters by method key, for those that `text` does not set.

        Raises:
            UnknownNameError: there is no such method or parameter.
            TimmscopeError: the text is not of that form, or a value is out of range.

        >>> Configuration.parse("gradcam@layer3").layer
        'layer3'
        """
        match = re.fullmatch(r"\s*([^@()]+)(?:@([^()]+))?(\(.*\))?\s*", text, re.DOTALL)
        if match is None:
            raise TimmscopeError(
                f"{text[:80]!r} is no method; write method, method@layer or "
                "method(parameter=value, ...)"
            )
        key, layer, given = match.groups()
        method = parse_instance(METHODS, f"{key}{given or ''}", params)
        return cls(method, layer.strip() if layer else None)


def with_layer_name(configuration: Configuration, handle: ModelHandle) -> Configuration:
    """The configuration with a layer's name in place of the module.

    Raises:
        UnknownNameError: the module is not a part of this model.
    """
    return replace(configuration, layer=layer_name(handle, configuration.layer))


MethodLike = str | Method | Configuration
"""A configuration, a method, or the name of either."""


def to_configuration(
    method: MethodLike, params: Mapping[str, Mapping[str, object]] | None = None
) -> Configuration:
    """A configuration from whatever names one.

    Args:
        method: a name, a method or a configuration.
        params: parameters by method key, for methods given by name.

    Raises:
        UnknownNameError: there is no such method or parameter.
        TimmscopeError: a value is out of range.
    """
    if isinstance(method, Configuration):
        return method
    if isinstance(method, Method):
        return Configuration(method)
    return Configuration.parse(method, params)


def by_name(configurations: Iterable[Configuration]) -> dict[str, Configuration]:
    """Configurations by a name that tells them apart, equal ones once.

    The name is the method's key where the method stands there once, and else the full name.

    >>> many = ["gradcam", "lime(samples=20)", "lime"]
    >>> list(by_name(map(Configuration.parse, many)))
    ['gradcam', 'lime(samples=20)', 'lime']
    >>> list(by_name([Configuration.parse("lime(samples=20)")]))
    ['lime']
    """
    different = list({one.name: one for one in configurations}.values())
    keys = [one.method.key for one in different]
    return {
        one.name if keys.count(one.method.key) > 1 else one.method.key: one for one in different
    }


def label_of(name: str) -> str:
    """What people read for a configuration's name: the method's label and what was changed.

    >>> label_of("lime(samples=20)"), label_of("gradcam@layer3"), label_of("gradcam")
    ('LIME (samples=20)', 'Grad-CAM at layer3', 'Grad-CAM')
    """
    match = re.fullmatch(r"([^@()]+)(?:@([^()]+))?(\(.*\))?", name)
    if match is None:
        return name
    key, layer, params = match.groups()
    at = f" at {layer}" if layer else ""
    return f"{METHODS[key].label}{at}{f' {params}' if params else ''}"

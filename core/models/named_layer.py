"""From what a caller gives as a layer to the layer's name."""

from __future__ import annotations

from torch import nn

from core.errors import UnknownNameError
from core.models.handle import ModelHandle

LayerLike = str | nn.Module
"""A layer's name as in ``model.named_modules()``, or the module itself."""


def layer_name(handle: ModelHandle, layer: LayerLike | None) -> str | None:
    """The name of a layer; a name passes through, and so does None.

    A module that the model holds under several names goes by the first of them in
    ``model.named_modules()``. Layers are listed under that name too.

    Raises:
        UnknownNameError: the module is not a part of this model, or is all of it.
    """
    if not isinstance(layer, nn.Module):
        return layer
    names: dict[int, str] = {id(module): name for name, module in handle.model.named_modules()}
    name = names.get(id(layer))
    if name:
        return name
    kind, example = type(layer).__name__, handle.default_layer
    such_as = f", such as {example!r}" if example else ""
    if name == "":
        raise UnknownNameError(
            f"the {kind} given as layer is the whole model; give one of its modules or the name of "
            f"one{such_as}"
        )
    raise UnknownNameError(
        f"the {kind} given as layer is not a module of {handle.name}; take it from the module that "
        f"is explained, not from a copy, or give its name{such_as}"
    )

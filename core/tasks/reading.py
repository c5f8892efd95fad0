"""Find the scores in whatever a model returns: the one place that understands raw outputs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from core.errors import ModelError

OutputPart = str | int | Callable[[Any], Any] | None
"""Which part of what a model returns holds its scores: a key or attribute, a position, or a
function that finds them; None where there is no doubt."""

TaskName = Literal["classification", "segmentation"]
"""What a model does: one row of scores for each picture, or a map of scores for each class."""
TASKS: tuple[TaskName, ...] = ("classification", "segmentation")
COARSEST = 8
"""Pixels of the input to a side of a cell: a coarser map is not taken for one of classes, unless
that is said."""
MAX_NAMED = 6
"""How many parts of an output a message names."""


def has_no_classes(model: nn.Module) -> bool:
    """Whether a model declares ``num_classes = 0``: its outputs are features, not class scores."""
    classes = getattr(model, "num_classes", None)
    return isinstance(classes, int) and classes == 0


def find_scores(
    output: Any,
    name: str,
    part: OutputPart = None,
    *,
    features: bool = False,
    classes: int | None = None,
    task: TaskName | None = None,
) -> Tensor:
    """The tensor of scores within what a model returned, as it stands there.

    Without `part` it is the tensor itself; `logits` where that is among the parts; the only tensor
    that can be scores; or, of several, the only one of as many columns as there are classes. Of
    several maps it is the one that is called `out`, as in torchvision.

    Args:
        output: a tensor, a mapping, an object with attributes, a tuple or a list.
        name: what the model is called in messages.
        part: which part holds the scores.
        features: whether the outputs are features of a model without classes.
        classes: how many classes there are; None if unknown.
        task: what the model does, if that is said.

    Raises:
        ModelError: nothing there can be scores, or more than one thing can.
    """
    if part is not None:
        found = _part_of(output, part, name)
        if not isinstance(found, Tensor):
            raise ModelError(
                f"output={_said(part)} of {name} is {_kind(found)}, not a tensor; it returns "
                f"{describe(output)}"
            )
        return found
    if isinstance(output, Tensor):
        return output
    parts = dict(_parts(output))
    tensors = {key: value for key, value in parts.items() if isinstance(value, Tensor)}
    if "logits" in tensors:
        return tensors["logits"]
    if tensors.keys() >= QUERY_PARTS:
        raise ModelError(
            f"{name} returns {describe(output)}: masks and classes of queries, no score of each "
            "class at each pixel; make a tensor (images, classes, height, width) of them with "
            "output=FUNCTION"
        )
    likely = _likely(tensors, features, task)
    if len(likely) > 1 and classes is not None:
        fitting = {k: v for k, v in likely.items() if v.shape[-1] == classes}
        likely = fitting if len(fitting) == 1 else likely
    if len(likely) == 1:
        return next(iter(likely.values()))
    if len(tensors) == 1 and not likely:
        return next(iter(tensors.values()))
    way_out = next((f"output={key!r}" for key in reversed(likely or tensors)), "output=FUNCTION")
    raise ModelError(
        f"{name} returns {describe(output)}, and it is not clear what the scores are; say which, "
        f"such as {way_out}"
    )


def _likely(
    tensors: Mapping[str | int, Tensor], features: bool, task: TaskName | None
) -> dict[str | int, Tensor]:
    """Of several tensors those that can be scores: rows, or else maps; see `find_scores`."""
    rows = {k: v for k, v in tensors.items() if v.ndim == 2}
    maps = {k: v for k, v in tensors.items() if v.ndim == 4}
    if rows and task != "segmentation":
        return rows
    if features:
        return dict(tensors)
    if "out" in maps:
        return {"out": maps["out"]}
    return maps if task == "segmentation" else {}


QUERY_PARTS = frozenset({"class_queries_logits", "masks_queries_logits"})
"""What models return that predict a set of masks, with a class for each."""


def is_map(scores: Tensor, size: tuple[int, int]) -> bool:
    """Whether scores are a map for each class: (n, N, h, w) on a grid over the picture.

    Args:
        scores: what a model returned.
        size: height and width of its input.

    >>> is_map(Tensor(1, 21, 16, 24), (64, 96)), is_map(Tensor(1, 512, 2, 3), (64, 96))
    (True, False)
    """
    if scores.ndim != 4:
        return False
    (height, width), (rows, columns) = size, scores.shape[2:]
    fine = rows * COARSEST >= height and columns * COARSEST >= width
    return min(rows, columns) > 1 and fine and _fits(scores, size)


def _fits(maps: Tensor, size: tuple[int, int]) -> bool:
    """Whether maps (..., h, w) have a picture's proportions, apart from rounding at the border."""
    rows, columns = maps.shape[-2:]
    return abs(rows * size[1] - columns * size[0]) <= max(size)


def to_maps(scores: Tensor, rows: int, size: tuple[int, int], name: str) -> Tensor:
    """Scores as a map for each class and image.

    Args:
        scores: (n, N, h, w), or (n, h, w) of a model with one class.
        rows: n.
        size: height and width of the model's input.
        name: what the model is called in messages.

    Raises:
        ModelError: they have no such shape.
    """
    if scores.ndim == 3 and len(scores) == rows and _fits(scores, size):
        scores = scores[:, None]
    floats = scores.is_floating_point()
    fits = scores.ndim == 4 and len(scores) == rows and _fits(scores, size)
    if not fits or not floats:
        kind = "" if floats else f" of {str(scores.dtype).split('.')[-1]}"
        raise ModelError(
            f"{name} returns {tuple(scores.shape)}{kind} where (images, classes, height, width) is "
            "needed for segmentation; say with output= where such a tensor is, or how to make it"
        )
    return scores


def to_rows(scores: Tensor, rows: int, name: str, *, features: bool = False) -> Tensor:
    """Scores as one row an image.

    Args:
        scores: (n, N); (n,) of a model with one output; (n, N, 1, 1) of a convolutional head; of
            features also those of tokens (n, L, N) or of cells (n, N, h, w) or (n, h, w, N), which
            are averaged over positions.
        rows: n.
        name: what the model is called in messages.
        features: whether they are features.

    Raises:
        ModelError: they have no such shape.
    """
    if features:
        scores = _averaged(scores)
    if scores.ndim == 4 and scores.shape[2:] == (1, 1):
        scores = scores[:, :, 0, 0]
    if (scores.ndim == 1 and len(scores) == rows) or (scores.ndim == 0 and rows == 1):
        scores = scores.reshape(rows, 1)
    if scores.ndim != 2 or len(scores) != rows or not scores.is_floating_point():
        kind = "" if scores.is_floating_point() else f" of {str(scores.dtype).split('.')[-1]}"
        maps = scores.ndim in (3, 4) and scores.is_floating_point()
        raise ModelError(
            f"{name} returns {tuple(scores.shape)}{kind} where (images, classes) is needed; say "
            "with output= how to make one score per class of it"
            + (", or with task='segmentation' that it holds a score for each pixel" * maps)
        )
    return scores


def describe(output: Any) -> str:
    """What a model returned, in a few words, for messages.

    >>> describe({"boxes": Tensor(1, 4), "extra": None})
    "a dict of 'boxes' (1, 4), 'extra' None"
    """
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    parts = list(_parts(output))
    if not parts:
        return f"{type(output).__name__} {str(output)[:40]!r}"
    named = [f"{key!r} {_kind(value)}" for key, value in parts[:MAX_NAMED]]
    more = [f"{len(parts) - MAX_NAMED} more"] if len(parts) > MAX_NAMED else []
    return f"a {type(output).__name__} of {', '.join(named + more)}"


def parse_part(text: str) -> str | int:
    """A part as typed on the command line: a position if it is a whole number, else a name."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


def _part_of(output: Any, part: str | int | Callable[[Any], Any], name: str) -> Any:
    if callable(part):
        return part(output)
    try:
        if isinstance(part, str):
            return output[part] if isinstance(output, Mapping) else getattr(output, part)
        if isinstance(output, Mapping):
            return list(output.values())[part]
        return output[part]
    except (LookupError, AttributeError, TypeError):
        raise ModelError(
            f"{name} has no output {_said(part)}; it returns {describe(output)}"
        ) from None


def _parts(output: Any) -> Iterator[tuple[str | int, Any]]:
    """The parts of an output with the key, name or position of each."""
    if isinstance(output, Mapping):
        yield from output.items()
    elif hasattr(output, "_fields"):
        yield from zip(output._fields, output, strict=True)
    elif isinstance(output, (list, tuple)):
        yield from enumerate(output)
    elif not isinstance(output, Tensor) and hasattr(output, "__dict__"):
        yield from ((k, v) for k, v in vars(output).items() if not k.startswith("_"))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return "None" if value is None else type(value).__name__


def _said(part: str | int | Callable[[Any], Any]) -> str:
    return getattr(part, "__name__", type(part).__name__) if callable(part) else repr(part)


def _averaged(features: Tensor) -> Tensor:
    """The mean (B, N) of features of tokens or cells over positions, in either order of axes.

    >>> [tuple(_averaged(Tensor(*s)).shape) for s in ((1, 9, 64), (1, 64, 3, 4), (1, 3, 4, 64))]
    [(1, 64), (1, 64), (1, 64)]
    """
    if features.ndim == 4:
        last = features.shape[3] > features.shape[1]  # channels outnumber rows at a model's end
        return features.mean((1, 2) if last else (2, 3))
    return features.mean(1) if features.ndim == 3 else features

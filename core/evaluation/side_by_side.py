"""One method on several models, or on several pictures, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from core.errors import (
    CancelledError,
    NotApplicableError,
    TimmscopeError,
    UnknownNameError,
    WayOut,
    reasons_and_ways_out,
)
from core.evaluation.agreement import Agreement, agreement
from core.evaluation.assess import ExplainerLike
from core.inputs.batch import OnProgress, Pictures
from core.inputs.crop import Box, CropLike
from core.inputs.preprocessing import Geometry
from core.methods.configuration import Configuration, MethodLike, to_configuration
from core.result import Result
from core.runtime.batching import joint_progress
from core.tasks.base import Target, TargetLike
from core.tasks.classification import ClassScore
from core.tasks.query import Query
from core.types import Attribution, Comparison, Prediction

Asked = tuple[ExplainerLike, Pictures]
"""A model, and the one picture that it is asked about."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Side(Result):
    """One of several answers side by side.

    Attributes:
        model: the model's name.
        query: the picture, and the target that was explained.
        prediction: what the model says of the picture.
        attribution: the map.
    """

    model: str
    query: Query
    prediction: Prediction
    attribution: Attribution

    @property
    def target_name(self) -> str:
        """The target in words."""
        assert self.query.target is not None
        return self.query.target.describe(self.prediction)

    @property
    def target_value(self) -> float | None:
        """The probability of the class explained, or the number; None for any other target."""
        target = self.query.target
        if not isinstance(target, ClassScore):
            return None
        return float(self.prediction.values[0, target.of(0)])

    @property
    def geometry(self) -> Geometry | None:
        """Which part of the picture the model saw; None of tensors."""
        return self.query.batch.geometries[0] if self.query.batch.geometries else None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SideBySide(Result):
    """Answers of one method that stand side by side.

    Attributes:
        sides: by the name of the model or of the picture, each answer.
        errors: for each other model or picture, why there is none.
        agreement: how far the maps agree, on the part of the picture that all models saw; None for
            fewer than two maps, and for maps of several pictures.
        seen_by_all: that part; None where nothing is compared.
        ways_out: for errors that know any, changes that help, the best first.
    """

    sides: Mapping[str, Side]
    errors: Mapping[str, str]
    agreement: Agreement | None = None
    seen_by_all: Box | None = None
    ways_out: Mapping[str, Sequence[WayOut]] = field(default_factory=dict)

    @property
    def comparison(self) -> Comparison:
        """The maps alone, as of several methods, with `overlays`."""
        maps = {name: side.attribution for name, side in self.sides.items()}
        return Comparison(maps, self.errors, self.ways_out)

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


def side_by_side(
    asked: Mapping[str, Asked],
    method: MethodLike = "gradcam",
    *,
    params: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
    target: TargetLike = None,
    layer: str | None = None,
    seed: int = 0,
    crop: CropLike = None,
    on_progress: OnProgress | None = None,
) -> SideBySide:
    """One method on several models or pictures; one that fails never keeps the others back.

    Args:
        asked: by name a model, and the one picture that it is asked about.
        method: the method, for all of them.
        params: parameters by method key, for a method given by name.
        target: what to explain, as the first model says it: a class is looked up by its label in
            the others. By default each explains its own prediction.
        layer: the layer's name; a model that has none of that name is among the errors.
        seed: where random draws start.
        crop: the part of each picture that the models are to see; see `core.inputs.crop`.
        on_progress: called with the rows done and expected, of all together.

    Raises:
        UnknownNameError: there is no such method or parameter, or the first model has no such
            class.
        TimmscopeError: nothing is asked.
    """
    if not asked:
        raise TimmscopeError("nothing to compare; name at least one model and one picture")
    configuration = to_configuration(method, params)
    (first, _), *_ = asked.values()
    wanted = first.target(target)
    rows = [one.estimate_rows(configuration.method, layer) for one, _ in asked.values()]
    sides: dict[str, Side] = {}
    errors: dict[str, TimmscopeError] = {}
    turns = joint_progress(on_progress, rows)
    for (name, (explainer, picture)), report in zip(asked.items(), turns, strict=True):
        try:
            query = explainer.query(
                picture,
                target=translated(wanted, first, explainer),
                layer=layer,
                seed=seed,
                crop=crop,
                on_progress=report,
            )
            sides[name] = _side(explainer, query, configuration)
        except CancelledError:
            raise
        except TimmscopeError as error:
            errors[name] = error
    reasons, ways_out = reasons_and_ways_out(errors)
    return SideBySide(sides, reasons, *_agreement(sides), ways_out)


def translated(
    target: Target | None, source: ExplainerLike, destination: ExplainerLike
) -> Target | None:
    """A target of one model for another: classes are those of the same label, whatever the case.

    Raises:
        UnknownNameError: the other model has no class of that label, or labels are unknown.
        NotApplicableError: a probability is explained, and the other model has none.
    """
    if target is None or source is destination:
        return target
    theirs, name = destination.model.labels, destination.model.name
    ours = source.model.labels
    numbers = {label.casefold(): i for i, label in reversed(list(enumerate(theirs or ())))}

    def find(index: int) -> int:
        if ours is None or theirs is None:
            unnamed = source.model.name if ours is None else name
            raise UnknownNameError(
                f"{unnamed} does not name its classes, so they cannot be matched; give it labels, "
                "or explain each model's own prediction"
            )
        label = ours[index]
        if label.casefold() not in numbers:
            raise UnknownNameError(
                f"{name} has no class {label!r}; explain each model's own prediction instead"
            )
        return numbers[label.casefold()]

    found = destination.target(target.with_classes(find))
    if found is not None and found.unit == "probability" and found.bounded() is None:
        raise NotApplicableError(f"the outputs of {name} have no probability; explain the score")
    return found


def _side(explainer: ExplainerLike, query: Query, configuration: Configuration) -> Side:
    """One answer; raises why there is none."""
    if len(query) != 1:
        raise TimmscopeError(f"{len(query)} pictures stand on one side; give one for each")
    prediction = explainer.predict(query)
    target = query.target or explainer.target(prediction.top(1)[0][0])
    query = replace(query, target=target)
    found = explainer.compare(query, [configuration])
    for name, reason in found.errors.items():
        raise NotApplicableError(reason, found.ways_out.get(name, ()))
    (attribution,) = found.results.values()
    return Side(explainer.model.name, query.reporting(None), prediction, attribution)


# -- agreement on a common grid -------------------------------------------------------------------


def _agreement(sides: Mapping[str, Side]) -> tuple[Agreement | None, Box | None]:
    """How far maps of one picture agree, and on which part of it."""
    geometries = [side.geometry for side in sides.values()]
    digests = {_picture_of(side) for side in sides.values()}
    if len(sides) < 2 or len(digests) > 1 or None in geometries:
        return None, None
    boxes = [geometry.box for geometry in geometries if geometry is not None]
    box = common_part(boxes)
    if box is None:
        return None, None
    size = next(geometry.input for geometry in geometries if geometry is not None)
    maps = {
        name: resampled(side.attribution.values[0], own, box, size)
        for (name, side), own in zip(sides.items(), boxes, strict=True)
    }
    return agreement(maps), box


def _picture_of(side: Side) -> str:
    """Identifies the picture, whatever the model makes of it."""
    return side.query.batch.pictures[0].digest if side.query.batch.pictures else ""


def common_part(boxes: Sequence[Box]) -> Box | None:
    """The part of a picture that lies within all boxes; None if there is none.

    >>> common_part([(0, 0, 10, 10), (2, -1, 12, 9)])
    (2, 0, 10, 9)
    """
    left, top = max(box[0] for box in boxes), max(box[1] for box in boxes)
    right, bottom = min(box[2] for box in boxes), min(box[3] for box in boxes)
    return (left, top, right, bottom) if left < right and top < bottom else None


def resampled(values: Tensor, own: Box, box: Box, size: tuple[int, int]) -> Tensor:
    """A map over one part of a picture, on a grid over another part that lies within.

    Args:
        values: (h, w) over the box `own`.
        own: the part that the map shows.
        box: the part wanted.
        size: height and width of the result.

    Returns:
        (H, W), bilinear. Of the whole map it is what `core.types.upsample` gives.

    >>> resampled(torch.tensor([[0.0, 1.0]]), (0, 0, 4, 1), (2, 0, 4, 1), (1, 2))
    tensor([[0.7500, 1.0000]])
    """

    def centres(low: float, high: float, start: float, end: float, count: int) -> Tensor:
        points = low + (torch.arange(count) + 0.5) * ((high - low) / count)
        return (points - start) / (end - start) * 2 - 1

    x = centres(box[0], box[2], own[0], own[2], size[1])
    y = centres(box[1], box[3], own[1], own[3], size[0])
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]
    found: Tensor = F.grid_sample(
        values.float()[None, None], grid, padding_mode="border", align_corners=False
    )
    return found[0, 0]

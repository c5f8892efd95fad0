"""What each endpoint of the API is asked with; the fields are its parameters, by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from gradio import FileData
from pydantic import Field

from core.explainer import DEFAULT_METHODS
from core.models.load import DEFAULT_MODEL
from core.perturb.imputation import RemovalBaseline
from core.views.colour import ALPHA
from dashboard.actions import MAX_MODELS, MAX_RANDOM_MAPS, ExplainRequest, Question
from dashboard.state.models import FOUND

Names = Annotated[list[str], Field(min_length=1, max_length=100)]
"""At least one name."""


@dataclass(frozen=True, kw_only=True)
class OfModel:
    """A question about a model.

    Attributes:
        model: a timm name or hf-hub:owner/name.
        weights: its trained weights, or random ones.
        activation: what its outputs are: softmax, sigmoid, probabilities or identity; found for
            what the model says.
        measured_in: the unit of outputs that are numbers.
    """

    model: str = DEFAULT_MODEL
    weights: Literal["pretrained", "random"] = "pretrained"
    activation: str = FOUND
    measured_in: str = ""


@dataclass(frozen=True, kw_only=True)
class OfPicture(OfModel):
    """A question about a picture.

    Attributes:
        picture: the picture, as gradio_client's handle_file gives it.
        crop: the part of the picture that the model sees: whole for all of it, padded, or
            left,top,right,bottom in pixels of the picture; the model's own crop if there is none.
    """

    picture: FileData
    crop: str = ""

    @property
    def question(self) -> Question:
        """The question, as actions take it; about the predicted class."""
        return Question(
            picture=self.picture.path,
            model=self.model,
            weights=self.weights,
            target=None,
            versus=None,
            unit="logit",
            activation=self.activation,
            measured_in=self.measured_in,
            crop=self.crop,
        )


@dataclass(frozen=True, kw_only=True)
class OfClass(OfPicture):
    """A question about a class.

    Attributes:
        target: a class or its number; the predicted class if there is none.
        versus: why the target rather than this class.
        score: which score of the class is explained.
        against: whether what speaks against the class is explained.
    """

    target: str | int | None = None
    versus: str | int | None = None
    score: Literal["logit", "probability"] = "logit"
    against: bool = False

    @property
    def question(self) -> Question:
        """The question, as actions take it."""
        return replace(
            super().question,
            target=self.target,
            versus=self.versus,
            unit=self.score,
            against=self.against,
        )


@dataclass(frozen=True, kw_only=True)
class HideRequest(OfClass):
    """What the model says while a part of the picture is hidden.

    Attributes:
        box: the part, as left,top,right,bottom in pixels of the picture.
        mask: the part, as a file: a mask, VOC .xml or COCO .json. It overrides the box.
        keep_only: whether everything else is hidden instead.
        baseline: what replaces hidden pixels.
    """

    box: str = ""
    mask: FileData | None = None
    keep_only: bool = False
    baseline: RemovalBaseline = "blur"


@dataclass(frozen=True, kw_only=True)
class OfLayer(OfClass):
    """A question about a class, at a layer.

    Attributes:
        layer: the layer of CAM and attention methods; their own choice if there is none.
    """

    layer: str | None = None


@dataclass(frozen=True, kw_only=True)
class OfMap(OfLayer):
    """A question about one method's map.

    Attributes:
        method: a method, or a configuration such as lime(samples=200) or gradcam@blocks.4.
    """

    method: str = "gradcam"

    @property
    def explanation(self) -> ExplainRequest:
        """The map, as actions take it."""
        return ExplainRequest(self.question, self.method, self.layer, {})


@dataclass(frozen=True, kw_only=True)
class OfMethods(OfLayer):
    """A question about several methods' maps.

    Attributes:
        methods: methods, or configurations such as lime(samples=200) or gradcam@blocks.4.
    """

    methods: Names = field(default_factory=lambda: [*DEFAULT_METHODS])


@dataclass(frozen=True, kw_only=True)
class PredictRequest(OfPicture):
    """What a model predicts.

    Attributes:
        top: how many classes, the likeliest first.
    """

    top: Annotated[int, Field(ge=1, le=1000)] = 5


@dataclass(frozen=True, kw_only=True)
class MapRequest(OfMap):
    """One method's map.

    Attributes:
        values: whether the map itself is sent.
    """

    values: bool = True


@dataclass(frozen=True, kw_only=True)
class MapsRequest(OfMethods):
    """Several methods' maps.

    Attributes:
        values: whether the maps themselves are sent.
    """

    values: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelsRequest(MapRequest):
    """One method's maps on several models.

    Attributes:
        models: the models beside the first; NAME (random weights) takes one untrained.
        own_class: whether each model explains its own prediction; otherwise the class that the
            first explains, looked up by its label.
    """

    models: Annotated[list[str], Field(min_length=1, max_length=MAX_MODELS - 1)]
    own_class: bool = False


@dataclass(frozen=True, kw_only=True)
class PicturesRequest(MapRequest):
    """One method's maps on two pictures.

    Attributes:
        second: the second picture, as handle_file gives it.
        own_class: whether each picture's own prediction is explained; otherwise that of the first.
    """

    second: FileData
    own_class: bool = False


@dataclass(frozen=True, kw_only=True)
class MeasureRequest(OfMethods):
    """Metrics of several methods' maps.

    Attributes:
        metrics: metrics, or configurations such as srg(steps=10).
        box: where the evidence is, as left,top,right,bottom in pixels of the picture.
        evidence: where the evidence is, as a file: a mask, VOC .xml or COCO .json. It overrides
            the box.
        label: of a file of evidence, only objects of this class.
        random_maps: among how many random maps each map is ranked.
    """

    metrics: Names = field(default_factory=lambda: ["srg"])
    box: str = ""
    evidence: FileData | None = None
    label: str = ""
    random_maps: Annotated[int, Field(ge=0, le=MAX_RANDOM_MAPS)] = 0


@dataclass(frozen=True, kw_only=True)
class SaveRequest(OfMap):
    """One method's map as a file.

    Attributes:
        kind: png or svg, a figure with title, colour scale and caption; npz with raw values and
            metadata; or json with what makes it again.
        colormap: colours of a png or svg.
        opacity: of the map in a png or svg, from 0 to 1.
        fade: whether a png or svg shows the picture where the map is near zero.
        smooth: whether a png or svg smooths a grainy map.
        strongest: per cent of the map that a png or svg shows, the strongest values.
    """

    kind: Literal["png", "svg", "npz", "json"] = "png"
    colormap: str = "auto"
    opacity: Annotated[float, Field(ge=0, le=1)] = ALPHA
    fade: bool = False
    smooth: bool = True
    strongest: Annotated[float, Field(ge=0, le=100)] = 100


@dataclass(frozen=True, kw_only=True)
class FeaturesRequest(OfPicture):
    """The channels of a layer that respond most.

    Attributes:
        layer: the layer of CAM methods if there is none.
        by: what channels are ranked by.
        top: how many channels.
    """

    layer: str | None = None
    by: Literal["activation", "variance"] = "activation"
    top: Annotated[int, Field(ge=1, le=64)] = 16


@dataclass(frozen=True, kw_only=True)
class AttentionRequest(OfPicture):
    """The attention heads of a layer.

    Attributes:
        layer: the last one that can be drawn if there is none.
        query: whose attention: auto, class, mean, or the number of a patch.
    """

    layer: str | None = None
    query: str = "auto"


@dataclass(frozen=True, kw_only=True)
class ListRequest:
    """Models by name.

    Attributes:
        pattern: part of a name, or a pattern with * or ?; without one those that the page suggests.
        limit: how many at most.
    """

    pattern: str = ""
    limit: Annotated[int, Field(ge=1, le=2000)] = 100


@dataclass(frozen=True, kw_only=True)
class NothingRequest:
    """For what needs no parameters."""

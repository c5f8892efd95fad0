"""Method: one way to explain which pixels a score depends on."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.inputs.batch import OnPartial
from core.models.structure import structure
from core.registry import Parameters, Registry
from core.runtime.batching import peak_memory
from core.runtime.cache import Cache
from core.runtime.noise import rounding
from core.runtime.painting import Painter
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.types import Attribution, Cost, Group, Need, Partial, Property


class Family(Group):
    """How a method arrives at its map."""

    CAM = "cam", "CAM", "Weights the feature maps of one layer and adds them up."
    GRADIENT = "gradient", "Gradient", "Follows the score's gradient back to the pixels."
    PATH = "path", "Path", "Adds up gradients on the way from a baseline to the picture."
    PERTURBATION = (
        "perturbation",
        "Perturbation",
        "Hides parts of the picture and watches how the score changes.",
    )
    SHAPLEY = (
        "shapley",
        "Shapley",
        "Shares the score among the parts of the picture as Shapley values do.",
    )
    ATTENTION = "attention", "Attention", "Reads the attention maps of a transformer."
    RELEVANCE = (
        "relevance",
        "Relevance",
        "Passes the score back layer by layer with rules of its own in place of the gradient.",
    )
    CONTROL = (
        "control",
        "Control",
        "Does not look at the model; an explanation must score better than these.",
    )


ONLY_ORDER = "trust only the order of its values"
"""What is left of a map whose values do not add up, and cannot be made to."""
MORE_STEPS = "take more steps"
"""The advice of methods that integrate in a number of steps."""


class Method(Parameters, ABC):
    """A method of explanation; its fields are its parameters.

    Attributes:
        family: how it arrives at its map.
        is_control: whether it ignores the model and serves for comparison only.
        needs: what a model must offer.
        properties: what it promises; the tests hold it to them.
    """

    family: ClassVar[Family]
    is_control: ClassVar[bool]
    needs: ClassVar[frozenset[Need]]
    properties: ClassVar[frozenset[Property]]

    @abstractmethod
    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        """Explain ``run.target`` for the images ``run.x``.

        Returns:
            The values (B, h, w), raw and signed, over the model's input: one per pixel, or one per
            cell of a layer's grid. And the explained score (B,) of the unchanged images. Further
            results go into ``run.extras``.

        Raises:
            NotApplicableError: this model cannot be explained this way.
        """

    @abstractmethod
    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        """The rows it sends forward, and the rows it differentiates, to explain one image.

        The pass for the image's own score counts; the pass that finds the predicted class does not.
        Where the number depends on intermediate results, it is the largest possible. `seconds` is
        set where the time is not spent in passes.

        Args:
            subject: the model.
            layer: the layer explained, where the method uses one.
        """

    def requires(self) -> frozenset[Need]:
        """What a model must offer for these parameters; may be more than `needs`."""
        return self.needs

    def layer_needs(self) -> frozenset[Need]:
        """The needs that decide which layers can be chosen; empty if the method uses no layer."""
        return self.requires()

    def refusal(self, subject: Subject) -> str:
        """Why this model cannot be explained although it meets the needs; empty if it can be."""
        return ""

    def advice(self) -> str:
        """What to do where the map's values miss what they should add up to; a clause.

        A method whose parameters decide how far they miss names the one to change. Where nothing
        can be changed, what is left is to read the map without the sum.
        """
        return ONLY_ORDER

    def why_not(self, subject: Subject, layer: str | None = None) -> str:
        """Why this model cannot be explained, for whatever reason; empty if it can be.

        Args:
            subject: the model.
            layer: the layer named by the caller, if any.
        """
        if reason := subject.why_not(self.requires(), layer):
            return reason
        refusal = self.refusal(subject)
        return refusal and (subject.hidden_form or refusal)


METHODS: Registry[Method] = Registry(
    "method",
    __name__.rpartition(".")[0],
    aliases={"gradcam++": "gradcam_plus_plus", "gradcampp": "gradcam_plus_plus"},
)
"""Every method by key."""

M = TypeVar("M", bound=type[Method])


def register(
    key: str,
    *,
    label: str,
    family: Family | str,
    about: str,
    paper: str = "",
    needs: Iterable[Need] = (),
    properties: Iterable[Property] = (),
) -> Callable[[M], M]:
    """A class decorator that describes a method and enters it into `METHODS`.

    Args:
        key: the name used in Python, on the command line and in files.
        label: the name people read.
        family: a `Family`, or its value.
        about: one sentence on what the method is good for, and what not.
        paper: its source, as an arXiv or DOI reference.
        needs: what a model must offer.
        properties: what it promises.

    Raises:
        ValueError: there is no such family.
        TypeError: the key is taken.
    """

    def enter(cls: M) -> M:
        cls.key, cls.label, cls.about, cls.paper = key, label, about, paper
        cls.family = Family(family)
        cls.is_control = cls.family is Family.CONTROL
        cls.needs, cls.properties = frozenset(needs), frozenset(properties)
        METHODS.add(cls)
        return cls

    return enter


def control_keys() -> list[str]:
    """The keys of the controls: methods whose maps do not depend on the model."""
    return [key for key, cls in METHODS.items() if cls.is_control]


_REFUSALS: weakref.WeakKeyDictionary[nn.Module, Cache] = weakref.WeakKeyDictionary()


def cached_refusal(subject: Subject, key: str, find_refusal: Callable[[], str]) -> str:
    """Why a method refuses a model, or an empty text; computed once per structure and reading.

    A thread that asks for what another is finding out waits for it.

    Args:
        subject: the model.
        key: the method's key.
        find_refusal: computes the reason.
    """
    known = _REFUSALS.setdefault(subject.model, Cache())
    return known.get_or_compute((key, structure(subject.model), subject.reading), find_refusal)


def relative_error(run: Run, found: Tensor, asked: Tensor, *scores: Tensor) -> Tensor:
    """How far the sums of maps are from a score, or from the difference of two scores.

    Args:
        run: the run whose scores they are.
        found: (B,) the sums.
        asked: (B,) what they should be.
        scores: (B,) those that `asked` is the difference of, which say how far it is rounded.

    Returns:
        (B,) ``abs(found - asked) / abs(asked)``; NaN where `asked` is zero up to rounding errors,
        and nothing can be a share of it.
    """
    noise = torch.stack([rounding(run, score) for score in (asked, *scores)]).sum(0)
    error: Tensor = ((found - asked) / asked).abs()
    return error.where(asked.abs() > noise, torch.nan)


def attribute(
    method: Method,
    run: Run,
    on_partial: OnPartial | None = None,
    stop_after: int | None = None,
) -> Attribution:
    """The attribution of a method, with its cost; what it returns shares nothing with the cache.

    Args:
        method: the method.
        run: the images and the target; one image if the next arguments are given.
        on_partial: called with partial maps; returns True to stop.
        stop_after: how many samples to take at most; None for all.

    Raises:
        NotApplicableError: the model does not suit, or the map is not finite.
        Stopped: a partial map was good enough; it bears the map.
    """
    with peak_memory(run.x.device) as peak:

        def build(
            values: Tensor, score: Tensor, extras: Mapping[str, Tensor], partial: Partial | None
        ) -> Attribution:
            _check_finite(method, run, values)
            return Attribution(
                values=_detached(values.float()),
                score=_detached(score.float()),
                method=method.key,
                params=method.model_dump(),
                target=run.target.key,
                layer=run.layer,
                cost=replace(run.cost_counter.cost(), peak_bytes=peak()),
                extras={name: _detached(extra) for name, extra in extras.items()},
                partial=partial,
            )

        if on_partial is not None or stop_after is not None:
            run.painter = Painter(
                lambda partial, values, extras: build(values, run.score(), extras, partial),
                on_partial or (lambda found: None),
                stop_after,
            )
        values, score = method.attribute(run)
    return build(values, score, run.extras, None if run.painter is None else run.painter.partial)


def _check_finite(method: Method, run: Run, values: Tensor) -> None:
    if not torch.isfinite(values).all():
        raise NotApplicableError(
            f"{method.label} gave values that are not finite (NaN or infinite) on "
            f"{run.subject.name}; choose another method or layer"
        )


def _detached(tensor: Tensor) -> Tensor:
    """A copy on the CPU that keeps nothing else alive."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)

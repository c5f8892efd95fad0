"""Method: one way of answering which pixels made it so."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from core.models.handle import structure
from core.registry import Parameters, Registry
from core.runtime.engine import Run, Subject
from core.types import Cost, Need, Property


class Method(Parameters, ABC):
    """A method of explanation; its fields are its parameters.

    Attributes:
        family: cam, gradient, path, perturbation, attention or control.
        needs: what it asks of a model.
        properties: what it promises; the tests hold it to them.
    """

    family: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    properties: ClassVar[frozenset[Property]]

    @abstractmethod
    def attribute(self, run: Run) -> tuple[Tensor, Tensor]:
        """Explain ``run.target`` for the images ``run.x``.

        Returns:
            values (B, h, w), raw and signed, over the model's input, in its pixels or on a layer's
            grid; and the explained score (B,) of the unperturbed images. Further results go into
            ``run.extras``.

        Raises:
            NotApplicableError: the model turns out not to suit.
        """

    @abstractmethod
    def estimate_cost(self, subject: Subject, layer: str | None) -> Cost:
        """The rows its definition needs, forward and backward, to explain one image.

        The image's own score is counted, finding out the predicted class is not. Where it depends
        on what is found on the way, the most it can be. Seconds are stated where the time goes
        elsewhere than into passes.
        """

    def requires(self) -> frozenset[Need]:
        """What this instance asks of a model; more than `needs` where a parameter decides."""
        return self.needs

    def layer_needs(self) -> frozenset[Need]:
        """The needs that decide which layers can be chosen; none if no layer is."""
        return self.requires()

    def refusal(self, subject: Subject) -> str:
        """Why this model cannot be explained although it meets the needs; empty if it can."""
        return ""


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
    family: str,
    about: str,
    paper: str = "",
    needs: Iterable[Need] = (),
    properties: Iterable[Property] = (),
) -> Callable[[M], M]:
    """Give a method class its facts and enter it into `METHODS`."""

    def enter(cls: M) -> M:
        cls.key, cls.label, cls.family, cls.about, cls.paper = key, label, family, about, paper
        cls.needs, cls.properties = frozenset(needs), frozenset(properties)
        METHODS.add(cls)
        return cls

    return enter


_REFUSALS: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, str], str]] = (
    weakref.WeakKeyDictionary()
)


def cached_refusal(subject: Subject, key: str, find_refusal: Callable[[], str]) -> str:
    """Why a method refuses a model, found out once; empty if it does not.

    What a model is made of decides, so the answer holds until its structure changes.
    """
    known = _REFUSALS.setdefault(subject.model, {})
    question = key, structure(subject.model)
    if question not in known:
        known[question] = find_refusal()
    return known[question]


def relative_error(found: Tensor, asked: Tensor) -> Tensor:
    """How far sums (B,) are from what they should be, as a share of it."""
    return (found - asked).abs() / asked.abs().clamp_min(torch.finfo(asked.dtype).tiny)

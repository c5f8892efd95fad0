"""Whether a map depends on the model's weights, and on the class explained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.metrics.base import Category, Metric, MetricContext, MetricInput, check, register
from core.metrics.rivals import dissimilar_rivals, next_rivals
from core.metrics.similarity import spearman
from core.metrics.verdict_rule import VerdictRule, assess_by_limits
from core.runtime.derived_state import DerivedState
from core.runtime.noise import CONSTANT, first_reasons, is_constant, reasons
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.classification import ClassScore, scores_of
from core.types import Score

BINS = 100
"""Bins of the histogram of a map's values."""


class WeightRandomisation(Metric):
    """Base of the metrics that shuffle the weights of a copy of the model.

    The values of each weight tensor are shuffled, from the classifier down to the first layer. This
    keeps their distribution and destroys what was learned.
    """

    smooth: int = Field(
        1, ge=1, le=100, description="Noisy copies to average each map over; more than 1 is sMPRT"
    )
    noise: float = Field(
        0.1,
        ge=0.001,
        le=1,
        description="Standard deviation of the noise, as a share of the range from black to white",
    )

    def method_calls(self) -> int:
        return self.smooth * self.shuffled_models() + (self.smooth if self.smooth > 1 else 0)

    def shuffled_models(self) -> int:
        """How many shuffled models at most it explains the picture with."""
        return 1

    def maps(self, run: Run, context: MetricContext) -> Tensor:
        """(B, H, W) the method's maps of a run, each averaged over `smooth` noisy copies.

        Those of a method that ends with a ReLU are taken before it. The ReLU turns a map without
        positive values into zeros, which differ from any map, but are no evidence of anything.
        """
        again = context.reattribute_signed or context.reattribute
        assert again is not None
        if self.smooth == 1:
            return again(run)
        generator, target = run.generator(), run.target
        black, white = (run.subject.pixel(level).to(run.x) for level in (0.0, 1.0))
        total = torch.zeros(())
        for _ in range(self.smooth):
            noise = torch.randn(run.x.shape[1:], generator=generator).to(run.x)
            rows = run.x + self.noise * noise * (white - black)
            total = total + again(run.derive(x=rows, target=target))
        return total / self.smooth

    def own_maps(self, run: Run, values: Tensor, context: MetricContext) -> Tensor:
        """(B, H, W) the maps of the unchanged model, to compare `maps` with."""
        given = self.smooth == 1 and context.reattribute_signed is None
        return values if given else self.maps(run, context)


@register(
    "randomisation",
    label="Randomisation",
    about="Does the map depend on what the model learned?",
    category=Category.RANDOMISATION,
    also_answers=["consistency"],
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1810.03292",
    needs=[MetricInput.METHOD],
    axes=("share of layers shuffled, the last first", "similarity"),
    verdict=VerdictRule(
        priority=50,
        assess=assess_by_limits(
            0.5,
            0.8,
            (
                "It changes when the model's weights are shuffled.",
                "Much of it stays when the model's weights are shuffled.",
                "It stays the same when the model's weights are shuffled.",
            ),
        ),
        sanity_check=True,
        if_bad="Do not rely on this map: it hardly depends on what the model learned.",
    ),
)
class Randomisation(WeightRandomisation):
    """Model parameter randomisation test (Adebayo et al., 2018): similarity to the original map.

    Layer by layer, from the last to the first, the weights are shuffled. The score is the mean over
    these steps of the absolute rank correlation with the map of the unchanged model, so an inverted
    map counts as similar. With `smooth` above 1 it is sMPRT (Hedstroem et al., 2024).

    Maps are compared before the ReLU of a method that ends with one. A constant map is neither like
    nor unlike another: its step is NaN in the curve and left out of the mean, and the score's note
    says how many are. If all are, the score is NaN, and `cannot_tell` says why.
    """

    steps: int = Field(6, ge=1, le=100, description="Number of steps to shuffle all layers in")

    def shuffled_models(self) -> int:
        return self.steps

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        own = self.own_maps(run, values, context)
        curve = [torch.ones(len(values))]
        for shuffled in cascade(run.subject, self.steps, run.seed):
            found = self.maps(run.derive(subject=shuffled), context)
            alike = [abs(spearman(a, b)) for a, b in zip(found, own, strict=True)]
            curve.append(torch.tensor(alike))
        y = torch.stack(curve, 1)
        x = torch.linspace(0, 1, y.shape[1])
        lost = y[:, 1:].isnan()
        mine = reasons(is_constant(own), CONSTANT)
        theirs = reasons(lost.all(1), CONSTANT_SHUFFLED)
        return self.score(
            run,
            y[:, 1:].nanmean(1),
            curve_x=x,
            curve_y=y,
            cannot_tell=first_reasons(mine, theirs),
            notes=tuple(_left_out(each) for each in lost),
        )


CONSTANT_SHUFFLED = "with shuffled weights the map has the same value everywhere"


def _left_out(lost: Tensor) -> str:
    """How many of the steps (n,) were left out of a mean; an empty text for none and for all."""
    count = int(lost.sum())
    if count in (0, len(lost)):
        return ""
    return f"{count} of {len(lost)} steps left out: {CONSTANT_SHUFFLED}"


@register(
    "randomisation_entropy",
    label="Randomised entropy",
    about="Does the map become more complex when all weights are shuffled?",
    category=Category.RANDOMISATION,
    also_answers=["consistency"],
    higher_is_better=True,
    range=(-1.0, float("inf")),
    paper="arXiv:2401.06465",
    needs=[MetricInput.METHOD],
)
class RandomisationEntropy(WeightRandomisation):
    """Relative rise of the map's entropy with all weights shuffled, eMPRT (Hedstroem et al., 2024).

    The entropy is that of a histogram of the map's values, taken before the ReLU of a method that
    ends with one. If the original map or that of the shuffled model is constant, the rise counts as
    0, and `cannot_tell` says that this means nothing.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        own = self.own_maps(run, values, context)
        (shuffled,) = cascade(run.subject, 1, run.seed)
        found = self.maps(run.derive(subject=shuffled), context)
        mine, theirs = is_constant(own), is_constant(found)
        rise = histogram_entropy(found) / histogram_entropy(own) - 1
        return self.score(
            run,
            torch.where(mine | theirs, 0, rise),
            cannot_tell=first_reasons(reasons(mine, CONSTANT), reasons(theirs, CONSTANT_SHUFFLED)),
        )


@register(
    "class_sensitivity",
    label="Class sensitivity",
    about="Does the map differ for another class?",
    category=Category.RANDOMISATION,
    also_answers=["consistency"],
    higher_is_better=False,
    range=(-1.0, 1.0),
    paper="arXiv:1810.03292",
    needs=[MetricInput.METHOD],
    verdict=VerdictRule(
        priority=40,
        assess=assess_by_limits(
            0.9,
            0.999,
            (
                "Another class gets a different map.",
                "The map for a class that looks different is nearly the same.",
                "The map for a class that looks different is the same.",
            ),
            limits_included=True,
        ),
        sanity_check=True,
    ),
)
class ClassSensitivity(Metric):
    """Rank correlation with the map for another class; 1 if the class is ignored.

    Two classes that look alike, such as tabby and tiger cat, may well have the same evidence and so
    the same map. Therefore the other class is by default the likeliest of those that are not alike:
    of the half of all classes whose weights in the model's linear classifier have the smallest
    cosine with those of the class explained. Of a model without such a classifier, it is the half
    whose scores are correlated least with its score over the sample pictures; where that cannot be
    told either, it is the next likeliest class, and the score's note says so.

    NaN if either map is constant, because that is neither the same map nor another one;
    `cannot_tell` then says so.
    """

    rival: Literal["dissimilar", "next"] = Field(
        "dissimilar",
        title="Other class",
        description="Which class to compare with: the likeliest that is not alike (dissimilar), or "
        "the next likeliest, alike or not (next)",
    )

    def method_calls(self) -> int:
        return 1

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        assert context.reattribute is not None
        if not isinstance(run.target, ClassScore):
            raise NotApplicableError(
                f"class sensitivity compares classes; explain a class, not {run.target.key}"
            )
        outputs = scores_of(run.outputs())
        if outputs.shape[1] < 2:
            raise NotApplicableError("the model has one output only, so there is no other class")
        asked = torch.tensor([run.target.of(image) for image in run.owner.tolist()])
        asked = asked.to(outputs.device)
        dissimilar = self.rival == "dissimilar"
        rivals = (
            dissimilar_rivals(run, outputs, asked) if dissimilar else next_rivals(outputs, asked)
        )
        target = ClassScore(tuple(rivals.classes.tolist()), run.target.activation)
        found = context.reattribute(
            run.derive(x=run.x, owner=torch.arange(len(run.x)).to(run.owner), target=target)
        )
        alike = [spearman(a, b) for a, b in zip(found, values, strict=True)]
        mine = reasons(is_constant(values), CONSTANT)
        theirs = reasons(is_constant(found), CONSTANT_OTHER)
        return self.score(
            run,
            torch.tensor(alike),
            cannot_tell=first_reasons(mine, theirs),
            notes=(rivals.note,) * len(alike),
        )


CONSTANT_OTHER = "the map for the other class has the same value everywhere"


def cascade(subject: Subject, steps: int, seed: int) -> Iterator[Subject]:
    """A copy of a model with more and more layers shuffled, from the last to the first.

    Args:
        subject: the model; it stays as it is.
        steps: into how many parts to divide the layers; each is shuffled in one step.
        seed: where the random order starts.

    Yields:
        The same copy after each step. Modules whose place in the order of execution is unknown are
        shuffled last. Caches of what was computed from the weights are emptied.

    Raises:
        NotApplicableError: the model keeps something computed from its weights that cannot follow.
    """
    copied = subject.clone()
    derived = DerivedState(copied)
    generator = torch.Generator().manual_seed(seed % 2**63)
    modules = dict(copied.model.named_modules())
    names = list(dict.fromkeys([*reversed(list(subject.layers)), *modules]))
    owners = [
        modules[n] for n in names if next(modules[n].parameters(recurse=False), None) is not None
    ]
    steps = min(steps, len(owners))
    for step in range(steps):
        for module in owners[step * len(owners) // steps : (step + 1) * len(owners) // steps]:
            shuffle(module, generator)
        derived.clear()
        yield copied


def shuffle(module: nn.Module, generator: torch.Generator) -> None:
    """Put the values of each parameter of a module, its children's excluded, in random order."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=generator)
            flat = parameter.flatten()
            parameter.copy_(flat[order.to(flat.device)].view_as(parameter))


def histogram_entropy(values: Tensor) -> Tensor:
    """(B,) entropy in nats of the values of each map (B, H, W), in equal bins over its range.

    >>> histogram_entropy(torch.tensor([[[0.0, 0.0, 1.0, 1.0]], [[3.0, 3.0, 3.0, 3.0]]]))
    tensor([0.6931, 0.0000])
    """
    entropies = []
    for one in values.flatten(1).double():
        shares = torch.histc(one, BINS) / len(one) if one.min() < one.max() else torch.ones(1)
        entropies.append(0.0 - torch.special.xlogy(shares, shares).sum())
    return torch.stack(entropies).float()

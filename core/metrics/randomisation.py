"""Whether a map depends on what the model has learnt, and on what is asked."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor, nn

from core.errors import NotApplicableError
from core.metrics.base import Metric, MetricContext, MetricInput, check, register
from core.metrics.similarity import spearman
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.classification import ClassLogit
from core.types import Score

BINS = 100
"""Bins of the histogram whose entropy says how complex a map is."""


class WeightRandomisation(Metric):
    """What the tests with shuffled weights share.

    The weights are shuffled within each tensor, from the classifier down to the first layer, on a
    copy of the model. So their sizes stay, and nothing learnt does.
    """

    smooth: int = Field(
        1, ge=1, le=100, description="Noisy copies to average each map over; above 1 it is sMPRT"
    )
    noise: float = Field(
        0.1, ge=0.001, le=1, description="Their standard deviation, as a share of black to white"
    )

    def maps(self, run: Run, context: MetricContext) -> Tensor:
        """(B, H, W) the method's map of a run, averaged over noisy copies if so asked."""
        assert context.reattribute is not None
        if self.smooth == 1:
            return context.reattribute(run)
        generator, target = run.generator(), run.target
        black, white = (run.subject.pixel(level).to(run.x) for level in (0.0, 1.0))
        total = torch.zeros(())
        for _ in range(self.smooth):
            noise = torch.randn(run.x.shape[1:], generator=generator).to(run.x)
            rows = run.x + self.noise * noise * (white - black)
            total = total + context.reattribute(run.derive(x=rows, target=target))
        return total / self.smooth


@register(
    "randomisation",
    label="Randomisation",
    about="Does the map change when the weights, from the last layer on, are shuffled?",
    higher_is_better=False,
    range=(0.0, 1.0),
    paper="arXiv:1810.03292",
    needs=[MetricInput.METHOD],
    axes=("share of layers shuffled, the last first", "similarity"),
)
class Randomisation(WeightRandomisation):
    """Model parameter randomisation test (Adebayo et al., 2018): likeness to the map itself.

    The absolute rank correlation with the map of the model as it is, averaged over the cascade, so
    that a map turned around counts as alike. A map that stays constant counts as alike, too. With
    `smooth` above 1 it is sMPRT (Hedstroem et al., 2024).
    """

    steps: int = Field(6, ge=1, le=100, description="Into how many parts the layers are divided")

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        own = values if self.smooth == 1 else self.maps(run, context)
        curve = [torch.ones(len(values))]
        for shuffled in cascade(run.subject, self.steps, run.seed):
            found = self.maps(run.derive(subject=shuffled), context)
            alike = [abs(spearman(a, b)) for a, b in zip(found, own, strict=True)]
            curve.append(torch.tensor(alike))
        y = torch.stack(curve, 1)
        x = torch.linspace(0, 1, y.shape[1])
        return self.score(run, y[:, 1:].mean(1), curve_x=x, curve_y=y)


@register(
    "randomisation_entropy",
    label="Randomised entropy",
    about="Does the map lose its order when all weights are shuffled?",
    higher_is_better=True,
    range=(-1.0, float("inf")),
    paper="arXiv:2401.06465",
    needs=[MetricInput.METHOD],
)
class RandomisationEntropy(WeightRandomisation):
    """Relative rise of the map's entropy over full randomisation, eMPRT (Hedstroem et al., 2024).

    The entropy is that of a histogram of the map's values; of a map without any, the rise is 0.
    """

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        own = values if self.smooth == 1 else self.maps(run, context)
        (shuffled,) = cascade(run.subject, 1, run.seed)
        before, after = (
            histogram_entropy(own),
            histogram_entropy(self.maps(run.derive(subject=shuffled), context)),
        )
        return self.score(run, torch.where(before > 0, after / before - 1, 0))


@register(
    "class_sensitivity",
    label="Class sensitivity",
    about="Is the map for the next likeliest class another one?",
    higher_is_better=False,
    range=(-1.0, 1.0),
    paper="arXiv:1810.03292",
    needs=[MetricInput.METHOD],
)
class ClassSensitivity(Metric):
    """Rank correlation with the map for the likeliest other class; 1 if the target is ignored."""

    def measure(self, run: Run, values: Tensor, context: MetricContext) -> Score:
        check(values, run.x)
        assert context.reattribute is not None
        if not isinstance(run.target, ClassLogit):
            raise NotApplicableError(
                f"class sensitivity compares classes; explain a class, not {run.target.key}"
            )
        outputs = run.outputs()
        if outputs.shape[1] < 2:
            raise NotApplicableError("the model has one output only, and so no other class")
        asked = [[run.target.of(image)] for image in run.owner.tolist()]
        others = outputs.scatter(1, torch.tensor(asked, device=outputs.device), -torch.inf)
        target = ClassLogit(tuple(others.argmax(1).tolist()))
        found = context.reattribute(
            run.derive(x=run.x, owner=torch.arange(len(run.x)).to(run.owner), target=target)
        )
        alike = [spearman(a, b) for a, b in zip(found, values, strict=True)]
        return self.score(run, torch.tensor(alike))


def cascade(subject: Subject, steps: int, seed: int) -> Iterator[Subject]:
    """A copy of a model again and again, with ever more of its layers shuffled, the last first.

    It is the same copy each time; what has no place in the order of execution comes last.
    """
    copied = subject.clone()
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
        yield copied


def shuffle(module: nn.Module, generator: torch.Generator) -> None:
    """Put the values of each of a module's own parameters into a random order."""
    with torch.no_grad():
        for parameter in module.parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=generator)
            flat = parameter.flatten()
            parameter.copy_(flat[order.to(flat.device)].view_as(parameter))


def histogram_entropy(values: Tensor) -> Tensor:
    """(B,) in nats, of the values of maps (B, H, W) in equal bins between their extremes.

    >>> histogram_entropy(torch.tensor([[[0.0, 0.0, 1.0, 1.0]], [[3.0, 3.0, 3.0, 3.0]]]))
    tensor([0.6931, 0.0000])
    """
    entropies = []
    for one in values.flatten(1).double():
        shares = torch.histc(one, BINS) / len(one) if one.min() < one.max() else torch.ones(1)
        entropies.append(0.0 - torch.special.xlogy(shares, shares).sum())
    return torch.stack(entropies).float()

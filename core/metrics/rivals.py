"""Which other class a map is compared with: the likeliest one that is not alike."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ModelFailure
from core.runtime.model_call import call_model
from core.runtime.run import Run
from core.runtime.subject import Subject
from core.tasks.classification import scores_of

MIN_SAMPLES = 3
"""Two scores are always correlated over fewer pictures."""
UNKNOWN = (
    "how alike its classes are cannot be told of this model, so the other class is the next "
    "likeliest, which may look alike"
)


class Rivals(NamedTuple):
    """The other class of each image.

    Attributes:
        classes: (B,) their numbers.
        note: what is to be said about the choice; empty if there is nothing.
    """

    classes: Tensor
    note: str = ""


def next_rivals(scores: Tensor, asked: Tensor) -> Rivals:
    """The likeliest other class, which may well be a near twin, such as another breed of cat.

    Args:
        scores: (B, N) of each image.
        asked: (B,) the class explained.

    >>> next_rivals(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([0])).classes
    tensor([1])
    """
    return Rivals(scores.scatter(1, asked[:, None], -torch.inf).argmax(1))


def dissimilar_rivals(run: Run, scores: Tensor, asked: Tensor) -> Rivals:
    """The likeliest class of the half of all other classes that are least like the one explained.

    Two classes are alike as far as the rows of the linear classifier that stand for them point the
    same way (their cosine). Of a model without one, as far as the two scores are correlated over
    the sample pictures. Where neither can be told, it is the next likeliest class, and the note
    says so.

    Args:
        run: the images and the model.
        scores: (B, N) of each image.
        asked: (B,) the class explained.
    """
    similarity = _by_weights(run.subject, scores, asked)
    if similarity is None:
        similarity = _by_samples(run, asked)
    if similarity is None:
        return next_rivals(scores, asked)._replace(note=UNKNOWN)
    similarity = similarity.to(scores).scatter(1, asked[:, None], torch.inf)
    limit = similarity.kthvalue(scores.shape[1] // 2, dim=1, keepdim=True).values
    return Rivals(scores.where(similarity <= limit, -torch.inf).argmax(1))


def classifier_rows(subject: Subject, outputs: int) -> Tensor | None:
    """The weights (N, D) of the linear classifier, a row for each output; None if there is none.

    It is what timm's `get_classifier` gives, or the last linear layer with as many outputs. Of
    several, as in a distilled transformer, the rows are joined.
    """
    declared = [module for module in _declared(subject) if len(module.weight) == outputs]
    found = declared or _last_linear(subject, outputs)
    if not found:
        return None
    rows = torch.cat([module.weight.detach().flatten(1) for module in found], 1).float()
    return rows if bool(rows.isfinite().all()) and bool(rows.any(1).all()) else None


def _declared(subject: Subject) -> list[nn.Linear | nn.Conv2d]:
    """The classifiers that a timm model names."""
    given = getattr(subject.model, "get_classifier", None)
    found: object = None
    if callable(given):
        with suppress(ModelFailure):  # a method of that name that means something else
            found = call_model(given, name=subject.name)
    modules = found if isinstance(found, (tuple, list)) else [found]
    return [module for module in modules if isinstance(module, (nn.Linear, nn.Conv2d))]


def _last_linear(subject: Subject, outputs: int) -> list[nn.Linear]:
    """The linear layer with as many outputs that runs last; empty if there is none."""
    modules = dict(subject.model.named_modules())
    layers = (modules.get(name) for name in subject.layers)
    found = [one for one in layers if isinstance(one, nn.Linear) and one.out_features == outputs]
    return found[-1:]


def _by_weights(subject: Subject, scores: Tensor, asked: Tensor) -> Tensor | None:
    """(B, N) the cosine of each class's weights with those of the class explained."""
    rows = classifier_rows(subject, scores.shape[1])
    if rows is None:
        return None
    rows = F.normalize(rows)
    return rows[asked.to(rows.device)] @ rows.T


def _by_samples(run: Run, asked: Tensor) -> Tensor | None:
    """(B, N) the correlation of each class's score with that of the class explained."""
    samples = run.subject.samples.to(run.x)
    if len(samples) < MIN_SAMPLES:
        return None
    outputs = run.derive(x=samples, owner=None, target=None, images_name="samples").outputs()
    scores = scores_of(outputs).float()
    rows = F.normalize((scores - scores.mean(0)).T)
    found = rows[asked.to(rows.device)] @ rows.T
    varies = bool(rows.any(1).all()) and bool(found.isfinite().all())
    return found if varies else None

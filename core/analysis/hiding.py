"""What a model says of a picture while a part of it is hidden."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from core.errors import TimmscopeError
from core.perturb.imputation import RemovalBaseline, remover
from core.result import Result
from core.runtime.run import Run
from core.tasks.base import Combination, Target
from core.tasks.outputs import Outputs
from core.types import Prediction

DIFFERENCE = "difference in probability"
"""The unit of scores that are a probability less another."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Hiding(Result):
    """What a model says before and while a part of each picture is hidden.

    Attributes:
        hidden: (B, H, W) True where the model's input was replaced.
        baseline: what replaced it.
        before: the prediction for the pictures.
        after: the prediction while the part is hidden.
        explained: the target in words, for each picture.
        score_before: (B,) the target's score, as a probability where it has one.
        score_after: (B,) the same, while the part is hidden.
        unit: of these scores.
        pixels: (B, C, H, W) what the model was shown, in pixel values from 0 to 1.
    """

    hidden: Tensor
    baseline: str
    before: Prediction
    after: Prediction
    explained: tuple[str, ...]
    score_before: Tensor
    score_after: Tensor
    unit: str
    pixels: Tensor

    @property
    def share(self) -> Tensor:
        """(B,) how much of the model's input was hidden, from 0 to 1."""
        return self.hidden.float().mean((1, 2))

    def score_text(self, score: float) -> str:
        """One of the scores as people read it."""
        if self.unit.endswith("probability"):
            return f"{score:.1%}"
        return f"{score:.4g}" if self.unit == "score" else f"{score:.4g} {self.unit}".rstrip()


def outputs_without(
    run: Run, hidden: Tensor, baseline: RemovalBaseline = "blur"
) -> tuple[Tensor, Outputs]:
    """The pictures without a part of them, and the model's outputs; one row for each picture.

    The same part of the same pictures, with the same seed, is asked once.

    Args:
        run: the pictures and the model.
        hidden: (B, H, W) True where a pixel of the model's input is replaced.
        baseline: what replaces it.

    Returns:
        The rows (B, C, H, W) in model units, and their outputs.

    Raises:
        TimmscopeError: the masks have another shape than the pictures.
    """
    expected = (len(run.x), *run.x.shape[2:])
    if tuple(hidden.shape) != expected:
        raise TimmscopeError(
            f"a mask of shape {tuple(hidden.shape)} does not fit; give {expected}: one for each "
            "picture, in the pixels of the model's input"
        )
    hidden = hidden.bool().cpu()

    def compute() -> tuple[Tensor, Outputs]:
        shown = ~hidden.to(run.x.device)
        rows = torch.cat([remover(run, i, baseline)(shown[i : i + 1]) for i in range(len(run.x))])
        _, outputs = run.replies([(rows, run.owner)], len(rows))
        return rows, outputs

    part = blake2b(np.packbits(hidden.numpy()).tobytes(), digest_size=16).hexdigest()
    return run.cache_scope.get_or_compute(("without", baseline, run.seed, part), compute)


def unit_of(target: Target) -> str:
    """The unit of a target's scores; `DIFFERENCE` for one probability less another."""
    contrast = isinstance(target, Combination) and sum(w for w, _ in target.terms) == 0
    return DIFFERENCE if contrast and target.unit == "probability" else target.unit

"""Adaptive Integrated Gradients against fixed steps: passes for a tolerance, distance from truth.

Run as ``python -m benchmarks.paths``. For each sample picture and baseline, fixed Gauss-Legendre
quadrature is asked with more and more steps; it needs the first number from which on the
completeness error stays within the tolerance. The adaptive integral is asked once. A sum can be
right by chance, so both maps, at the same number of passes, are held against a fine one too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.bench import table
from core import Explainer, load_model
from core.models.embedded import NAME
from core.runtime.cache import Cache
from core.types import Attribution

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"
LADDER = (10, 20, 30, 40, 50, 60, 70, 80, 90, *range(100, 401, 25))
"""Fixed steps tried, fine enough that few that fail lie between two that do not."""


@dataclass(frozen=True)
class Case:
    """One picture and baseline.

    Attributes:
        picture: the picture's name.
        baseline: the baseline's.
        fixed: passes that fixed steps need; None if the ladder ends first.
        adaptive: passes that the adaptive integral took.
        converged: whether it says that it did.
        error: the completeness error it came to.
        error_fixed: that of as many fixed steps.
        distance: of its map from the fine one, as a share of the fine one's length.
        distance_fixed: that of as many fixed steps.
        correlation: of its map with the fine one.
        correlation_fixed: that of as many fixed steps.
        errors: the completeness error for fixed steps, from the most down to the first that fail.
    """

    picture: str
    baseline: str
    fixed: int | None
    adaptive: int
    converged: bool
    error: float
    error_fixed: float
    distance: float
    distance_fixed: float
    correlation: float
    correlation_fixed: float
    errors: dict[int, float]

    @property
    def share(self) -> float:
        """Adaptive passes over fixed ones, at most: a ladder that ends counts as its last step."""
        return self.adaptive / (self.fixed or LADDER[-1])


class Question:
    """One picture and baseline, to be asked in several ways; the target is the predicted class."""

    def __init__(self, explainer: Explainer, picture: Path, baseline: str) -> None:
        self.explainer, self.baseline = explainer, baseline
        self.batch = explainer.prepare(picture)
        self.target = int(explainer.predict(self.batch).scores.argmax())

    def ask(self, steps: int, tolerance: float = 0.0) -> Attribution:
        """Integrated gradients."""
        return self.explainer.explain(
            self.batch,
            "integrated_gradients",
            target=self.target,
            baselines=(self.baseline,),
            steps=steps,
            tolerance=tolerance,
        )


def measure(
    explainer: Explainer, picture: Path, baseline: str, options: argparse.Namespace
) -> Case:
    """Ask one picture and baseline in every way."""
    question = Question(explainer, picture, baseline)
    ours = question.ask(LADDER[-1], options.tolerance)
    passes = ours.cost.backward
    same, fine = question.ask(passes), question.ask(options.fine)
    errors = fixed_errors(question, options.tolerance)
    return Case(
        picture.stem,
        baseline,
        min((n for n, error in errors.items() if error <= options.tolerance), default=None),
        passes,
        bool(ours.extras["converged"]),
        error_of(ours),
        error_of(same),
        distance(ours, fine),
        distance(same, fine),
        correlation(ours, fine),
        correlation(same, fine),
        errors,
    )


def fixed_errors(question: Question, tolerance: float) -> dict[int, float]:
    """The error for fewer and fewer fixed steps, up to where it first exceeds the tolerance."""
    errors: dict[int, float] = {}
    for steps in reversed(LADDER):
        errors[steps] = error_of(question.ask(steps))
        if errors[steps] > tolerance:
            break
    return errors


def error_of(answer: Attribution) -> float:
    """The completeness error."""
    return float(answer.extras["completeness_error"])


def distance(answer: Attribution, fine: Attribution) -> float:
    """The distance between maps as a share of the fine one's length."""
    return float((answer.values - fine.values).norm() / fine.values.norm())


def correlation(answer: Attribution, fine: Attribution) -> float:
    """Pearson's correlation of two maps."""
    both: Tensor = torch.stack([answer.values.flatten(), fine.values.flatten()])
    return float(np.corrcoef(both.numpy())[0, 1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    handle = load_model(options.model, weights=None if options.model == NAME else "random")
    cases = []
    for picture in options.pictures:
        for baseline in options.baselines:
            explainer = Explainer(handle, cache=Cache())
            cases.append(measure(explainer, picture, baseline, options))
            sys.stderr.write(f"{cases[-1]}\n")
    print(report(cases))
    if options.json:
        options.json.write_text(json.dumps([asdict(case) for case in cases], indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks.paths", description=__doc__)
    pictures = sorted(SAMPLES.glob("*.jpg"))
    asked.add_argument("--model", default=NAME, metavar="NAME")
    asked.add_argument("--pictures", nargs="+", type=Path, default=pictures, metavar="FILE")
    asked.add_argument("--baselines", nargs="+", default=["black", "blur"], metavar="NAME")
    asked.add_argument("--tolerance", type=float, default=0.01)
    asked.add_argument(
        "--fine", type=int, default=1000, help="steps of the map taken for the truth"
    )
    asked.add_argument("--threads", type=int, help="threads on the CPU")
    asked.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    return asked


def report(cases: Sequence[Case]) -> str:
    """Every case and the medians, as text."""
    head: tuple[str, ...] = ("picture", "baseline", "fixed", "ours", "share", "settled")
    head += ("error %", "fixed %", "distance", "fixed's", "correlation", "fixed's")
    rows = [
        (
            c.picture,
            c.baseline,
            str(c.fixed or f">{LADDER[-1]}"),
            str(c.adaptive),
            f"{c.share:.2f}",
            "yes" if c.converged else "NO",
            *(f"{100 * e:.2f}" for e in (c.error, c.error_fixed)),
            *(f"{d:.3f}" for d in (c.distance, c.distance_fixed)),
            *(f"{r:.4f}" for r in (c.correlation, c.correlation_fixed)),
        )
        for c in cases
    ]
    shares = [c.share for c in cases]
    nearer = sum(c.distance < c.distance_fixed for c in cases)
    closer = statistics.median(c.distance / c.distance_fixed for c in cases)
    summary = [
        f"share of the passes that fixed steps need: {max(shares):.2f} at most, median "
        f"{statistics.median(shares):.2f} (to be at most 0.50)",
        f"nearer the fine map than as many fixed steps: {nearer} of {len(cases)}; "
        f"median {closer:.2f} of their distance (to be below 1)",
    ]
    return "\n".join([table(head, rows), "", *summary])


if __name__ == "__main__":
    sys.exit(main())

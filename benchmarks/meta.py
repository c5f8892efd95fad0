"""Whether metrics score the true evidence best: writes ``docs/metrics.md``.

Run as ``python -m benchmarks.meta``. On each synthetic model the true evidence itself is scored as
a map, beside maps that are known to be wrong. A metric that does not score it better than these
says little about a map's quality, and has a caveat.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ground_truth import Case, collect, planes
from benchmarks.scoring import Values, parameters, table
from core import METRICS, Explainer, load_model
from core.errors import NotApplicableError
from core.evaluation.statistics import interval
from core.methods.base import control_keys
from core.metrics.base import Metric, MetricInput
from core.runtime.cache import Cache
from core.synthetic import SYNTHETIC_MODELS
from core.synthetic.scenes import Scene
from core.tasks.classification import ClassScore

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
KNOWN = "layercam"
"""A method that finds the evidence on every synthetic model, for metrics that run a method."""
PARAMETERS: Mapping[str, Mapping[str, object]] = {"max_sensitivity": {"samples": 4}}
"""Parameters where the default takes long and changes little."""

INTRO = """\
# What metrics are worth

Written by `make meta`. Each metric is tested on the synthetic models, where the evidence is known
pixel by pixel. It scores the true evidence, given as a map, and several wrong maps: noise, the
picture's edges, a blob in the middle, and the inverted evidence. A metric that can tell a good map
from a bad one must score the true evidence better than all of these. Metrics that run a method
again cannot score a map alone; they score `{known}`, which finds the evidence on each of these
models ([ground_truth.md](ground_truth.md)), beside the controls.

**yes**: the metric's mean over pictures is better for the true evidence than for every other map,
by a paired bootstrap of the difference with a 95 % interval. **no** names the other maps. In
brackets is the share of single pictures on which the true evidence scores best. {pictures} pictures
for each model; metrics have their default parameters{parameters}. Which metric tests which quality
is in [methods.md](methods.md#metrics).

"""


@dataclass(frozen=True)
class Found:
    """The scores of one metric on one model.

    Attributes:
        ground_truth: (n,) the scores of the true evidence, one a picture.
        others: (n,) the scores of each wrong map, by name.
        higher_is_better: whether a better map scores higher.
    """

    ground_truth: Values
    others: Mapping[str, Values]
    higher_is_better: bool

    def ahead(self, name: str) -> Values:
        """(n,) by how much the true evidence scores better than another map."""
        return (self.ground_truth - self.others[name]) * (1 if self.higher_is_better else -1)

    def lost(self) -> list[str]:
        """The maps that do not score clearly worse than the true evidence."""
        return [name for name in self.others if interval(self.ahead(name))[0] <= 0]

    def share(self) -> float:
        """The share of pictures on which the true evidence scores best."""
        return float(np.all([self.ahead(name) > 0 for name in self.others], axis=0).mean())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks.meta", description=__doc__)
    asked.add_argument("--pictures", type=int, default=24)
    asked.add_argument("--page", type=Path, default=PAGE)
    asked.add_argument("--threads", type=int, default=2)
    options = asked.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, dict[str, Found | None]] = {key: {} for key in METRICS}
    for world in SYNTHETIC_MODELS:
        case = collect(load_model(world, device="cpu"), options.pictures, 0)
        for key in METRICS:
            found[key][world] = examine(case, METRICS.make(key, PARAMETERS.get(key)))
            sys.stderr.write(f"{world} {key}: {_cell(found[key][world])}\n")
    options.page.write_text(page(found, options.pictures), encoding="utf-8")
    return 0


def examine(case: Case, metric: Metric) -> Found | None:
    """One metric on one model's pictures; None where there is nothing to compare."""
    scored = [_scores(case.explainer, metric, shown) for shown in case.single]
    if not all(len(one) > 1 and "ground_truth" in one for one in scored):
        return None
    named = {name: np.array([one[name] for one in scored]) for name in scored[0]}
    return Found(named.pop("ground_truth"), named, metric.higher_is_better)


def _scores(explainer: Explainer, metric: Metric, shown: Scene) -> dict[str, float]:
    """A metric's score of the true evidence and of each wrong map of one picture, by name."""
    explainer = Explainer(explainer.model, cache=Cache(64 * 2**20))
    batch = explainer.prepare(planes([shown]))
    ground_truth = torch.from_numpy(shown.masks)
    question = {"target": ClassScore(shown.classes[0]), "ground_truth": ground_truth}
    scores = {}
    for name, values in _maps(explainer, batch.x, ground_truth, question["target"], metric).items():
        try:
            scores[name] = float(explainer.measure(batch, values, metric, **question).value[0])
        except NotApplicableError:
            continue
    return scores


def _maps(
    explainer: Explainer, x: Tensor, ground_truth: Tensor, target: ClassScore, metric: Metric
) -> dict[str, object]:
    """The true evidence and the wrong maps, by name; attributions if the metric needs a method."""
    answers = {key: explainer.explain(x, key, target=target) for key in control_keys()}
    if MetricInput.METHOD in metric.needs:
        return {"ground_truth": explainer.explain(x, KNOWN, target=target), **answers}
    return {
        "ground_truth": ground_truth.float(),
        **{key: answer.values for key, answer in answers.items()},
        "inverted": (~ground_truth).float(),
    }


# -- page -----------------------------------------------------------------------------------------


def page(found: Mapping[str, Mapping[str, Found | None]], pictures: int) -> str:
    """The whole page, as Markdown."""
    intro = INTRO.format(
        known=KNOWN, pictures=pictures, parameters=f", but for {parameters(PARAMETERS)}"
    )
    rows = [
        [f"`{key}`", "the method" if MetricInput.METHOD in METRICS[key].needs else "the map"]
        + [_cell(one) for one in by_world.values()]
        + [METRICS[key].caveat]
        for key, by_world in found.items()
    ]
    head = ["metric", "judges", *(f"`{world}`" for world in SYNTHETIC_MODELS), "label"]
    return f"{intro}{table(head, rows)}"


def _cell(found: Found | None) -> str:
    if found is None:
        return "nothing to compare"
    lost = found.lost()
    word = f"no: {', '.join(lost)}" if lost else "yes"
    return f"{word} ({found.share():.0%})"


if __name__ == "__main__":
    sys.exit(main())

"""Where a path should start: writes the evidence for the default baselines of path methods.

Run as ``make baselines``; the page is `docs/baselines.md`. Each method explains synthetic scenes of
one object, on each model trained on them, and photographs, on the embedded model, from each
baseline. Four numbers are measured: the share of the absolute map on the picture's frame (of even
maps it is the frame's share of the picture), the share of positive evidence on the object, the
symmetric relevance gain, and the completeness error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from core import METHODS, Explainer, load_model
from core.methods.base import Method
from core.perturb.baselines import Baseline
from core.synthetic import SYNTHETIC_MODELS
from core.synthetic.scenes import HELD_OUT, scene
from core.types import Attribution

DOCUMENT = Path(__file__).parent.parent / "docs" / "baselines.md"
FRAME = 1 / 28
"""Width of the frame, as a share of the picture's side: 8 of 224 pixels."""
FIRST = HELD_OUT + 20_000
"""The first seed of the scenes."""
PHOTOGRAPHS = ("chelsea", "coffee", "rocket")
STARTS: Mapping[str, Mapping[str, object]] = {
    "integrated_gradients": {"steps": 24},
    "idgi": {"steps": 24},
    "guided_ig": {"steps": 24},
    "expected_gradients": {"samples": 24},
    "deeplift": {},
    "deep_shap": {},
}
"""The methods that start from a baseline, with fewer steps than their defaults."""
MIXTURES = (("black", "white", "blur", "random"), ("blur", "random"), ("blur", "mean", "zero"))
"""Several baselines in turn, for the methods that take the mean over baselines."""
AVERAGING = ("expected_gradients", "deep_shap")
SRG = {"steps": 8, "baseline": "blur"}


@dataclass(frozen=True)
class Case:
    """Pictures of one model.

    Attributes:
        name: the model's name.
        explainer: asks the model.
        x: (B, C, H, W) the pictures.
        masks: (B, H, W) where the object is; None for photographs.
    """

    name: str
    explainer: Explainer
    x: Tensor
    masks: Tensor | None


@dataclass(frozen=True)
class Evidence:
    """What speaks for a baseline; means over pictures.

    Attributes:
        frame: share of the absolute map on the frame.
        inside: share of the positive map on the object; NaN where that is not known.
        gain: symmetric relevance gain.
        error: completeness error.
    """

    frame: float
    inside: float
    gain: float
    error: float


def cases(scenes: int) -> Iterator[Case]:
    """The trained models with their pictures."""
    for name in SYNTHETIC_MODELS:
        explainer = Explainer(load_model(name))
        found = [scene(FIRST + seed) for seed in range(scenes)]
        x = torch.cat([explainer.prepare([one.picture]).x for one in found])
        masks = torch.stack([torch.from_numpy(one.masks[0]) for one in found])
        yield Case(name, explainer, x, masks)
    explainer = Explainer()
    x = explainer.prepare([f"assets/samples/{name}.jpg" for name in PHOTOGRAPHS]).x
    yield Case(explainer.model.name, explainer, x, None)


def starts(key: str) -> list[tuple[str, ...]]:
    """The baselines, alone or several in turn, that a method is tried with."""
    single = [(baseline,) for baseline in get_args(Baseline)]
    if key == "deep_shap":  # from one baseline it is DeepLIFT
        return [*MIXTURES]
    return [*single, *MIXTURES] if key in AVERAGING else [*single]


def starting(key: str, baselines: tuple[str, ...]) -> Method:
    """A method that starts from these baselines."""
    name = "baseline" if "baseline" in METHODS[key].model_fields else "baselines"
    value = baselines[0] if name == "baseline" else baselines
    return METHODS.make(key, {**STARTS[key], name: value})


def frame_share(values: Tensor) -> Tensor:
    """(B,) the share of the absolute values (B, H, W) on the frame; 0 for a map of zeros."""
    sizes, width = values.double().abs(), max(1, round(FRAME * values.shape[-1]))
    inner = sizes[:, width:-width, width:-width].sum((1, 2))
    total = sizes.sum((1, 2))
    return torch.where(total > 0, 1 - inner / total, 0)


def measure(case: Case, method: Method) -> Evidence:
    """The evidence for a method, with the baseline that it starts from, on one model."""
    target = case.explainer.predict(case.x).scores.argmax(1).tolist()
    found: Attribution = case.explainer.explain(case.x, method, target=target)
    inside = float("nan")
    if case.masks is not None:
        positive = found.values.clamp_min(0)
        shares = (positive * case.masks).sum((1, 2)) / positive.sum((1, 2)).clamp_min(1e-30)
        inside = float(shares.mean())
    gain = case.explainer.measure(case.x, found, "srg", target=target, **SRG)
    error = found.extras["completeness_error"]
    return Evidence(
        float(frame_share(found.values).mean()),
        inside,
        float(gain.value.mean()),
        float(error.median()),
    )


PAGE = """# Where a path starts

Written by `make baselines`. The methods that compare the picture with a baseline were run from each
baseline: on {scenes} synthetic scenes for each model trained on such scenes, with one object whose
place is known, and on the photographs {photographs} for the embedded model.

- *Frame*: share of the absolute map on the outer 8 of 224 pixels; 14 % of an even map.
- *Inside*: share of the positive map on the object; of an even map, its share of the picture.
- *Gain*: symmetric relevance gain, with blur in place of removed pixels; 0 for a random map.
- *Error*: completeness error, the median, at fewer steps than the default.

{rows}

From black, the gain of Integrated Gradients, Guided IG, Expected Gradients and DeepLIFT is at most
0.09 on every model, and from white at most 0.33: the strongest values of such a map matter little
to the model. From blur it is 0.13 to 0.83, and the share inside the object is the highest or next
to the highest. So blur is the default of these and of IDGI, which draws the picture's frame from
black and white. Expected Gradients takes blur and random in turn, whose gain is larger on every
model than that of four baselines with black and white among them. DeepSHAP keeps the four, whose
gain is alike and whose share inside is larger or alike. Blur IG has a path of its own.
"""


def rows_of(keys: Iterable[str], scenes: int) -> Iterator[str]:
    """The rows of the table, as they are measured."""
    yield "| model | method | baseline | frame | inside | gain | error |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for case in cases(scenes):
        for key in keys:
            for baselines in starts(key):
                one = measure(case, starting(key, baselines))
                numbers = (one.frame, one.inside, one.gain, one.error)
                cells = " | ".join("" if n != n else f"{n:.3f}" for n in numbers)
                yield f"| {case.name} | `{key}` | {', '.join(baselines)} | {cells} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, write the rows, and the page where all methods were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.baselines", description=__doc__)
    parser.add_argument("--scenes", type=int, default=12, help="scenes for each synthetic model")
    parser.add_argument(
        "--methods", default="", help="some only, by comma; then no page is written"
    )
    asked = parser.parse_args(arguments)
    rows = []
    for row in rows_of(asked.methods.split(",") if asked.methods else STARTS, asked.scenes):
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        rows.append(row)
    if not asked.methods:
        text = PAGE.format(
            scenes=asked.scenes, photographs=", ".join(PHOTOGRAPHS), rows="\n".join(rows)
        )
        DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Where explanations point, and where the evidence is: writes ``docs/truth.md``.

Run as ``python -m benchmarks.truth``. On each model of the generated world, whose evidence is known
pixel by pixel, every method that can run is scored beside the controls. Further, Grad-CAM is scored
on every layer that could be the default one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import mosaics
from benchmarks.scoring import (
    Values,
    candidates,
    fraction,
    hit,
    interval,
    layer_facts,
    parameters,
    percent,
    share,
    table,
)
from core import METHODS, Explainer, ModelHandle, load_model
from core.cache import Cache
from core.errors import FAULTS, NotApplicableError, TimmscopeError
from core.methods.base import Method
from core.targets import ClassLogit
from core.types import Law, upsample
from core.worlds import WORLDS
from core.worlds.scenes import CLASSES, HELD_OUT, Scene, scene
from core.worlds.train import to_input

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "truth.md"
CONTROLS = tuple(key for key, cls in METHODS.items() if cls.family == "control")
FIRST = HELD_OUT + 10_000
"""The first seed looked at: not the pictures that the accuracy is measured on."""
CHUNK = 4
"""Pictures explained at a time."""
LAYER_PICTURES = 200
"""Pictures, of one object and of two, on which layers are compared."""
FEWEST = 8
"""Pictures that every method is tried on, however long it takes."""

PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "occlusion": {"window": 12, "stride": 6},
}
"""Where the default is made for pictures of 224 x 224 pixels."""


@dataclass(frozen=True)
class Case:
    """Pictures of one model whose classes it finds.

    Attributes:
        explainer: asks the model; its cache is small, so that no method's pass helps another.
        single: pictures of one object.
        pairs: pictures of two, both of which are the model's first two classes.
    """

    explainer: Explainer
    single: list[Scene]
    pairs: list[Scene]


@dataclass
class Found:
    """What one method scored, picture by picture.

    Attributes:
        inside: share of the positive attribution that lies on the object.
        hits: whether the largest value lies on it.
        right: of the share on either object of two, that on the object asked for.
        refused: why there is nothing.
        seconds: it took.
    """

    inside: Values = field(default_factory=lambda: np.empty(0))
    hits: Values = field(default_factory=lambda: np.empty(0))
    right: Values = field(default_factory=lambda: np.empty(0))
    refused: str = ""
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    parts = [_intro(options)]
    for name in options.models:
        case = collect(load_model(name, device="cpu"), options.pictures)
        found: dict[str, Found] = {}
        for key in dict.fromkeys([*CONTROLS, *options.methods]):
            found[key] = score(case, key, options.seconds)
            sys.stderr.write(f"{name} {key}: {_brief(found[key])}\n")
        parts += [_ranking(name, case, found), _layers_of_world(case)]
    if not options.no_photographs:
        methods = list(dict.fromkeys([*CONTROLS, *options.methods]))
        parts.append(mosaics.section(methods, options.seconds, options.rounds))
    options.page.write_text("\n".join(parts), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(prog="python -m benchmarks.truth", description=__doc__)
    asked.add_argument("--models", nargs="+", default=list(WORLDS), choices=list(WORLDS))
    asked.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    asked.add_argument("--pictures", type=int, default=600, help="of one object, and of two")
    asked.add_argument("--seconds", type=float, default=20, help="the most for a method and model")
    asked.add_argument("--threads", type=int, default=2)
    asked.add_argument("--no-photographs", action="store_true", help="leave out the mosaics")
    asked.add_argument("--rounds", type=int, default=mosaics.ROUNDS, help="uses of a photograph")
    asked.add_argument("--page", type=Path, default=PAGE)
    return asked


# -- pictures -------------------------------------------------------------------------------------


def collect(handle: ModelHandle, pictures: int, pairs: int | None = None) -> Case:
    """The first held-out scenes that the model understands; of two objects as many as of one."""
    explainer = Explainer(handle, cache=Cache(2**20))
    wanted = {1: pictures, 2: pictures if pairs is None else pairs}
    found: dict[int, list[Scene]] = {objects: [] for objects in wanted}
    for objects, kept in found.items():
        seeds = itertools.count(FIRST)
        while len(kept) < wanted[objects]:
            shown = scene(next(seeds), objects)
            logits = explainer.predict(planes([shown])).logits[0]
            if set(logits.topk(objects).indices.tolist()) == set(shown.classes):
                kept.append(shown)
    return Case(explainer, found[1], found[2])


def planes(scenes: Iterable[Scene]) -> Tensor:
    """Scenes as the models see them (B, 3, H, W)."""
    return to_input(torch.from_numpy(np.stack([s.picture for s in scenes])).permute(0, 3, 1, 2))


# -- scores ---------------------------------------------------------------------------------------


def score(case: Case, method: str | Method, seconds: float) -> Found:
    """One method on as many pictures as `seconds` allow."""
    found = Found()
    if isinstance(method, str):
        method = METHODS.make(method, PARAMETERS.get(method))
    began = time.perf_counter()
    try:
        for start in range(0, len(case.single), CHUNK):
            spent = time.perf_counter() - began
            if start >= FEWEST and spent * (start + CHUNK) / start > seconds:
                break
            part = slice(start, start + CHUNK)
            _score_single(found, case.explainer, method, case.single[part], seed=start)
            _score_pairs(found, case.explainer, method, case.pairs[part], seed=start)
    except FAULTS as error:
        kind = "" if isinstance(error, TimmscopeError) else f"{type(error).__name__}: "
        return Found(refused=kind + str(error).partition("\n")[0])
    found.seconds = time.perf_counter() - began
    return found


def _score_single(
    found: Found,
    explainer: Explainer,
    method: Method,
    scenes: Sequence[Scene],
    seed: int,
    layer: str | None = None,
) -> None:
    classes = [s.classes[0] for s in scenes]
    values = explained(explainer, method, scenes, classes, seed, layer)
    pairs = [(v, s.masks[0]) for v, s in zip(values, scenes, strict=True)]
    found.inside = np.append(found.inside, [share(*pair) for pair in pairs])
    found.hits = np.append(found.hits, [hit(*pair) for pair in pairs])


def _score_pairs(
    found: Found,
    explainer: Explainer,
    method: Method,
    scenes: Sequence[Scene],
    seed: int,
    layer: str | None = None,
) -> None:
    """The mean of both questions for each picture; nothing where there are no pictures."""
    if not scenes:
        return
    asked = [(s, which) for s in scenes for which in range(2)]
    values = explained(
        explainer, method, [s for s, _ in asked], [s.classes[w] for s, w in asked], seed, layer
    )
    right = [
        fraction(share(v, s.masks[w]), share(v, s.masks.any(0)))
        for v, (s, w) in zip(values, asked, strict=True)
    ]
    found.right = np.append(found.right, np.reshape(right, (-1, 2)).mean(1))


def explained(
    explainer: Explainer,
    method: Method,
    scenes: Sequence[Scene],
    classes: Sequence[int],
    seed: int,
    layer: str | None = None,
) -> Values:
    """Maps (B, H, W) of scenes for one class each."""
    answer = explainer.explain(
        planes(scenes), method, target=ClassLogit(tuple(classes)), seed=seed, layer=layer
    )
    height, width, _ = scenes[0].picture.shape
    return upsample(answer.values, (height, width)).double().numpy()


def beats(found: Found, control: Found) -> bool:
    """Whether more lies inside than the control has there, picture by picture, 95 %."""
    count = min(len(found.inside), len(control.inside))
    return interval(found.inside[:count] - control.inside[:count])[0] > 0


# -- layers ---------------------------------------------------------------------------------------


def layer_scores(case: Case, layer: str) -> Found | None:
    """Grad-CAM at one layer, on the first pictures; None if it does not apply there."""
    gradcam, found = METHODS.make("gradcam"), Found()
    try:
        for start in range(0, min(len(case.single), LAYER_PICTURES), CHUNK):
            part = slice(start, start + CHUNK)
            _score_single(found, case.explainer, gradcam, case.single[part], start, layer)
            _score_pairs(found, case.explainer, gradcam, case.pairs[part], start, layer)
    except NotApplicableError:
        return None
    return found


# -- page -----------------------------------------------------------------------------------------


def _intro(options: argparse.Namespace) -> str:
    return f"""\
# Known truth

Written by `make truth`. The pictures are generated: one object of a class on a textured ground,
among distractors that are drawn without regard to the class. So the evidence is the object's own
pixels, and nothing else can be. The models are small ones of timm, trained on such pictures; those
below were never trained on, and the model finds the right class in each.

- **inside**: share of the positive attribution that lies on the object.
- **pointing**: how often the largest value lies on it; of equal ones, the share that do.
- **right of two**: pictures of two objects, each asked for in turn: of what lies on either, the
  share on the one asked for. 50 % is what a map scores that ignores the question.
- **beats**: whether the share inside is larger than that of each control, by a paired bootstrap
  of the difference with a 95 % interval. Methods with the promise `localises` claim that it
  is, and a test holds this page to it; the others make no claim.

Means with 95 % bootstrap intervals over {options.pictures} pictures of one object and as many of
two; fewer where a method took longer than {options.seconds:g} s. Methods run with their default
parameters, on their default layer, but for {parameters(PARAMETERS)}.{_left_out(options.methods)}
Layers are compared on at most {LAYER_PICTURES} pictures.
"""


def _left_out(methods: Sequence[str]) -> str:
    left = [f"`{key}`" for key in METHODS if key not in methods and key not in CONTROLS]
    return f" Not run this time: {', '.join(left)}." if left else ""


def _ranking(name: str, case: Case, found: Mapping[str, Found]) -> str:
    done = {key: f for key, f in found.items() if not f.refused}
    ranked = sorted(done, key=lambda key: -done[key].inside.mean())
    rows = [
        [
            str(place),
            f"`{key}`",
            percent(done[key].inside),
            percent(done[key].hits),
            percent(done[key].right),
            _verdict(key, done),
            str(len(done[key].inside)),
        ]
        for place, key in enumerate(ranked, 1)
    ]
    area = float(np.mean([s.masks[0].mean() for s in case.single]))
    head = ["", "method", "inside", "pointing", "right of two", "beats", "pictures"]
    refused = [[f"`{key}`", f.refused] for key, f in found.items() if f.refused]
    parts = [
        f"## `{name}`\n",
        f"{WORLDS[name].architecture}, {len(CLASSES)} classes. The object covers "
        f"{100 * area:.0f} % of a picture on average.\n",
        table(head, rows),
    ]
    if refused:
        parts += ["Refused:\n", table(["method", "reason"], refused)]
    return "\n".join(parts)


def _verdict(key: str, done: Mapping[str, Found]) -> str:
    """Which controls a method beats, in words; whether it claims to."""
    if key in CONTROLS:
        return "control"
    lost = [c for c in CONTROLS if c in done and not beats(done[key], done[c])]
    text = f"not {', '.join(lost)}" if lost else "all controls"
    return text if Law.LOCALISES in METHODS[key].laws else f"{text} (no claim)"


def _layers_of_world(case: Case) -> str:
    handle = case.explainer.model
    rows = []
    for layer in candidates(case.explainer):
        found = layer_scores(case, layer)
        cells = (
            ["does not apply", "", ""]
            if found is None
            else [percent(values) for values in (found.inside, found.hits, found.right)]
        )
        rows.append([*layer_facts(case.explainer, layer), *cells])
    return "\n".join(
        [
            f"### Grad-CAM by layer: `{handle.name}`\n",
            table(["layer", "grid", "", "inside", "pointing", "right of two"], rows),
        ]
    )


def _brief(found: Found) -> str:
    return found.refused or f"{100 * found.inside.mean():.0f} %, {found.seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())

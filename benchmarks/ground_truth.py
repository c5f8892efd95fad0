"""Where explanations point, and where the evidence is: writes ``docs/ground_truth.md``.

Run as ``python -m benchmarks.ground_truth``. On each synthetic model, whose evidence is known pixel
by pixel, every method that can run is scored beside the controls. Further, Grad-CAM is scored on
every layer that could be the default one. Photographs in mosaics follow, see `mosaics`. Several
processes do the work and keep what they find in a journal, from which the page is then written.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
    layer_facts,
    parameters,
    percent,
    share,
    table,
)
from core import METHODS, Explainer, ModelHandle, load_model
from core.errors import TimmscopeError
from core.evaluation.journal import JsonLines
from core.evaluation.statistics import interval
from core.methods.base import Method, control_keys
from core.models.embedded import NAME
from core.runtime.cache import Cache
from core.synthetic import SYNTHETIC_MODELS
from core.synthetic.scenes import CLASSES, HELD_OUT, Scene, scene
from core.synthetic.train import to_input
from core.tasks.classification import ClassScore
from core.types import Property, upsample

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ground_truth.md"
JOURNAL = ROOT / "out" / "ground_truth.jsonl"
"""Where what is found is kept as it comes, for `--resume`."""
CONTROLS = tuple(control_keys())
FIRST = HELD_OUT + 10_000
"""The first seed looked at: not the pictures that the accuracy is measured on."""
CHUNK = 4
"""Pictures explained at a time."""
LAYER_PICTURES = 200
"""Pictures, of one object and of two, on which layers are compared."""
FEWEST = 8
"""Pictures that every method is tried on, however long it takes."""
LAYERS = "layers"
"""Grad-CAM on every layer, as a part of the work."""

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
        seconds: of the processor, that it took.
    """

    inside: Values = field(default_factory=lambda: np.empty(0))
    hits: Values = field(default_factory=lambda: np.empty(0))
    right: Values = field(default_factory=lambda: np.empty(0))
    refused: str = ""
    seconds: float = 0.0

    def brief(self) -> str:
        """In a few words."""
        return self.refused or f"{100 * self.inside.mean():.0f} %, {self.seconds:.1f} s"


@dataclass(frozen=True)
class Plan:
    """What is asked for, and where it is kept.

    Attributes:
        models: the models of the synthetic scenes.
        methods: with the controls.
        pictures: of one object, and of two.
        seconds: of the processor, the most for a method on a model.
        rounds: uses of a photograph; 0 leaves them out.
        journal: what is found, a line each.
    """

    models: Sequence[str]
    methods: Sequence[str]
    pictures: int
    seconds: float
    rounds: int
    journal: Path

    def parts(self) -> Iterator[tuple[str, str]]:
        """A model and a method, or a model and `LAYERS`: what can be done on its own."""
        if self.rounds:
            yield from ((NAME, method) for method in self.methods)
            yield from ((contestant, LAYERS) for contestant in mosaics.CONTESTANTS)
        for model in self.models:
            yield from ((model, part) for part in [*self.methods, LAYERS])

    def found(self, model: str, method: str, layer: str = "") -> Found:
        """What a method scored on a model of the synthetic scenes."""
        case, at = _case(model, self.pictures), layer or None
        name = f"{model} {method} {layer} pictures={self.pictures} seconds={self.seconds:g}"
        with JsonLines(self.journal) as lines:
            return lines.once(name, Found, lambda: score(case, method, self.seconds, at))

    def played(self, model: str, method: str, layer: str = "") -> mosaics.Found:
        """What a method scored on a model's mosaics."""
        game, at = _game(model, self.rounds), layer or None
        name = f"mosaics {model} {method} {layer} rounds={self.rounds} seconds={self.seconds:g}"
        with JsonLines(self.journal) as lines:
            return lines.once(
                name, mosaics.Found, lambda: mosaics.score(game, method, self.seconds, at)
            )


@functools.cache
def _case(model: str, pictures: int) -> Case:
    return collect(load_model(model, device="cpu"), pictures)


@functools.cache
def _game(contestant: str, rounds: int) -> mosaics.Game:
    return mosaics.game(contestant, rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    options = _parser().parse_args(arguments)
    methods = list(dict.fromkeys([*CONTROLS, *options.methods]))
    asked = options.models, methods, options.pictures, options.seconds, options.rounds
    plan = Plan(*asked, options.journal)
    if not options.resume:
        plan.journal.unlink(missing_ok=True)
    if options.jobs > 1:
        processes = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(options.jobs, processes, torch.set_num_threads, (1,)) as pool:
            for done in as_completed(pool.submit(work, plan, *part) for part in plan.parts()):
                sys.stderr.write(f"{done.result()}\n")
    options.page.write_text(page(plan), encoding="utf-8")
    return 0


def work(plan: Plan, model: str, part: str) -> str:
    """Do one part of a plan; what was found, in a line."""
    ask = plan.found if model in SYNTHETIC_MODELS else plan.played
    if part != LAYERS:
        return f"{model} {part}: {ask(model, part).brief()}"
    shown = _case(model, plan.pictures) if model in SYNTHETIC_MODELS else _game(model, plan.rounds)
    done = [ask(model, "gradcam", layer) for layer in candidates(shown.explainer)]
    return f"{model} {LAYERS}: {len(done)} tried"


def _parser() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(prog="python -m benchmarks.ground_truth", description=__doc__)
    asked.add_argument(
        "--models", nargs="*", default=list(SYNTHETIC_MODELS), choices=list(SYNTHETIC_MODELS)
    )
    asked.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    asked.add_argument("--pictures", type=int, default=600, help="of one object, and of two")
    asked.add_argument("--seconds", type=float, default=10, help="the most for a method and model")
    asked.add_argument("--rounds", type=int, default=mosaics.ROUNDS, help="uses of a photograph")
    asked.add_argument("--jobs", type=int, default=2, help="processes at a time")
    asked.add_argument("--resume", action="store_true", help="go on with what the journal holds")
    asked.add_argument("--journal", type=Path, default=JOURNAL)
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
            logits = explainer.predict(planes([shown])).scores[0]
            if set(logits.topk(objects).indices.tolist()) == set(shown.classes):
                kept.append(shown)
    return Case(explainer, found[1], found[2])


def planes(scenes: Iterable[Scene]) -> Tensor:
    """Scenes as the models see them (B, 3, H, W)."""
    return to_input(torch.from_numpy(np.stack([s.picture for s in scenes])).permute(0, 3, 1, 2))


# -- scores ---------------------------------------------------------------------------------------


def score(case: Case, method: str | Method, seconds: float, layer: str | None = None) -> Found:
    """One method on as many pictures as `seconds` allow; at most `LAYER_PICTURES` on a layer."""
    found = Found()
    if isinstance(method, str):
        method = METHODS.make(method, PARAMETERS.get(method))
    began, most = time.process_time(), len(case.single)
    try:
        for start in range(0, most if layer is None else min(most, LAYER_PICTURES), CHUNK):
            spent = time.process_time() - began
            if start >= FEWEST and spent * (start + CHUNK) / start > seconds:
                break
            part = slice(start, start + CHUNK)
            _score_single(found, case.explainer, method, case.single[part], start, layer)
            _score_pairs(found, case.explainer, method, case.pairs[part], start, layer)
    except TimmscopeError as error:
        return Found(refused=str(error).partition("\n")[0])
    found.seconds = time.process_time() - began
    return found


def _score_single(
    found: Found,
    explainer: Explainer,
    method: Method,
    scenes: Sequence[Scene],
    seed: int,
    layer: str | None,
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
    layer: str | None,
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
        planes(scenes), method, target=ClassScore(tuple(classes)), seed=seed, layer=layer
    )
    height, width, _ = scenes[0].picture.shape
    return upsample(answer.values, (height, width)).double().numpy()


def beats(found: Found, control: Found) -> bool:
    """Whether more lies inside than the control has there, picture by picture, 95 %."""
    count = min(len(found.inside), len(control.inside))
    return interval(found.inside[:count] - control.inside[:count])[0] > 0


# -- page -----------------------------------------------------------------------------------------


def page(plan: Plan) -> str:
    """The whole page, as Markdown; what the journal lacks is found out."""
    parts = [_intro(plan)]
    for model in plan.models:
        found = {key: plan.found(model, key) for key in plan.methods}
        parts += [_ranking(_case(model, plan.pictures), found), _layers_of_world(plan, model)]
    if plan.rounds:
        parts.append(mosaics.intro(plan.rounds))
    for contestant in mosaics.CONTESTANTS if plan.rounds else ():
        methods = plan.methods if contestant == NAME else ()
        by_method = {key: plan.played(contestant, key) for key in methods}
        ask = functools.partial(plan.played, contestant, "gradcam")
        parts.append(mosaics.section(contestant, _game(contestant, plan.rounds), by_method, ask))
    return "\n".join(parts)


def _intro(plan: Plan) -> str:
    return f"""\
# Where the evidence is known

Written by `make ground-truth`. The pictures are generated: one object of a class on a textured
ground, among distractors chosen independently of the class. So the evidence is exactly the pixels
of the object. The models are small timm models trained on such pictures. The pictures below were
not used in training, and the model predicts the right class in each.

- **inside**: share of the positive attribution that lies on the object, per cent.
- **pointing**: how often the largest value lies on the object, per cent; of several equal largest
  values, the share that does.
- **right of two**: on pictures of two objects, each explained in turn: of the attribution on either
  object, the share on the one explained. A map that ignores the target scores 50 %.
- **beats**: whether the share inside is larger than that of each control, by a paired bootstrap of
  the difference with a 95 % interval. Methods with the property `localises` promise this, and a
  test compares this page with it; the others promise nothing.

Means with 95 % bootstrap intervals over {plan.pictures} pictures of one object and as many of two;
fewer where a method took longer than {plan.seconds:g} s of one processor, but at least {FEWEST}.
Methods run with default parameters at their default layer, except
{parameters(PARAMETERS)}.{_left_out(plan.methods)}
Layers are compared on at most {LAYER_PICTURES} pictures.
"""


def _left_out(methods: Sequence[str]) -> str:
    left = [f"`{key}`" for key in METHODS if key not in methods and key not in CONTROLS]
    return f" Not run this time: {', '.join(left)}." if left else ""


def _ranking(case: Case, found: Mapping[str, Found]) -> str:
    name = case.explainer.model.name
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
        f"{SYNTHETIC_MODELS[name].architecture}, {len(CLASSES)} classes. The object covers "
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
    return text if Property.LOCALISES in METHODS[key].properties else f"{text} (no claim)"


def _layers_of_world(plan: Plan, model: str) -> str:
    explainer = _case(model, plan.pictures).explainer
    rows = []
    for layer in candidates(explainer):
        found = plan.found(model, "gradcam", layer)
        cells = (
            ["does not apply", "", ""]
            if found.refused
            else [percent(values) for values in (found.inside, found.hits, found.right)]
        )
        rows.append([*layer_facts(explainer, layer), *cells])
    return "\n".join(
        [
            f"### Grad-CAM by layer: `{model}`\n",
            table(["layer", "grid", "", "inside", "pointing", "right of two"], rows),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())

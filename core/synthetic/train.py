"""Trains the models on synthetic scenes: ``python -m core.synthetic.train``.

Training uses fixed seeds and runs on the CPU. It writes the weights and a few held-out pictures.
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
"""Number of different training pictures."""
BATCH = 64
TESTED = 1000
"""Number of held-out pictures for measuring the accuracy."""
_TWO_OBJECTS_EVERY = 4  # every fourth picture shows two objects
_WARMUP = 0.05  # share of the training in which the learning rate rises
_CELL_WEIGHT = 3.0  # weight of the loss of cell supervision


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains the models named on the command line and returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level="INFO", format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_samples()
    pictures, targets = training_set(options.pictures)
    logger.info("%d pictures", len(pictures))
    for recipe in options.worlds:
        began = time.monotonic()
        model = train(recipe, pictures, targets, options.views or recipe.training_images)
        accuracy = held_out_accuracy(model, TESTED)
        save(recipe, model, accuracy)
        seconds = time.monotonic() - began
        logger.info("%s: %.1f %% in %.0f s", recipe.name, 100 * accuracy, seconds)
    return 0


def _parser() -> argparse.ArgumentParser:
    asked = argparse.ArgumentParser(
        prog=f"python -m {SyntheticModel.__module__}.train", description=__doc__
    )
    asked.add_argument(
        "worlds", nargs="*", type=_recipe, default=list(RECIPES.values()), metavar="NAME"
    )
    asked.add_argument(
        "--views",
        type=int,
        help="number of training images, including repetitions, instead of each model's own",
    )
    asked.add_argument(
        "--pictures", type=int, default=PICTURES, help="number of different pictures"
    )
    asked.add_argument("--threads", type=int, default=2)
    return asked


def _recipe(name: str) -> SyntheticModel:
    if name not in RECIPES:
        raise argparse.ArgumentTypeError(f"no model {name!r}; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


# -- data -----------------------------------------------------------------------------------------


def training_set(count: int = PICTURES) -> tuple[Tensor, Tensor]:
    """The training pictures and their targets.

    Args:
        count: number of pictures.

    Returns:
        pictures: (count, 4, SIDE, SIDE) uint8; the fourth plane is 0 on the background and the
            class index + 1 on objects.
        targets: (count, classes) the share of each class.
    """
    pictures = torch.empty((count, 4, SIDE, SIDE), dtype=torch.uint8)
    targets = torch.zeros((count, len(CLASSES)))
    for seed in range(count):
        found = scene(seed, 2 if seed % _TWO_OBJECTS_EVERY == 0 else 1)
        pictures[seed, :3] = _planes(found)
        pictures[seed, 3] = torch.from_numpy(_class_numbers(found))
        targets[seed, list(found.classes)] = 1 / len(found.classes)
    return pictures, targets


def to_input(pictures: Tensor) -> Tensor:
    """Converts uint8 pictures (B, 3, SIDE, SIDE) to model units."""
    return pictures.float() / 127.5 - 1


def _planes(found: Scene) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(found.picture.transpose(2, 0, 1)))


def _class_numbers(found: Scene) -> Pixels:
    """(SIDE, SIDE) the class index + 1 of each pixel; 0 on the background."""
    numbers = np.array(found.classes, dtype=np.uint8)[:, None, None] + np.uint8(1)
    return np.asarray((numbers * found.masks).sum(0), dtype=np.uint8)


def _batches(images: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches of picture indices; each epoch is a new random order of all pictures."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(images // BATCH):
        if len(order) < BATCH:
            order = torch.cat([order, torch.randperm(count, generator=generator)])
        yield order[:BATCH]
        order = order[BATCH:]


def _augmented(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Random rotation, mirroring and colour permutation, which keep the classes."""
    turns, mirrored = torch.randint(4, (2,), generator=generator).tolist()
    colours = torch.randperm(3, generator=generator).tolist()
    pictures = torch.rot90(pictures[:, [*colours, 3]], turns, (2, 3))
    return pictures.flip(3) if mirrored % 2 else pictures


# -- training -------------------------------------------------------------------------------------


def build(recipe: SyntheticModel) -> nn.Module:
    """The untrained model; the random state of the process is left unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: nn.Module = timm.create_model(
            recipe.architecture, num_classes=len(CLASSES), **recipe.args
        )
        for module in model.modules() if recipe.rescaled_init else ():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return model


def train(recipe: SyntheticModel, pictures: Tensor, targets: Tensor, images: int) -> nn.Module:
    """Trains a model by AdamW, with a warm-up and a cosine schedule of the learning rate.

    With `recipe.cell_supervision`, a separate head, which is discarded afterwards, also predicts
    the classes in each cell of the last grid. Without it, a transformer needs much longer to learn
    to localise objects.

    Args:
        recipe: the model to train.
        pictures: see `training_set`.
        targets: see `training_set`.
        images: number of images to train on, including repetitions.

    Returns:
        The trained model in evaluation mode.
    """
    model: Any = build(recipe).train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    steps = max(1, images // BATCH)
    cell_head = _cell_head(model.num_features)
    parameters = [*model.parameters(), *cell_head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=recipe.max_learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    for step, chosen in enumerate(_batches(images, len(pictures), generator)):
        shown = _augmented(pictures[chosen], generator)
        x = to_input(shown[:, :3]).contiguous(memory_format=torch.channels_last)
        features = model.forward_features(x)
        loss = class_loss = F.cross_entropy(model.forward_head(features), targets[chosen])
        if recipe.cell_supervision:
            loss = loss + _CELL_WEIGHT * _cell_loss(cell_head, features, shown[:, 3])
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            logger.info("%s: step %d of %d, loss %.3f", recipe.name, step, steps, class_loss.item())
    trained: nn.Module = model.eval().to(memory_format=torch.contiguous_format)
    return trained


def _cell_head(width: int) -> nn.Module:
    head: nn.Linear = nn.utils.skip_init(nn.Linear, width, len(CLASSES) + 1)
    nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    nn.init.zeros_(head.bias)
    return head


def _cell_loss(head: nn.Module, features: Tensor, numbers: Tensor) -> Tensor:
    """Cross-entropy of predicting, from each cell's features, the share that each class covers."""
    cells = features.flatten(2).mT if features.ndim == 4 else features[:, 1:]
    side = math.isqrt(cells.shape[1])
    shares = F.one_hot(numbers.long(), len(CLASSES) + 1).permute(0, 3, 1, 2).float()
    shares = F.adaptive_avg_pool2d(shares, side).flatten(2)
    return F.cross_entropy(head(F.layer_norm(cells, cells.shape[2:])).mT, shares)


def _rate(done: float) -> float:
    """Learning rate after the share `done` of the training, as a share of its maximum."""
    if done < _WARMUP:
        return (done + 1e-3) / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP)))


@torch.no_grad()
def held_out_accuracy(model: nn.Module, count: int) -> float:
    """Accuracy (0 to 1) on `count` held-out pictures with one object."""
    right = 0
    for start in range(HELD_OUT, HELD_OUT + count, BATCH):
        scenes = [scene(seed) for seed in range(start, min(start + BATCH, HELD_OUT + count))]
        found = model(to_input(torch.stack([_planes(s) for s in scenes]))).argmax(1)
        right += sum(int(a) == s.classes[0] for a, s in zip(found, scenes, strict=True))
    return right / count


# -- files ----------------------------------------------------------------------------------------


def save(recipe: SyntheticModel, model: nn.Module, accuracy: float) -> None:
    """Writes the weights, with architecture and accuracy as metadata."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    facts = {
        "architecture": recipe.architecture,
        "accuracy": f"{accuracy:.4f}",
        "held_out_pictures": str(TESTED),
        "classes": ", ".join(CLASSES),
    }
    save_file(state, recipe.file, facts)


def write_samples() -> None:
    """Writes the first held-out picture of each class, and one with two objects."""
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

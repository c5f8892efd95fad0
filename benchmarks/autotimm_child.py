"""AutoTimm's side of `benchmarks.autotimm`: runs in an environment that has it, turn by turn.

It is given the question as JSON on the command line. It writes a line of JSON that says what runs
here, and one more for each line that it reads: the seconds and rows of one turn.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import timm
import torch
from PIL import Image
from torch import nn

T = TypeVar("T")
Parts = Mapping[str, tuple[float, int]]
"""Seconds and forward rows of pieces of work, by name."""
WHOLE = "evaluate_all"


class Stopwatch:
    """Times pieces of work, and counts the rows that a model is shown meanwhile.

    Attributes:
        parts: what was found last for each name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts: dict[str, tuple[float, int]] = {}
        self._seen = seen = [0]

        # No method: one is copied along with the model, and the copy's rows would be lost.
        def count(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[0] += len(args[0])

        model.register_forward_pre_hook(count)

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        """The answer of `work`, which is entered under `name`."""
        before, began = self._seen[0], time.perf_counter()
        answer = work()
        self.parts[name] = time.perf_counter() - began, self._seen[0] - before
        return answer

    def around(self, name: str, work: Callable[..., T]) -> Callable[..., T]:
        """A function that is entered under `name` whenever it is called."""
        return lambda *args, **kwargs: self(name, lambda: work(*args, **kwargs))


def contender(asked: Mapping[str, Any]) -> Callable[[], Parts]:
    """One turn: all its scores of one picture, the way its documentation calls them."""
    # Imported where needed: the environment of the other side lacks it.
    from autotimm.core.logging import logger
    from autotimm.interpretation import ExplanationMetrics, GradCAM

    logger.remove()
    model = timm.create_model(asked["model"])
    model.load_state_dict(torch.load(asked["weights"], weights_only=True))
    picture = Image.open(asked["picture"]).convert("RGB")
    watch = Stopwatch(model)
    explainer = GradCAM(model, asked["layer"], use_cuda=False)
    metrics = ExplanationMetrics(model, explainer, use_cuda=False)
    for name in asked["scores"]:
        setattr(metrics, name, watch.around(name, getattr(metrics, name)))

    def turn() -> Parts:
        watch(WHOLE, lambda: metrics.evaluate_all(picture, bbox=asked["box"]))
        return watch.parts

    return turn


def main() -> None:
    """Answer until nothing more is asked."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    turn = contender(asked)
    versions = {name: importlib.metadata.version(name) for name in ("autotimm", "timm")}
    print(json.dumps({**versions, "torch": torch.__version__}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), file=answers, flush=True)


if __name__ == "__main__":
    main()

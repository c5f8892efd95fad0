"""Our metrics' time against AutoTimm's, for the scores of one map that both have.

Run as ``python -m benchmarks.autotimm``. AutoTimm lives in an environment of its own, made when
missing, and runs in a process of its own; both sides take turns, with the same weights, the same
picture, the same number of threads and the same release of torch. What is timed of AutoTimm is
`evaluate_all`, whose steps and samples are fixed; ours is asked for the same scores with as many,
from a picture not yet looked at, with an empty cache. Exit status 1 says that ours is not
as much faster as is claimed.

What is compared is the time of the same work, not the values. AutoTimm divides areas by the first
probability and blurs differently, calls the mean change of a map under noise sensitivity-n (ours
is the largest; the metric of that name is another one here), correlates values where ours
correlates ranks, draws new weights where ours shuffles them, and draws the other class where ours
takes the next likeliest. It looks at the picture's pixels in two ways: only what it explains is
normalised.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from benchmarks import measure
from benchmarks.autotimm_child import WHOLE, Parts, Stopwatch
from benchmarks.subjects import PICTURE
from core import Explainer, ModelHandle, load_model
from core.runtime.cache import Cache

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".venv-autotimm"
VERSION = "0.7.37"
MODEL = "resnet18"
BOX = (60, 20, 170, 130)
"""Where the pointing game is to hit, in pixels of the picture: left, top, right, bottom."""
CLAIM = 2.0
"""How many times as long AutoTimm is said to take, at least."""
FIRST = ("picture", "map")
"""What we do once and AutoTimm within each score."""

Turn = Callable[[], Parts]


@dataclass(frozen=True)
class Shared:
    """A score that both have.

    Attributes:
        label: what it is.
        theirs: the method that `evaluate_all` calls for it.
        ours: our metric's key.
        params: our parameters, as AutoTimm's are by default.
    """

    label: str
    theirs: str
    ours: str
    params: Mapping[str, object] = field(default_factory=dict)


SCORES = (
    Shared("deletion, 50 steps", "deletion", "deletion", {"steps": 50, "baseline": "blur"}),
    Shared("insertion, 50 steps", "insertion", "insertion", {"steps": 50, "baseline": "blur"}),
    # Their noise is 0.15 in model units, which black and white are some 4.4 apart in.
    Shared(
        "change under noise, 50 samples",
        "sensitivity_n",
        "max_sensitivity",
        {"samples": 50, "radius": 0.034},
    ),
    Shared(
        "all weights random",
        "model_parameter_randomization_test",
        "randomisation",
        {"steps": 1},
    ),
    Shared("another class", "data_randomization_test", "class_sensitivity"),
    Shared("pointing game", "pointing_game", "pointing_game"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    handle = load_model(MODEL, weights="random", device="cpu")
    size = handle.preprocessing.input_size[1:]
    picture = PIL.Image.open(PICTURE).convert("RGB").resize(size[::-1])
    with tempfile.TemporaryDirectory() as folder:
        asked = question(handle, picture, Path(folder), options.threads)
        with peer(asked) as (facts, theirs):
            found = in_turns({"theirs": theirs, "ours": ours(handle, picture)}, options.turns)
    print(report(found["theirs"], found["ours"], facts))
    return 0 if advantage(found["theirs"], found["ours"]) >= CLAIM else 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks.autotimm", description=__doc__)
    asked.add_argument("--turns", type=int, default=3, help="of each side, after one to warm up")
    asked.add_argument("--threads", type=int, default=2, help="threads of each side")
    return asked


def in_turns(contenders: Mapping[str, Turn], turns: int) -> dict[str, list[Parts]]:
    """What each found, turn by turn, after a warm-up: what slows one slows all."""
    for turn in contenders.values():
        turn()
    found: dict[str, list[Parts]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, turn in contenders.items():
            found[name].append(dict(turn()))
    return found


# -- ours ---------------------------------------------------------------------------------------


def ours(handle: ModelHandle, picture: PIL.Image.Image) -> Turn:
    """Our turn: look at the picture, explain it, and ask for every score."""
    watch = Stopwatch(handle.model)

    def scores() -> None:
        explainer = Explainer(handle, cache=Cache())
        batch = watch("picture", partial(explainer.prepare, picture))
        answer = watch("map", partial(explainer.explain, batch, "gradcam"))
        asked = partial(
            explainer.measure, batch, answer, ground_truth=explainer.ground_truth(batch, [BOX])
        )
        for score in SCORES:
            watch(score.theirs, partial(asked, score.ours, **score.params))

    def turn() -> Parts:
        watch(WHOLE, scores)
        return watch.parts

    return turn


# -- theirs -------------------------------------------------------------------------------------


def question(
    handle: ModelHandle, picture: PIL.Image.Image, folder: Path, threads: int
) -> dict[str, Any]:
    """What the other process is to know; weights and picture are written into `folder`."""
    torch.save(handle.model.state_dict(), folder / "weights.pt")
    picture.save(folder / "picture.png")
    return {
        "model": MODEL,
        "layer": handle.default_layer,
        "weights": str(folder / "weights.pt"),
        "picture": str(folder / "picture.png"),
        "box": BOX,
        "threads": threads,
        "scores": [score.theirs for score in SCORES],
    }


@contextmanager
def peer(asked: Mapping[str, Any]) -> Iterator[tuple[dict[str, str], Turn]]:
    """AutoTimm in a process of its own: what runs there, and its turn."""
    command = [environment(), "-W", "ignore", "-m", "benchmarks.autotimm_child", json.dumps(asked)]
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=quiet, **pipes) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def answer() -> Any:
            line = answers.readline()
            if not line:
                raise RuntimeError("AutoTimm's process ended; its last words stand above")
            return json.loads(line)

        def turn() -> Parts:
            requests.write("\n")
            requests.flush()
            found: Parts = answer()
            return found

        yield answer(), turn


def environment() -> Path:
    """The interpreter of AutoTimm's environment, which is made when missing.

    Behind its own packages it sees ours, so that both sides run on the same torch and only what is
    missing is installed, there. Ours is not written into.
    """
    python, complete = HOME / "bin" / "python", HOME / f"autotimm-{VERSION}"
    if complete.exists():
        return python
    sys.stderr.write(f"installing AutoTimm {VERSION} into {HOME.name}; conflicts that pip finds\n")
    sys.stderr.write("among other packages are those of our own environment, and do not matter\n")
    subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
    packages = next(HOME.glob("lib/python*/site-packages"))
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, f"autotimm=={VERSION}"], check=True, stdout=sys.stderr)
    complete.touch()
    return python


# -- report -------------------------------------------------------------------------------------


def advantage(theirs: Sequence[Parts], ours: Sequence[Parts], part: str = WHOLE) -> float:
    """How many times as long as ours theirs takes, the median over turns."""
    return measure.ratio(_seconds(theirs, part), _seconds(ours, part))


def report(theirs: Sequence[Parts], ours: Sequence[Parts], facts: Mapping[str, str]) -> str:
    """A table, and whether it shows what is claimed."""
    here = {**measure.machine(torch.device("cpu")), "model": MODEL, "turns": len(ours)}
    lines = [
        ", ".join(f"{name} {fact}" for name, fact in here.items()),
        "AutoTimm's side: " + ", ".join(f"{name} {fact}" for name, fact in facts.items()),
        "",
        "| score | theirs, s | ours, s | their forward rows | our forward rows | theirs / ours |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {part} | in each | {_middle(ours, part):.3f} | in each | {ours[-1][part][1]} | |"
            for part in FIRST
        ),
        *(_line(score.label, theirs, ours, score.theirs) for score in SCORES),
        _line("everything", theirs, ours, WHOLE),
        "",
        verdict(advantage(theirs, ours)),
    ]
    return "\n".join(lines)


def verdict(found: float) -> str:
    """Whether the claim holds.

    >>> verdict(1.5)
    'The claim does NOT hold: AutoTimm takes 1.50 times as long as ours; claimed are 2 or more.'
    """
    word = "holds" if found >= CLAIM else "does NOT hold"
    return (
        f"The claim {word}: AutoTimm takes {found:.2f} times as long as ours; "
        f"claimed are {CLAIM:g} or more."
    )


def _line(label: str, theirs: Sequence[Parts], ours: Sequence[Parts], part: str) -> str:
    seconds = [f"{_middle(side, part):.3f}" for side in (theirs, ours)]
    rows = [str(side[-1][part][1]) for side in (theirs, ours)]
    return f"| {' | '.join([label, *seconds, *rows])} | {advantage(theirs, ours, part):.2f} |"


def _seconds(turns: Sequence[Parts], part: str) -> list[float]:
    return [turn[part][0] for turn in turns]


def _middle(turns: Sequence[Parts], part: str) -> float:
    return statistics.median(_seconds(turns, part))


if __name__ == "__main__":
    sys.exit(main())

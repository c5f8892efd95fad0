"""Our time and memory against captum, pytorch-grad-cam and bare passes.

Run as ``python -m benchmarks.bench``. All contenders take turns in one process, so that ratios hold
where milliseconds do not. Ours is timed through the facade, on a picture already looked at, with a
cache that cannot help. Captum's Grad-CAM pools the wrong axis of tokens; its time on a
transformer is shown all the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.subjects import METHODS, Sizes, Subject, Work
from core.models.embedded import NAME
from core.types import upsample

MODELS = ("resnet50", NAME, "vit_small_patch16_224")
BATCHES = (4, 8, 10, 16, 32)
ONCE = ("ablationcam",)
"""Where pytorch-grad-cam takes minutes: it runs once, and not to warm up."""


@dataclass(frozen=True)
class Row:
    """One contender's time for one question.

    Attributes:
        model: the model's name.
        question: the method and its size.
        contender: whose time it is.
        seconds: the median.
        over_ours: how many times as long as ours, the median over turns.
        over_bare: how many times as long as the bare passes, likewise.
    """

    model: str
    question: str
    contender: str
    seconds: float
    over_ours: float
    over_bare: float


@dataclass(frozen=True)
class Claim:
    """Something expected of the numbers, and whether they show it."""

    model: str
    claim: str
    value: float
    bound: float
    holds: bool


@dataclass
class Results:
    """Everything one run of the benchmark found; memory is in bytes."""

    machine: dict[str, Any]
    times: list[Row] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def expect(self, model: str, claim: str, value: float, most: float) -> None:
        """Note whether `value` is at most `most`."""
        self.claims.append(Claim(model, claim, value, most, value <= most))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = Sizes(steps=10, window=64, stride=40) if options.quick else Sizes()
    if options.peak:
        print(peak_of(*options.peak, sizes, options.device))
        return 0
    results: Results | None = None
    for name in options.models:
        subject = Subject(name, sizes, options.device)
        results = results or Results(measure.machine(subject.handle.device))
        for method in options.methods:
            sys.stderr.write(f"{name}: {subject.sizes.label(method)}\n")
            time_question(results, subject, method, options.quick)
            if method not in ("gradcam", "ablationcam"):
                weigh_question(results, subject, method, options)
    assert results is not None
    print(report(results))
    if options.json:
        options.json.write_text(json.dumps(asdict(results), indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    asked = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    asked.add_argument("--models", nargs="+", default=MODELS, metavar="NAME")
    asked.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    asked.add_argument("--quick", action="store_true", help="small questions, few repetitions")
    asked.add_argument("--threads", type=int, help="threads on the CPU")
    asked.add_argument("--device", help="cpu, cuda, mps; by default the fastest there is")
    asked.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    asked.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    return asked


# -- time ---------------------------------------------------------------------------------------


def time_question(results: Results, subject: Subject, method: str, quick: bool) -> None:
    """Time every contender for one method on one model."""
    works = contenders(subject, method, (8, 16) if quick else BATCHES)
    slow = {name: works.pop(name) for name in list(works) if method in ONCE and "grad-cam" in name}
    times = measure.turns(works, 3 if quick or method in ONCE else 15 if method == "gradcam" else 5)
    question = subject.sizes.label(method)
    for name, work in slow.items():
        answers: list[Any] = []
        times[name] = [measure.seconds(lambda: answers.append(work()))] * 3  # noqa: B023
        difference = off(works["ours"](), answers[0])
        results.expect(subject.handle.name, f"{question}: largest difference", difference, 1e-4)
    bare = next(name for name in times if name.startswith("bare"))
    results.times += [
        Row(
            subject.handle.name,
            question,
            name,
            statistics.median(found),
            measure.ratio(found, times["ours"]),
            measure.ratio(found, times[bare]),
        )
        for name, found in times.items()
    ]
    note_claims(results, subject, method, times)


def off(answer: Any, theirs: Any) -> float:
    """How far our map is from pytorch-grad-cam's, which goes from 0 to 1 twice: a cell, a pixel."""
    scaled = _from_zero_to_one(answer.values.relu().cpu())
    ours = _from_zero_to_one(upsample(scaled, theirs.shape[1:]))
    return (ours - torch.from_numpy(theirs)).abs().max().item()


def _from_zero_to_one(values: Tensor) -> Tensor:
    above = values - values.min()
    return above / (1e-7 + above.max())


def contenders(subject: Subject, method: str, batches: Iterable[int]) -> dict[str, Work]:
    """Who takes turns; those who take a batch size take their best one, found by trying."""
    ours = {"ours": subject.ours(method)}
    if method == "gradcam":
        peers = {"captum": subject.captum(method), "pytorch-grad-cam": subject.grad_cam()}
        return ours | peers | {"bare passes": subject.bare(method)}
    if method == "ablationcam":
        layout = subject.handle.layers[subject.layer].layout
        peers = {}
        if layout is not None and layout.format == "NCHW":  # it ablates tokens along the wrong axis
            peers["pytorch-grad-cam"] = subject.grad_cam(method)
        return ours | peers | {"bare passes": subject.bare(method)}
    subject.captum(method, 4)()
    batch = min(batches, key=lambda size: measure.seconds(subject.captum(method, size)))
    return {
        "captum, default": subject.captum(method),
        **ours,
        f"captum, {batch} rows a pass": subject.captum(method, batch),
        f"bare passes, {batch} rows each": subject.bare(method, batch),
    }


def note_claims(
    results: Results, subject: Subject, method: str, times: Mapping[str, list[float]]
) -> None:
    """What the times are expected to show."""
    name = subject.handle.name
    question, ours = subject.sizes.label(method), times["ours"]
    if method == "ablationcam":
        if "pytorch-grad-cam" in times:
            share = measure.ratio(ours, times["pytorch-grad-cam"])
            results.expect(name, f"{question}: time over pytorch-grad-cam's", share, 1 / 50)
        return
    if method != "gradcam":
        best = next(found for who, found in times.items() if who.endswith("a pass"))
        share = measure.ratio(ours, best)
        results.expect(name, f"{question}: time over captum's at its best batch", share, 1.0)
        return
    for peer, most in (("captum", 1.05), ("pytorch-grad-cam", 1 / 2.5)):
        share = measure.ratio(ours, times[peer])
        results.expect(name, f"{question}: time over {peer}'s", share, most)
    if subject.layer == "layer4":  # elsewhere the way back to the layer is longer
        forward = measure.flops(lambda: subject.frozen(subject.x))
        share = measure.flops(subject.ours(method)) / forward
        results.expect(name, f"{question} at {subject.layer}: FLOPs over a forward's", share, 1.02)


# -- memory -------------------------------------------------------------------------------------


def weigh_question(
    results: Results, subject: Subject, method: str, options: argparse.Namespace
) -> None:
    """Peak memory of ours and of captum's default, each in a fresh process."""
    found = {}
    for who in ("ours", "captum"):
        command = [
            sys.executable,
            "-m",
            "benchmarks.bench",
            "--peak",
            subject.handle.name,
            method,
            who,
        ]
        command += ["--threads", str(torch.get_num_threads())]
        command += ["--device", subject.handle.device.type] + ["--quick"] * options.quick
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[who] = int(done.stdout)
    question = subject.sizes.label(method)
    results.memory.append({"model": subject.handle.name, "question": question, **found})
    if method == "integrated_gradients":  # captum's default occlusion takes one row at a time
        share = found["ours"] / max(1, found["captum"])
        claim = f"{question}: memory over captum's default"
        results.expect(subject.handle.name, claim, share, 1 / 3)


def peak_of(name: str, method: str, who: str, sizes: Sizes, device: str | None) -> int:
    """Peak memory of one contender, after one pass that warms up the libraries underneath."""
    subject = Subject(name, sizes, device)
    work = subject.ours(method) if who == "ours" else subject.captum(method)
    subject.bare("gradcam")()
    return measure.peak_bytes(work, subject.handle.device)


# -- report -------------------------------------------------------------------------------------


def report(results: Results) -> str:
    """Everything as text."""
    facts = ", ".join(f"{name} {fact}" for name, fact in results.machine.items())
    times = [
        (
            r.model,
            r.question,
            r.contender,
            f"{r.seconds * 1e3:.1f}",
            f"{r.over_ours:.2f}",
            f"{r.over_bare:.2f}",
        )
        for r in results.times
    ]
    memory = [
        (m["model"], m["question"], *(f"{m[who] / 2**20:.0f}" for who in ("ours", "captum")))
        for m in results.memory
    ]
    claims = [
        (c.model, c.claim, f"{c.value:.3f}", f"{c.bound:.3f}", "yes" if c.holds else "NO")
        for c in results.claims
    ]
    parts = [facts, table(("model", "question", "contender", "ms", "/ ours", "/ bare"), times)]
    if memory:
        parts.append(table(("model", "question", "ours, MiB", "captum's default, MiB"), memory))
    parts.append(table(("model", "expected", "found", "at most", "holds"), claims))
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, numbers to the right.

    >>> print(table(("who", "ms"), [("ours", "1.0"), ("theirs", "12.0")]))
    who       ms
    ------  ----
    ours     1.0
    theirs  12.0
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


if __name__ == "__main__":
    sys.exit(main())

"""Every method on a model of every family that timm has: `docs/zoo.md`.

Each family is tried in a process of its own, so that none can take another down. What goes wrong
stands in the page as FAILS, and the command then ends with status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from core import METHODS, Explainer, ModelHandle
from core.errors import NotApplicableError, TimmscopeError
from core.evaluation.journal import JsonLines
from core.methods.base import Method
from core.models import zoo
from core.types import Attribution, Property

PAGE = Path(__file__).parent.parent / "docs" / "zoo.md"
JOURNAL = Path(__file__).parent.parent / "out" / "zoo.jsonl"
"""Where reports are kept as they come, for `--resume`."""
ROWS = 32
"""About how many rows a map may take; one differentiated counts for two more."""
BLACK: dict[str, object] = {"baseline": "black"}
COARSE: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("shap", "deeplift", "guided_ig", "idgi"), BLACK),
    "kernel_shap": {"segments": 9} | BLACK,
    "integrated_gradients": {"baselines": ("black",)},
}
"""Parameters to begin with: a hidden picture that is known, and a few parts, as each takes rows."""
SUMS = {Property.COMPLETE: "completeness", Property.EFFICIENT: "efficiency"}
"""Promises of what a map sums to, and what the error is called by which it does not."""
DISTINCT = 1e-3
"""Maps for two targets differ by at least this share of their largest value."""
TIMEOUT = 1800
"""The longest that the process of one family may take."""

WORKS, REFUSED, FAILS = "works", "refused", "FAILS"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one method on one family.

    Attributes:
        method: the method's key.
        word: works, refused or FAILS.
        reason: why, unless it works.
        seconds: how long it took to find out.
    """

    method: str
    word: str
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a family.

    Attributes:
        family: timm's name of the module.
        facts: of the model that stands for it, by name.
        verdicts: one per method, in the order of the registry.
    """

    family: str
    facts: Mapping[str, str] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()

    def count(self, word: str) -> int:
        """How many methods met with this."""
        return sum(verdict.word == word for verdict in self.verdicts)


# -- one method on one model ----------------------------------------------------------------------


def picture(owner: ModelHandle) -> Tensor:
    """A picture of smooth noise (1, C, H, W) in model units."""
    return zoo.smooth_noise(1, owner.input_size, seed=1)


def coarse(key: str, owner: ModelHandle) -> Method:
    """A method whose whole numbers are halved or doubled until a map takes about `ROWS` rows.

    Which of them matter, and which way, is told by `Method.work`.
    """
    method = METHODS.make(key, COARSE.get(key, {}))
    layer = owner.resolve_layer(method.layer_needs(), None)
    while (rows := _rows(method, owner, layer)) > ROWS:
        best = min(_neighbours(method), key=lambda m: _rows(m, owner, layer), default=method)
        if _rows(best, owner, layer) >= rows:
            break
        method = best
    return method


def _rows(method: Method, owner: ModelHandle, layer: str | None) -> int:
    cost = method.estimate_cost(owner, layer)
    return cost.forward + 2 * cost.backward


def _neighbours(method: Method) -> Iterator[Method]:
    """The method with one whole number halved or doubled, as far as its bounds allow."""
    for name, schema in method.schema_of_fields().items():
        value = getattr(method, name)
        if schema.get("type") != "integer" or value < 0:
            continue
        lower = max(value // 2, schema.get("minimum", 1)) if value else ROWS // 2  # 0 means all
        for other in (lower, 2 * value):
            try:
                yield METHODS.make(method, {name: other})
            except TimmscopeError:
                continue


def examine(owner: ModelHandle, key: str) -> Verdict:
    """Whether the method works on the model and keeps its promises, or why it is refused."""
    began = time.perf_counter()
    try:
        reason = broken(Explainer(owner), key)
        word = FAILS if reason else WORKS
    except NotApplicableError as error:
        word, reason = REFUSED, str(error)
    except Exception as error:  # noqa: BLE001  a sweep reports every fault and goes on
        word, reason = FAILS, f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
    return Verdict(key, word, reason, time.perf_counter() - began)


def broken(explainer: Explainer, key: str) -> str:
    """The first promise that the method breaks on this model; empty if it keeps them all."""
    owner = explainer.model
    if reason := owner.why_not(METHODS.make(key).requires()):
        raise NotApplicableError(reason)
    x, method = picture(owner), coarse(key, owner)
    logits = explainer.predict(x).scores[0]
    first, second = int(logits.argmax()), int(logits.argmin())
    found = explainer.explain(x, method, target=first)
    signed = (
        METHODS.make(method, {"relu": False}) if "relu" in type(method).model_fields else method
    )
    plain, other = (explainer.explain(x, signed, target=t).values for t in (first, second))
    size, scale = tuple(found.values.shape[1:]), plain.abs().max()
    if scale == 0:  # a ReLU hides what speaks against the class
        plain = explainer.explain(x, signed, target=-explainer.target(first)).values
        scale = plain.abs().max()
    if min(size) < 3:
        return f"the map is {size[0]}x{size[1]}"
    if plain.max() - plain.min() <= 1e-6 * scale:
        return "the map is constant"
    if not torch.allclose(found.score, logits[first], rtol=1e-3, atol=1e-4):
        return f"the score is {found.score.item():.4g}, the model's own {logits[first].item():.4g}"
    if Property.NONNEGATIVE in method.properties and found.values.min() < 0:
        return f"the least value is {found.values.min().item():.3g}"
    if (
        first != second  # where there is one output, there is no other target
        and Property.CLASS_SENSITIVE in method.properties
        and (plain - other).abs().max() <= DISTINCT * scale
    ):
        return "the map is the same for another target"
    if Property.MODEL_FREE in method.properties and not torch.equal(plain, other):
        return "the map is another one for another target"
    return next(filter(None, (_wrong_sum(explainer, x, method, found, law) for law in SUMS)), "")


def _wrong_sum(
    explainer: Explainer, x: Tensor, method: Method, found: Attribution, law: Property
) -> str:
    """Whether the error of a promised sum is missing or, over a black picture, another one."""
    if law not in method.properties:
        return ""
    error = found.extras.get(f"{SUMS[law]}_error")
    if error is None or not torch.isfinite(error).all():
        return f"no {SUMS[law]} error is reported"
    over = {name: getattr(method, name, None) for name in ("baselines", "baseline", "baseline")}
    if not {"black", ("black",)} & set(over.values()):
        return ""
    index = int(found.target.rpartition(":")[2])
    black = explainer.model.pixel(0.0).expand_as(x).clone()
    rise = found.score - explainer.predict(black).scores[0, index]
    own = (found.values.sum() - rise).abs() / rise.abs()
    if not torch.allclose(own, error.to(own), rtol=0.1, atol=1e-2):
        return f"the {SUMS[law]} error is {own.item():.3g}, reported as {error.item():.3g}"
    return ""


# -- one family, in a process of its own -----------------------------------------------------------


def facts(owner: ModelHandle) -> dict[str, str]:
    """What the page says of the model that stands for a family."""
    layer = owner.layers[owner.default_layer] if owner.default_layer else None
    layout = layer.layout if layer is not None else None
    height, width = owner.input_size[1:]
    kind = {"class": "class", "output": "number", "feature": "feature"}[owner.task.kind]
    plural = "" if owner.outputs == 1 else "es" if kind == "class" else "s"
    return {
        "model": owner.name,
        "parameters": f"{sum(p.numel() for p in owner.model.parameters()) / 1e6:.1f} M",
        "input": f"{height} x {width}",
        "outputs": f"{owner.outputs} {kind}{plural}",
        "default layer": layer.name if layer is not None else "none",
        "grid": f"{layout.grid[0]} x {layout.grid[1]}" if layout is not None else "none",
    }


def report_on(family: str, keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The model's facts, then one verdict after another."""
    owner = zoo.member(family).handle()
    yield {"facts": facts(owner)}
    for key in keys:
        yield asdict(examine(owner, key))


def _child(family: str, keys: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for line in report_on(family, keys):
        print(json.dumps(line), flush=True)
        if "method" in line:
            said = f"{family:28} {line['method']:24} {line['seconds']:6.1f} s  {line['word']}"
            print(f"{said} {line['reason']}", file=sys.stderr, flush=True)


def _parent(family: str, keys: Sequence[str]) -> Report:
    """A family's report; methods that its process did not come to stand as FAILS."""
    words = [sys.executable, "-m", "benchmarks.zoo", "--child", family, "--methods", ",".join(keys)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(
            words, env=environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT, check=False
        )
        output, end = done.stdout, f"the process ended with status {done.returncode}"
    except subprocess.TimeoutExpired as error:
        kept = error.stdout or b""
        output = kept.decode() if isinstance(kept, bytes) else kept
        end = f"no answer within {TIMEOUT} seconds"
    return gathered(family, keys, output, end)


def gathered(family: str, keys: Sequence[str], output: str, end: str) -> Report:
    """The report in what a process printed; what is missing failed because of its `end`."""
    lines = [json.loads(line) for line in output.splitlines() if line.endswith("}")]
    told = next((line["facts"] for line in lines if "facts" in line), {})
    found = {line["method"]: Verdict(**line) for line in lines if "method" in line}
    return Report(family, told, [found.get(key) or Verdict(key, FAILS, end) for key in keys])


# -- all of them ----------------------------------------------------------------------------------


def sweep(families: Sequence[str], keys: Sequence[str], jobs: int, path: Path) -> None:
    """Reports on all families into the journal, several at a time."""
    with ThreadPoolExecutor(jobs) as pool, JsonLines(path) as lines:
        for done in as_completed(pool.submit(_parent, family, keys) for family in families):
            lines.append(asdict(done.result()))


def kept(path: Path, keys: Sequence[str]) -> dict[str, Report]:
    """The last report on each family in a journal, in their order; none that lacks a method."""
    found = {}
    for told in JsonLines(path).read():
        verdicts = {told["method"]: Verdict(**told) for told in told.pop("verdicts")}
        if verdicts.keys() >= set(keys):
            found[told["family"]] = Report(**told, verdicts=[verdicts[key] for key in keys])
    return {family: found[family] for family in sorted(found)}


INTRO = """\
# Every family of timm

Written by `make zoo`, which tries every method on one model of each of timm's model families (its
modules), the one with the fewest parameters, with random weights and parameters that keep it short.
A method *works* where it gives a finite map of at least 3 x 3 that is not constant, for the score
that the model itself gives, and keeps what it promises: another target another map, no negative
value, the completeness error that it reports. Where it cannot, it is refused with a reason, below.
A model without classes is explained by one of its features.
"""


def page(reports: Sequence[Report]) -> str:
    """The whole page, as Markdown."""
    works, refused, fails = (
        sum(r.count(word) for r in reports) for word in (WORKS, REFUSED, FAILS)
    )
    summary = (
        f"timm {timm.__version__}: {len(reports)} families, {works + refused + fails} pairs of a "
        f"family and a method: {works} work, {refused} are refused, {fails} fail.\n"
    )
    parts = [INTRO, summary, "## Models\n", _models(reports), "## Methods\n", matrix(reports)]
    return "\n".join([*parts, "## Reasons\n", *reasons(reports)])


def _models(reports: Sequence[Report]) -> str:
    names = ["model", "parameters", "input", "outputs", "default layer", "grid"]
    rows = ([r.family, *(r.facts.get(name, "") for name in names)] for r in reports)
    return table(["family", *names], rows)


def matrix(reports: Sequence[Report], what: str = "family") -> str:
    """Families, or what else is tried, down and methods across: what became of each, in a sign."""
    keys = list(dict.fromkeys(v.method for report in reports for v in report.verdicts))
    signs = {WORKS: "+", REFUSED: "-", FAILS: FAILS}
    rows = []
    for report in reports:
        by_key = {verdict.method: signs[verdict.word] for verdict in report.verdicts}
        rows.append([report.family, *(by_key.get(key, "") for key in keys)])
    return "+ works, - is refused.\n\n" + table([what, *(f"`{key}`" for key in keys)], rows)


def reasons(reports: Sequence[Report]) -> Iterator[str]:
    """For each report, the methods that do not work with the reason, as lines of Markdown."""
    for report in reports:
        open_ = [verdict for verdict in report.verdicts if verdict.word != WORKS]
        if not open_:
            continue
        yield f"### {report.family}\n"
        open_.sort(key=lambda verdict: (verdict.word, verdict.reason))
        for (word, reason), same in groupby(open_, key=lambda v: (v.word, v.reason)):
            keys = ", ".join(f"`{verdict.method}`" for verdict in same)
            yield f"- {keys}: {'' if word == REFUSED else f'{FAILS}: '}{reason}"
        yield ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), ""])


def choose(families: Iterable[str]) -> None:
    """Measure which model and size stand for each family, and write the table."""
    table = json.loads(zoo.TABLE.read_text(encoding="utf-8")) if zoo.TABLE.exists() else {}
    for family in families:
        began = time.perf_counter()
        try:
            name = zoo.smallest(family)
            table[family] = name, zoo.least_size(name)
            said = " ".join(map(str, table[family]))
        except Exception as error:  # noqa: BLE001  a sweep reports every fault and goes on
            said = f"{FAILS}: {type(error).__name__}: {error}"
        print(
            f"{family:28} {time.perf_counter() - began:6.1f} s  {said}", file=sys.stderr, flush=True
        )
        lines = [f"  {json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table)]
        zoo.TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the sweep; 1 if anything fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--families", help="some only, by comma; then the page is printed")
    parser.add_argument("--methods", help="some only, by comma; then the page is printed")
    parser.add_argument("--jobs", type=int, default=2, help="families at a time")
    parser.add_argument("--choose", action="store_true", help="measure which models to take")
    parser.add_argument(
        "--resume",
        action="store_true",
        help=f"go on with what {JOURNAL.name} holds; families that are named are tried again",
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    keys = args.methods.split(",") if args.methods else list(METHODS)
    if args.child:
        _child(args.child, keys)
        return 0
    if args.choose:
        choose(args.families.split(",") if args.families else timm.list_modules())
        return 0
    if not (args.resume or args.families or args.methods):
        JOURNAL.unlink(missing_ok=True)
    done = kept(JOURNAL, keys)
    families = (
        args.families.split(",") if args.families else [f for f in zoo.members() if f not in done]
    )
    sweep(families, keys, args.jobs, JOURNAL)
    reports = list(kept(JOURNAL, keys).values())
    if args.methods or len(reports) < len(zoo.members()):
        print(page(reports))
    else:
        PAGE.write_text(page(reports), encoding="utf-8")
    return int(any(report.count(FAILS) for report in reports))


if __name__ == "__main__":
    sys.exit(main())

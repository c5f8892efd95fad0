"""Which of several methods to use for one picture, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from statistics import mean

from core.evaluation.cost_wording import cost_share
from core.result import Result
from core.types import Cost


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Candidate(Result):
    """One of the methods compared.

    Attributes:
        method: its name.
        gains: its symmetric relevance gain, once for each baseline that replaces removed pixels.
        cost: the work that its map takes.
    """

    method: str
    gains: Sequence[float]
    cost: Cost

    @property
    def gain(self) -> float:
        """The mean gain over the baselines."""
        return mean(self.gains)

    @property
    def cost_in_passes(self) -> int:
        """The passes that its map takes; a backward pass counts as two forward ones."""
        return self.cost.forward + 2 * self.cost.backward


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Recommendation(Result):
    """Which method to use for one picture.

    Attributes:
        method: its name; None if no method is better than every control.
        words: why, in a sentence or two.
        ranking: the candidates, the best first.
        controls: the mean gain of each control, by key.
        doubtful: for each method that is no better than the best control, by name, that control.
        firm: whether the method gains more than every control with every baseline.
    """

    method: str | None
    words: str
    ranking: Sequence[Candidate]
    controls: Mapping[str, float]
    doubtful: Mapping[str, str]
    firm: bool = False


def recommend(
    candidates: Sequence[Candidate],
    controls: Mapping[str, Sequence[float]],
    names: Mapping[str, str],
    noise: float = 0.0,
) -> Recommendation:
    """Rank methods by mean gain, and choose the cheapest of those as good as the best.

    A method is as good as the best if it gains as much with at least one baseline. A gain that is
    not a number is no gain.

    Args:
        candidates: the methods; at least one.
        controls: the gains of each control with the same baselines, by key; at least one control.
        names: the labels of methods and controls, by name.
        noise: how much of a gain may be rounding; gains that differ by no more are equal.
    """
    candidates = [replace(c, gains=_numbers(c.gains)) for c in candidates]
    controls = {key: _numbers(gains) for key, gains in controls.items()}
    means = {key: mean(gains) for key, gains in controls.items()}
    ranking = sorted(candidates, key=lambda c: (-c.gain, c.cost_in_passes))
    rival = max(means, key=lambda key: means[key])
    doubtful = {c.method: rival for c in ranking if c.gain <= means[rival] + noise}
    able = [c for c in ranking if c.method not in doubtful]
    if not able:
        words = (
            f"Take none of them for this picture: {names[rival]} gains {means[rival]:.2f}, the "
            f"best method, {names[ranking[0].method]}, only {ranking[0].gain:.2f}."
        )
        return Recommendation(None, words, ranking, means, doubtful)
    best = able[0]
    level = [c for c in able if _matches(c.gains, best.gains, noise)]
    chosen = min(level, key=lambda c: (c.cost_in_passes, -c.gain))
    words = _why(best, chosen, level, names)
    close = [key for key, gains in controls.items() if _matches(gains, chosen.gains, noise)]
    if close:
        listed = ", ".join(names[key] for key in close)
        words += f" Read it with care: with another baseline, {listed} does as well."
    if doubtful:
        listed = ", ".join(names[key] for key in doubtful)
        words += f" Do not trust {listed} here: {names[rival]} does at least as well."
    return Recommendation(chosen.method, words, ranking, means, doubtful, not close)


def _numbers(gains: Sequence[float]) -> list[float]:
    """Gains, with 0 for those that are not a number."""
    return [0.0 if isnan(gain) else gain for gain in gains]


def _matches(gains: Sequence[float], others: Sequence[float], noise: float) -> bool:
    """Whether one gains as much as the other with at least one baseline."""
    return any(own >= other - noise for own, other in zip(gains, others, strict=True))


def _why(
    best: Candidate, chosen: Candidate, level: Sequence[Candidate], names: Mapping[str, str]
) -> str:
    """Why a method was chosen, in a sentence."""
    spread = f"{best.gain:.2f}, {min(best.gains):.2f} to {max(best.gains):.2f}"
    first = f"{names[best.method]} has the largest symmetric relevance gain ({spread})"
    if chosen is not best:
        share = chosen.cost_in_passes / best.cost_in_passes if best.cost_in_passes else 1.0
        return (
            f"Take {names[chosen.method]}: {first}, but {names[chosen.method]} does as well "
            f"({chosen.gain:.2f}) at {cost_share(share)}."
        )
    others = [names[c.method] for c in level if c is not best]
    rest = " of those that do better than the controls"
    if others:
        rest = f"; no clear difference from {', '.join(others)}"
    return f"Take {names[best.method]}: it{first.removeprefix(names[best.method])}{rest}."

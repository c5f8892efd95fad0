"""Which of several maps of one picture to take, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from core.types import Cost


@dataclass(frozen=True, slots=True)
class Candidate:
    """One method among those compared.

    Attributes:
        method: its key.
        gains: its symmetric relevance gain, once for each way of removing pixels.
        cost: what its map takes.
    """

    method: str
    gains: Sequence[float]
    cost: Cost

    @property
    def gain(self) -> float:
        """The mean over the ways of removing pixels."""
        return mean(self.gains)

    @property
    def cost_in_passes(self) -> int:
        """What its map takes, a backward pass counting as two forward ones."""
        return self.cost.forward + 2 * self.cost.backward


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Which method to take for one picture.

    Attributes:
        method: its key; None where no method is better than a map that knows nothing.
        words: why, in a sentence or two.
        ranking: the contenders, the best first.
        controls: what the controls gain, by key.
        doubtful: methods that do no better than a control, by key, with the control's.
        firm: whether the method gains more than every control whichever way pixels are removed.
    """

    method: str | None
    words: str
    ranking: Sequence[Candidate]
    controls: Mapping[str, float]
    doubtful: Mapping[str, str]
    firm: bool = False


def recommend(
    contenders: Sequence[Candidate],
    controls: Mapping[str, Sequence[float]],
    names: Mapping[str, str],
) -> Recommendation:
    """Rank methods by symmetric relevance gain; of those level with the best, take the cheapest.

    A method is level with the best where some way of removing pixels has it gain as much.

    Args:
        contenders: the methods; at least one.
        controls: the controls' gains, by key, in the same ways of removing pixels; at least one.
        names: what methods and controls are called in the words, by key.
    """
    means = {key: mean(gains) for key, gains in controls.items()}
    ranking = sorted(contenders, key=lambda c: (-c.gain, c.cost_in_passes))
    rival = max(means, key=lambda key: means[key])
    doubtful = {c.method: rival for c in ranking if c.gain <= means[rival]}
    able = [c for c in ranking if c.method not in doubtful]
    if not able:
        words = (
            f"Take none of them for this picture: {names[rival]} gains {means[rival]:.2f}, and "
            f"the best of them, {names[ranking[0].method]}, {ranking[0].gain:.2f}."
        )
        return Recommendation(None, words, ranking, means, doubtful)
    best = able[0]
    level = [c for c in able if _matches(c.gains, best.gains)]
    chosen = min(level, key=lambda c: (c.cost_in_passes, -c.gain))
    words = _why(best, chosen, level, names)
    close = [key for key, gains in controls.items() if _matches(gains, chosen.gains)]
    if close:
        told = ", ".join(names[key] for key in close)
        words += f" Read it with care: with pixels removed another way, {told} does as well."
    if doubtful:
        told = ", ".join(names[key] for key in doubtful)
        words += f" Not to be trusted here: {told}; {names[rival]} does at least as well."
    return Recommendation(chosen.method, words, ranking, means, doubtful, not close)


def _matches(gains: Sequence[float], others: Sequence[float]) -> bool:
    """Whether some way of removing pixels has the one gain as much as the other."""
    return any(own >= other for own, other in zip(gains, others, strict=True))


def _why(
    best: Candidate, chosen: Candidate, level: Sequence[Candidate], names: Mapping[str, str]
) -> str:
    spread = f"{best.gain:.2f}, {min(best.gains):.2f} to {max(best.gains):.2f}"
    first = f"{names[best.method]} has the largest symmetric relevance gain ({spread})"
    if chosen is not best:
        share = chosen.cost_in_passes / best.cost_in_passes if best.cost_in_passes else 1.0
        return (
            f"Take {names[chosen.method]}: {first}, but {names[chosen.method]} is level with it "
            f"({chosen.gain:.2f}) and takes {share:.0%} of its passes."
        )
    others = [names[c.method] for c in level if c is not best]
    rest = f"; {', '.join(others)} cannot be told from it" if others else ", apart from the others"
    return f"Take {names[best.method]}: it{first.removeprefix(names[best.method])}{rest}."

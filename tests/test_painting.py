"""Slow methods paint as they go: partial maps, when they come, and maps that are good enough."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch

from core import Explainer, load_model, sample_picture
from core.errors import TimmscopeError
from core.export import result_facts
from core.methods.base import METHODS
from core.methods.quadrature import coarse_to_fine
from core.runtime import painting
from core.runtime.cache import Cache
from core.runtime.painting import Painter, Stopped
from core.types import Attribution, Partial
from dashboard.actions.formatting import PARTIAL_ERRORS
from tests.conftest import images, shared_handle

METHODS_THAT_PAINT: dict[str, dict[str, Any]] = {
    "rise": {"masks": 60, "grid": 4},
    "lime": {"samples": 60, "segmentation": "grid", "segments": 9},
    "shap": {"evaluations": 200},
    "kernel_shap": {"evaluations": 120, "segmentation": "grid", "segments": 9, "tolerance": 0},
    "occlusion": {"window": 16, "stride": 8},
    "integrated_gradients": {"steps": 40, "baselines": ("blur", "black")},
    "idgi": {"steps": 30},
    "blur_ig": {"steps": 30},
    "expected_gradients": {"samples": 30},
    "smoothgrad": {"samples": 24},
    "vargrad": {"samples": 24},
    "scorecam": {},
}
"""With parameters that keep tests short."""
ADAPTIVE: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 60, "tolerance": 1e-6},
    "kernel_shap": {"evaluations": 400, "segmentation": "grid", "segments": 9, "tolerance": 1e-6},
}
"""Methods that find out on the way how many samples they need."""
CASES = [*METHODS_THAT_PAINT.items(), *ADAPTIVE.items()]
UNPAINTED = {
    "guided_ig": "its path is found step by step, and what is done covers only the beginning",
    "ablationcam": "channels not yet removed have no weight, so a part is a map of other channels",
    "deep_shap": "a pass for each of at most six baselines is done before a map could be drawn",
}
"""Why other methods of more than a few passes paint nothing."""


@pytest.fixture
def at_every_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every offer is drawn."""
    monkeypatch.setattr(painting, "SECONDS_BEFORE", 0)
    monkeypatch.setattr(painting, "SECONDS_BETWEEN", 0)
    monkeypatch.setattr(painting, "LARGEST_SHARE", 1)


def explain(key: str, params: dict[str, Any], **options: Any) -> Attribution:
    """The map of one picture by a small model, computed anew."""
    owner = shared_handle("efficientnet")
    x = images(owner, 1)
    return Explainer(owner, cache=Cache()).explain(
        x, METHODS.make(key, params), target=1, seed=3, **options
    )


def close(one: Attribution, other: Attribution) -> None:
    """Two maps are equal up to the rounding of passes of other sizes."""
    scale = one.values.abs().max()
    torch.testing.assert_close(one.values / scale, other.values / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("at_every_chance")
@pytest.mark.parametrize(("key", "params"), CASES)
def test_painting_changes_neither_the_map_nor_its_cost(key: str, params: dict[str, Any]) -> None:
    plain = explain(key, params)
    seen: list[Attribution] = []
    painted = explain(key, params, on_partial=seen.append)
    assert painted == plain
    assert painted.partial is None
    assert (painted.cost.forward, painted.cost.backward) == (
        plain.cost.forward, plain.cost.backward,
    )  # fmt: skip
    counts = [one.partial.done for one in seen if one.partial]
    assert len(counts) == len(seen) >= 2
    assert counts == sorted(counts)
    assert all(one.values.shape == plain.values.shape for one in seen)
    assert all(torch.isfinite(one.values).all() for one in seen)
    assert all(0 < one.cost.forward <= plain.cost.forward for one in seen)
    assert {one.method for one in seen} == {key}


@pytest.mark.usefixtures("at_every_chance")
@pytest.mark.parametrize(("key", "params"), CASES)
def test_a_map_that_is_good_enough_says_so_and_can_be_had_again(
    key: str, params: dict[str, Any]
) -> None:
    found = explain(key, params, on_partial=second_time())
    assert found.partial is not None
    assert 0 < found.partial.done < found.partial.of
    again = explain(key, params, stop_after=found.partial.done)
    assert again.partial == found.partial
    close(found, again)
    whole = explain(key, params)
    assert found.cost.forward < whole.cost.forward
    assert again.cost.forward < whole.cost.forward
    assert not torch.equal(found.values, whole.values)


def second_time() -> Callable[[Attribution], bool]:
    """Says "good enough" to the second partial map."""
    seen: list[Attribution] = []

    def callback(found: Attribution) -> bool:
        seen.append(found)
        return len(seen) == 2

    return callback


@pytest.mark.parametrize(("key", "params"), CASES)
def test_more_samples_than_there_are_make_the_whole_map(key: str, params: dict[str, Any]) -> None:
    whole = explain(key, params, stop_after=100_000)
    assert whole.partial is None
    assert whole == explain(key, params)


@pytest.mark.parametrize(("key", "params"), CASES)
def test_a_single_sample_still_makes_a_map(key: str, params: dict[str, Any]) -> None:
    found = explain(key, params, stop_after=1)
    assert found.partial is not None
    assert 1 <= found.partial.done < found.partial.of
    assert found.values.any()


def test_every_slow_method_paints_or_has_a_reason() -> None:
    owner = shared_handle("efficientnet")
    (layer,) = [owner.resolve_layer(METHODS.make("gradcam").layer_needs(), None)]
    slow = {
        key
        for key in METHODS
        if METHODS.make(key).estimate_cost(owner, layer).pace != "instant"
        and METHODS.make(key).estimate_cost(owner, layer).forward > 6
    }
    assert slow <= {*METHODS_THAT_PAINT, *UNPAINTED}
    assert not {*METHODS_THAT_PAINT} & {*UNPAINTED}


# -- the error estimate ---------------------------------------------------------------------------

TRAINED: dict[str, dict[str, Any]] = {
    "rise": {"masks": 320},
    "lime": {"samples": 300, "segmentation": "grid", "segments": 16},
    "shap": {"evaluations": 260},
    "kernel_shap": {"evaluations": 300, "segmentation": "grid", "segments": 16, "tolerance": 0},
    "occlusion": {"window": 48, "stride": 24},
    "integrated_gradients": {"steps": 64},
    "idgi": {"steps": 64},
    "blur_ig": {"steps": 64},
    "expected_gradients": {"samples": 64, "baselines": ("blur",)},
    "smoothgrad": {"samples": 64},
    "vargrad": {"samples": 64},
    "scorecam": {"channels": 256},
}


EVERY_TIME = {"rise", "lime", "integrated_gradients"}
"""Those that need not be slow to be tried: masks, parts and steps of a path."""


@cache
def trained() -> Explainer:
    return Explainer(load_model("tf_efficientnet_lite0"))


def error_of(found: Attribution) -> float:
    """What a partial map says of its error."""
    facts, noise = found.facts(), found.noise_share()
    told = [facts[name] for name in PARTIAL_ERRORS if name in facts]
    assert told or noise is not None, f"{found.method} says nothing of its error"
    return told[0] if noise is None else noise


@pytest.mark.usefixtures("at_every_chance")
@pytest.mark.parametrize(
    ("key", "params"),
    [
        pytest.param(key, params, marks=[] if key in EVERY_TIME else pytest.mark.slow)
        for key, params in TRAINED.items()
    ],
)
def test_the_error_shrinks_and_the_map_nears_the_last(key: str, params: dict[str, Any]) -> None:
    seen: list[Attribution] = []
    whole = trained().explain(
        sample_picture("chelsea"), METHODS.make(key, params), on_partial=seen.append
    )
    early, late = seen[0], seen[-1]
    assert early.partial is not None
    assert early.partial.done <= early.partial.of / 3
    assert error_of(late) < error_of(early)
    far, near = ((one.values - whole.values).norm() for one in (early, late))
    assert near < far


# -- when -----------------------------------------------------------------------------------------


class Clock:
    """A time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attribution(partial: Partial) -> Attribution:
    return Attribution(torch.zeros(1, 2, 2), torch.zeros(1), "rise", {}, partial=partial)


def painter(clock: Clock, drawn: list[int], takes: float = 0.0) -> Painter:
    def build(partial: Partial, values: Any, extras: Any) -> Attribution:
        drawn.append(partial.done)
        clock.now += takes
        return attribution(partial)

    found = Painter(build, lambda found: None, clock=clock)
    assert found.samples(1000, "masks", 1) == 1000
    return found


def test_partial_maps_come_about_once_a_second_whatever_is_offered() -> None:
    clock, drawn = Clock(), list[int]()
    one = painter(clock, drawn)
    for done in range(1, 500):
        clock.now += 0.01
        one.offer(done, lambda: (torch.zeros(1), {}))
    seconds = 4.99
    assert drawn[0] == pytest.approx(100 * painting.SECONDS_BEFORE, abs=1)
    assert len(drawn) <= 1 + seconds / painting.SECONDS_BETWEEN


def test_drawing_takes_a_small_share_of_the_time() -> None:
    clock, drawn = Clock(), list[int]()
    one = painter(clock, drawn, takes=0.5)
    began = clock.now
    for done in range(1, 999):
        clock.now += 0.1
        one.offer(done, lambda: (torch.zeros(1), {}))
    spent = 0.5 * len(drawn)
    assert len(drawn) >= 5
    assert spent <= painting.LARGEST_SHARE * (clock.now - began) + 0.5


def test_the_last_sample_is_not_painted_because_the_map_follows() -> None:
    clock, drawn = Clock(), list[int]()
    one = painter(clock, drawn)
    clock.now += 10
    one.offer(1000, lambda: (torch.zeros(1), {}))
    assert not drawn


def test_only_true_stops() -> None:
    clock = Clock()
    for answer, stops in ((None, False), (1, False), (True, True)):
        one = Painter(lambda p, v, e: attribution(p), lambda found, a=answer: a, clock=clock)
        one.samples(10, "masks", 1)
        clock.now += 10
        if stops:
            with pytest.raises(Stopped):
                one.offer(5, lambda: (torch.zeros(1), {}))
        else:
            one.offer(5, lambda: (torch.zeros(1), {}))


# -- what is kept ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_every_chance")
def test_a_stopped_map_never_passes_for_the_whole_one() -> None:
    owner, (key, params) = shared_handle("efficientnet"), CASES[0]
    explainer, x, method = Explainer(owner), images(owner, 1), METHODS.make(key, params)
    stopped = explainer.explain(x, method, target=1, on_partial=second_time())
    whole = explainer.explain(x, method, target=1)
    assert stopped.partial is not None
    assert whole.partial is None
    assert whole.cost.forward == params["masks"]
    assert explainer.explain(x, method, target=1) == whole
    again = explainer.explain(x, method, target=1, stop_after=stopped.partial.done)
    assert again == stopped
    assert again.cost == stopped.cost, "kept as what it is"
    assert explainer.explain(x, method, target=1, on_partial=second_time()) == whole


@pytest.mark.usefixtures("at_every_chance")
def test_a_partial_map_belongs_to_its_receiver() -> None:
    def spoil(found: Attribution) -> None:
        found.values.zero_()

    key, params = CASES[0]
    assert explain(key, params, on_partial=spoil) == explain(key, params)


def test_what_a_callback_raises_ends_the_work(at_every_chance: None) -> None:
    def fail(found: Attribution) -> None:
        raise KeyError("of the caller")

    with pytest.raises(KeyError, match="of the caller"):
        explain(*CASES[0], on_partial=fail)


def test_partial_maps_are_of_one_picture() -> None:
    owner = shared_handle("efficientnet")
    for options in ({"on_partial": print}, {"stop_after": 5}):
        with pytest.raises(TimmscopeError, match="one picture at a time"):
            Explainer(owner).explain(images(owner, 2), "rise", **options)
    with pytest.raises(TimmscopeError, match="number of samples from 1"):
        Explainer(owner).explain(images(owner, 1), "rise", stop_after=0)


def test_a_partial_map_says_so_wherever_it_goes() -> None:
    found = explain("rise", METHODS_THAT_PAINT["rise"], stop_after=32)
    assert str(found.partial) == "32 of 60 masks"
    assert "32 of 60 masks" in repr(found) or "Partial" in repr(found)
    assert "32 of 60 masks" in found._repr_html_()
    assert result_facts(found)["partial"] == {"done": 32, "of": 60, "unit": "masks"}
    assert pickle.loads(pickle.dumps(found)) == copy.deepcopy(found) == found[0] == found
    whole = explain("rise", METHODS_THAT_PAINT["rise"])
    assert "partial" not in result_facts(whole)


def test_the_beginnings_of_an_order_are_spread_over_all_of_it() -> None:
    for count in (1, 2, 5, 50, 333):
        order = coarse_to_fine(count)
        assert sorted(order) == list(range(count))
        for taken in range(8, count, 2):
            positions = [(i + 0.5) / count for i in order[:taken]]
            assert sum(positions) / taken == pytest.approx(0.5, abs=1e-9)
            gaps = [b - a for a, b in pairwise([0.0, *sorted(positions), 1.0])]
            assert max(gaps) < 4 / taken

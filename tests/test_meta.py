"""Metrics are shown the truth, and those that do not know it say so."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import meta
from benchmarks.ground_truth import Case, collect
from benchmarks.meta import Found, examine
from core import METRICS, load_model
from core.synthetic import SYNTHETIC_MODELS


@pytest.fixture(scope="module")
def case() -> Case:
    return collect(load_model("world_resnet", device="cpu"), 6, 0)


@pytest.mark.parametrize("key", ["energy_inside", "iou", "insertion", "complexity", "srg"])
def test_a_metric_that_knows_the_truth_ranks_it_first(case: Case, key: str) -> None:
    found = examine(case, METRICS.make(key))
    assert found is not None
    assert set(found.others) == {"random", "sobel", "centre", "inverted"}
    assert found.lost() == []
    assert found.share() > 0.5


def test_a_metric_that_asks_the_method_is_shown_one_that_finds_the_evidence(case: Case) -> None:
    found = examine(case, METRICS.make("max_sensitivity", {"samples": 2}))
    assert found is not None
    assert set(found.others) == {"random", "sobel", "centre"}
    assert "random" in found.lost(), "noise does not change with the picture"
    assert examine(case, METRICS.make("completeness_error")) is None


def test_being_ahead_depends_on_what_is_better() -> None:
    scores = {"ground_truth": np.array([3.0, 4.0]), "others": {"noise": np.array([1.0, 5.0])}}
    assert Found(**scores, higher_is_better=True).ahead("noise").tolist() == [2, -1]
    assert Found(**scores, higher_is_better=False).ahead("noise").tolist() == [-2, 1]
    assert Found(**scores, higher_is_better=True).share() == 0.5


def test_the_committed_page_and_the_caveats_agree() -> None:
    lines = meta.PAGE.read_text(encoding="utf-8").splitlines()
    rows = {
        cells[0].strip(" `"): [cell.strip() for cell in cells[2:]]
        for cells in (line.split("|")[1:-1] for line in lines if line.startswith("| `"))
    }
    assert set(rows) == set(METRICS)
    for key, (*found, caveat) in rows.items():
        assert len(found) == len(SYNTHETIC_MODELS)
        assert caveat == METRICS[key].caveat
        assert bool(caveat) == any(cell.startswith("no:") for cell in found), key

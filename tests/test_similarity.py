"""How alike maps are, and what becomes of them when the weights are shuffled."""

from __future__ import annotations

import functools
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from core import Explainer, cli
from core.evaluation.agreement import agreement
from core.metrics.randomisation import cascade
from core.metrics.similarity import overlap, ranks, spearman, ssim
from tests.conftest import handle, images, shared_handle


def noise(seed: int, *size: int) -> Tensor:
    return torch.randn(size or (12, 12), generator=torch.Generator().manual_seed(seed))


def test_spearman_is_scipys_with_ties_and_without() -> None:
    for a, b in ((noise(0), noise(1)), (noise(0).round(), (noise(0) + noise(1)).round())):
        theirs = scipy.stats.spearmanr(a.flatten().numpy(), b.flatten().numpy()).statistic
        assert spearman(a, b) == pytest.approx(theirs, abs=1e-6)
        assert spearman(a, -b) == pytest.approx(-theirs, abs=1e-6)
    theirs = scipy.stats.rankdata(noise(0).round().flatten().numpy())
    np.testing.assert_allclose(ranks(noise(0).round()).flatten() * 143 + 1, theirs, rtol=1e-5)


def test_likeness_of_a_map_with_itself_its_inverse_and_nothing() -> None:
    a, flat = noise(0), torch.ones(12, 12)
    for alike in (spearman, overlap, ssim):
        assert alike(a, a) == pytest.approx(1)
        assert alike(a, 3 * a + 2) == pytest.approx(1, abs=1e-5)
        assert alike(a, -a) < 0.5
    assert all(math.isnan(alike(a, flat)) for alike in (spearman, overlap, ssim))
    assert overlap(a, -a) == 0


def test_agreement_is_a_symmetric_table_and_shows_where_methods_differ() -> None:
    a = noise(0)
    other = a.clone()
    other[:6] = noise(1)[:6]
    found = agreement({"one": a, "same": 2 * a, "other": other})
    for table in (found.pearson, found.spearman, found.overlap, found.ssim):
        assert torch.equal(table, table.T)
        assert table.diagonal().eq(1).all()
        assert table[0, 1] == pytest.approx(1)
        assert table[0, 2] < 0.9
    assert found.disagreement[:6].mean() > 3 * found.disagreement[6:].mean()
    places = [scipy.stats.rankdata(one.flatten().numpy()) for one in (a, 2 * a, other)]
    expected = np.std(places, axis=0) / (a.numel() - 1)
    np.testing.assert_allclose(found.disagreement.flatten(), expected, rtol=1e-4)


def test_the_command_line_tells_how_far_methods_agree(capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(Path(__file__).parents[1] / "assets/samples/coffee.jpg")
    assert cli.main(["explain", picture, "--methods", "gradcam,hirescam,sobel"]) == 0
    (report,) = json.loads(capsys.readouterr().out)["images"]
    found = report["agreement"]
    assert found["methods"] == ["gradcam", "hirescam", "sobel"]
    for table in ("pearson", "spearman", "overlap", "ssim"):
        assert found[table][0][0] == 1
        assert found[table][0][1] == found[table][1][0] > found[table][0][2]


def test_a_cascade_shuffles_a_copy_from_the_end_and_keeps_every_value() -> None:
    owner = handle("resnet")
    before = {name: p.clone() for name, p in owner.model.named_parameters()}
    changed: list[set[str]] = []
    for copied in cascade(owner, 4, seed=0):
        now = dict(copied.model.named_parameters())
        changed.append({n for n, p in now.items() if not torch.equal(p, before[n])})
        for name, parameter in now.items():
            assert torch.equal(
                parameter.flatten().sort().values, before[name].flatten().sort().values
            )
    assert "fc.weight" in changed[0]
    assert "conv1.0.weight" not in changed[0]
    assert "conv1.0.weight" in changed[-1]
    assert all(few < more for few, more in pairwise(changed))
    assert all(torch.equal(p, before[n]) for n, p in owner.model.named_parameters())


SANITY = ("randomisation", "randomisation_entropy", "class_sensitivity")


@pytest.mark.parametrize("key", SANITY)
def test_an_edge_map_fails_and_the_gradient_passes(key: str) -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 1)
    ask = functools.partial(explainer.measure, x, metric=key, target=1)
    edges = ask(explainer.explain(x, "sobel", target=1)).value.item()
    gradient = ask(explainer.explain(x, "gradcam", target=1, relu=False)).value.item()
    assert edges == pytest.approx(0 if key == "randomisation_entropy" else 1, abs=1e-5)
    if key != "randomisation_entropy":
        assert gradient < 0.95


def test_a_cascades_curve_begins_at_the_map_itself_and_is_kept() -> None:
    owner = shared_handle("resnet")
    explainer, x = Explainer(owner), images(owner, 2)
    answer = explainer.explain(x, "gradcam", target=1)
    found = explainer.measure(x, answer, "randomisation", target=1, steps=3)
    assert found.curve_y is not None
    assert found.curve_y.shape == (2, 4)
    assert found.curve_y[:, 0].eq(1).all()
    torch.testing.assert_close(found.value, found.curve_y[:, 1:].mean(1))
    assert (found.cost.forward, found.cost.backward) == (6, 6)
    smooth = explainer.measure(x, answer, "randomisation", target=1, steps=3, smooth=2)
    assert smooth.cost.forward == 2 * 2 * 4

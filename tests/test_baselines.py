"""Where paths start is chosen by evidence."""

from __future__ import annotations

import pytest
import torch

from benchmarks.baselines import FRAME, frame_share, starting
from core import METHODS, Explainer
from tests.conftest import SAMPLES


def test_the_share_of_the_frame_by_hand() -> None:
    even = torch.ones(1, 56, 56)
    assert round(FRAME * 56) == 2
    assert frame_share(even).item() == pytest.approx(1 - (52 / 56) ** 2)
    assert frame_share(0 * even).item() == 0
    even[:, :2] = -9  # signs do not matter
    assert frame_share(even).item() == pytest.approx(1328 / 4032)


def test_idgi_does_not_draw_the_frame_by_default(lite0: Explainer) -> None:
    x = lite0.prepare([SAMPLES / "chelsea.jpg"]).x
    target = lite0.predict(x).scores.argmax(1).tolist()

    def frame(baseline: str) -> float:
        method = METHODS.make(starting("idgi", ("black",)), {"baseline": baseline, "steps": 12})
        return frame_share(lite0.explain(x, method, target=target).values).item()

    default = METHODS.make("idgi").model_dump()["baseline"]
    even = 1 - (1 - 2 * FRAME) ** 2
    assert frame(default) < even < frame("black")

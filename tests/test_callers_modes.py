"""Whatever modes the caller is in, even the first time; and models wrapped by torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core import Explainer, load_model
from core.errors import ModelFailure
from tests.conftest import QUICK, build, images

MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
KEYS = ["gradcam", "saliency", "lrp", "deeplift", "guided_backprop", "expected_gradients", "rise"]


@pytest.mark.parametrize("mode", MODES)
def test_all_that_happens_for_the_first_time_may_happen_in_any_mode(mode: str) -> None:
    plain = Explainer(load_model("test_resnet", weights="random", num_classes=7, device="cpu"))
    x = images(plain.model, 1)
    with MODES[mode]():
        asker = Explainer(load_model("test_resnet", weights="random", num_classes=7, device="cpu"))
        first = {k: asker.explain(x, k, target=1, **QUICK.get(k, {})) for k in KEYS}
        assert not asker.model.samples.is_inference()
    for key, found in first.items():
        expected = plain.explain(x, key, target=1, **QUICK.get(key, {}))
        torch.testing.assert_close(found.values, expected.values)
    assert not any(t.is_inference() for t in asker.model.model.state_dict().values())
    again = asker.explain(x, "integrated_gradients", target=1, steps=4)
    assert torch.isfinite(again.values).all()


def lent(model: nn.Module) -> Explainer:
    sized = {"input_size": (3, 160, 160), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return Explainer(load_model(model, preprocessing=sized))


def test_of_a_wrapped_model_the_module_itself_is_explained() -> None:
    model = build("resnet").eval()
    for wrapped in (
        torch.compile(model),
        nn.DataParallel(model),
        nn.DataParallel(torch.compile(model)),
    ):
        assert lent(wrapped).model.model is model


class NeedsMore(nn.Module):
    def forward(self, x: Tensor, more: Tensor) -> Tensor:
        return x.mean((2, 3)) + more


class FixedSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 3, 77, 77).mean((2, 3))


@pytest.mark.parametrize("model", [NeedsMore(), FixedSize()], ids=["a second input", "a size"])
def test_what_the_model_raises_is_one_sentence_from_everywhere(model: nn.Module) -> None:
    asker = lent(model)
    x = torch.zeros(1, 3, 160, 160)
    questions: list[Callable[[], object]] = [
        lambda: asker.predict(x),
        lambda: asker.explain(x),
        lambda: asker.explain(x, "rise"),
        lambda: asker.features(x),
        lambda: asker.attention(x),
        lambda: asker.query(x, target=1),
        lambda: asker.model.layers,
        lambda: asker.model.supports,
    ]
    for ask in questions:
        with pytest.raises(ModelFailure, match=r"failed in its forward pass") as failure:
            ask()
        assert "\n" not in str(failure.value)

"""A small zoo of real timm models, and every (method, model) case drawn from the registry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from core import Explainer, ModelHandle
from core.inputs.preprocessing import Preprocessing
from core.methods.base import METHODS, Method
from core.models import zoo
from core.types import Property
from tests.browser import chromium, visit  # noqa: F401  fixtures
from tests.hub import hub  # noqa: F401  a fixture

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Each worker has a range of ports of its own: two that look for a free one at once find the same.
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
os.environ.setdefault("GRADIO_SERVER_PORT", str(7860 + 200 * WORKER))
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # programs that tests start

SAMPLES = Path(__file__).parent.parent / "assets" / "samples"

CLASSES = 7
"""Number of classes of every model in the zoo."""

SMALL = {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3}

ZOO: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=CLASSES),
    "efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=CLASSES),
    "convnext": lambda: timm.create_model("test_convnext", num_classes=CLASSES),
    "mambaout": lambda: timm.create_model("test_mambaout", num_classes=CLASSES),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=112,
        embed_dim=24,
        depths=(1, 2, 1),
        num_heads=(2, 2, 4),
        num_classes=CLASSES,
    ),
    "vit": lambda: timm.create_model("test_vit", num_classes=CLASSES),
    "vit_registers": lambda: timm.create_model(
        "vit_tiny_patch16_224", reg_tokens=4, num_classes=CLASSES, **SMALL
    ),
    "vit_pooled": lambda: timm.create_model(
        "vit_tiny_patch16_224", class_token=False, global_pool="avg", num_classes=CLASSES, **SMALL
    ),
    "deit_distilled": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=CLASSES, **SMALL
    ),
}
"""Families whose inner workings differ: NCHW, NHWC, windows, tokens with 0, 1, 2, 5 prefixes."""


def build(name: str, seed: int = 0) -> nn.Module:
    """A model of the zoo with random weights, none of them zero."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = ZOO[name]()
        for parameter in model.parameters():
            if parameter.ndim >= 2 and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return model


def handle(name: str, seed: int = 0) -> ModelHandle:
    """A fresh handle on a fresh model of the zoo."""
    model = build(name, seed)
    return ModelHandle(model, name=name, preprocessing=Preprocessing.from_model(model))


@cache
def shared_handle(name: str) -> ModelHandle:
    """One handle per name for tests that only ask."""
    return handle(name)


def images(owner: ModelHandle, count: int = 2, seed: int = 1) -> Tensor:
    """Pictures of smooth noise (count, C, H, W) in model units."""
    return zoo.smooth_noise(count, owner.preprocessing.input_size, seed)


QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 6},
    "idgi": {"steps": 6},
    "blur_ig": {"steps": 6},
    "guided_ig": {"steps": 4},
    "expected_gradients": {"samples": 6},
    "smoothgrad": {"samples": 5},
    "vargrad": {"samples": 5},
    "deep_shap": {"baselines": ("black", "blur")},
    "scorecam": {"channels": 16},
    "ablationcam": {"channels": 6},
    "occlusion": {"window": 48, "stride": 40},
    "attention_flow": {"reading": "patch-to-patch"},
    "rise": {"masks": 16},
    "lime": {"samples": 20, "segmentation": "grid", "segments": 6},
    "shap": {"evaluations": 18},
    "kernel_shap": {"evaluations": 20, "segmentation": "grid", "segments": 6},
}
"""Parameters that keep the contract tests short."""


def quick(key: str) -> Method:
    """A method with parameters that keep tests short."""
    return METHODS.make(key, QUICK.get(key, {}))


def runnable(method: Method, owner: ModelHandle) -> bool:
    """Whether the model can be explained by the method."""
    return not (owner.why_not(method.requires()) or method.refusal(owner))


def pairs(law: Property | None = None) -> list[Any]:
    """Every (method, model) case, of the methods that promise `law`."""
    return [
        pytest.param(key, name, id=f"{key}-{name}")
        for key, cls in METHODS.items()
        for name in ZOO
        if (law is None or law in cls.properties) and runnable(quick(key), shared_handle(name))
    ]


def refused() -> list[Any]:
    """Every (method, model) case that must be refused."""
    return [
        pytest.param(key, name, id=f"{key}-{name}")
        for key in METHODS
        for name in ZOO
        if not runnable(quick(key), shared_handle(name))
    ]


@pytest.fixture(scope="session")
def lite0() -> Iterator[Explainer]:
    """The embedded default model with its real weights."""
    return Explainer()

"""What is timed: one question, answered by us, by the reference libraries, and by bare passes."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import captum.attr
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from core import Explainer, ModelHandle, load_model
from core.models.embedded import NAME
from core.runtime.cache import Cache

warnings.filterwarnings("ignore", module="captum")

PICTURE = Path(__file__).parent.parent / "assets" / "samples" / "chelsea.jpg"
METHODS = ("gradcam", "ablationcam", "integrated_gradients", "occlusion")
Work = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """How much is asked.

    Attributes:
        steps: of integrated gradients.
        window: of occlusion, in pixels.
        stride: of occlusion, in pixels.
    """

    steps: int = 50
    window: int = 32
    stride: int = 16

    def params(self, method: str) -> dict[str, int]:
        """A method's parameters."""
        if method == "integrated_gradients":
            return {"steps": self.steps}
        return {"window": self.window, "stride": self.stride} if method == "occlusion" else {}

    def label(self, method: str) -> str:
        """The question in a word."""
        return {
            "gradcam": "Grad-CAM",
            "ablationcam": "Ablation-CAM",
            "integrated_gradients": f"IG-{self.steps}",
            "occlusion": f"occlusion {self.window}/{self.stride}",
        }[method]

    def windows(self, height: int, width: int) -> int:
        """Squares that cover a picture."""
        sides = [
            math.ceil(max(0, size - self.window) / self.stride) + 1 for size in (height, width)
        ]
        return math.prod(sides)


class Subject:
    """One model and one picture, already looked at; the target is the predicted class.

    Args:
        name: a timm name; the embedded model has its own weights, any other random ones.
        sizes: how much is asked.
        device: where to run; None takes the fastest there is.
    """

    def __init__(self, name: str, sizes: Sizes, device: str | None = None) -> None:
        self.handle: ModelHandle = load_model(
            name, weights=None if name == NAME else "random", device=device
        )
        self.sizes = sizes
        self.batch = Explainer(self.handle).prepare(PICTURE)
        self.x = self.batch.x
        self.target = int(Explainer(self.handle).predict(self.batch).scores.argmax())
        layer = self.handle.default_layer
        assert layer is not None
        self.layer: str = layer

    @cached_property
    def model(self) -> Any:
        """The model as timm hands it out, in evaluation mode: what the libraries are given."""
        return copy.deepcopy(self.handle.model).eval().requires_grad_()

    @cached_property
    def frozen(self) -> Any:
        """The model with frozen parameters, for bare passes."""
        return copy.deepcopy(self.handle.model).eval().requires_grad_(False)

    def ours(self, method: str) -> Work:
        """The facade, with a cache that cannot help."""
        params = self.sizes.params(method)

        def work() -> object:
            explainer = Explainer(self.handle, cache=Cache())
            return explainer.explain(self.batch, method, target=self.target, **params)

        return work

    # -- the libraries --------------------------------------------------------------------------

    def captum(self, method: str, batch: int | None = None) -> Work:
        """Captum's answer.

        Args:
            method: the question.
            batch: rows per pass; None is its default, all at once for integrated gradients and one
                at a time for occlusion.
        """
        if method == "gradcam":
            return self._captum_gradcam()
        if method == "occlusion":
            return self._captum_occlusion(batch or 1)
        peer = captum.attr.IntegratedGradients(self.model)
        black = self.handle.pixel(0.0).expand_as(self.x)
        return lambda: peer.attribute(
            self.x,
            black,
            target=self.target,
            n_steps=self.sizes.steps,
            method="gausslegendre",
            internal_batch_size=batch,
            return_convergence_delta=True,
        )

    def _captum_gradcam(self) -> Work:
        peer = captum.attr.LayerGradCam(self.model, self.model.get_submodule(self.layer))
        return lambda: peer.attribute(self.x, target=self.target, relu_attributions=True)

    def _captum_occlusion(self, batch: int) -> Work:
        window, stride = self.sizes.window, self.sizes.stride
        peer = captum.attr.Occlusion(self.model)

        @torch.no_grad()
        def work() -> object:
            return peer.attribute(
                self.x,
                (3, window, window),
                (3, stride, stride),
                target=self.target,
                perturbations_per_eval=batch,
            )

        return work

    def grad_cam(self, method: str = "gradcam") -> Work:
        """The answer of pytorch-grad-cam."""
        kind = {
            "gradcam": pytorch_grad_cam.GradCAM,
            "ablationcam": pytorch_grad_cam.AblationCAM,
        }[method]
        layout = self.handle.layers[self.layer].layout
        assert layout is not None
        transform = None if layout.format == "NCHW" else layout.to_nchw
        module = self.model.get_submodule(self.layer)
        targets = [ClassifierOutputTarget(self.target)]

        def work() -> object:
            with kind(self.model, [module], transform) as cam:
                return cam(self.x, targets)

        return work

    # -- the bound ------------------------------------------------------------------------------

    def bare(self, method: str, batch: int = 1) -> Work:
        """The passes that the question takes, and nothing else.

        Grad-CAM: one forward, and a backward that ends at the layer; before a linear head that is
        enough for Ablation-CAM, too. Integrated gradients: a
        forward and an input gradient per step. Occlusion: a forward per square and one more.
        """
        if method in ("gradcam", "ablationcam"):
            return self._bare_gradcam
        if method == "integrated_gradients":
            return lambda: self._bare_rows(self.sizes.steps, batch, self._input_gradient)
        count = self.sizes.windows(*self.x.shape[2:]) + 1
        return lambda: self._bare_rows(count, batch, self._forward)

    def _bare_gradcam(self) -> Tensor:
        outputs: list[Tensor] = []

        def cut(_module: object, _args: object, output: Tensor) -> Tensor:
            outputs.append(output.detach().requires_grad_())
            return outputs[0].clone()

        hook = self.frozen.get_submodule(self.layer).register_forward_hook(cut)
        score = self.frozen(self.x)[:, self.target].sum()
        hook.remove()
        return torch.autograd.grad(score, outputs)[0]

    def _bare_rows(self, count: int, batch: int, step: Callable[[Tensor], object]) -> None:
        for first in range(0, count, batch):
            step(self.x.expand(min(batch, count - first), -1, -1, -1).contiguous())

    def _input_gradient(self, rows: Tensor) -> object:
        rows.requires_grad_()
        return torch.autograd.grad(self.frozen(rows)[:, self.target].sum(), rows)

    @torch.no_grad()
    def _forward(self, rows: Tensor) -> object:
        return self.frozen(rows)

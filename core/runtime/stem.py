"""Stem: a model's first layer, used as the affine map it is."""

from __future__ import annotations

import torch
from torch import Tensor

from core.runtime.evaluation_mode import evaluation_mode
from core.runtime.model_call import call_model, differentiate
from core.runtime.subject import Subject


class Stem:
    """A model's first layer: an affine map, the only layer that reads the image.

    Along a straight path of images its outputs lie on a straight path, so they can be interpolated
    instead of computed; and for a sum of pixel gradients it is differentiated only once.

    Args:
        subject: the model.
        name: the layer's name.
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject = subject
        self.module = subject.model.get_submodule(name)

    def __call__(self, x: Tensor) -> Tensor:
        """(n, K, h, w) the layer's output for images (n, C, H, W), detached."""
        with self.subject.lock, evaluation_mode(self.subject.model), torch.no_grad():
            output: Tensor = call_model(self.module, x, name=self.subject.name)
        return output

    def input_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """(n, C, H, W) the gradient at images `x`, given that at the layer's output.

        Args:
            grad: (n, K, h, w) the gradient with respect to the layer's output.
            x: (n, C, H, W) the images.
        """
        name = self.subject.name
        with self.subject.lock, evaluation_mode(self.subject.model):
            x = x.detach().requires_grad_()
            output = call_model(self.module, x, name=name)
            (pixels,) = differentiate(output, x, grad, name=name)
        return pixels

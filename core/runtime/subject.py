"""Subject: what a run needs to know of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor, nn

from core.runtime.batching import Budget
from core.runtime.forward import Forward
from core.tasks.base import Task
from core.types import AttentionLayer, Layer, Need


class Subject(Protocol):
    """The model that is explained, as `Run` and the methods see it; `ModelHandle` is one."""

    @property
    def name(self) -> str:
        """What the model is called in messages."""

    @property
    def model(self) -> nn.Module:
        """The model itself."""

    @property
    def forward(self) -> Forward:
        """One forward pass: from images (n, C, H, W) to the part of the outputs with the scores."""

    @property
    def task(self) -> Task:
        """How the model's outputs are read, and what can be asked about them."""

    @property
    def reading(self) -> str:
        """Identifies how the outputs are read; for caches, beside the model itself."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held during every pass: hooks on a shared model and parallel passes do not mix."""

    @property
    def budget(self) -> Budget:
        """How many rows go through the model at once."""

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Every module by name, in order of execution."""

    @property
    def attention_layers(self) -> Mapping[str, AttentionLayer]:
        """Every module that computes attention, by name, in order of execution."""

    @property
    def hidden_form(self) -> str:
        """Why neither layers nor operations can be seen inside of the model; empty if they can."""

    def why_not(self, needs: Iterable[Need], layer: str | None = None) -> str:
        """Why a method with these needs cannot run, with this layer; empty if it can."""

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W) of the images the model takes."""

    @property
    def stem(self) -> str | None:
        """The name of the convolution that alone reads the image; None if there is none."""

    @property
    def samples(self) -> Tensor:
        """(n, C, H, W) the sample pictures that come with the package, in model units."""

    def enlarged(self, times: int) -> Subject | None:
        """The same model for images `times` as high and wide; None if it cannot take them."""

    def clone(self) -> Subject:
        """The same on a copy of the model, whose weights may be changed."""

    def pixel(self, value: float) -> Tensor:
        """A grey level in [0, 1] as (C, 1, 1) model units."""

    def to_pixels(self, x: Tensor) -> Tensor:
        """Images (..., C, H, W) in model units as pixel values in [0, 1]."""

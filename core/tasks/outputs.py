"""Outputs: what one forward pass gave for some rows, whatever the task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


class Outputs(ABC):
    """What one forward pass gave for n rows. A method hands it to a target and asks no more."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @abstractmethod
    def select(self, rows: Tensor) -> Self:
        """Some rows by index (k,), in that order."""

    @abstractmethod
    def detach(self) -> Self:
        """The same, without its graph."""

    @classmethod
    @abstractmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one after the other."""

    @property
    @abstractmethod
    def graph(self) -> Tensor:
        """A tensor whose graph, if there is one, holds all that the outputs were computed from."""

    @property
    def requires_grad(self) -> bool:
        """Whether there is a graph to differentiate."""
        return self.graph.requires_grad

    @property
    @abstractmethod
    def row_bytes(self) -> int:
        """Bytes that one row takes."""

    @abstractmethod
    def change(self, other: Self) -> Tensor:
        """(n,) the largest absolute change of any number of each row; `other` may have one row."""

    @abstractmethod
    def magnitude(self) -> Tensor:
        """(n,) the largest absolute value of each row."""

    @abstractmethod
    def disturbed(self, size: float, generator: torch.Generator) -> Self:
        """The same with every number moved up or down, as rounding does.

        Args:
            size: by how much, as a share of the row's largest absolute value.
            generator: draws the signs, the same for all rows.
        """


def joined(parts: Sequence[Outputs]) -> Outputs:
    """The rows of all parts, which are of one kind."""
    return type(parts[0]).cat(parts)


@dataclass(frozen=True, slots=True)
class Scores(Outputs):
    """One row of raw scores for each image.

    Attributes:
        values: (n, N) the model's outputs: logits, or the numbers of a regression, or features.
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Tensor) -> Scores:
        return Scores(self.values[rows.to(self.values.device)])

    def detach(self) -> Scores:
        return Scores(self.values.detach())

    @classmethod
    def cat(cls, parts: Sequence[Scores]) -> Scores:
        return cls(torch.cat([part.values for part in parts]))

    @property
    def graph(self) -> Tensor:
        return self.values

    @property
    def row_bytes(self) -> int:
        return 4 * self.values.shape[1]

    def change(self, other: Scores) -> Tensor:
        return (self.values - other.values).abs().amax(1)

    def magnitude(self) -> Tensor:
        return self.values.abs().amax(1)

    def disturbed(self, size: float, generator: torch.Generator) -> Scores:
        values = self.values.float() if self.values.element_size() < 4 else self.values
        signs = 2.0 * torch.randint(2, values.shape[1:], generator=generator) - 1
        return Scores(values + size * values.abs().amax(1, keepdim=True) * signs.to(values))


@dataclass(frozen=True, slots=True)
class DenseScores(Outputs):
    """A map of raw scores for each class and image, as a segmenter gives.

    Attributes:
        values: (n, N, h, w) the model's outputs, on the grid on which it gives them.
        size: height and width of the model's input, pixels. The grid may be coarser: between its
            cells, scores are interpolated (bilinear).
    """

    values: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def select(self, rows: Tensor) -> DenseScores:
        return DenseScores(self.values[rows.to(self.values.device)], self.size)

    def detach(self) -> DenseScores:
        return DenseScores(self.values.detach(), self.size)

    @classmethod
    def cat(cls, parts: Sequence[DenseScores]) -> DenseScores:
        return cls(torch.cat([part.values for part in parts]), parts[0].size)

    @property
    def graph(self) -> Tensor:
        return self.values

    @property
    def row_bytes(self) -> int:
        return 4 * self.values[0].numel()

    def change(self, other: DenseScores) -> Tensor:
        return (self.values - other.values).abs().amax((1, 2, 3))

    def magnitude(self) -> Tensor:
        return self.values.abs().amax((1, 2, 3))

    def disturbed(self, size: float, generator: torch.Generator) -> DenseScores:
        values = self.values.float() if self.values.element_size() < 4 else self.values
        signs = 2.0 * torch.randint(2, values.shape[1:], generator=generator) - 1
        largest = values.abs().amax((1, 2, 3), keepdim=True)
        return DenseScores(values + size * largest * signs.to(values), self.size)

"""Picture: a decoded picture, whose pixels can be read again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.errors import PictureError


class Picture:
    """A picture that is safe to use: decoded, upright, 8-bit RGB, without metadata.

    Args:
        image: the pixels, mode RGB; must not be changed.
        name: the cleaned base name of the file, for messages.
        notes: remarks on how the picture was converted, such as
            "animated: first of 12 frames shown".
        bands: (H, W, C) float32 from 0 to 1, what a model of other than 1 or 3 channels takes; None
            if the picture was opened for 1 or 3.
        reopen: reads the same picture again; None if it cannot be.
    """

    def __init__(
        self,
        image: Image.Image,
        name: str,
        notes: tuple[str, ...] = (),
        bands: NDArray[np.float32] | None = None,
        reopen: Callable[[], Picture] | None = None,
    ) -> None:
        self.name = name
        self.notes = notes
        self.size = image.height, image.width
        """Height and width in pixels."""
        self._pixels: tuple[Image.Image, NDArray[np.float32] | None] | None = (image, bands)
        self._reopen = reopen

    @property
    def image(self) -> Image.Image:
        """The pixels, mode RGB; must not be changed.

        Raises:
            PictureError: the pixels were released, and the file is gone or has changed.
        """
        return self._decoded()[0]

    @property
    def bands(self) -> NDArray[np.float32] | None:
        """The channels (H, W, C) from 0 to 1, if the picture was opened for other than 1 or 3."""
        return self._decoded()[1]

    @cached_property
    def digest(self) -> str:
        """A hash of the size and the pixels; it does not depend on the file's name or format."""
        image, bands = self._decoded()
        content = image.tobytes() + (b"" if bands is None else bands.tobytes())
        shape = f"{image.width}x{image.height}:".encode()
        return blake2b(shape + content, digest_size=20).hexdigest()

    def released(self) -> Picture:
        """The same picture without its pixels, which are read again whenever they are needed.

        So that many pictures need not be held decoded. A picture that cannot be read again is
        returned as it is.
        """
        if self._reopen is None:
            return self
        twin = copy.copy(self)
        twin.__dict__["digest"] = self.digest
        twin._pixels = None
        return twin

    def _decoded(self) -> tuple[Image.Image, NDArray[np.float32] | None]:
        if self._pixels is not None:
            return self._pixels
        assert self._reopen is not None
        again = self._reopen()
        if again.digest != self.digest:
            raise PictureError(f"{self.name!r} has changed since it was read; prepare it again")
        return again._decoded()

"""Pictures that have been decoded and preprocessed."""

from __future__ import annotations

import threading
from pathlib import Path

from cachetools import LRUCache

from core import Explainer
from core.errors import PictureError
from core.inputs.batch import InputBatch
from core.inputs.crop import read_crop
from core.runtime.cache import nbytes

MAX_BYTES = 256 * 2**20
"""Memory for all decoded pictures, in bytes."""


class Batches:
    """Decodes each picture once for each model, and keeps the last ones.

    Args:
        max_bytes: memory for all of them, in bytes.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._batches: LRUCache[object, InputBatch] = LRUCache(max_bytes, getsizeof=batch_bytes)

    def get(self, explainer: Explainer, picture: str | None, crop: str | None = None) -> InputBatch:
        """A picture as the model sees it.

        Args:
            explainer: of the model.
            picture: path of the uploaded file.
            crop: the part that the model sees; see `core.inputs.crop.read_crop`.

        Raises:
            PictureError: there is no picture, it cannot be read, or it has no such part.
            TimmscopeError: the crop cannot be read.
        """
        if not picture:
            raise PictureError("Add a picture or choose an example.")
        try:
            changed = Path(picture).stat().st_mtime_ns
        except OSError:
            raise PictureError("The picture is no longer on the server; add it again.") from None
        part = read_crop(crop)
        key = picture, changed, explainer.model.fingerprint(), part
        with self._lock:
            found = self._batches.get(key)
        if found is None:
            found = explainer.prepare(picture, crop=part)
            if batch_bytes(found) <= self._batches.maxsize:
                with self._lock:
                    self._batches[key] = found
        return found


def batch_bytes(batch: InputBatch) -> int:
    """Memory that a batch holds: its decoded pictures and the model's input, in bytes."""
    heights_and_widths = (picture.size for picture in batch.pictures)
    return nbytes(batch.x) + sum(3 * height * width for height, width in heights_and_widths)

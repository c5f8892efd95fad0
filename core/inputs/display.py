"""What results keep of pictures, so that they can be displayed without them."""

from __future__ import annotations

import io
import weakref

from PIL import Image

from core.inputs.batch import InputBatch
from core.inputs.image import Picture
from core.inputs.preprocessing import Geometry
from core.types import ShownPicture

SIDE = 1024
"""Longest side of the copy that a result keeps, in pixels. As a JPEG file it takes 0.1 to 0.5 MB,
where a photo of 12 million pixels takes 36 MB."""
QUALITY = 92
_COPIES: weakref.WeakKeyDictionary[Picture, bytes] = weakref.WeakKeyDictionary()


def shown_pictures(batch: InputBatch) -> list[ShownPicture]:
    """What is displayed of each picture of a batch; of a tensor, the pixels that the model sees."""
    if batch.pictures:
        pairs = zip(batch.pictures, batch.geometries, strict=True)
        return [_shown(small_copy(picture), geometry) for picture, geometry in pairs]
    size = batch.x.shape[2], batch.x.shape[3]
    whole = Geometry(size, size, (0.0, 0.0, float(size[1]), float(size[0])))
    pixels = batch.preprocessing.to_pixels(batch.x.float()).mul(255).round().byte().cpu()
    return [
        _shown(encoded(Image.fromarray(one.squeeze(-1).numpy())), whole)
        for one in pixels.permute(0, 2, 3, 1)
    ]


def encoded(image: Image.Image, side: int = SIDE) -> bytes:
    """A picture as a JPEG file, scaled down if its longer side exceeds `side` pixels."""
    scale = min(1.0, side / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def small_copy(picture: Picture) -> bytes:
    """The copy that results keep, made once for each picture."""
    if picture not in _COPIES:
        _COPIES[picture] = encoded(picture.image)
    return _COPIES[picture]


def _shown(jpeg: bytes, geometry: Geometry) -> ShownPicture:
    return ShownPicture(jpeg, geometry.picture, geometry.input, geometry.box)

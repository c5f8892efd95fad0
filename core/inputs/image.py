"""Decodes and checks untrusted pictures."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import threading
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from core.errors import PictureError

MAX_PIXELS = 64_000_000
"""Largest number of pixels. Larger pictures are refused before decoding, which would take more than
192 MB."""
MAX_ASPECT = 50
"""Largest ratio of the longer to the shorter side. Preprocessing resizes the *shorter* side, so a
strip of 1 x 30,000 pixels would grow to gigabytes."""
MAX_BYTES = 2**29
"""Largest file in bytes, because some decoders read the whole file first."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM")
"""The Pillow decoders that are allowed for untrusted files."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
_READS_AVIF = features.check("avif")

# Decoders raise all of these on hostile files, not only the documented errors.
_DECODER_FAULTS = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
# Warning filters are global, so two threads must not change them at the same time. Decoding one
# picture at a time also limits the total memory that hostile files can use.
_DECODER_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is safe to use: decoded, upright, 8-bit RGB, without metadata.

    Attributes:
        image: the pixels, mode RGB; must not be changed.
        name: the cleaned base name of the file, for messages.
        notes: remarks on how the picture was converted, such as
            "animated: first of 12 frames shown".
    """

    image: Image.Image
    name: str
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.height, self.image.width

    @cached_property
    def digest(self) -> str:
        """A hash of the size and the pixels; it does not depend on the file's name or format."""
        shape = f"{self.image.width}x{self.image.height}:".encode()
        return blake2b(shape + self.image.tobytes(), digest_size=20).hexdigest()


Source: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | Picture
"""The types that `open_picture` accepts."""


def open_picture(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Decodes and checks an untrusted picture.

    The result is 8-bit RGB. Transparent parts are drawn on white. The first frame of an animation
    and the first page of a multi-page file are used. EXIF rotation is applied and all metadata is
    removed. 16-bit grey values are scaled from their full range. 32-bit integers and floats have no
    defined white; it is set to the first of 1, 255 and 65535 that no value exceeds. If there is
    none, or if a value is negative, the smallest value becomes black and the largest white, and a
    note is added.

    Args:
        source: a file, the bytes of a file, a PIL image, an array, or a `Picture`, which is
            returned unchanged. Arrays are (H, W), (H, W, 3) or (H, W, 4), uint8 or floats from 0
            to 1.
        name: name of the picture in messages, if `source` is not a file.
        max_pixels: largest number of pixels to decode. Pillow's own limit,
            `2 * Image.MAX_IMAGE_PIXELS`, also applies.

    Raises:
        PictureError: the picture cannot be read or is too large.

    >>> picture = open_picture(np.zeros((2, 3), np.uint8), name="dark.png")
    >>> picture.name, picture.size, picture.image.mode, picture.notes
    ('dark.png', (2, 3), 'RGB', ())
    """
    if isinstance(source, Picture):
        return source
    label = _label(source, name)
    with _decoding(label), _opened(source, label) as image:
        _check_size(image.size, label, max_pixels)
        image.load()
        upright, notes = _upright(image)
        rgb, more = _rgb(upright, label)
        if image is not source:
            more += _frames(image)
        rgb.info = {}  # so that no location or owner of the camera is saved with a result
        return Picture(rgb, label, notes + more)


def _label(source: object, name: str | None) -> str:
    """A short printable base name for messages; names of uploaded files are untrusted."""
    if name is None and isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
    elif name is None and isinstance(source, Image.Image):
        name = os.fsdecode(getattr(source, "filename", ""))
    elif name is None:
        name = ""
    base = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    clean = "".join(c for c in base if not unicodedata.category(c).startswith("C")).strip()
    if len(clean) > 60:
        clean = f"{clean[:40]}...{clean[-15:]}"
    return clean or "picture"


@contextmanager
def _decoding(label: str) -> Iterator[None]:
    """Converts all errors of a decoder to `PictureError` and hides its warnings."""
    with _DECODER_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except PictureError:
            raise
        except Image.DecompressionBombError as error:
            pixels = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
            raise PictureError(f"{label!r} has {pixels}; make it smaller first") from error
        except _DECODER_FAULTS as error:
            raise PictureError(
                f"{label!r} is damaged or incomplete; save or download it again"
            ) from error


@contextmanager
def _opened(source: object, label: str) -> Iterator[Image.Image]:
    """The source as a PIL image with its header read but its pixels not decoded."""
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, np.ndarray):
        yield _from_array(source, label)
    elif isinstance(source, bytes):
        yield _identify(io.BytesIO(source), len(source), label)
    elif isinstance(source, str | os.PathLike):
        with _file(Path(os.fsdecode(source)), label) as stream:
            yield _identify(stream, os.fstat(stream.fileno()).st_size, label)
    else:
        raise PictureError(
            f"cannot read a picture from {type(source).__name__}; "
            "give a file, its bytes, a PIL image or an array"
        )


def _file(path: Path, label: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise PictureError(f"no file {label!r}; check its name and folder") from error
    if stat.S_ISDIR(mode):
        raise PictureError(f"{label!r} is a folder; give the path of one picture in it")
    if not stat.S_ISREG(mode):  # a pipe or a device might never end
        raise PictureError(f"{label!r} is not a regular file; save the picture as a file")
    try:
        return path.open("rb")
    except OSError as error:
        raise PictureError(
            f"{label!r} cannot be opened ({error.strerror}); check its permissions"
        ) from error


def _identify(stream: BinaryIO, size: int, label: str) -> Image.Image:
    if size == 0:
        raise PictureError(f"{label!r} is empty (0 bytes); save or download it again")
    if size > MAX_BYTES:
        raise PictureError(
            f"{label!r} has {size / 1e6:.0f} MB; the limit is {MAX_BYTES / 1e6:.0f} MB; "
            "make it smaller first"
        )
    head = stream.read(1024)
    stream.seek(0)
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(f"{label!r} is {_kind(head)}") from error


def _kind(head: bytes) -> str:
    """Describes a file that no decoder accepts, and what to do."""
    for what, found in (
        ("a HEIC photo", head[4:8] == b"ftyp" and head[8:12] in _HEIC),
        ("an AVIF picture", head[4:8] == b"ftyp" and head[8:12] in _AVIF and not _READS_AVIF),
        ("a PDF document", head.startswith(b"%PDF")),
        ("an SVG drawing", b"<svg" in head.lower()),
    ):
        if found:
            return f"{what}, which cannot be read here; save it as JPEG or PNG"
    if all(byte >= 32 or byte in b"\t\n\f\r" for byte in head):
        return "text, not a picture; choose a JPEG or PNG file"
    return "damaged, or not in a format that can be read; save it as JPEG or PNG"


def _check_size(size: tuple[int, int], label: str, max_pixels: int) -> None:
    width, height = size
    if min(size) < 1:
        raise PictureError(f"{label!r} has no pixels ({width} x {height}); choose another picture")
    if width * height > max_pixels:
        raise PictureError(
            f"{label!r} is {width} x {height} pixels ({width * height / 1e6:.0f} million); the "
            f"limit is {max_pixels / 1e6:g} million; make it smaller first"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise PictureError(
            f"{label!r} is {width} x {height} pixels, so one side is more than {MAX_ASPECT} times "
            "as long as the other; crop it first"
        )


def _from_array(array: np.ndarray[Any, Any], label: str) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or not array.size:
        raise PictureError(
            f"{label!r} is an array of shape {array.shape}; give (H, W), (H, W, 3) or (H, W, 4)"
        )
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:  # false with a NaN
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise PictureError(
            f"{label!r} is an array of {array.dtype} from {array.min()} to {array.max()}; "
            "give uint8, or floats from 0 to 1"
        )
    return Image.fromarray(array)


def _upright(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """A copy of a decoded image, rotated by its EXIF orientation, and notes."""
    try:
        return ImageOps.exif_transpose(image), ()
    except _DECODER_FAULTS:
        return image.copy(), ("EXIF data damaged: the picture may be rotated",)


def _frames(image: Image.Image) -> tuple[str, ...]:
    if image.format == "MPO":  # a photo with previews or a stereo pair, not an animation
        return ()
    try:
        count = int(getattr(image, "n_frames", 1))
    except _DECODER_FAULTS:
        return ("only its first frame can be read",)
    if count == 1:
        return ()
    if image.format == "TIFF":
        return (f"first of {count} pages shown",)
    return (f"animated: first of {count} frames shown",)


def _rgb(image: Image.Image, label: str) -> tuple[Image.Image, tuple[str, ...]]:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float32), 0, 65535), ()
    if image.mode in ("I", "F"):
        return _from_values(np.asarray(image).astype(np.float32), label)
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB"), ()


def _from_values(values: np.ndarray[Any, Any], label: str) -> tuple[Image.Image, tuple[str, ...]]:
    """A grey image from values without a defined white; see `open_picture` for the rule."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"{label!r} holds infinite or NaN values; replace them first")
    white = next((white for white in (1, 255, 65535) if low >= 0 and high <= white), None)
    if white is not None:
        return _grey(values, 0, white), ()
    return _grey(values, low, high), (f"values from {low:g} to {high:g} shown as black to white",)


def _grey(values: np.ndarray[Any, Any], black: float, white: float) -> Image.Image:
    scaled = (values - black) * (255 / ((white - black) or 1))
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")


def _on_white(rgba: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    opaque = rgba.getchannel("A").getextrema() == (255, 255)
    return page.convert("RGB"), () if opaque else ("transparent parts shown on white",)

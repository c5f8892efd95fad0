"""Decode and check an untrusted picture."""

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
"""More pixels than this are refused from the header alone: decoded, they take 192 MB or more."""
MAX_ASPECT = 50
"""Longest side over shortest. Models resize the *short* side, so a strip one pixel wide and
30000 long would grow to gigabytes on its way in."""
MAX_BYTES = 2**29
"""Largest file, since some decoders read all of it before they look at it."""
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM")
"""The Pillow decoders an untrusted file may reach."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}
_READS_AVIF = features.check("avif")

# Decoders given hostile bytes let all of these through, not only the errors they document.
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
# Warning filters belong to the whole process, so two threads must not change them at once; one
# picture at a time also bounds the memory that hostile files can claim together.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that is safe to use: decoded, upright, 8-bit RGB, without metadata.

    Attributes:
        image: the pixels, mode RGB; to be read, never written.
        name: what to call it in a sentence: a file's base name, cleaned.
        notes: what a person should know of how it is shown, such as
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
        """Identifies the pixels, whatever the file was called or how it was stored."""
        shape = f"{self.image.width}x{self.image.height}:".encode()
        return blake2b(shape + self.image.tobytes(), digest_size=20).hexdigest()


Source: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | Picture
"""Anything that `open_picture` takes."""


def open_picture(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Picture:
    """Decodes and checks a picture that nobody vouches for.

    Colours come out as 8-bit RGB. Transparent parts lie on white. An animation shows its first
    frame, a document its first page. EXIF rotation is applied and all metadata dropped. 16-bit
    grey keeps its full range. Integers and floats of 32 bits carry no agreed white: it is the
    first of 1, 255 and 65535 that no value exceeds, and where none fits or a value is below zero
    the least becomes black and the greatest white, with a note that says so.

    Args:
        source: a file, the bytes of one, a PIL image, an array, or a `Picture`, which comes back
            as it is. Arrays are (H, W), (H, W, 3) or (H, W, 4), of uint8 or of floats in [0, 1].
        name: what to call it in sentences, where `source` is not a file.
        max_pixels: most pixels to decode. Pillow's own limit, `2 * Image.MAX_IMAGE_PIXELS`,
            stays in force.

    Raises:
        PictureError: it cannot be read, or must not be.

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
        rgb.info = {}  # no position or owner of the camera travels on into a saved result
        return Picture(rgb, label, notes + more)


def _label(source: object, name: str | None) -> str:
    """A short printable base name: names come from strangers and end up in sentences."""
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
    """Turns whatever a decoder raises or warns of into one sentence, or into silence."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
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
                f"{label!r} is damaged or cut short; save or download it again"
            ) from error


@contextmanager
def _opened(source: object, label: str) -> Iterator[Image.Image]:
    """The source as a PIL image, its header read but its pixels not yet decoded."""
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
            f"a picture cannot be read from {type(source).__name__}; "
            "give a file, its bytes, a PIL image or an array"
        )


def _file(path: Path, label: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise PictureError(f"no file {label!r}; check its name and folder") from error
    if stat.S_ISDIR(mode):
        raise PictureError(f"{label!r} is a folder; name one picture in it")
    if not stat.S_ISREG(mode):  # a pipe or a device might never end
        raise PictureError(f"{label!r} is not a file; save the picture as one")
    try:
        return path.open("rb")
    except OSError as error:
        raise PictureError(
            f"{label!r} cannot be opened ({error.strerror}); check who may read it"
        ) from error


def _identify(stream: BinaryIO, size: int, label: str) -> Image.Image:
    if size == 0:
        raise PictureError(f"{label!r} is empty (0 bytes); save or download it again")
    if size > MAX_BYTES:
        raise PictureError(
            f"{label!r} has {size / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f}; "
            "make it smaller first"
        )
    head = stream.read(1024)
    stream.seek(0)
    try:
        return Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise PictureError(f"{label!r} is {_kind(head)}") from error


def _kind(head: bytes) -> str:
    """What a file that no decoder takes seems to be, and the way out."""
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
            f"{label!r} is {width} x {height} pixels, {width * height / 1e6:.0f} million where "
            f"{max_pixels / 1e6:g} million is the limit; make it smaller first"
        )
    if max(size) > MAX_ASPECT * min(size):
        raise PictureError(
            f"{label!r} is {width} x {height} pixels, more than {MAX_ASPECT} times as long as "
            "wide; crop it first"
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
    """A copy of a decoded image, turned as its EXIF data asks."""
    try:
        return ImageOps.exif_transpose(image), ()
    except _DECODER_FAULTS:
        return image.copy(), ("its EXIF data is damaged, so it may lie on its side",)


def _frames(image: Image.Image) -> tuple[str, ...]:
    if image.format == "MPO":  # a photo with its own previews or a second eye, not an animation
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
    """Greys from numbers that carry no agreed white; see `open_picture` for the rule."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"{label!r} holds infinite or undefined values; replace them first")
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

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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from core.errors import PictureError
from core.inputs.picture import Picture as Picture
from core.inputs.pixels import Range, black_and_white, channels_last, scaled
from core.inputs.tiff import is_signed_16, is_tiff, read_bands, white_of

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


Bytes: TypeAlias = bytes | bytearray | memoryview
"""The bytes of a file."""
Source: TypeAlias = (
    str
    | os.PathLike[str]
    | Bytes
    | BinaryIO
    | Image.Image
    | np.ndarray[Any, Any]
    | torch.Tensor
    | Picture
)
"""The types that `open_picture` accepts."""


def open_picture(
    source: Source,
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
    channels: int = 3,
    value_range: Range | None = None,
) -> Picture:
    """Decodes and checks an untrusted picture.

    The result is 8-bit RGB. Transparent parts are drawn on white. The first frame of an animation
    and the first page of a multi-page file are used. EXIF rotation is applied and all metadata is
    removed.

    Values of more than 8 bits are scaled so that white becomes 255. White is what `value_range`
    says, or the file: its bits per sample or its largest sample value. Otherwise it is 65535 for
    16 bits (32767 if signed), and for 32 bits and floats the first of 1, 255 and 65535 that no
    value exceeds. Where fewer bits would hold the values too, white is unknown and the picture is
    refused. If 32-bit values of a file are negative or above 65535, the smallest becomes black and
    the largest white, and a note is added.

    Args:
        source: a file, its bytes, an open binary file, a PIL image, an array or a tensor of
            integers, or a `Picture`, which is returned unchanged. Arrays are (H, W), (H, W, C) or
            (C, H, W), see `core.inputs.pixels.channels_last`; uint8, uint16 or floats from 0 to 1.
        name: name of the picture in messages, if `source` is not a file.
        max_pixels: largest number of pixels to decode. Pillow's own limit,
            `2 * Image.MAX_IMAGE_PIXELS`, also applies.
        channels: of the model. With other than 1 and 3, the picture must have as many: an array,
            4 as RGBA, or the bands or pages of a TIFF. They are kept as `Picture.bands`.
        value_range: the values that are black and white; not used for pictures of 8 bits.

    Raises:
        PictureError: the picture cannot be read, is too large, or has other channels.

    >>> picture = open_picture(np.zeros((2, 3), np.uint8), name="dark.png")
    >>> picture.name, picture.size, picture.image.mode, picture.notes
    ('dark.png', (2, 3), 'RGB', ())
    """
    if isinstance(source, Picture):
        return source
    label = _label(source, name)
    want = _Wanted(label, max_pixels, channels, value_range)
    with _decoding(label):
        if isinstance(source, torch.Tensor | np.ndarray):
            return _from_array(
                _array(source, label), want, first=not isinstance(source, np.ndarray)
            )
        if isinstance(source, Image.Image):
            return _from_image(source, want, None)
        with _stream(source, label) as (stream, size):
            picture = _from_stream(stream, size, want)
    if isinstance(source, str | os.PathLike | bytes):
        picture._reopen = partial(
            open_picture, source, name=label, max_pixels=max_pixels, channels=channels,
            value_range=value_range,
        )  # fmt: skip
    return picture


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How a picture is to be read; see `open_picture`."""

    label: str
    max_pixels: int
    channels: int
    value_range: Range | None

    @property
    def colours(self) -> bool:
        """Whether the model takes colours or luminance, and no bands of its own."""
        return self.channels in (1, 3)

    def check(self, size: tuple[int, int]) -> None:
        """Refuses a (width, height)."""
        _check_size(size, self.label, self.max_pixels)

    def check_channels(self, found: int) -> None:
        """Refuses a picture of another number of channels."""
        if found != self.channels:
            raise PictureError(
                f"{self.label!r} has {found} channel{'s' * (found != 1)} and the model needs "
                f"{self.channels}; give an array (H, W, {self.channels}) or a TIFF of as many bands"
            )


def _from_stream(stream: BinaryIO, size: int, want: _Wanted) -> Picture:
    """A picture from an open file of `size` bytes."""
    if not want.colours and is_tiff(stream.read(4)):
        stream.seek(0)
        return _from_tiff(stream, want)
    stream.seek(0)
    image = _identify(stream, size, want.label)
    picture = _from_image(image, want, stream)
    picture.notes += _frames(image)
    return picture


def _from_image(image: Image.Image, want: _Wanted, stream: BinaryIO | None) -> Picture:
    """A picture from a PIL image, whose pixels need not be decoded yet.

    Args:
        image: the image.
        want: how it is to be read.
        stream: the file it comes from, if any.
    """
    want.check(image.size)
    deep = _deep_colours(image)
    image.load()
    if deep and stream is not None and image.format == "TIFF":
        white = white_of(image)
        if want.value_range is not None or white not in (None, 65535):
            stream.seek(0)
            return _from_tiff(stream, want)
    if deep:
        _check_deep_colours(image, want)
    upright, notes = _upright(image)
    bands = None if want.colours else _bands_of(upright, want)
    rgb, more = _rgb(upright, image, want)
    rgb.info = {}  # so that no location or owner of the camera is saved with a result
    return Picture(rgb, want.label, notes + more, bands)


def _bands_of(image: Image.Image, want: _Wanted) -> NDArray[np.float32]:
    """The channels of a PIL image from 0 to 1, where the model takes other than 1 and 3."""
    if image.has_transparency_data and image.mode != "LA":
        image = image.convert("RGBA")
    elif image.mode in ("P", "CMYK", "RGBX"):
        image = image.convert("RGB")
    want.check_channels(len(image.getbands()))
    return scaled(np.asarray(image), (0, 255), 1)


def _from_tiff(stream: BinaryIO, want: _Wanted) -> Picture:
    """A picture from the bands of a TIFF, of any number of bits."""
    values, white = read_bands(stream, want.label, want.check)
    return _from_values(values, want, declared=white, file=True)


def _label(source: object, name: str | None) -> str:
    """A short printable base name for messages; names of uploaded files are untrusted."""
    if name is None and isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
    elif name is None and isinstance(source, Image.Image):
        name = os.fsdecode(getattr(source, "filename", ""))
    elif name is None:
        given = getattr(source, "name", "")  # that of an open file; a number for a pipe
        name = given if isinstance(given, str) else ""
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
def _stream(source: object, label: str) -> Iterator[tuple[BinaryIO, int]]:
    """The source as an open file at its start, and its number of bytes."""
    if isinstance(source, bytes | bytearray | memoryview):
        content = bytes(source)
        yield io.BytesIO(content), len(content)
    elif isinstance(source, str | os.PathLike):
        with _file(_local(os.fsdecode(source)), label) as stream:
            yield stream, os.fstat(stream.fileno()).st_size
    elif callable(getattr(source, "read", None)):
        content = _content(cast(BinaryIO, source), label)
        yield io.BytesIO(content), len(content)
    else:
        raise PictureError(
            f"cannot read a picture from {type(source).__name__}; "
            "give a file, its bytes, a PIL image or an array"
        )


def _content(file: BinaryIO, label: str) -> bytes:
    """The bytes of an open file: from its start if it can be rewound, whose place is kept."""
    try:
        place = file.tell() if file.seekable() else None
        if place is not None:
            file.seek(0)
        content = file.read(MAX_BYTES + 1)
        if place is not None:
            file.seek(place)
    except (OSError, ValueError) as error:
        raise PictureError(f"{label!r} cannot be read ({error}); open it again") from error
    if not isinstance(content, bytes | bytearray):
        raise PictureError(f"{label!r} is open as text; open it with mode 'rb'")
    return bytes(content)


def _local(path: str) -> Path:
    """The path of a file on this machine; addresses are refused."""
    if is_address(path):
        raise PictureError(
            f"{path[:80]!r} is an address, and nothing is downloaded; save the picture as a file "
            "and give its path"
        )
    return Path(path)


def is_address(text: str) -> bool:
    """Whether a text is the address of something elsewhere and not a path.

    >>> is_address("https://example.org/cat.jpg"), is_address("s3://bucket/cat.jpg")
    (True, True)
    >>> is_address("C:/pictures/cat.jpg"), is_address("data:image/png;base64,AAAA")
    (False, True)
    """
    # A path object turns the two slashes of an address into one.
    return re.match(r"[a-z][a-z0-9+.-]+:/|data:[\w/+.-]*[;,]", text, re.IGNORECASE) is not None


def _array(source: torch.Tensor | NDArray[Any], label: str) -> NDArray[Any]:
    """An array, or a tensor of integers as one."""
    if isinstance(source, np.ndarray):
        return source
    if source.is_floating_point() or source.is_complex():
        raise PictureError(
            f"{label!r} is a tensor of {source.dtype}, which holds model units and not a picture; "
            "give a picture as uint8 or as an array"
        )
    return source.detach().cpu().numpy()


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
        ("a TIFF of a kind", is_tiff(head)),
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


def _from_array(array: NDArray[Any], want: _Wanted, first: bool) -> Picture:
    """A picture from an array; `first` as in `channels_last`."""
    return _from_values(channels_last(array, want.label, want.channels, first), want)


def _from_values(
    values: NDArray[Any], want: _Wanted, declared: float | None = None, file: bool = False
) -> Picture:
    """A picture from values (H, W) or (H, W, C); see `black_and_white` for the other arguments."""
    want.check((values.shape[1], values.shape[0]))
    black_white, notes = black_and_white(
        values, want.label, declared=declared, value_range=want.value_range, file=file
    )
    bands = None
    if not want.colours:
        want.check_channels(1 if values.ndim == 2 else values.shape[2])
        bands = scaled(values, black_white, 1)
        if want.channels != 4:
            values = values[..., :3] if want.channels > 3 else values[..., 0]
            notes += (
                f"shown by {'its first 3' if want.channels > 3 else 'the first'} of "
                f"{want.channels} bands",
            )
    elif values.ndim == 3 and values.shape[2] not in (3, 4):
        want.check_channels(values.shape[2])
    octets = values if values.dtype == np.uint8 else np.rint(scaled(values, black_white, 255))
    image = Image.fromarray(np.ascontiguousarray(octets, dtype=np.uint8))
    if image.mode == "RGBA":
        image, more = _on_white(image)
        notes += more
    return Picture(image.convert("RGB"), want.label, notes, bands)


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


def _rgb(
    image: Image.Image, stored: Image.Image, want: _Wanted
) -> tuple[Image.Image, tuple[str, ...]]:
    """An upright image as RGB, and notes; `stored` is the image with the facts of its file."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values, declared = np.asarray(image), white_of(stored)
        if image.mode.startswith("I;16"):
            values = values.astype(np.uint16)
        elif stored.format == "PPM":  # whose decoder has scaled by the white in the header
            declared = 65535
        elif is_signed_16(stored):
            values = values.astype(np.int16)
        shown = _from_values(values, replace(want, channels=1), declared, file=True)
        return shown.image, shown.notes
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB"), ()


def _deep_colours(image: Image.Image) -> bool:
    """Whether an image that is not decoded yet has colours of 16 bits, of which 8 will be kept."""
    return len(image.getbands()) > 1 and any(
        re.search(r";16[BLN]?$", str(part))
        for tile in getattr(image, "tile", ())
        for part in (tile.args if isinstance(tile.args, tuple) else (tile.args,))
    )


def _check_deep_colours(image: Image.Image, want: _Wanted) -> None:
    """Refuses colours of 16 bits whose white is unknown, or cannot be applied to the 8 kept."""
    extrema = cast("tuple[tuple[int, int], ...]", image.getextrema())
    brightest = max(high for _, high in extrema[:3])
    if want.value_range is not None and want.value_range != (0, 65535):
        raise PictureError(
            f"{want.label!r} has colours of 16 bits, of which only the upper 8 can be read here; "
            "to say its value_range, give it as a TIFF file"
        )
    if want.value_range is None and white_of(image) is None and 0 < brightest < 64:
        raise PictureError(
            f"{want.label!r} has 16-bit colours below {(brightest + 1) * 256:,} and does not say "
            "which value is white; save it with 8 bits, or as TIFF and say it as value_range among "
            "the preprocessing"
        )


def _on_white(rgba: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    page = Image.new("RGBA", rgba.size, "white")
    page.alpha_composite(rgba)
    opaque = rgba.getchannel("A").getextrema() == (255, 255)
    return page.convert("RGB"), () if opaque else ("transparent parts shown on white",)

"""Preprocessing of pictures, and the geometry that maps a model's input back to the picture.

Every picture becomes a tensor through `Preprocessing`; `Geometry` says which part of the picture
the tensor shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from core.errors import ModelError, PictureError, unknown
from core.inputs.crop import Box, CropLike, Window, read_crop, window_of
from core.inputs.image import MAX_PIXELS, Picture, Source, open_picture

MAX_SIDE = 8192
"""Longest allowed side of an input in pixels; a foreign configuration may request any size."""

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROP_MODES = ("center", "squash", "border")
_BACKENDS = ("pil", "uint8", "rounded", "float")
MAX_CHANNELS = 512
"""Largest number of channels of an input."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which part of a picture a model's input shows.

    Coordinates refer to pixel *edges*: x is 0 at the left edge of the first column and W at the
    right edge of the last one, so the centre of pixel (row i, column j) is (j + 0.5, i + 0.5).

    Attributes:
        picture: height and width of the picture, pixels.
        input: height and width of the model's input, pixels.
        box: left, top, right, bottom of the part shown, in picture pixels; it is larger than the
            picture if the preprocessing pads.

    >>> crop = Geometry(picture=(100, 200), input=(50, 50), box=(50.0, 0.0, 150.0, 100.0))
    >>> crop.whole, crop.to_picture(25, 25), crop.to_input(50, 100)
    (False, (100.0, 50.0), (0.0, 50.0))
    """

    picture: tuple[int, int]
    input: tuple[int, int]
    box: tuple[float, float, float, float]

    @property
    def whole(self) -> bool:
        """Whether the input shows the whole picture."""
        left, top, right, bottom = self.box
        height, width = self.picture
        return left <= 0 and top <= 0 and right >= width and bottom >= height

    def to_picture(self, x: float, y: float) -> tuple[float, float]:
        """Maps the point (x, y) of the model's input to the picture."""
        left, top, right, bottom = self.box
        height, width = self.input
        return left + x * (right - left) / width, top + y * (bottom - top) / height

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Maps the point (x, y) of the picture to the model's input."""
        left, top, right, bottom = self.box
        height, width = self.input
        return (x - left) * width / (right - left), (y - top) * height / (bottom - top)

    def to_dict(self) -> dict[str, Any]:
        """All values, ready for JSON."""
        return {
            "picture": list(self.picture),
            "input": list(self.input),
            "box": list(self.box),
            "whole": self.whole,
        }


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Converts pictures to a model's input exactly as timm's evaluation transform does.

    With `resize`, it does so as torchvision's transforms and the image processors of transformers
    do; see `core.inputs.transforms`.

    Attributes:
        input_size: channels, height and width of the input; 3 channels are RGB, 1 is luminance, and
            others are those of the picture itself.
        mean: per channel, subtracted from pixel values in [0, 1].
        std: per channel, the divisor after the subtraction.
        interpolation: one of nearest, bilinear, bicubic, box, hamming, lanczos. Timm's "random"
            becomes bilinear, so that the same picture always gives the same input.
        crop_pct: side of the input divided by the side that the picture is resized to.
        crop_mode: "center" resizes the shorter side and crops the centre; "squash" resizes both
            sides; "border" resizes the longer side and pads with the mean.
        value_range: the values of a picture that are black and white, for pictures of more than 8
            bits; None takes them from the file, see `open_picture`.
        resize: what the picture is resized to before the crop, in place of `crop_pct` and
            `crop_mode`: (side,) the shorter side, (height, width), or () for no resizing.
        backend: with `resize`, what is resized: a "pil" image, a tensor of "uint8" or "float", or
            bytes as floats that are "rounded", as version 1 of torchvision's transforms does.
        crop_rounding: with `resize`, how half a pixel is rounded where the crop begins: "even" as
            in torchvision, or "down" as in transformers.

    Raises:
        ModelError: a setting is invalid.
        UnknownNameError: there is no such interpolation or crop mode.

    >>> prepare = Preprocessing((3, 224, 224), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875)
    >>> from PIL import Image
    >>> x, geometry = prepare(Image.new("RGB", (512, 256), "white"))
    >>> tuple(x.shape), x.max().item(), geometry.box
    ((3, 224, 224), 1.0, (144.0, 16.0, 368.0, 240.0))
    """

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    value_range: tuple[float, float] | None = None
    resize: tuple[int, ...] | None = None
    backend: str = "pil"
    crop_rounding: str = "even"

    def __post_init__(self) -> None:
        for name in ("input_size", "mean", "std", "value_range", "resize"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(value))
        if self.interpolation == "random":
            object.__setattr__(self, "interpolation", "bilinear")
        self._check()

    def _check(self) -> None:
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise ModelError(
                f"input_size is {self.input_size}; give channels, height and width, all above 0"
            )
        if any(side != int(side) for side in self.input_size):
            raise ModelError(f"input_size is {self.input_size}; give whole numbers")
        if max(self.input_size) > MAX_SIDE:
            raise ModelError(
                f"input_size is {self.input_size}; no side may be longer than {MAX_SIDE} pixels"
            )
        channels = self.input_size[0]
        if channels > MAX_CHANNELS:
            raise ModelError(
                f"the model takes {channels} channels; no more than {MAX_CHANNELS} can be shown"
            )
        if len(self.mean) != channels or len(self.std) != channels:
            raise ModelError(
                f"mean {self.mean} and std {self.std} do not fit {channels} channel(s); "
                "give one number for each"
            )
        if not all(0 < std < math.inf for std in self.std):
            raise ModelError(f"std is {self.std}; give numbers above 0")
        if not all(map(math.isfinite, self.mean)):
            raise ModelError(f"mean is {self.mean}; give finite numbers")
        if not 0 < self.crop_pct <= min(self.input_size[1:]):
            raise ModelError(f"crop_pct is {self.crop_pct}; give a number above 0, such as 0.95")
        if self.interpolation not in _INTERPOLATIONS:
            raise unknown("interpolation", self.interpolation, _INTERPOLATIONS)
        for kind, value, known in (
            ("crop mode", self.crop_mode, _CROP_MODES),
            ("backend", self.backend, _BACKENDS),
            ("crop rounding", self.crop_rounding, ("even", "down")),
        ):
            if value not in known:
                raise unknown(kind, value, known)
        self._check_ranges()

    def _check_ranges(self) -> None:
        levels = self.value_range
        if levels is not None and not (
            len(levels) == 2 and all(map(math.isfinite, levels)) and levels[0] < levels[1]
        ):
            raise ModelError(
                f"value_range is {levels}; give the values of black and white, such as (0, 4095)"
            )
        if self.resize is not None and not (
            len(self.resize) <= 2 and all(1 <= side <= MAX_SIDE for side in self.resize)
        ):
            raise ModelError(
                f"resize is {self.resize}; give (side,) or (height, width), up to {MAX_SIDE}"
            )

    @classmethod
    def from_model(cls, model: nn.Module, **overrides: Any) -> Preprocessing:
        """The preprocessing that a model was evaluated with, from its `pretrained_cfg`.

        The input size and channels that the model was built with override its configuration.

        Args:
            model: a timm model; or any module if `input_size`, `mean` and `std` are given.
            overrides: fields with values that replace those of the model. An `input_size` without
                channels takes those of the model, and one number as `mean` or `std` holds for all.

        Raises:
            ModelError: a required field is missing, or does not fit the channels of the model.
            UnknownNameError: there is no such field.
        """
        known = [field.name for field in fields(cls)]
        for name in overrides:
            if name not in known:
                raise unknown("preprocessing setting", name, known)
        settings = _completed(_timm_settings(model), overrides)
        missing = [name for name in ("input_size", "mean", "std") if name not in settings]
        if missing and "input_size" in settings:
            channels = settings["input_size"][0]
            raise ModelError(
                f"{type(model).__name__} takes {channels} channels, and its configuration gives no "
                f"{' and '.join(missing)} for them; pass preprocessing={{'mean': [...], 'std': "
                f"[...]}} with {channels} numbers each"
            )
        if missing:
            raise ModelError(
                f"{type(model).__name__} does not define its preprocessing; "
                f"give {', '.join(missing)}"
            )
        return cls(**settings)

    def __call__(self, source: Source, crop: CropLike = None) -> tuple[Tensor, Geometry]:
        """The model's input for one picture, and its geometry.

        Args:
            source: a picture of any type that `open_picture` accepts.
            crop: the part of the picture that the input is to show in place of its own crop, see
                `core.inputs.crop.read_crop`. Where its aspect is another than the input's, it is
                padded; nothing is squashed.

        Returns:
            The input (C, H, W), float32 in model units, and its `Geometry`.

        Raises:
            PictureError: the picture cannot be read, is too narrow for this input, or has no such
                part.
            TimmscopeError: the crop cannot be read.
        """
        asked = read_crop(crop)
        picture = open_picture(source, channels=self.input_size[0], value_range=self.value_range)
        size = picture.size[1], picture.size[0]
        if asked is not None and not self._is_own(asked, size):
            return self._of_part(picture, asked)
        self._check_shape(size, picture.name)
        if not self._has_colours:
            return self._of_bands(picture)
        image = self._image_of(picture)
        if self.resize is not None:
            return self._resized(image)
        resize, *steps = create_transform(**self._timm_arguments()).transforms
        x = resize(image)
        geometry = self._geometry(image.size, x.size)
        for step in steps:
            x = step(x)
        return x.float(), geometry

    def _timm_arguments(self) -> dict[str, Any]:
        names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        return {name: getattr(self, name) for name in names}

    def _resized(self, image: Image.Image) -> tuple[Tensor, Geometry]:
        """The input and geometry with `resize`; the steps are torchvision's."""
        given: Any = image
        if self.backend in ("uint8", "rounded"):
            given = F.pil_to_tensor(image)
        elif self.backend == "float":
            given = F.to_tensor(image)
        if self.resize:
            mode = InterpolationMode(self.interpolation)
            resize = _resize_bytes if self.backend == "uint8" else F.resize
            given = resize(given, list(self.resize), mode, antialias=True)
        width, height = given.size if self.backend == "pil" else given.shape[:0:-1]
        geometry = self._geometry(image.size, (width, height))
        pixels = F.to_tensor(given) if self.backend == "pil" else given
        x = self._cropped(pixels, fill=(0.0,) * len(self.mean))
        return F.normalize(F.convert_image_dtype(x, torch.float32), self.mean, self.std), geometry

    @property
    def _has_colours(self) -> bool:
        """Whether the input is a picture's colours or luminance rather than its own bands."""
        return self.input_size[0] in (1, 3)

    def _image_of(self, picture: Picture) -> Image.Image:
        """The picture in the input's colours."""
        return picture.image if self.input_size[0] == 3 else picture.image.convert("L")

    def _bands_of(self, picture: Picture) -> list[NDArray[np.float32]]:
        """The picture's own bands (h, w), from 0 to 1, one for each channel of the input."""
        if picture.bands is None or picture.bands.shape[2] != self.input_size[0]:
            raise PictureError(
                f"{picture.name!r} was opened for other than {self.input_size[0]} channels; open "
                f"it with channels={self.input_size[0]}"
            )
        return [np.ascontiguousarray(picture.bands[..., band]) for band in range(len(self.mean))]

    def _of_bands(self, picture: Picture) -> tuple[Tensor, Geometry]:
        """The input and geometry of a picture's own bands, each resized by itself."""
        found = [self._resized_band(band) for band in self._bands_of(picture)]
        size = picture.size[1], picture.size[0]
        geometry = self._geometry(size, (found[0].shape[1], found[0].shape[0]))
        padding = self.mean if self.crop_mode == "border" and self.resize is None else None
        x = self._cropped(torch.from_numpy(np.stack(found)), padding or (0.0,) * len(self.mean))
        return F.normalize(x, self.mean, self.std), geometry

    def _is_own(self, crop: Literal["whole"] | Box, size: tuple[int, int]) -> bool:
        """Whether a crop is what the preprocessing cuts out of a picture (width, height) itself.

        Pillow knows the edges of a part to 7 digits only, so the same part would differ by a level
        here and there.
        """
        if crop == "whole":
            return False
        blank = Image.new("1", size)
        with suppress(PictureError):
            self._check_shape(size, "")
            if self.resize is None:
                blank = create_transform(**self._timm_arguments()).transforms[0](blank)
            elif self.resize:
                blank = F.resize(blank, list(self.resize))
            own = self._geometry(size, blank.size).box
            return all(abs(one - other) < 1e-6 for one, other in zip(own, crop, strict=True))
        return False

    def _of_part(self, picture: Picture, crop: Literal["whole"] | Box) -> tuple[Tensor, Geometry]:
        """The input and geometry of a chosen part; what it does not cover has the fill colour."""
        _, height, width = self.input_size
        size = picture.size[0], picture.size[1]
        window = window_of(crop, size, (height, width), picture.name)
        left, top, right, bottom = window.target
        fill = torch.tensor(self._fill, dtype=torch.float32)
        x = fill[:, None, None].repeat(1, height, width)
        x[:, top:bottom, left:right] = self._resampled(picture, window)
        geometry = Geometry(size, (height, width), window.box)
        return F.normalize(x, self.mean, self.std), geometry

    @property
    def _fill(self) -> tuple[float, ...]:
        """The pixel values, by channel, around a picture that does not fill the input.

        Torchvision pads with black; timm with the mean, of colours as whole levels of 255.
        """
        if self.resize is not None:
            return (0.0,) * len(self.mean)
        if not self._has_colours:
            return self.mean
        return tuple(round(255 * mean) / 255 for mean in self.mean)

    def _resampled(self, picture: Picture, window: Window) -> Tensor:
        """The part that a window shows (C, h, w), in pixel values.

        Pillow takes the pixels beyond the edge of the part into account, so a part is what it is
        when the whole picture is resized and cut afterwards. Its arithmetic on bytes and on floats
        is that of torchvision on tensors of them.
        """
        left, top, right, bottom = window.target
        how: dict[str, Any] = {
            "size": (right - left, bottom - top),
            "resample": Image.Resampling[self.interpolation.upper()],
            "box": window.source,
        }
        if not self._has_colours:
            bands = [Image.fromarray(band).resize(**how) for band in self._bands_of(picture)]
            return torch.from_numpy(np.stack([np.asarray(one) for one in bands])).clamp(0, 1)
        image = self._image_of(picture)
        if self.resize is None or self.backend in ("pil", "uint8"):
            x: Tensor = F.to_tensor(image.resize(**how))
            return x
        planes = [plane.convert("F").resize(**how) for plane in image.split()]
        x = torch.from_numpy(np.stack([np.asarray(plane) for plane in planes]))
        return (x.round().clamp(0, 255) if self.backend == "rounded" else x) / 255

    def _resized_band(self, band: NDArray[np.float32]) -> NDArray[np.float32]:
        image = Image.fromarray(band)
        if self.resize is None:
            arguments = {**self._timm_arguments(), "mean": (0.0,), "std": (1.0,)}
            resized = create_transform(**arguments).transforms[0](image)
        elif self.resize:
            mode = InterpolationMode(self.interpolation)
            resized = F.resize(image, list(self.resize), mode, antialias=True)
        else:
            resized = image
        return np.asarray(resized, dtype=np.float32).clip(0, 1)

    def _cropped(self, x: Tensor, fill: Sequence[float]) -> Tensor:
        """The centre of (C, h, w) as (C, H, W); what it does not cover is `fill`, by channel."""
        _, height, width = self.input_size
        out = torch.tensor(fill, dtype=x.dtype)[:, None, None].repeat(1, height, width)
        (source_y, target_y), (source_x, target_x) = (
            _overlap(_start(full, crop, self.crop_rounding), full, crop)
            for full, crop in ((x.shape[1], height), (x.shape[2], width))
        )
        out[:, target_y, target_x] = x[:, source_y, source_x]
        return out

    def _check_shape(self, size: tuple[int, int], name: str) -> None:
        """Refuses a narrow picture that would exceed `MAX_PIXELS`, or vanish, when resized."""
        side = max(self.input_size[1:]) / self.crop_pct
        thinnest = min(self.input_size[1:]) / self.crop_pct
        aspect = max(size) / min(size)
        if self.resize is not None:
            side = thinnest = max(self.resize, default=1)
            aspect = aspect if len(self.resize) == 1 else 1
        grows = side * side * (aspect if self.crop_mode == "center" else 1) > MAX_PIXELS
        vanishes = self.crop_mode == "border" and thinnest < aspect
        if grows or vanishes:
            raise PictureError(
                f"{name!r} is {size[0]} x {size[1]} pixels, too narrow for an input of "
                f"{self.input_size[2]} x {self.input_size[1]}; crop it first"
            )

    def _geometry(self, picture: tuple[int, int], resized: tuple[int, int]) -> Geometry:
        """The geometry from the sizes (width, height) before the crop, with timm's rounding."""
        _, height, width = self.input_size
        left, right = _span(picture[0], resized[0], width, self.crop_rounding)
        top, bottom = _span(picture[1], resized[1], height, self.crop_rounding)
        return Geometry((picture[1], picture[0]), (height, width), (left, top, right, bottom))

    def to_model(self, pixels: Tensor) -> Tensor:
        """Converts pixel values (..., C, H, W) in [0, 1] to model units."""
        return (pixels - _per_channel(self.mean, pixels)) / _per_channel(self.std, pixels)

    def to_pixels(self, x: Tensor) -> Tensor:
        """Converts model units (..., C, H, W) to pixel values, clamped to [0, 1]."""
        return (x * _per_channel(self.std, x) + _per_channel(self.mean, x)).clamp(0, 1)

    def pixel(self, value: float | Sequence[float]) -> Tensor:
        """A colour as (C, 1, 1) in model units; `value` is one or one per channel, in [0, 1].

        >>> Preprocessing((3, 8, 8), mean=(0.5,) * 3, std=(0.25,) * 3).pixel(0.0).flatten()
        tensor([-2., -2., -2.])
        """
        colour = torch.tensor(value, dtype=torch.float32).expand(self.input_size[0])
        return self.to_model(colour[:, None, None])

    def to_dict(self) -> dict[str, Any]:
        """All fields that timm has and all others that are set, ready for JSON."""
        later = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        timm = self._timm_arguments()
        return {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(self).items()
            if k in timm or v != later[k]
        }


def _timm_settings(model: nn.Module) -> dict[str, Any]:
    """The settings in a timm model's configuration; empty for any other module."""
    if not getattr(model, "pretrained_cfg", None):
        return {}
    settings: dict[str, Any] = resolve_model_data_config(model)
    channels, *size = settings["input_size"]
    channels = getattr(model, "in_chans", channels)
    settings["input_size"] = (channels, *(_built_size(model) or size))
    if channels == 1:
        for name in ("mean", "std"):
            settings[name] = (sum(settings[name]) / len(settings[name]),)
    for name in ("mean", "std"):
        if len(settings[name]) != channels:  # those of colours say nothing of other bands
            del settings[name]
    return settings


def _completed(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The model's settings with those of the caller, whose short forms are written out."""
    found = {**settings, **overrides}
    size = found.get("input_size")
    channels = settings.get("input_size", (3,))[0]
    if isinstance(size, int | float) and settings:
        found["input_size"] = channels, size, size
    elif isinstance(size, Sequence) and len(size) == 2 and settings:
        found["input_size"] = channels, *size
    if isinstance(found.get("input_size"), Sequence) and found["input_size"]:
        channels = found["input_size"][0]
    for name in ("mean", "std"):
        if isinstance(found.get(name), int | float):
            found[name] = (float(found[name]),) * int(channels)
    return found


def _built_size(model: nn.Module) -> tuple[int, int] | None:
    """The input size that a model was built for, if its position embedding or windows fix it."""
    for module in model.modules():
        size = getattr(module, "img_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, tuple | list) and len(size) == 2:
            return int(size[0]), int(size[1])
    return None


def _span(full: int, resized: int, crop: int, rounding: str = "even") -> tuple[float, float]:
    """Start and end of the centre crop, in pixels of a picture's side.

    Args:
        full: length of the side.
        resized: its length after resizing.
        crop: length of the crop, in resized pixels.
        rounding: of half a pixel; see `Preprocessing`.
    """
    start = _start(resized, crop, rounding)
    return start * full / resized, (start + crop) * full / resized


def _start(resized: int, crop: int, rounding: str = "even") -> int:
    """Where the centre crop begins in a resized side; below 0 if the side is shorter."""
    if resized < crop:
        return -((crop - resized) // 2)
    return (resized - crop) // 2 if rounding == "down" else round((resized - crop) / 2)


def _resize_bytes(x: Tensor, size: list[int], *args: Any, **options: Any) -> Tensor:
    """Resizes bytes as bytes, which is another arithmetic than that of `F.resize`."""
    from torchvision.transforms.v2 import functional

    resized: Tensor = functional.resize(x, size, *args, **options)
    return resized


def _overlap(start: int, full: int, crop: int) -> tuple[slice, slice]:
    """The part of a side of `full` pixels that a crop shows, and where it lies in the crop."""
    first, last = max(start, 0), min(start + crop, full)
    return slice(first, last), slice(first - start, last - start)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]

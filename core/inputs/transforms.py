"""Transforms of torchvision and image processors of transformers as `Preprocessing`.

Both are recognised by the names of their classes and by their settings, so that neither library
need be loaded. What was understood is compared with what the transform itself gives on two
pictures, and is refused if the numbers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from core.errors import ModelError
from core.inputs.preprocessing import Preprocessing

TOLERANCE = 1e-3
"""Largest allowed difference, in units of the normalised input, as the order of the arithmetic
makes it. One level of 255 differs by more."""
_SIZES = ((331, 254), (241, 390))
"""Width and height of the pictures on which the numbers are compared."""
_WAY_OUT = (
    "give preprocessing={'input_size': (3, H, W), 'mean': ..., 'std': ..., 'interpolation': ..., "
    "'crop_pct': ...} instead"
)
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by number."""
_FAULTS = (TypeError, ValueError, RuntimeError, LookupError, AttributeError, AssertionError)
_KEEPS_PICTURE = ("_convert_image_to_rgb", "convert_to_rgb", "_convert_to_rgb", "RGB", "Identity")
"""Steps that change no picture that is RGB already."""


def is_transform(given: object) -> bool:
    """Whether something is a transform or an image processor rather than settings."""
    return not isinstance(given, Mapping | Preprocessing) and (
        callable(given) or hasattr(given, "image_processor")
    )


def from_transform(given: Any) -> Preprocessing:
    """The preprocessing that a transform or an image processor does.

    Args:
        given: a transform of torchvision (also `Compose`, v2 and the presets of its weights), or an
            image processor of transformers, or a processor that has one.

    Raises:
        ModelError: a step is not understood, or the numbers are not those of the transform.

    >>> from torchvision import transforms as T
    >>> steps = [T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize([0.5] * 3, [0.5] * 3)]
    >>> found = from_transform(T.Compose(steps))
    >>> found.input_size, found.resize, found.mean
    ((3, 224, 224), (256,), (0.5, 0.5, 0.5))
    """
    given = getattr(given, "image_processor", given)
    is_processor = hasattr(given, "do_resize") and hasattr(given, "image_mean")
    steps = _Steps()
    if is_processor:
        _read_processor(given, steps)
    else:
        for step in _flat(given):
            steps.add(step)
    found = steps.result()
    _compare(found, _processed(given) if is_processor else given)
    return found


@dataclass
class _Steps:
    """What the steps read so far do.

    Attributes:
        settings: fields of `Preprocessing`.
        form: what the picture is now: a "pil" image, or a tensor of "uint8" or "float".
        crop: height and width of the crop.
        factor: what 1.0 of a pixel has become, before the normalisation.
        mean: of the normalisation; empty before it.
        std: likewise.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    form: str = "pil"
    crop: tuple[int, int] | None = None
    factor: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def add(self, step: Any) -> None:
        """Takes in the next step.

        Raises:
            ModelError: it is not understood.
        """
        name = getattr(step, "__name__", None) or type(step).__name__
        read: Callable[[Any], None] | None = {
            "Resize": self._resize,
            "CenterCrop": self._centre_crop,
            "ToTensor": self._to_float,
            "MaybeToTensor": self._to_float,
            "PILToTensor": self._to_tensor,
            "MaybePILToTensor": self._to_tensor,
            "ToImage": self._to_tensor,
            "ToImageTensor": self._to_tensor,
            "ToDtype": self._to_dtype,
            "ConvertImageDtype": self._to_dtype,
            "ConvertDtype": self._to_dtype,
            "Normalize": self._normalise,
            "ImageClassification": self._preset,
        }.get(name)
        if read is not None:
            read(step)
        elif name not in (*_KEEPS_PICTURE, "ToPureTensor"):
            raise _not_understood(f"the step {name}")

    def _resize(self, step: Any) -> None:
        if "resize" in self.settings or self.crop or self.mean:
            raise _not_understood("a Resize that is not the first step")
        if getattr(step, "max_size", None) is not None:
            raise _not_understood("the max_size of Resize")
        if self.form != "pil" and getattr(step, "antialias", True) not in (True, "warn"):
            raise _not_understood("Resize with antialias=False")
        size = step.size
        self.settings["resize"] = (size,) if isinstance(size, int) else tuple(size)
        self.settings["interpolation"] = _interpolation(step.interpolation)
        second = ".v2." in type(step).__module__
        rounded = self.form == "uint8" and not second
        self.settings["backend"] = "rounded" if rounded else self.form

    def _centre_crop(self, step: Any) -> None:
        if self.crop is not None:
            raise _not_understood("a second crop")
        height, *width = [step.size] if isinstance(step.size, int) else step.size
        self.crop = (int(height), int(width[0] if width else height))

    def _to_tensor(self, step: Any) -> None:
        self.form = "uint8" if self.form == "pil" else self.form

    def _to_float(self, step: Any) -> None:
        self.form = "float"

    def _to_dtype(self, step: Any) -> None:
        if getattr(step, "dtype", None) != torch.float32:
            raise _not_understood(f"the type {getattr(step, 'dtype', None)}")
        if self.form == "uint8" and not getattr(step, "scale", True):
            self.factor = 255.0
        self.form = "float"

    def _normalise(self, step: Any) -> None:
        if self.mean:
            raise _not_understood("a second Normalize")
        self.mean, self.std = (tuple(map(float, ends)) for ends in (step.mean, step.std))

    def _preset(self, step: Any) -> None:
        """The transforms that come with torchvision's weights."""
        self.settings["resize"] = tuple(step.resize_size)
        self.settings["interpolation"] = _interpolation(step.interpolation)
        self.crop = (step.crop_size[0], step.crop_size[-1])
        self.mean, self.std = (tuple(map(float, ends)) for ends in (step.mean, step.std))
        self.form = "float"

    def result(self) -> Preprocessing:
        """The preprocessing of all steps.

        Raises:
            ModelError: no step says how large the input is, or none makes a tensor.
        """
        resize = self.settings.setdefault("resize", ())
        size = self.crop or (resize if len(resize) == 2 else None)
        if size is None:
            raise _not_understood("the size of the input, since it crops nothing to one size")
        if self.form == "pil":
            raise _not_understood("the result, since no step makes a tensor")
        channels = 3
        mean, std = self.mean or (0.0,) * channels, self.std or (1.0,) * channels
        mean, std = (ends * channels if len(ends) == 1 else ends for ends in (mean, std))
        return Preprocessing(
            (channels, *size),
            tuple(value / self.factor for value in mean),
            tuple(value / self.factor for value in std),
            **self.settings,
        )


def _flat(given: Any) -> Iterator[Any]:
    """The steps of nested compositions, one by one."""
    steps = getattr(given, "transforms", None)
    if type(given).__name__ == "Sequential":
        steps = list(given)
    if isinstance(steps, list | tuple):
        for step in steps:
            yield from _flat(step)
    else:
        yield given


def _interpolation(given: Any) -> str:
    """Our name of an interpolation: Pillow's number, or the value of torchvision's mode."""
    value = getattr(given, "value", given)
    name = _RESAMPLING[value] if value in range(len(_RESAMPLING)) else value
    if name not in _RESAMPLING:
        raise _not_understood(f"the interpolation {str(value)[:40]!r}")
    return str(name)


def _read_processor(given: Any, steps: _Steps) -> None:
    """The steps of an image processor of transformers from its settings."""
    kind = type(given).__name__
    settings = steps.settings
    settings["crop_rounding"] = "down"
    if "TorchvisionBackend" in [base.__name__ for base in type(given).__mro__] or kind.endswith(
        "Fast"
    ):
        settings["backend"] = "uint8"
    size = _size_of(given.size)
    if given.do_resize:
        settings["interpolation"] = _interpolation(given.resample)
        settings["resize"] = size
    if getattr(given, "do_center_crop", None):
        height, *width = _size_of(given.crop_size)
        steps.crop = (height, width[0] if width else height)
    crop_pct = getattr(given, "crop_pct", None)
    if kind.startswith("ConvNext") and crop_pct is not None and given.do_resize:
        side = size[0]
        if side < 384:
            settings["resize"], steps.crop = (int(side / crop_pct),), (side, side)
        else:
            settings["resize"] = (side, side)
    steps.factor = 255.0 * given.rescale_factor if given.do_rescale else 255.0
    if given.do_normalize:
        steps.mean, steps.std = tuple(given.image_mean), tuple(given.image_std)
    if getattr(given, "include_top", False) and kind.startswith("EfficientNet"):
        steps.std = tuple(std * std for std in steps.std)  # it divides by the deviation twice
    steps.form = "float"


def _size_of(size: Any) -> tuple[int, ...]:
    """(shorter side,) or (height, width) of a size as transformers writes it."""
    get: Callable[[str], Any] = (
        size.get if isinstance(size, Mapping) else lambda name: getattr(size, name, None)
    )
    if isinstance(size, int):
        return size, size
    if get("height") and get("width"):
        return int(get("height")), int(get("width"))
    if get("shortest_edge") and not get("longest_edge"):
        return (int(get("shortest_edge")),)
    raise _not_understood(f"the size {str(size)[:80]}")


def _processed(processor: Any) -> Callable[[Image.Image], torch.Tensor]:
    return lambda picture: torch.as_tensor(
        np.asarray(processor(images=picture, return_tensors="pt")["pixel_values"][0])
    )


def _compare(found: Preprocessing, given: Callable[[Image.Image], Any]) -> None:
    """Refuses a preprocessing that gives other numbers than the transform it was read from.

    Raises:
        ModelError: the numbers differ, or there are none.
    """
    generator = np.random.default_rng(0)
    for width, height in _SIZES:
        coarse = generator.integers(0, 256, (height // 9, width // 9, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        try:
            expected = given(picture.copy())
        except _FAULTS as error:
            raise ModelError(f"the preprocessing given fails on a picture ({error})") from error
        ours, _ = found(picture)
        if not isinstance(expected, torch.Tensor) or expected.shape != ours.shape:
            what = tuple(getattr(expected, "shape", ())) or type(expected).__name__
            raise _not_understood(f"why the result is {what} and not {tuple(ours.shape)}")
        difference = float((expected.float() - ours).abs().max())
        if not difference <= TOLERANCE:
            raise _not_understood(
                f"why its numbers differ from those of the steps by up to {difference:.2g}"
            )


def _not_understood(what: str) -> ModelError:
    return ModelError(f"in the preprocessing given, {what} is not understood; {_WAY_OUT}")

"""Transforms of torchvision and image processors of transformers, against their own numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from core import Explainer, load_model
from core.errors import ModelError
from core.inputs.preprocessing import Preprocessing
from core.inputs.transforms import from_transform, is_transform
from tests.conftest import SAMPLES

COLOURS: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
BYTES: dict[str, Any] = {"mean": [123.0, 117.0, 104.0], "std": [58.0, 57.0, 57.0]}
FLOAT = v2.ToDtype(torch.float32, scale=True)


def _convert_image_to_rgb(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB")


TRANSFORMS: dict[str, Callable[[], Any]] = {
    "usual": lambda: v1.Compose(
        [v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), v1.Normalize(**COLOURS)]
    ),
    "squashed": lambda: v1.Compose(
        [v1.Resize((96, 160), InterpolationMode.BICUBIC), v1.ToTensor(), v1.Normalize(**COLOURS)]
    ),
    "resized as floats": lambda: v1.Compose(
        [v1.ToTensor(), v1.Resize(150), v1.CenterCrop((96, 128)), v1.Normalize(**COLOURS)]
    ),
    "resized as bytes": lambda: v1.Compose(
        [
            v1.PILToTensor(), v1.Resize(150), v1.CenterCrop(128),
            v1.ConvertImageDtype(torch.float32), v1.Normalize(**COLOURS),
        ]
    ),
    "version 2": lambda: v2.Compose(
        [v2.ToImage(), v2.Resize(150), v2.CenterCrop(128), FLOAT, v2.Normalize(**COLOURS)]
    ),
    "version 2 of PIL": lambda: v2.Compose(
        [v2.RGB(), v2.Resize(150), v2.CenterCrop(128), v2.ToImage(), FLOAT, v2.Normalize(**COLOURS)]
    ),
    "version 2 of floats": lambda: v2.Compose(
        [v2.ToImage(), FLOAT, v2.Resize(150, InterpolationMode.BICUBIC), v2.CenterCrop(128)]
    ),
    "not scaled": lambda: v2.Compose(
        [
            v2.ToImage(), v2.Resize((128, 128)), v2.ToDtype(torch.float32, scale=False),
            v2.Normalize(**BYTES),
        ]
    ),
    "not normalised": lambda: v1.Compose([v1.Resize(256), v1.CenterCrop(224), v1.ToTensor()]),
    "nested": lambda: v1.Compose(
        [v1.Compose([v1.Resize(150), v1.CenterCrop(128)]), v1.ToTensor(), v1.Normalize(**COLOURS)]
    ),
    "sequential": lambda: nn.Sequential(v2.Resize(150), v2.CenterCrop(128), v2.ToImage(), FLOAT),
    "padded": lambda: v1.Compose([v1.Resize(90), v1.CenterCrop(224), v1.ToTensor()]),
    "only cropped": lambda: v1.Compose([v1.CenterCrop(100), v1.ToTensor()]),
    "one mean": lambda: v1.Compose(
        [v1.Resize(150), v1.CenterCrop(128), v1.ToTensor(), v1.Normalize([0.5], [0.25])]
    ),
    "clip": lambda: v1.Compose(
        [
            v1.Resize(128, InterpolationMode.BICUBIC), v1.CenterCrop(128), _convert_image_to_rgb,
            v1.ToTensor(), v1.Normalize(**COLOURS),
        ]
    ),
    "timm": lambda: timm.data.create_transform(
        (3, 128, 128), is_training=False, interpolation="bicubic", crop_pct=0.9
    ),
    "weights of resnet50": lambda: torchvision.models.ResNet50_Weights.DEFAULT.transforms(),
    "weights of vit": lambda: torchvision.models.ViT_B_16_Weights.DEFAULT.transforms(),
    "weights of efficientnet": lambda: (
        torchvision.models.EfficientNet_B0_Weights.DEFAULT.transforms()
    ),
}  # fmt: skip
PROCESSORS: dict[str, Callable[[], Any]] = {
    name: getattr(transformers, f"{name}")
    for kind in ("ViT", "CLIP", "ConvNext", "DeiT", "Beit", "EfficientNet", "Siglip", "Bit",
                 "MobileNetV1", "MobileNetV2", "DPT", "Segformer")
    for name in (f"{kind}ImageProcessor", f"{kind}ImageProcessorPil")
} | {
    "ConvNext of 224": lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 224}),
    "ViT not rescaled": lambda: transformers.ViTImageProcessor(do_rescale=False),
    "ViT not normalised": lambda: transformers.ViTImageProcessor(do_normalize=False),
    "CLIP not resized": lambda: transformers.CLIPImageProcessor(do_resize=False),
    "CLIP of odd size": lambda: transformers.CLIPImageProcessor(
        size={"shortest_edge": 131}, crop_size={"height": 96, "width": 120}
    ),
    "EfficientNet without top": lambda: transformers.EfficientNetImageProcessor(include_top=False),
}  # fmt: skip


def pictures() -> list[Image.Image]:
    found = []
    for name in ("coffee", "chelsea"):
        with Image.open(SAMPLES / f"{name}.jpg") as opened:
            found.append(opened.convert("RGB"))
    return [*found, found[0].rotate(90, expand=True), found[1].crop((0, 0, 301, 143))]


def same_numbers(found: Preprocessing, own: Callable[[Image.Image], Any]) -> None:
    for picture in pictures():
        ours, geometry = found(picture)
        torch.testing.assert_close(ours, torch.as_tensor(own(picture)), atol=2e-5, rtol=1e-5)
        assert geometry.input == tuple(ours.shape[1:])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_numbers_are_those_of_the_transform(name: str) -> None:
    transform = TRANSFORMS[name]()
    same_numbers(from_transform(transform), transform)


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_numbers_are_those_of_the_processor(name: str) -> None:
    processor = PROCESSORS[name]()
    same_numbers(
        from_transform(processor),
        lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0],
    )


@pytest.mark.parametrize("kinds", [TRANSFORMS, PROCESSORS], ids=["transforms", "processors"])
def test_the_map_lies_where_the_crop_was(kinds: dict[str, Callable[[], Any]]) -> None:
    """A picture that holds its own coordinates shows where each input pixel comes from."""
    for name, make in kinds.items():
        found = from_transform(make())
        for width, height in ((240, 181), (181, 240)):
            ramps = np.zeros((height, width, 3), np.uint8)
            ramps[..., 0], ramps[..., 1] = np.arange(width), np.arange(height)[:, None]
            x, geometry = found(Image.fromarray(ramps))
            pixels = found.to_pixels(x) * 255
            _, rows, columns = x.shape
            for row, column in ((rows // 2, columns // 2), (rows // 3, 2 * columns // 3)):
                at_x, at_y = geometry.to_picture(column + 0.5, row + 0.5)
                if not (2 < at_x < width - 2 and 2 < at_y < height - 2):
                    continue
                seen = pixels[:2, row, column].tolist()
                assert seen == pytest.approx([at_x - 0.5, at_y - 0.5], abs=0.8), name


class Custom(v1.Resize):
    """A resize of somebody's own, under the name of the usual one."""

    def forward(self, img: Any) -> Any:
        return super().forward(img.rotate(180))


Custom.__name__ = "Resize"


@pytest.mark.parametrize(
    ("steps", "what"),
    [
        ([v1.RandomHorizontalFlip(), v1.Resize((8, 8)), v1.ToTensor()], "RandomHorizontalFlip"),
        ([v1.Lambda(lambda x: x), v1.Resize((8, 8)), v1.ToTensor()], "the step Lambda"),
        ([lambda x: x, v1.Resize((8, 8)), v1.ToTensor()], "the step <lambda>"),
        ([v1.Resize(8), v1.ToTensor()], "the size of the input"),
        ([v1.ToTensor()], "the size of the input"),
        ([v1.Resize((8, 8))], "no step makes a tensor"),
        ([v1.Resize(64, max_size=80), v1.CenterCrop(64), v1.ToTensor()], "the max_size of Resize"),
        ([v1.CenterCrop(64), v1.Resize(32), v1.ToTensor()], "not the first step"),
        ([v1.Resize(64), v1.Resize(32), v1.CenterCrop(32), v1.ToTensor()], "not the first step"),
        ([v1.ToTensor(), v1.Resize((64, 64), antialias=False)], "antialias=False"),
        ([v1.Resize((64, 64)), v1.ToTensor(), v1.Normalize(**COLOURS), v1.Normalize(**COLOURS)],
         "a second Normalize"),
        ([v1.Resize((64, 64)), v1.ToTensor(), v2.ToDtype(torch.float16)], "the type torch.float16"),
        ([v1.Grayscale(), v1.Resize((64, 64)), v1.ToTensor()], "the step Grayscale"),
        ([Custom((64, 64)), v1.ToTensor()], "why its numbers differ"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_the_way_out(steps: list[Any], what: str) -> None:
    with pytest.raises(ModelError) as caught:
        from_transform(v1.Compose(steps))
    assert what in str(caught.value)
    assert "give preprocessing={'input_size'" in str(caught.value)


def test_processors_that_are_not_understood_are_refused() -> None:
    for kind in ("Levit", "PoolFormer", "Perceiver"):
        with pytest.raises(ModelError, match="is not understood; give preprocessing="):
            from_transform(getattr(transformers, f"{kind}ImageProcessor")())


def test_a_transform_that_fails_says_so() -> None:
    broken = v1.Compose([v1.Resize((8, 8)), v1.ToTensor(), v1.Normalize([0.5] * 4, [0.5] * 4)])
    with pytest.raises(ModelError, match=r"fails on a picture|do not fit 3"):
        from_transform(broken)


def test_a_model_with_its_own_processor() -> None:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=64, patch_size=16, num_labels=5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    handle = load_model(timm.create_model("test_vit", img_size=64), preprocessing=processor)
    assert handle.preprocessing.input_size == (3, 64, 64)
    picture = pictures()[0]
    x = Explainer(handle).prepare(picture).x
    with torch.no_grad():
        own = model(**processor(images=picture, return_tensors="pt")).logits
        torch.testing.assert_close(model(x).logits, own, atol=1e-5, rtol=1e-4)


def test_a_plain_module_with_a_transform() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    handle = load_model(module, preprocessing=TRANSFORMS["usual"]())
    answer = Explainer(handle).explain(SAMPLES / "coffee.jpg", "saliency")
    assert answer.values.shape == (1, 224, 224)
    settings = handle.preprocessing.to_dict()
    assert Preprocessing(**settings) == handle.preprocessing
    assert settings["resize"] == [256]


def test_settings_are_no_transform() -> None:
    assert not is_transform({"mean": 0.5})
    assert not is_transform(Preprocessing((3, 8, 8), (0.5,) * 3, (0.5,) * 3))
    assert is_transform(TRANSFORMS["usual"]())
    assert is_transform(transformers.ViTImageProcessor())


def test_a_whole_processor_has_the_processor_of_pictures() -> None:
    class Processor:
        image_processor = transformers.ViTImageProcessor()

    assert from_transform(Processor()) == from_transform(Processor.image_processor)


def test_neither_library_is_loaded_for_it() -> None:
    program = (
        "import sys, core; core.load_model(preprocessing={'crop_pct': 1.0}, weights='random'); "
        "assert 'transformers' not in sys.modules; assert 'tifffile' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=SAMPLES.parent.parent, check=True, timeout=300
    )

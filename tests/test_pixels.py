"""Pictures as numbers: which value is white, which axis is the channels, what is no picture."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image

from core import Explainer, ModelHandle, load_model
from core.errors import ModelError, PictureError, TimmscopeError
from core.inputs.image import open_picture
from core.inputs.preprocessing import Preprocessing
from tests.conftest import SAMPLES, handle, images

COFFEE = SAMPLES / "coffee.jpg"
GREY = np.array([[0, 1024, 2048, 4095]], np.uint16)
"""Values of 12 bits."""
SHOWN = [0, 64, 128, 255]
"""The same in 8 bits."""


@pytest.fixture(scope="module")
def asker() -> Explainer:
    return Explainer(handle("resnet"))


@pytest.fixture(scope="module")
def rgb() -> Any:
    """A photo as uint8 (H, W, 3)."""
    with Image.open(COFFEE) as picture:
        return np.asarray(picture.convert("RGB"))


def tiff(values: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def pil(values: Any, form: str = "TIFF") -> bytes:
    out = io.BytesIO()
    Image.fromarray(values).save(out, form)
    return out.getvalue()


def packed12(row: list[int]) -> bytes:
    """A TIFF of one row with 12 bits per sample, two samples in three bytes."""
    data = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in zip(row[::2], row[1::2], strict=True)
    )
    tags = [
        (256, len(row)), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1),
        (279, len(data)),
    ]  # fmt: skip
    start = 8 + len(data) + len(data) % 2
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return (b"II*\0" + struct.pack("<I", start) + data).ljust(start, b"\0") + ifd


def shown(source: Any, **options: Any) -> list[int]:
    """The first channel of the first row."""
    return np.asarray(open_picture(source, **options).image)[0, :, 0].tolist()


def refused(source: Any, **options: Any) -> str:
    with pytest.raises(PictureError) as caught:
        open_picture(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 260
    return sentence


# -- which value is white -----------------------------------------------------------------------


def largest(value: int, tag: int = 281) -> dict[str, Any]:
    return {"extratags": [(tag, 3, 1, value, True)]}


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("tag", [281, 341])
def test_the_declared_largest_value_is_white(bits: int, tag: int) -> None:
    white = 2**bits - 1
    values = np.array([[0, (white + 1) // 4, (white + 1) // 2, white]], np.uint16)
    assert shown(tiff(values, **largest(white, tag))) == SHOWN


def test_bits_per_sample_decide() -> None:
    assert shown(packed12([0, 1024, 2048, 4095])) == SHOWN
    assert shown(packed12([0, 1024, 2048, 2048])) == [0, 64, 128, 128], "not from the data"


def test_a_declared_full_range_makes_a_dark_picture_dark() -> None:
    assert shown(tiff(GREY, **largest(65535))) == [0, 4, 8, 16]


@pytest.mark.parametrize(
    "source",
    [
        GREY,
        torch.from_numpy(GREY),
        tiff(GREY),
        pil(GREY),
        pil(GREY, "PNG"),
        Image.fromarray(GREY),
        tiff(GREY, **largest(3187)),  # a fact about the data, no white
        tiff(GREY.astype(np.int16)),
        pil(GREY.astype(np.int32)),
        pil(GREY.astype(np.float32)),
        Image.fromarray(GREY.astype(np.float32)),
        GREY.astype(np.int64),
        GREY.astype(np.float64),
        tiff(GREY // 4),  # 10 bits
        tiff(GREY * 4),  # 14 bits
        tiff(GREY // 16),  # 8 bits in 16
        pil((GREY / 4000).astype(np.float32)),  # a little above 1
    ],
)
def test_an_unknown_white_is_refused_and_can_be_said(source: Any) -> None:
    sentence = refused(source)
    assert "value_range" in sentence
    assert "8 bits" in sentence or "uint8" in sentence


@pytest.mark.parametrize(
    "source",
    [GREY, torch.from_numpy(GREY), tiff(GREY), pil(GREY), pil(GREY, "PNG"), Image.fromarray(GREY),
     tiff(GREY.astype(np.int16)), pil(GREY.astype(np.int32)), pil(GREY.astype(np.float32)),
     GREY.astype(np.float64), GREY.astype(np.int64), tiff(GREY, **largest(65535))],
)  # fmt: skip
def test_what_is_said_counts(source: Any) -> None:
    assert shown(source, value_range=(0, 4095)) == SHOWN


def test_a_window_clips() -> None:
    values = np.array([[-1000, -100, 0, 100, 3000]], np.int16)
    found = open_picture(tiff(values), value_range=(-100, 100))
    assert np.asarray(found.image)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert found.notes == ()
    (note,) = open_picture(tiff(values)).notes
    assert note == "values from -1000 to 3000 shown as black to white"


def test_values_of_more_than_14_bits_use_all_16() -> None:
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for source in (values, torch.from_numpy(values), tiff(values), pil(values, "PNG")):
        assert shown(source) == [0, 1, 128, 255]
    assert shown(tiff(np.array([[0, 32767]], np.int16))) == [0, 255]
    assert shown(np.zeros((2, 2), np.uint16)) == [0, 0], "black is black in any depth"


def test_a_dark_portable_greymap_is_dark() -> None:
    for white, expected in ((4095, [0, 1, 12]), (65535, [0, 0, 1])):
        header = b"P5 3 1 %d\n" % white
        values = np.array([0, 16, 200], ">u2").tobytes()
        assert shown(header + values) == expected


@pytest.mark.parametrize("value", [255, 1])
def test_bytes_have_one_range_whatever_is_said(value: int) -> None:
    grey = np.array([[0, value]], np.uint8)
    assert shown(grey, value_range=(0, 4095)) == [0, value]
    assert shown(pil(grey, "PNG"), value_range=(0, 4095)) == [0, value]


def colours(values: Any) -> Any:
    return np.stack([values] * 3, -1)


def test_colours_of_more_than_8_bits_have_a_white_too() -> None:
    source = colours(GREY)
    assert shown(tiff(source, photometric="rgb", **largest(4095))) == SHOWN
    assert shown(tiff(source, photometric="rgb"), value_range=(0, 4095)) == SHOWN
    assert shown(source, value_range=(0, 4095)) == SHOWN
    assert "which value is white" in refused(tiff(source, photometric="rgb"))
    assert shown(tiff(source * 16, photometric="rgb")) == [0, 64, 128, 255]


def png16(values: Any) -> bytes:
    """A PNG of 16-bit colours, which Pillow does not write."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    height, width, _ = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_colours_of_16_bits_in_a_png() -> None:
    assert "which value is white" in refused(png16(colours(GREY)))
    assert "TIFF" in refused(png16(colours(GREY)), value_range=(0, 4095))
    assert shown(png16(colours(GREY * 16))) == [0, 64, 128, 255]


def test_the_preprocessing_says_the_range_and_results_repeat_it(asker: Explainer) -> None:
    deep = np.tile(GREY, (4, 1)).repeat(40, 0).repeat(40, 1)
    plain = (deep / 4095 * 255).round().astype(np.uint8)
    model = asker.model.model
    said = load_model(model, preprocessing={"value_range": (0, 4095)})
    assert said.preprocessing.to_dict()["value_range"] == [0, 4095]
    assert "value_range" not in load_model(model).preprocessing.to_dict()
    assert said.fingerprint() != load_model(model).fingerprint()
    found = Explainer(said).prepare(tiff(deep))
    assert torch.equal(found.x, Explainer(said).prepare(plain).x)
    with pytest.raises(PictureError, match="value_range"):
        asker.prepare(tiff(deep))
    with pytest.raises(ModelError, match=r"value_range is \(5, 5\)"):
        load_model(model, preprocessing={"value_range": (5, 5)})


# -- tensors of pixels --------------------------------------------------------------------------


def test_integers_are_a_picture_and_no_model_units(asker: Explainer, rgb: Any) -> None:
    expected = asker.prepare(COFFEE)
    for kind in (torch.uint8, torch.int32, torch.int64):
        for axes in ((2, 0, 1), (0, 1, 2)):
            tensor = torch.from_numpy(rgb.copy()).permute(axes).to(kind)
            batch = asker.prepare(tensor)
            assert torch.equal(batch.x, expected.x), (kind, axes)
            assert batch.digest == expected.digest
            assert batch.geometries == expected.geometries


def test_a_picture_of_the_inputs_size_is_still_a_picture(asker: Explainer) -> None:
    pixels = torch.randint(0, 256, (2, 3, 160, 160), dtype=torch.uint8)
    batch = asker.prepare(pixels)
    assert float(batch.x.max()) < 3
    assert len(batch.pictures) == 2
    alone = asker.prepare(pixels[1].permute(1, 2, 0).numpy())
    assert torch.equal(batch.x[1:], alone.x)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("top", [255.0, 200.0, 65504.0])
def test_floats_that_can_only_be_pixels_are_refused(
    asker: Explainer, kind: torch.dtype, top: float
) -> None:
    x = torch.rand(1, 3, 160, 160) * top
    with pytest.raises(
        TimmscopeError, match=r"model units of resnet go from .* give pixels as uint8"
    ):
        asker.prepare(x.to(kind))


def test_model_units_that_are_pixels_are_taken_as_they_are() -> None:
    model = handle("resnet").model
    plain = load_model(model, preprocessing={"mean": (0, 0, 0), "std": (1 / 255,) * 3})
    x = torch.rand(1, 3, 160, 160) * 255
    assert torch.equal(Explainer(plain).prepare(x).x, x)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_the_tensors_fault(asker: Explainer, odd: float) -> None:
    x = images(asker.model, 1)
    x[0, 0, 0, 0] = odd
    for given in (x, [x[0]], x[0]):
        with pytest.raises(TimmscopeError, match=r"the tensor holds NaN or infinite values"):
            asker.explain(given, "gradcam")
    with pytest.raises(PictureError, match="infinite or NaN values"):
        asker.prepare(np.array([[0.0, odd]]))


@pytest.mark.parametrize("kind", [torch.bool, torch.complex64])
def test_other_tensors_are_refused(asker: Explainer, kind: torch.dtype) -> None:
    with pytest.raises(PictureError, match="give"):
        asker.prepare(torch.ones(1, 3, 160, 160).to(kind))


# -- forms of one picture -----------------------------------------------------------------------


def test_a_picture_in_every_form(asker: Explainer, rgb: Any) -> None:
    content = COFFEE.read_bytes()
    file = io.BytesIO(content)
    file.read()  # whoever has just written it stands at its end
    chw = np.moveaxis(rgb, 2, 0)
    forms: list[Any] = [
        bytearray(content), memoryview(content), file, chw, torch.from_numpy(chw.copy()),
        torch.from_numpy(rgb.copy()), rgb.astype(np.uint16) * 257, rgb / 255, chw / 255,
        [chw], [torch.from_numpy(rgb.copy())], chw[None], rgb[None], (one for one in [COFFEE]),
        iter([rgb]), rgb.astype(np.int64),
    ]  # fmt: skip
    expected = asker.prepare(COFFEE)
    for number, form in enumerate(forms):
        batch = asker.prepare(form)
        assert torch.equal(batch.x, expected.x), number
        assert batch.digest == expected.digest, number
    assert file.tell() == len(content), "the file is left as it was"


def test_an_open_file_is_a_picture(asker: Explainer) -> None:
    with COFFEE.open("rb") as file:
        batch = asker.prepare(file)  # type: ignore[arg-type]
    assert batch.pictures[0].name == "coffee.jpg"
    assert torch.equal(batch.x, asker.prepare(COFFEE).x)
    with pytest.raises(PictureError, match="is open as text"):
        asker.prepare(io.StringIO("text"))  # type: ignore[arg-type]


def test_grey_in_every_form(asker: Explainer, rgb: Any) -> None:
    grey = rgb[..., 0]
    expected = asker.prepare(Image.fromarray(grey))
    tensor = torch.from_numpy(grey.copy())
    for form in (grey, grey[..., None], grey[None], tensor, tensor[None], tensor[..., None]):
        assert torch.equal(asker.prepare(form).x, expected.x)


def test_an_ambiguous_shape_follows_the_documented_rule() -> None:
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(np.asarray(open_picture(cube).image), cube)
    tensor = torch.from_numpy(cube)
    assert np.array_equal(np.asarray(open_picture(tensor).image), np.moveaxis(cube, 0, 2))


def test_lists_of_tensors_and_mixed_lists(asker: Explainer, rgb: Any) -> None:
    x = images(asker.model, 3)
    assert torch.equal(asker.prepare(list(x)).x, x)
    assert torch.equal(asker.prepare([x[:1], x[1:]]).x, x)
    with pytest.raises(TimmscopeError, match=r"shape \(1, 3, 8, 8\)"):
        asker.prepare([x[0], torch.zeros(3, 8, 8)])
    with pytest.raises(PictureError, match="model units"):
        asker.prepare([COFFEE, x[0]])
    both = asker.prepare([COFFEE, rgb, torch.from_numpy(np.moveaxis(rgb, 2, 0).copy())])
    assert torch.equal(both.x[1], both.x[0])
    assert torch.equal(both.x[2], both.x[0])


@pytest.mark.parametrize(
    "address",
    ["https://example.org/cat.jpg", "http://example.org/a.png", "HTTPS://EXAMPLE.ORG/a.png",
     "ftp://host/cat.jpg", "s3://bucket/cat.jpg", "file:///tmp/cat.jpg", "hf://owner/name/a.png",
     "data:image/png;base64,AAAA"],
)  # fmt: skip
def test_an_address_is_not_called_a_missing_file(address: str) -> None:
    for source in (address, Path(address)):
        sentence = refused(source)
        assert "is an address, and nothing is downloaded" in sentence
        assert "no file" not in sentence


# -- any number of channels ---------------------------------------------------------------------


def of_channels(count: int) -> ModelHandle:
    model = timm.create_model("test_resnet", num_classes=7, in_chans=count)
    return load_model(
        model,
        preprocessing={"mean": [0.1 * i for i in range(count)], "std": [0.5] * count},
    )


@pytest.fixture(scope="module")
def bands5() -> Any:
    """A picture of 5 bands, each a different ramp (H, W, 5) uint8."""
    rows, columns = np.mgrid[:200, :300]
    ramps = [rows, columns // 2, (rows + columns) // 2, 199 - rows, 149 - columns // 2]
    return np.stack(ramps, -1).astype(np.uint8)


def test_bands_in_every_form(bands5: Any, tmp_path: Path) -> None:
    asker = Explainer(of_channels(5))
    first = np.ascontiguousarray(np.moveaxis(bands5, 2, 0))
    pages = io.BytesIO()
    page, *more = [Image.fromarray(band) for band in first]
    page.save(pages, "TIFF", save_all=True, append_images=more)
    path = tmp_path / "bands.tif"
    path.write_bytes(tiff(first, photometric="minisblack"))
    forms: list[Any] = [
        bands5, first, torch.from_numpy(first), torch.from_numpy(bands5), bands5 / 255,
        bands5.astype(np.uint16) * 257, pages.getvalue(), path, str(path),
        tiff(bands5, photometric="minisblack", planarconfig="contig"),
        tiff(first, photometric="minisblack", planarconfig="separate"),
        tiff(first.astype(np.uint16) * 257, photometric="minisblack"),
    ]  # fmt: skip
    looks = [asker.prepare(form) for form in forms]
    for number, look in enumerate(looks):
        assert look.x.shape == (1, 5, 160, 160)
        torch.testing.assert_close(look.x, looks[0].x, atol=1e-5, rtol=0, msg=str(number))
    middle = looks[0].x[0, :, 80, 80]
    seen = torch.tensor([100.0, 75.0, 125.0, 99.0, 74.0]) / 255
    torch.testing.assert_close(middle * 0.5 + torch.arange(5) * 0.1, seen, atol=0.01, rtol=0)
    assert asker.explain(bands5, "gradcam").values.isfinite().all()
    assert "shown by its first 3 of 5 bands" in looks[0].pictures[0].notes


def test_each_band_is_resized_as_timm_resizes_a_colour() -> None:
    with Image.open(COFFEE) as opened:
        photo = opened.convert("RGB")
    five = np.concatenate([np.asarray(photo), np.asarray(photo)[..., :2]], -1)
    for settings in ({}, {"crop_mode": "squash"}, {"crop_mode": "border"}, {"resize": (200,)}):
        common: dict[str, Any] = {"interpolation": "bilinear", **settings}
        colour, where = Preprocessing((3, 128, 96), (0.5,) * 3, (0.5,) * 3, **common)(photo)
        bands, there = Preprocessing((5, 128, 96), (0.5,) * 5, (0.5,) * 5, **common)(five)
        torch.testing.assert_close(bands[:3], colour, atol=2 / 255 + 1e-6, rtol=0)
        assert there == where


def test_deep_bands_follow_the_same_rule_for_white(bands5: Any) -> None:
    asker = Explainer(of_channels(5))
    deep = bands5.astype(np.uint16) * 16
    with pytest.raises(PictureError, match="value_range"):
        asker.prepare(deep)
    with pytest.raises(PictureError, match="value_range"):
        asker.prepare(tiff(deep, photometric="minisblack", planarconfig="contig"))
    declared = tiff(deep, photometric="minisblack", planarconfig="contig", **largest(4095))
    torch.testing.assert_close(
        asker.prepare(declared).x, asker.prepare(deep / 4095).x, atol=1e-6, rtol=0
    )


def test_four_channels_are_rgba() -> None:
    asker = Explainer(of_channels(4))
    rgba = np.random.default_rng(0).integers(0, 256, (160, 160, 4), np.uint8)
    expected = asker.prepare(rgba)
    for form in (Image.fromarray(rgba), pil(rgba, "PNG"), tiff(rgba), np.moveaxis(rgba, 2, 0)):
        assert torch.equal(asker.prepare(form).x, expected.x)
    settings = asker.model.preprocessing.to_dict()
    one = {"input_size": (1, 160, 160), "mean": settings["mean"][3:], "std": [0.5]}
    alpha = Preprocessing(**{**settings, **one})(rgba[..., 3])[0]
    torch.testing.assert_close(expected.x[0, 3], alpha[0], atol=2 / 255, rtol=0)
    with pytest.raises(PictureError, match=r"has 3 channels and the model needs 4"):
        asker.prepare(COFFEE)


@pytest.mark.parametrize(
    ("source", "count", "came"),
    [
        (COFFEE, 5, 3),
        (np.zeros((64, 64, 3), np.uint8), 5, 3),
        (np.zeros((64, 64), np.uint8), 5, 1),
        (pil(np.zeros((64, 64), np.uint8), "PNG"), 5, 1),
        (Image.new("CMYK", (64, 64)), 4, 3),
        (Image.new("P", (64, 64)), 4, 3),
        (tiff(np.zeros((6, 64, 64), np.uint8), photometric="minisblack"), 5, 6),
    ],
)
def test_a_wrong_number_of_channels_is_one_sentence(source: Any, count: int, came: int) -> None:
    sentence = refused(source, channels=count)
    assert f"has {came} channel{'s' * (came > 1)} and the model needs {count}" in sentence


@pytest.mark.parametrize("shape", [(64, 64, 6), (7, 64, 64), (2, 3, 64, 64)])
def test_bands_that_no_model_of_colours_takes(shape: tuple[int, ...]) -> None:
    assert f"shape {shape}" in refused(np.zeros(shape, np.uint8))


def test_a_model_of_other_channels_asks_for_its_mean() -> None:
    with pytest.raises(ModelError, match=r"takes 5 channels, .* no mean and std for them"):
        load_model(timm.create_model("test_resnet", in_chans=5))
    one_for_all = load_model(
        timm.create_model("test_resnet", in_chans=5), preprocessing={"mean": 0.5, "std": 0.25}
    )
    assert one_for_all.preprocessing.mean == (0.5,) * 5


def test_the_samples_fit_any_model() -> None:
    assert of_channels(5).samples.shape[1] == 5


def test_damaged_and_odd_tiffs_of_bands_are_refused() -> None:
    good = tiff(np.zeros((5, 64, 64), np.uint8), photometric="minisblack")
    assert "channels" not in refused(good[:300], channels=5)
    assert "64 x 64" in refused(good, channels=5, max_pixels=100)
    assert "save one picture" in refused(
        tiff(np.zeros((2, 2, 64, 64), np.uint8), photometric="minisblack"), channels=5
    )
    out = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 4), np.uint8)).save(out, "TIFF", compression="tiff_lzw")
    assert "save it uncompressed" in refused(out.getvalue(), channels=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_bands_stand_upright_as_colours_do(orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8)
    tag = {"extratags": [(274, 3, 1, orientation, True)]}
    bands = open_picture(tiff(stored, photometric="rgb", **tag), channels=4).bands
    colours = open_picture(tiff(stored[..., :3], photometric="rgb", **tag)).image
    assert bands is not None
    assert np.array_equal((bands[..., :3] * 255).round(), np.asarray(colours))

"""Odd, broken and hostile pictures; where a model's input lies on a picture; its exact pixels."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageCms, ImageFile
from timm.data import create_transform

from core.errors import ModelError, PictureError, UnknownNameError
from core.inputs import image as subject
from core.inputs.image import Picture, open_picture
from core.inputs.preprocessing import Geometry, Preprocessing

HALF = (0.5, 0.5, 0.5)


def photo(width=48, height=32):
    """Every pixel differs from its neighbours, and no symmetry hides a turn."""
    rows, columns = np.mgrid[:height, :width]
    rgb = np.stack([columns * 5 % 256, rows * 7 % 256, (rows + 2 * columns) % 256], -1)
    return Image.fromarray(rgb.astype(np.uint8))


def saved(picture, fmt, **options):
    out = io.BytesIO()
    picture.save(out, fmt, **options)
    return out.getvalue()


def png(width, height, depth=8, colour=0, rows=b"", before=b""):
    """A PNG written by hand, so that its header can promise anything."""

    def chunk(kind, body):
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def bomb(side):
    """A real black PNG of `side` x `side` bits: a few kilobytes that unpack to `side`² pixels."""
    pack = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(pack.compress(row) for _ in range(side)) + pack.flush()
    return png(side, side, depth=1, rows=packed)


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    exif[0x010F] = "a camera"
    return exif


def pixels(picture):
    return np.asarray(open_picture(picture).image)


def refused(source, **options):
    """The one sentence with which a source is refused."""
    with pytest.raises(PictureError) as caught:
        open_picture(source, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 250
    return sentence


# Refused, each with a sentence that names the file and the way out.

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(500)
SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
TEXT_BOMB = b"Comment\x00\x00" + zlib.compress(bytes(80_000_000))


@pytest.mark.parametrize(
    ("name", "content", "reason", "way_out"),
    [
        ("empty.jpg", b"", "is empty (0 bytes)", "download it again"),
        ("notes.jpg", "Merci, à demain.\n".encode(), "is text, not a picture", "choose a JPEG"),
        ("page.png", b"<html><body>404</body></html>", "is text, not a picture", "choose a JPEG"),
        ("noise.jpg", bytes(range(256)) * 9, "is damaged, or not in a format", "save it as JPEG"),
        ("cut.jpg", saved(photo(), "JPEG")[:-200], "is damaged or incomplete", "download it again"),
        ("cut.png", saved(photo(), "PNG")[:-60], "is damaged or incomplete", "download it again"),
        ("cut.webp", saved(photo(), "WEBP")[:-60], "is damaged", "save"),
        ("cut.gif", saved(photo(), "GIF")[:-60], "is damaged or incomplete", "download it again"),
        ("cut.tif", saved(photo(), "TIFF")[:900], "is damaged or incomplete", "download it again"),
        ("head.jpg", saved(photo(), "JPEG")[:40], "is damaged", "save"),
        ("wrong.png", png(9, 9, rows=zlib.compress(b"\x09" * 90)), "is damaged", "download it"),
        ("phone.heic", HEIC, "is a HEIC photo", "save it as JPEG or PNG"),
        ("phone.jpg", HEIC, "is a HEIC photo", "save it as JPEG or PNG"),
        ("drawing.svg", SVG, "is an SVG drawing", "save it as JPEG or PNG"),
        ("paper.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF document", "save it as JPEG"),
        ("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n", "is text", "choose a JPEG"),
        ("icon.ico", saved(photo(32, 32), "ICO"), "not in a format that can be read", "save it"),
        ("line.png", png(1, 30_000, rows=b""), "1 x 30000 pixels", "crop it first"),
        ("wide.png", png(30_000, 1, rows=b""), "30000 x 1 pixels", "crop it first"),
        ("large.png", png(9_000, 9_000, depth=1), "9000 x 9000", "make it smaller first"),
        ("huge.png", png(60_000, 60_000, depth=1), "million pixels", "make it smaller first"),
    ],
)
def test_unusable_files_are_refused_with_a_reason_and_a_way_out(
    tmp_path, name, content, reason, way_out
):
    path = tmp_path / name
    path.write_bytes(content)
    sentence = refused(path)
    assert sentence.startswith(f"{name!r} ")
    assert reason in sentence
    assert way_out in sentence
    assert str(tmp_path) not in sentence
    assert refused(str(path)) == sentence
    assert refused(content, name=name) == sentence


def test_a_decompression_bomb_is_never_decoded(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(20_000))
    assert path.stat().st_size < 100_000

    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert "million pixels; make it smaller first" in refused(path)
    assert "9000 x 9000 pixels (81 million); the limit is 64 million" in refused(bomb(9_000))


def test_the_limit_on_pixels_can_be_moved():
    assert "48 x 32 pixels" in refused(photo(), max_pixels=48 * 32 - 1)
    assert open_picture(photo(), max_pixels=48 * 32).size == (32, 48)


def test_a_packed_comment_does_not_unpack_into_memory():
    body = b"zTXt" + TEXT_BOMB
    chunk = struct.pack(">I", len(TEXT_BOMB)) + body + struct.pack(">I", zlib.crc32(body))
    good = zlib.compress(b"\x00\x07")
    sentence = refused(png(1, 1, rows=good, before=chunk), name="comment.png")
    assert sentence.startswith("'comment.png' is damaged")
    assert pixels(png(1, 1, rows=good)).tolist() == [[[7, 7, 7]]]


def test_files_that_are_not_there_or_not_files(tmp_path):
    assert refused(tmp_path / "cat.jpg") == "no file 'cat.jpg'; check its name and folder"
    assert refused(tmp_path) == f"{tmp_path.name!r} is a folder; give the path of one picture in it"
    assert refused("") == "'picture' is a folder; give the path of one picture in it"
    assert refused(tmp_path / "cat.jpg" / "dog.jpg") == refused("dog.jpg")
    assert "no file" in refused("a\0b.jpg")
    assert "no file" in refused("x" * 5000 + ".jpg")
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)  # without another end, opening a pipe waits for ever
    assert refused(pipe) == "'pipe.jpg' is not a regular file; save the picture as a file"
    os.close(end)


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    photo().save(path)

    def denied(self, mode):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(type(path), "open", denied)
    sentence = refused(path)
    assert sentence == "'secret.png' cannot be opened (Permission denied); check its permissions"


def test_a_file_too_large_to_read_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "MAX_BYTES", 100)
    assert "the limit is 0 MB; make it smaller first" in refused(saved(photo(), "PNG"))


@pytest.mark.parametrize(
    "fault", [OSError, struct.error, zlib.error, MemoryError, KeyError, EOFError]
)
def test_whatever_a_decoder_raises_is_one_sentence(monkeypatch, fault):
    def fail(*args, **options):
        raise fault("at byte 7")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    assert refused(saved(photo(), "BMP"), name="x.bmp").startswith(
        "'x.bmp' is damaged or incomplete"
    )


def test_nothing_at_all_is_no_picture():
    assert "has no pixels (0 x 5)" in refused(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("source", [None, 3, [[0, 1]], object()])
def test_things_that_are_no_picture(source):
    assert f"read a picture from {type(source).__name__}; give a file" in refused(source)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[31m\n\u202eb.jpg", "a[31mb.jpg"),
        ("../../etc/passwd.jpg", "passwd.jpg"),
        ("C:\\Users\\me\\cat.jpg", "cat.jpg"),
        ("n" * 400 + ".jpg", "n" * 40 + "..." + "n" * 11 + ".jpg"),
        ("\n", "picture"),
    ],
)
def test_names_in_sentences_are_short_printable_and_without_folders(name, shown):
    assert refused(b"", name=name).startswith(f"{shown!r} is empty")


def test_decoding_leaves_the_warning_filters_alone():
    before = list(warnings.filters)
    open_picture(photo())
    refused(HEIC)
    assert warnings.filters == before


def test_decoder_warnings_do_not_leak():
    palette = photo().quantize(16)
    assert open_picture(saved(palette, "PNG", transparency=bytes(16))).size == (32, 48)
    assert "9500 x 9500" in refused(png(9_500, 9_500, depth=1))


def test_pictures_are_decoded_one_at_a_time(monkeypatch):
    """Warning filters belong to the process: threads that changed them together would mix them."""
    upright, inside, most = subject._upright, [], []

    def watched(image):
        inside.append(image)
        most.append(len(inside))
        time.sleep(0.005)
        inside.remove(image)
        return upright(image)

    monkeypatch.setattr(subject, "_upright", watched)
    threads = [threading.Thread(target=open_picture, args=(photo(n, n),)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


# Shown, and shown right.


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_pixel(fmt):
    assert np.array_equal(pixels(saved(photo(), fmt)), np.asarray(photo()))


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_look_the_same(fmt):
    grey = photo().convert("L").resize((12, 8)).resize((48, 32)).convert("RGB")
    difference = pixels(saved(grey, fmt, quality=95)).astype(int) - np.asarray(grey)
    assert np.abs(difference).mean() < 4


def test_one_pixel_is_a_picture():
    one = Image.new("RGB", (1, 1), (10, 20, 30))
    assert pixels(saved(one, "PNG")).tolist() == [[[10, 20, 30]]]
    x, geometry = Preprocessing((3, 16, 16), HALF, HALF)(saved(one, "PNG"))
    assert x.shape == (3, 16, 16)
    assert geometry.picture == (1, 1)


def test_sixteen_bit_grey_keeps_its_range():
    values = np.array([[0, 257, 32768, 65535]], np.uint16)
    for fmt in ("PNG", "TIFF"):
        shown = open_picture(saved(Image.fromarray(values), fmt))
        assert np.asarray(shown.image)[0, :, 0].tolist() == [0, 1, 128, 255]
        assert shown.notes == ()
    big_endian = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    assert pixels(big_endian)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert pixels(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())[0, :, 1].tolist() == [
        0,
        1,
        128,
        255,
    ]


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "note"),
    [
        ([0, 1, 1], np.int32, [0, 255, 255], None),
        ([0, 100, 200], np.int32, [0, 100, 200], None),
        ([0, 257, 65535], np.int32, [0, 1, 255], None),
        ([-100, 0, 100], np.int32, [0, 128, 255], "values from -100 to 100"),
        ([0, 200_000, 1_000_000], np.int32, [0, 51, 255], "values from 0 to 1e+06"),
        ([0.0, 0.2, 1.0], np.float32, [0, 51, 255], None),
        ([0.0, 51.0, 255.0], np.float32, [0, 51, 255], None),
        ([-1.0, -0.6, 1.0], np.float32, [0, 51, 255], "values from -1 to 1"),
        ([-3.0, -3.0, -3.0], np.float32, [0, 0, 0], "values from -3 to -3"),
    ],
)
def test_wide_numbers_follow_the_documented_rule(values, dtype, expected, note):
    shown = open_picture(saved(Image.fromarray(np.array([values], dtype)), "TIFF"))
    assert np.asarray(shown.image)[0].tolist() == [[v, v, v] for v in expected]
    assert shown.notes == (() if note is None else (f"{note} shown as black to white",))


def test_numbers_that_are_none_are_refused():
    for odd in (np.nan, np.inf):
        values = Image.fromarray(np.array([[0, odd]], np.float32))
        assert "'x.tif' holds infinite or NaN" in refused(saved(values, "TIFF"), name="x.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "HSV", "YCbCr", "RGBX"])
def test_opaque_modes_come_out_as_their_colours(mode):
    picture = photo().convert(mode)
    assert np.array_equal(pixels(picture), np.asarray(picture.convert("RGB")))


def test_lab_comes_out_as_its_colours():
    colours = Image.new("RGB", (2, 1), (200, 30, 40))
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    picture = ImageCms.profileToProfile(colours, srgb, lab, outputMode="LAB")
    for source in (picture, saved(picture, "TIFF")):
        assert np.abs(pixels(source).astype(int) - [200, 30, 40]).max() <= 3


def test_cmyk_and_ycck_photos_are_not_negatives():
    picture = Image.new("RGB", (16, 16), (220, 60, 30)).convert("CMYK")
    for source in (picture, saved(picture, "JPEG", quality=95), saved(picture, "TIFF")):
        assert np.abs(pixels(source).astype(int) - [220, 60, 30]).max() <= 12


def transparent(mode):
    """One red pixel that cannot be seen, one half seen, one fully seen."""
    picture = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        picture.putpixel((x, 0), (255, 0, 0, alpha))
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (transparent("RGBA"), [[255, 255, 255], [255, 127, 127], [255, 0, 0]]),
        (transparent("LA"), [[255] * 3, [165] * 3, [76] * 3]),
    ],
)
def test_transparent_parts_lie_on_white(picture, expected):
    shown = open_picture(saved(picture, "PNG"))
    assert np.abs(np.asarray(shown.image)[0].astype(int) - expected).max() <= 1
    assert shown.notes == ("transparent parts shown on white",)


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_transparent_colours_of_a_palette_lie_on_white(fmt):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    assert pixels(saved(picture, fmt)).tolist() == [[[255, 0, 0], [0, 0, 255]]]
    shown = open_picture(saved(picture, fmt, transparency=0))
    assert np.asarray(shown.image).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    assert shown.notes == ("transparent parts shown on white",)


def test_an_opaque_alpha_channel_is_not_mentioned():
    assert open_picture(photo().convert("RGBA")).notes == ()


@pytest.mark.parametrize("fmt", ["GIF", "PNG", "WEBP", "AVIF"])
def test_animations_show_their_first_frame_and_say_so(fmt):
    colours = ["red", "lime", "blue"]
    red, *others = [Image.new("RGB", (16, 16), colour) for colour in colours]
    shown = open_picture(saved(red, fmt, save_all=True, append_images=others, duration=50))
    assert shown.notes == ("animated: first of 3 frames shown",)
    assert np.abs(np.asarray(shown.image).astype(int) - [255, 0, 0]).max() <= 8
    assert open_picture(saved(red, fmt)).notes == ()


def test_documents_show_their_first_page_and_say_so():
    pages = saved(photo(), "TIFF", save_all=True, append_images=[photo(9, 9)])
    assert open_picture(pages).notes == ("first of 2 pages shown",)
    assert np.array_equal(pixels(pages), np.asarray(photo()))


def test_a_photo_with_a_preview_inside_is_one_photo():
    double = saved(photo(), "MPO", save_all=True, append_images=[photo(9, 9)])
    assert open_picture(double).notes == ()
    assert open_picture(double).size == (32, 48)


def test_a_frame_already_chosen_is_kept():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    moving = Image.open(io.BytesIO(saved(frames[0], "GIF", save_all=True, append_images=frames)))
    moving.seek(1)
    shown = open_picture(moving)
    assert np.asarray(shown.image)[0, 0].tolist() == [0, 0, 255]
    assert shown.notes == ()
    assert moving.tell() == 1


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_stand_upright_and_carry_no_metadata(fmt, orientation):
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    smooth = Image.new("RGB", (48, 32), "white")
    smooth.paste((200, 0, 0), (0, 0, 24, 16))
    stored = smooth.transpose(undo[orientation]) if orientation in undo else smooth
    shown = open_picture(saved(stored, fmt, exif=oriented(orientation)))
    assert shown.size == (32, 48)
    assert np.abs(np.asarray(shown.image).astype(int) - np.asarray(smooth)).mean() < 3
    assert shown.image.info == {}
    assert not shown.image.getexif()


def test_damaged_exif_does_not_cost_the_picture():
    content = saved(photo(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert np.array_equal(pixels(content), np.asarray(photo()))
    content = saved(photo(), "PNG", exif=b"not exif at all")
    shown = open_picture(content)
    assert np.array_equal(np.asarray(shown.image), np.asarray(photo()))
    assert shown.notes == ("EXIF data damaged: the picture may be rotated",)


# Arrays.


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
def test_arrays_of_bytes_and_of_unit_floats_are_the_same_picture(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if shape[-1] == 4:
        array[..., 3] = 255
    rgb = array[..., None].repeat(3, -1) if len(shape) == 2 else array[..., :3]
    for given in (array, (array / 255), (array / 255).astype(np.float32), np.asfortranarray(array)):
        assert np.array_equal(pixels(given), rgb)
    assert pixels(np.array([[0.001, 0.5001, 0.999]]))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((5, 8, 8), np.uint8), "shape (5, 8, 8); give (H, W), (H, W, 3) or (H, W, 4)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "shape (1, 8, 8, 3)"),
        (np.zeros(5, np.uint8), "shape (5,)"),
        (np.zeros((0, 4), np.uint8), "shape (0, 4)"),
        (np.full((4, 4), 300, np.int64), "int64 from 300 to 300; give uint8, or floats from 0"),
        (np.ones((4, 4), bool), "array of bool"),
        (np.full((4, 4), 128.0), "float64 from 128.0 to 128.0"),
        (np.full((4, 4), -0.1), "from -0.1 to -0.1"),
        (np.array([[0.0, np.nan]]), "holds infinite or NaN values"),
        (np.array([["a", "b"]], object), "array of object"),
    ],
)
def test_other_arrays_are_refused(array, reason):
    assert reason in refused(array)


def test_the_picture_is_a_copy():
    array = np.zeros((4, 4, 3), np.uint8)
    pil = Image.new("RGB", (4, 4))
    shown = [open_picture(array), open_picture(pil)]
    array[:] = 255
    pil.paste("white", (0, 0, 4, 4))
    assert all(np.asarray(picture.image).max() == 0 for picture in shown)


# Picture.


def test_a_picture_comes_back_as_it_is():
    picture = open_picture(photo(), name="cat.jpg")
    assert open_picture(picture) is picture
    assert isinstance(picture, Picture)


def test_the_digest_follows_the_pixels_and_nothing_else(tmp_path):
    path = tmp_path / "cat.png"
    photo().save(path)
    digest = open_picture(path).digest
    assert digest == open_picture(photo()).digest == open_picture(saved(photo(), "BMP")).digest
    changed = photo()
    changed.putpixel((3, 3), (1, 2, 3))
    reshaped = np.asarray(photo()).reshape(48, 32, 3)
    assert len({digest, open_picture(changed).digest, open_picture(reshaped).digest}) == 3


# Geometry.


def test_points_travel_both_ways():
    geometry = Geometry(picture=(40, 60), input=(16, 32), box=(-10.0, 5.0, 70.0, 35.0))
    assert geometry.to_picture(0, 0) == (-10, 5)
    assert geometry.to_picture(32, 16) == (70, 35)
    for point in [(0.0, 0.0), (7.5, 3.25), (31.0, 16.0)]:
        assert geometry.to_input(*geometry.to_picture(*point)) == pytest.approx(point)
    assert json.loads(json.dumps(geometry.to_dict())) == {
        "picture": [40, 60],
        "input": [16, 32],
        "box": [-10.0, 5.0, 70.0, 35.0],
        "whole": False,
    }


PICTURES = {
    "landscape": (333, 217),
    "portrait": (150, 401),
    "square": (256, 256),
    "same": (96, 96),
    "tiny": (5, 4),
    "dot": (1, 1),
    "strip": (300, 7),
}
INPUTS = {"square": (96, 96), "wide": (64, 112), "tall": (120, 72)}


def numbered(width, height):
    """Each pixel states its own column and row: red and green count, blue carries."""
    rows, columns = np.mgrid[:height, :width]
    blue = 16 * (columns // 256) + rows // 256
    return np.stack([columns % 256, rows % 256, blue], -1).astype(np.uint8)


@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0, 1.2])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("shape", PICTURES.values(), ids=PICTURES)
def test_every_input_pixel_comes_from_where_the_geometry_says(shape, size, crop_mode, crop_pct):
    prepare = Preprocessing(
        (3, *size), (0.9,) * 3, (0.5,) * 3, "nearest", crop_pct=crop_pct, crop_mode=crop_mode
    )
    x, geometry = prepare(numbered(*shape))
    seen = (prepare.to_pixels(x) * 255).round().int().numpy()
    height, width = size
    xs = np.array([geometry.to_picture(j + 0.5, 0)[0] for j in range(width)])
    ys = np.array([geometry.to_picture(0, i + 0.5)[1] for i in range(height)])
    inside = ((ys > 0) & (ys < shape[1]))[:, None] & ((xs > 0) & (xs < shape[0]))
    assert inside.any()
    for axis, centres, found in (
        (0, xs[None], seen[0] + seen[2] // 16 * 256),
        (1, ys[:, None], seen[1] + seen[2] % 16 * 256),
    ):
        # A centre that falls on the edge between two pixels may be given to either.
        near = [np.floor(centres - 1e-6), np.floor(centres + 1e-6)]
        assert ((found == near[0]) | (found == near[1]))[inside].all(), f"axis {axis}"
    fill = 230 if crop_mode == "border" else 0
    assert (seen[:, ~inside] == fill).all()
    assert geometry.picture == shape[::-1]
    assert geometry.input == size
    edge = 1e-9
    left, top, right, bottom = geometry.box
    whole = left < edge and top < edge and right > shape[0] - edge and bottom > shape[1] - edge
    assert geometry.whole is bool(whole)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(640, 427), (300, 512), (64, 50)])
def test_smooth_resizing_keeps_the_same_edges(shape, interpolation):
    """A ramp, read off the input and fitted by a line, meets the box at the input's edges."""
    width, height = shape
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width] + 0.5
    ramps = np.stack([columns / width, rows / height, 0 * rows], -1) * 255
    picture = np.floor(ramps + rng.random(ramps.shape)).clip(0, 255).astype(np.uint8)
    prepare = Preprocessing((3, 160, 160), HALF, HALF, interpolation, crop_pct=0.9)
    x, geometry = prepare(picture)
    seen = prepare.to_pixels(x).numpy()
    centres = np.arange(160) + 0.5
    inner = slice(8, -8)
    for profile, full, edges in (
        (seen[0].mean(0), width, geometry.box[0::2]),
        (seen[1].mean(1), height, geometry.box[1::2]),
    ):
        slope, start = np.polyfit(centres[inner], profile[inner] * full, 1)
        pixel = (edges[1] - edges[0]) / 160
        assert start == pytest.approx(edges[0], abs=0.2 * pixel)
        assert start + 160 * slope == pytest.approx(edges[1], abs=0.2 * pixel)


def test_whole_needs_all_four_sides():
    box = [0.0, 0.0, 60.0, 40.0]
    assert Geometry((40, 60), (8, 8), tuple(box)).whole
    for side, step in enumerate((0.5, 0.5, -0.5, -0.5)):
        cut = box.copy()
        cut[side] += step
        assert not Geometry((40, 60), (8, 8), tuple(cut)).whole


# Preprocessing.


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(160, 160), (128, 192)])
def test_pixels_are_those_of_timm_to_the_last_bit(crop_mode, interpolation, size):
    settings = {
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": interpolation,
        "crop_pct": 0.9,
        "crop_mode": crop_mode,
    }
    theirs = create_transform(input_size=(3, *size), is_training=False, **settings)
    for picture in (photo(331, 217), photo(90, 211)):
        x, _ = Preprocessing(input_size=(3, *size), **settings)(picture)
        assert torch.equal(x, theirs(picture))
        assert x.dtype == torch.float32


def test_a_model_brings_its_own_settings():
    model = timm.create_model("test_efficientnet")
    prepare = Preprocessing.from_model(model)
    config = timm.data.resolve_model_data_config(model)
    assert prepare.to_dict() == {
        k: list(v) if isinstance(v, tuple) else v for k, v in config.items()
    }
    x, _ = prepare(photo(200, 130))
    assert torch.equal(x, create_transform(**config, is_training=False)(photo(200, 130)))


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_vit", {"img_size": 128}), ("swin_tiny_patch4_window7_224", {"img_size": (192, 256)})],
)
def test_the_size_a_model_was_built_for_wins(name, options):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    size = options["img_size"]
    expected = (3, size, size) if isinstance(size, int) else (3, *size)
    assert Preprocessing.from_model(model).input_size == expected
    assert Preprocessing.from_model(model, input_size=(3, 64, 64)).input_size == (3, 64, 64)


def test_one_channel_is_luminance():
    prepare = Preprocessing.from_model(timm.create_model("test_resnet", in_chans=1))
    assert prepare.input_size == (1, 160, 160)
    assert prepare.mean == (0.5,)
    for crop_mode in ("center", "border"):
        chosen = Preprocessing(**{**prepare.to_dict(), "crop_mode": crop_mode, "mean": [0.25]})
        x, _ = chosen(Image.new("RGB", (300, 160), (255, 0, 0)))
        assert x.shape == (1, 160, 160)
        assert chosen.to_pixels(x)[0, 80, 80].item() == pytest.approx(76 / 255)


def test_means_of_three_channels_become_one():
    config = timm.create_model("resnet18", in_chans=1)
    prepare = Preprocessing.from_model(config)
    assert prepare.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))
    assert prepare.std == pytest.approx(((0.229 + 0.224 + 0.225) / 3,))


def test_other_channel_counts_need_a_mean_and_std():
    with pytest.raises(ModelError, match=r"takes 4 channels, .* gives no mean and std for them"):
        Preprocessing.from_model(timm.create_model("test_vit", in_chans=4))


def test_a_plain_module_must_be_told():
    module = torch.nn.Conv2d(3, 8, 3)
    with pytest.raises(ModelError, match=r"Conv2d does not define .*; give input_size, mean, std"):
        Preprocessing.from_model(module)
    given = Preprocessing.from_model(module, input_size=(3, 32, 32), mean=HALF, std=HALF)
    assert given == Preprocessing((3, 32, 32), HALF, HALF)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"interpolation": "bicubik"}, UnknownNameError, "did you mean 'bicubic'"),
        ({"crop_mode": "middle"}, UnknownNameError, "choose one of center, squash, border"),
        ({"crop_pct": 0.0}, ModelError, "crop_pct is 0.0; give a number above 0"),
        ({"crop_pct": float("nan")}, ModelError, "crop_pct is nan"),
        ({"crop_pct": 9.0}, ModelError, "crop_pct is 9.0"),
        ({"std": (1.0, 0.0, 1.0)}, ModelError, "give numbers above 0"),
        ({"mean": (0.5,)}, ModelError, "do not fit 3 channel"),
        ({"input_size": (3, 0, 8)}, ModelError, "above 0"),
        ({"input_size": (8, 8)}, ModelError, "give channels, height and width"),
        ({"size": 3}, UnknownNameError, "no preprocessing setting 'size'"),
    ],
)
def test_senseless_settings_are_refused(change, error, sentence):
    given = {"input_size": (3, 8, 8), "mean": HALF, "std": HALF, **change}
    with pytest.raises(error, match=sentence):
        Preprocessing.from_model(torch.nn.Identity(), **given)


def test_random_interpolation_is_made_certain():
    assert Preprocessing((3, 8, 8), HALF, HALF, "random").interpolation == "bilinear"


def test_a_strip_that_would_grow_past_all_bounds_is_refused():
    prepare = Preprocessing((3, 2048, 2048), HALF, HALF)
    with pytest.raises(PictureError, match=r"490 x 10 pixels, too narrow .* 2048 x 2048; crop it"):
        prepare(photo(490, 10))


def test_a_strip_that_would_vanish_is_refused():
    prepare = Preprocessing((3, 16, 16), HALF, HALF, crop_mode="border", crop_pct=1.0)
    with pytest.raises(PictureError, match=r"'strip.png' is 400 x 9 pixels, too narrow .* crop it"):
        prepare(open_picture(photo(400, 9), name="strip.png"))


def test_bad_pictures_are_refused_on_this_path_too(tmp_path):
    with pytest.raises(PictureError, match=r"no file 'cat\.jpg'"):
        Preprocessing((3, 8, 8), HALF, HALF)(tmp_path / "cat.jpg")


def test_settings_survive_json():
    prepare = Preprocessing((3, 24, 32), HALF, (0.1, 0.2, 0.3), "lanczos", 0.9, "squash")
    assert Preprocessing(**json.loads(json.dumps(prepare.to_dict()))) == prepare


def test_pixel_values_and_model_units_are_inverse():
    prepare = Preprocessing((3, 8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixel = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(prepare.to_pixels(prepare.to_model(pixel)), pixel, atol=1e-6)
    for dtype in (torch.float16, torch.float64):
        assert prepare.to_model(pixel.to(dtype)).dtype == dtype
        assert prepare.to_pixels(pixel.to(dtype)).dtype == dtype
    black = prepare.pixel(0.0)
    assert black.shape == (3, 1, 1)
    assert black.flatten().tolist() == pytest.approx(
        [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    )
    assert torch.allclose(
        prepare.pixel((1.0, 0.5, 0.0)),
        prepare.to_model(torch.tensor([1.0, 0.5, 0.0])[:, None, None]),
    )
    beyond = torch.tensor([9.0, 0.0, -9.0])[:, None, None]
    assert prepare.to_pixels(beyond).flatten().tolist() == pytest.approx([1.0, 0.456, 0.0])
    x, _ = prepare(Image.new("RGB", (8, 8), (51, 102, 255)))
    assert prepare.to_pixels(x)[:, 4, 4].tolist() == pytest.approx([0.2, 0.4, 1.0])


# The pictures that come with the project.

SAMPLES = sorted((subject.Path(__file__).parents[1] / "assets" / "samples").glob("*.jpg"))


def test_samples_are_there_with_their_licences():
    licences = (SAMPLES[0].parent / "LICENCES.md").read_text()
    assert len(SAMPLES) >= 5
    for path in SAMPLES:
        assert f"`{path.name}`" in licences
        picture = open_picture(path)
        assert picture.notes == ()
        assert max(picture.size) <= 640
        with Image.open(path) as stored:
            assert not stored.getexif()

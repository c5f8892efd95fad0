"""Figures of maps: what stands around the picture, as pixels and as SVG, and names of files."""

from __future__ import annotations

import base64
import io
import json
import re
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core import Explainer, export, sample_picture
from core.export import Style, figure_text, file_stem, request_of, save_npz, save_png, save_svg
from core.views import figure
from core.views.colour import colourise
from core.views.figure import RESOLUTION, SIDE, ColourScale, FigureText, figure_png, figure_svg
from tests.test_export import MAGNITUDES, SEEN, SIGNED

SVG = "{http://www.w3.org/2000/svg}"
TEXT = FigureText("Why espresso?", "Grad-CAM of layer bn2", "logit", ("cup", "espresso"))
PHOTO = Image.fromarray(np.full((30, 40, 3), 200, np.uint8))
SPAN = ColourScale(np.array([[-1.0, 3.0]], np.float32), (-2.0, 2.0))
ONE_SIGN = ColourScale(np.array([[0.0, 3.0]], np.float32), (0.0, 3.0), "viridis")


def texts(svg: str) -> list[str]:
    return [str(one.text) for one in ET.fromstring(svg).iter(f"{SVG}text")]


# -- what stands around a map ---------------------------------------------------------------------


def test_an_svg_tells_title_numbers_both_signs_and_caption_as_text() -> None:
    found = texts(figure_svg(PHOTO, SPAN, TEXT))
    assert found == ["Why espresso?", "-2", "0 logit", "≥2", "cup", "espresso", TEXT.caption]
    assert texts(figure_svg(PHOTO, ONE_SIGN, TEXT))[1:6] == [
        "0",
        "1.5 logit",
        "3",
        "little",
        "much",
    ]


def test_a_map_of_negative_values_has_most_at_its_low_end() -> None:
    negative = ColourScale(np.array([[-3.0, -2.0]], np.float32), (-3.0, -2.0))
    assert negative.ends(TEXT) == ("much", "little")


def test_an_svg_holds_the_picture_and_the_colours() -> None:
    root = ET.fromstring(figure_svg(PHOTO, SPAN, TEXT))
    (image,) = root.iter(f"{SVG}image")
    kind, _, data = image.attrib["href"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(PHOTO))
    assert (image.attrib["width"], image.attrib["height"]) == (str(SIDE), str(SIDE * 3 // 4))
    stops = [one.attrib["stop-color"] for one in root.iter(f"{SVG}stop")]
    ends = colourise([[-2, 2]], "RdBu", (-2, 2))[0].tolist()
    assert [stops[0], stops[-1]] == [f"rgb({r},{g},{b})" for r, g, b in ends]


HOSTILE = '<script>alert("1")</script> & \x00\x1b \ud800 ]]> 中 ' + "long" * 200


def test_hostile_text_is_text_and_the_svg_is_well_formed() -> None:
    svg = figure_svg(PHOTO, SPAN, FigureText(HOSTILE, HOSTILE, "<b>", ("<a>", "'\"")), "a\"<b>'")
    root = ET.fromstring(svg.encode())
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {
        "svg", "title", "desc", "defs", "linearGradient", "stop", "rect", "image", "text",
    }  # fmt: skip
    assert '<script>alert("1")</script> & ' in str(root.findtext(f"{SVG}title"))
    assert not re.search(r"\s(on\w+|xlink:href)=", svg)
    width = float(root.attrib["width"])
    assert all(figure._font(20).getlength(str(one)) <= width * 1.01 for one in texts(svg)[:3])
    figure_png(PHOTO, SPAN, FigureText(HOSTILE, HOSTILE))


def test_a_png_has_twice_the_pixels_and_the_same_places() -> None:
    drawn = np.asarray(figure_png(PHOTO, SPAN, TEXT)).astype(int)
    sheet = figure._laid_out(PHOTO.size, SPAN, TEXT)
    assert drawn.shape == (RESOLUTION * sheet.size[1], RESOLUTION * sheet.size[0], 3)
    left, top, width, height = (RESOLUTION * one for one in sheet.picture)
    assert (drawn[top : top + height, left : left + width] == 200).all()
    left, top, width, height = (RESOLUTION * one for one in sheet.bar)
    bar = drawn[top + height // 2, left : left + width]
    at = np.linspace(-2, 2, width)[None]
    assert abs(bar - colourise(at, "RdBu", (-2.0, 2.0))[0]).max() <= 1
    for line in sheet.lines:  # something dark stands where each line is
        y, x = int(line.y * RESOLUTION), int(line.x * RESOLUTION)
        reach = slice(max(0, x - 30), x + 30)
        assert drawn[y - line.size * RESOLUTION // 2 : y, reach].min() < 150, line


def test_characters_without_a_glyph_are_replaced_in_a_png_alone() -> None:
    assert figure._plain("≥2 · café → 中") == ">=2 · cafe -> [U+4E2D]"
    several = {"cafe\u0301": "cafe", "ÅØÆ": "AOAE", "œuvre": "oeuvre", "½ x²": "1⁄2 x2", "µm": "um"}
    assert {one: figure._plain(one) for one in several} == several
    assert "≥2" in texts(figure_svg(PHOTO, SPAN, TEXT))


def test_no_character_is_dropped_from_a_png() -> None:
    every = [chr(code) for code in range(0xA1, 0x3000) if chr(code).isprintable()]
    drawn = {one: figure._plain(one) for one in every}
    accents = {one for one in every if unicodedata.combining(one)}
    assert {one for one, text in drawn.items() if not text} <= accents
    assert all(map(figure._has, set("".join(drawn.values()))))
    questions = {one for one in every if "?" in unicodedata.normalize("NFKD", one)}
    assert {one for one, text in drawn.items() if "?" in text} == questions
    letters = [chr(code) for code in range(0xC0, 0x17F) if chr(code) not in "×÷ĸŉŊŋ"]
    assert [one for one in letters if not re.fullmatch("[A-Za-z.·]{1,2}", drawn[one])] == []


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [SIGNED, MAGNITUDES], ids=["signed", "magnitudes"])
def test_files_say_which_request_they_answer(answer: export.Attribution, tmp_path: Path) -> None:
    asked = 'a "<request>" & more'
    save_png(tmp_path / "a.png", SEEN, answer, Style(), TEXT, asked)
    save_svg(tmp_path / "a.svg", SEEN, answer, Style(), TEXT, asked)
    save_npz(tmp_path / "a.npz", SEEN, answer, {}, asked)
    assert [request_of(tmp_path / f"a.{kind}") for kind in ("png", "svg", "npz")] == [asked] * 3
    (tmp_path / "b.svg").write_bytes(b"\xff<svg>")
    assert request_of(tmp_path / "b.svg") is None


def test_an_npz_bears_its_metadata(tmp_path: Path) -> None:
    save_npz(tmp_path / "a.npz", SEEN, SIGNED, {"model": "mine é"})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as saved:
        metadata = json.loads(str(saved["metadata"]))
    assert metadata["picture"] == "photo.png"
    assert metadata["model"] == "mine é"
    assert metadata["crop"]["input"] == [40, 40]


def test_what_stands_around_a_map_is_measured(lite0: Explainer) -> None:
    query = lite0.query(sample_picture("coffee"), target="espresso-cup")
    prediction = lite0.predict(query.batch)
    answer = lite0.explain(query, "gradcam", relu=False)
    text = figure_text(lite0.model, query, prediction, answer)
    assert text.title == "Why espresso rather than cup?"
    assert text.ends == ("cup", "espresso")
    assert text.caption.startswith("Grad-CAM(relu=False) of layer bn2 · model tf_eff")
    assert "picture coffee.jpg · logit " in text.caption
    grainy = lite0.explain(query, "saliency")
    assert "radius 4 px" in figure_text(lite0.model, query, prediction, grainy).caption


@pytest.mark.parametrize(
    ("parts", "stem"),
    [
        (("coffee", "espresso", "gradcam", "bn2"), "coffee-espresso-gradcam-bn2"),
        (("a/b\\c:*?", "x", None, ""), "a-b-c-x"),
        (("Überraschung.v2", "12"), "uberraschung.v2-12"),
        (("nul",), "map-nul"),
        (("com1.tar", "x"), "map-com1.tar-x"),
        (("..", "中"), "map"),
        (("x" * 300, "y"), "x" * 40 + "-y"),
    ],
)
def test_a_name_says_what_a_file_is_and_suits_every_system(
    parts: tuple[str | None, ...], stem: str
) -> None:
    assert file_stem(*parts) == stem


def test_no_map_is_drawn_from_nothing(tmp_path: Path) -> None:
    empty = export.Attribution(torch.zeros(1, 7, 7), torch.zeros(1), "gradcam", {})
    save_svg(tmp_path / "a.svg", SEEN, empty, Style(), TEXT)
    assert texts((tmp_path / "a.svg").read_text(encoding="utf-8"))[1] == "0"

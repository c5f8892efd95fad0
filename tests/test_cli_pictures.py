"""Many pictures on the command line: which are taken, what is kept, and what they are called."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import core
from core import load_model
from core.cli import shared
from core.cli.files import ResultFiles, distinct
from core.inputs import image
from tests.conftest import SAMPLES
from tests.test_cli import VIT, _models_stay_loaded, assert_refused, command  # noqa: F401

COFFEE = SAMPLES / "coffee.jpg"
RANDOM = [*VIT, "--methods", "random"]


def picture(path: Path, colour: int = 0, size: tuple[int, int] = (60, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 90, 10)).save(path)
    return path


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def png_names(done: Any) -> list[str]:
    return [Path(r["results"]["random"]["files"]["png"]).name for r in done.json["images"]]


# -- nothing is overwritten ---------------------------------------------------------------------


def test_the_same_name_in_another_folder_gets_files_of_its_own(tmp_path: Path) -> None:
    one, two = picture(tmp_path / "a" / "x.png", 10), picture(tmp_path / "b" / "x.png", 200)
    out = tmp_path / "out"
    first = command("explain", one, *RANDOM, "--output-dir", out)
    before = written(out)
    second = command("explain", two, *RANDOM, "--output-dir", out)
    assert png_names(first) == ["x.random.png"]
    assert png_names(second) == ["x-2.random.png"]
    assert {name: written(out)[name] for name in before} == before
    assert len(written(out)) == 6


def test_the_very_same_command_replaces_its_own_files(tmp_path: Path) -> None:
    sources = [picture(tmp_path / name / "x.png", n) for n, name in enumerate("ab")]
    out = tmp_path / "out"
    words = ["explain", *sources, sources[0], *RANDOM, "--output-dir", out]
    first = command(*words)
    names = set(written(out))
    again = command(*words)
    assert png_names(first) == png_names(again)
    assert png_names(first) == ["x.random.png", "x-2.random.png", "x-3.random.png"]
    assert set(written(out)) == names
    alone = command("--log-level", "ERROR", "explain", sources[1], *RANDOM, "--output-dir", out)
    assert png_names(alone) == ["x-2.random.png"], "the same question in a shorter list"


@pytest.mark.parametrize(
    "other",
    [
        ["--target", "5"],
        ["--seed", "3"],
        ["--model", "test_resnet"],
        ["--preprocessing", "crop_pct=0.5"],
        ["--metrics", "deletion", "--set", "deletion.steps=2"],
        ["--methods", "random,sobel"],
    ],
)
def test_another_question_of_the_same_picture_gets_files_of_its_own(
    tmp_path: Path, other: list[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(shared, "load_model", load_model)
    source, out = picture(tmp_path / "x.png"), tmp_path / "out"
    command("explain", source, *RANDOM, "--output-dir", out)
    before = written(out)
    done = command("explain", source, *RANDOM, *other, "--output-dir", out)
    assert done.code == 0
    after = written(out)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)


def test_a_layer_or_parameter_of_a_method_is_another_question(tmp_path: Path) -> None:
    source, out = picture(tmp_path / "x.png"), tmp_path / "out"
    for more in ([], ["--layer", "blocks.0"], ["--set", "gradcam.relu=no"]):
        done = command(
            *("explain", source, *VIT, "--methods", "gradcam", *more),
            *("--output-dir", out, "--save", "npz"),
        )
        assert done.code == 0
    assert len(written(out)) == 3


@pytest.mark.parametrize("name", ["x.random.png", "x.random.npz", "x.json", "X.RANDOM.PNG"])
def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path, name: str) -> None:
    source, out = picture(tmp_path / "x.png"), tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    command("explain", source, *RANDOM, "--output-dir", out)
    assert (out / name).read_bytes() == b"mine"
    assert (out / "x-2.random.png").is_file()


@pytest.mark.parametrize(
    ("one", "two"),
    [("x.png", "x.jpg"), ("x.png", "sub/X.png"), ("x.png", "x.tar.png"),
     ("caf\u00e9.png", "sub/cafe\u0301.png")],
)  # fmt: skip
def test_names_that_differ_by_case_extension_or_accent(tmp_path: Path, one: str, two: str) -> None:
    sources = [picture(tmp_path / one, 1), picture(tmp_path / two, 2)]
    for runs in ([sources], [[source] for source in sources]):
        out = tmp_path / f"out{len(runs)}"
        for words in runs:
            command("explain", *words, *RANDOM, "--output-dir", out)
        names = list(written(out))
        assert len({name.casefold() for name in names}) == len(names) == 6


def test_methods_whose_names_are_the_same_file() -> None:
    assert distinct(["gradcam@L", "gradcam@l", "gradcam@l-2"]) == [
        "gradcam@L", "gradcam@l-2", "gradcam@l-2-2",
    ]  # fmt: skip


def test_features_follow_the_same_rule(tmp_path: Path) -> None:
    one, two = picture(tmp_path / "a" / "x.png", 10), picture(tmp_path / "b" / "x.png", 200)
    out = tmp_path / "out"
    names = [
        Path(command("features", path, *VIT, *more, "--output-dir", out).json["files"]["npz"]).name
        for path, more in [(one, []), (two, []), (one, ["--top", "3"]), (one, [])]
    ]
    assert names == ["x.features.npz", "x-2.features.npz", "x-3.features.npz", "x.features.npz"]


def test_a_name_is_given_once(tmp_path: Path) -> None:
    files = ResultFiles(tmp_path)
    assert [files.stem("x", [".json"], "1") for _ in range(3)] == ["x", "x-2", "x-3"]
    assert files.stem("x-2", [".json"], "1") == "x-2-2"


# -- one bad picture ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("bad", ["corrupt.jpg", "missing.jpg", "notes.jpg", "strip.png"])
def test_a_bad_picture_is_reported_and_the_others_go_on(
    tmp_path: Path, place: int, bad: str
) -> None:
    (tmp_path / "corrupt.jpg").write_bytes(COFFEE.read_bytes()[:2000])
    (tmp_path / "notes.jpg").write_text("no picture")
    Image.new("RGB", (600, 2)).save(tmp_path / "strip.png")
    pictures = [COFFEE, COFFEE]
    pictures.insert(place, tmp_path / bad)
    done = command("explain", *pictures, *RANDOM)
    assert done.code == 0
    reports = done.json["images"]
    assert [report["image"] for report in reports] == [str(path) for path in pictures]
    assert [bool(report["results"]) for report in reports] == [i != place for i in range(3)]
    (reason,) = reports[place]["errors"].values()
    assert bad in reason
    assert f"skipped: {reason}\n" in done.err
    assert "Traceback" not in done.err


def test_a_ground_truth_that_does_not_fit_costs_one_picture(tmp_path: Path) -> None:
    mask = np.zeros((50, 60), np.uint8)
    mask[10:40, 10:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    fits = picture(tmp_path / "x.png")
    words = [*RANDOM, "--ground-truth", tmp_path / "mask.png", "--metrics", "energy_inside"]
    done = command("explain", COFFEE, fits, *words)
    assert done.code == 0
    first, second = done.json["images"]
    assert "does not fit" in first["errors"]["picture"]
    assert second["results"]["random"]["scores"]["energy_inside"]["value"] > 0
    assert_refused(command("explain", COFFEE, *words), "does not fit")


def test_what_is_wrong_with_the_whole_request_stops_it(tmp_path: Path) -> None:
    done = command("explain", COFFEE, COFFEE, "--layer", "block.4")
    assert (done.code, done.out) == (2, "")
    assert "error: no layer 'block.4'" in done.err


# -- memory -------------------------------------------------------------------------------------


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many decoded pictures live at once, at the most so far."""
    alive: list[weakref.ref[Image.Image]] = []
    most = [0]
    plain = image.Picture.__init__

    def counted(self: Any, pixels: Image.Image, *args: Any, **options: Any) -> None:
        plain(self, pixels, *args, **options)
        alive.append(weakref.ref(pixels))
        most[0] = max(most[0], sum(one() is not None for one in alive))

    monkeypatch.setattr(image.Picture, "__init__", counted)
    return most


def test_pictures_are_decoded_one_after_another(tmp_path: Path, live: list[int]) -> None:
    sources = [picture(tmp_path / f"{n}.png", n) for n in range(12)]
    done = command("explain", *sources, *RANDOM, "--output-dir", tmp_path / "out")
    assert done.code == 0
    assert live[0] <= 2, "the one at work, and the one before"


def test_a_batch_holds_no_decoded_files(tmp_path: Path, live: list[int]) -> None:
    asker = core.Explainer(load_model("test_vit", weights="random"))
    sources = [picture(tmp_path / f"{n}.png", n) for n in range(12)]
    batch = asker.prepare(sources)
    assert live[0] <= 2
    together = asker.explain(batch, "gradcam", target=1)
    assert live[0] <= 2
    assert len(together.values) == 12
    seen = [np.asarray(one.image)[0, 0, 0] for one in batch.pictures]
    assert seen == list(range(12)), "pixels are there when they are asked for"
    assert live[0] <= 2
    assert [one.size for one in batch.pictures] == [(50, 60)] * 12
    assert asker.prepare([path.read_bytes() for path in sources]).digest == batch.digest
    assert live[0] <= 2


def test_a_file_that_changed_in_between_is_not_shown_as_the_old_one(tmp_path: Path) -> None:
    asker = core.Explainer(load_model("test_vit", weights="random"))
    sources = [picture(tmp_path / f"{n}.png", n) for n in range(2)]
    batch = asker.prepare(sources)
    picture(sources[1], 77)
    assert np.asarray(batch.pictures[0].image)[0, 0, 0] == 0
    with pytest.raises(core.TimmscopeError, match=r"'1\.png' has changed since it was read"):
        _ = batch.pictures[1].image
    sources[0].unlink()
    with pytest.raises(core.TimmscopeError, match="no file"):
        _ = batch.pictures[0].image


MEMORY = """
import resource, sys
from core import cli
code = cli.main(["explain", *sys.argv[1:], "--model", "test_vit", "--weights", "random",
                 "--methods", "random"])
sys.stderr.write(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n")
sys.exit(code)
"""


def test_many_pictures_take_no_more_memory_than_few(tmp_path: Path) -> None:
    large = picture(tmp_path / "large.jpg", 9, (4000, 3000))
    peaks = []
    for count in (2, 8):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *[str(large)] * count],
            cwd=SAMPLES.parent.parent, capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        peaks.append(int(done.stderr.rpartition("peak ")[2]) / 1024)
    assert peaks[1] - peaks[0] < 100, "6 more pictures of 36 MB would take 210 MB"


# -- Ctrl-C -------------------------------------------------------------------------------------


def test_ctrl_c_leaves_what_is_finished(tmp_path: Path) -> None:
    sources = [str(picture(tmp_path / f"{n}.png", n)) for n in range(200)]
    out = tmp_path / "out"
    words = ["explain", *sources, *VIT, "--methods", "gradcam,occlusion", "--output-dir", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "core", *words],
        cwd=SAMPLES.parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("picture 3 of 200"):
            break
    process.send_signal(signal.SIGINT)
    answer, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "pictures are done" in errors
    found = json.loads(answer)
    assert found["interrupted"] is True
    assert 2 <= len(found["images"]) < 200
    for report in found["images"]:
        for result in report["results"].values():
            assert all(Path(path).is_file() for path in result["files"].values())
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_ctrl_c_before_the_first_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shared, "load_model", stopped)
    done = command("explain", COFFEE)
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


@pytest.mark.parametrize("rows", [[], ["--rows", "rows.csv"]])
def test_ctrl_c_in_an_evaluation(
    tmp_path: Path, rows: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.cli import evaluate

    monkeypatch.chdir(tmp_path)
    sources = [picture(tmp_path / f"{n}.png", n) for n in range(3)]
    words = ["evaluate", *sources, *VIT, "--methods", "random", *rows]
    words += ["--metrics", "complexity"]
    plain = evaluate.evaluate

    def cut(*args: Any, **options: Any) -> Any:
        for number, row in enumerate(plain(*args, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield row

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "evaluate", cut)
        done = command(*words)
    assert done.code == 130
    assert done.json["interrupted"] is True
    assert len(done.json["rows"]) == 2
    assert "Traceback" not in done.err
    if rows:
        assert "--resume" in done.err
        assert command(*words, "--resume").code == 0
        assert (tmp_path / "rows.csv").is_file()


# -- folders, patterns, standard input ----------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for number, name in enumerate(["b.png", "a.png", "sub/c.png", "[x].png"]):
        picture(tmp_path / "album" / name, number)
    (tmp_path / "album" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "album"


def taken(*words: object) -> list[str]:
    done = command("explain", *words, *RANDOM)
    assert done.code == 0, done.err
    return [report["image"] for report in done.json["images"]]


@pytest.mark.usefixtures("album")
def test_folders_and_patterns() -> None:
    assert taken("album") == ["album/[x].png", "album/a.png", "album/b.png"]
    assert taken("album/?.png") == ["album/a.png", "album/b.png"]
    assert taken("album/**/c.png") == ["album/sub/c.png"]
    assert taken("album/[x].png") == ["album/[x].png"], "a file of that name is no pattern"
    assert taken("album/[ab].png", "album/sub") == ["album/a.png", "album/b.png", "album/sub/c.png"]


@pytest.mark.usefixtures("album")
def test_what_names_no_picture_is_refused() -> None:
    os.mkdir("empty")  # noqa: PTH102
    assert_refused(command("explain", "empty"), "folder 'empty' has no pictures")
    assert_refused(command("explain", "nothing/*.png"), "no file fits the pattern")
    assert_refused(command("explain", "https://example.org/a.png"), "is an address")
    assert_refused(command("evaluate", "https://example.org/a.png"), "is an address")


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.usefixtures("album")
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\0"])
def test_standard_input_holds_names(monkeypatch: pytest.MonkeyPatch, ends: bytes) -> None:
    piped(monkeypatch, ends.join([b"album/b.png", b"album/sub", b""]))
    assert taken("-") == ["album/b.png", "album/sub/c.png"]


def test_standard_input_holds_a_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    piped(monkeypatch, COFFEE.read_bytes())
    done = command("explain", "-", *RANDOM, "--output-dir", tmp_path)
    plain = command("explain", COFFEE, *RANDOM)
    assert done.image["image"] == "-"
    assert done.image["picture_digest"] == plain.image["picture_digest"]
    assert (tmp_path / "stdin.random.png").is_file()
    piped(monkeypatch, b"P2 2 2 9\n0 9\n9 0\n")  # text that is a picture
    assert command("explain", "-", *RANDOM).image["crop"]["picture"] == [2, 2]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "holds nothing"), (b" \n", "holds nothing"), (b"-\n", "'-'")]
)
def test_standard_input_that_is_nothing(
    monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    piped(monkeypatch, content)
    assert_refused(command("explain", "-"), said)


@pytest.mark.usefixtures("album")
def test_an_evaluation_takes_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*VIT, "--methods", "random", "--metrics", "deletion", "--set", "deletion.steps=2"]
    assert command("evaluate", "album/?.png", *words).json["pictures"] == 2
    piped(monkeypatch, b"album/a.png\n")
    assert command("evaluate", "-", *words).json["pictures"] == 1
    piped(monkeypatch, COFFEE.read_bytes())
    assert_refused(command("evaluate", "-", *words), "- holds a picture")


# -- version and preprocessing ------------------------------------------------------------------


def test_version() -> None:
    assert command("--version").out == f"timmscope {core.__version__}\n"


def stated(monkeypatch: pytest.MonkeyPatch, *pairs: str) -> Any:
    monkeypatch.setattr(shared, "load_model", load_model)
    words = [word for pair in pairs for word in ("--preprocessing", pair)]
    done = command("explain", COFFEE, *RANDOM, *words)
    assert done.code == 0, done.err
    return done.image


def test_preprocessing_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    report = stated(
        monkeypatch, "mean=0.5", "std=0.25,0.25,0.5", "interpolation=bilinear", "crop_pct=1",
        "crop_mode=squash",
    )  # fmt: skip
    assert report["preprocessing"] == {
        "input_size": [3, 160, 160],
        "mean": [0.5] * 3,
        "std": [0.25, 0.25, 0.5],
        "interpolation": "bilinear",
        "crop_pct": 1,
        "crop_mode": "squash",
    }
    assert report["crop"]["whole"] is True
    given = load_model(
        "test_vit", weights="random",
        preprocessing={"mean": 0.5, "std": (0.25, 0.25, 0.5), "interpolation": "bilinear",
                       "crop_pct": 1, "crop_mode": "squash"},
    )  # fmt: skip
    logits = core.Explainer(given).predict(COFFEE).scores[0]
    assert report["results"]["random"]["score"] == pytest.approx(float(logits.max()), abs=1e-4)


def test_the_size_and_the_white_are_stated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared, "load_model", load_model)
    words = ["--model", "test_resnet", "--weights", "random", "--methods", "random"]
    done = command("explain", COFFEE, *words, "--preprocessing", "input_size=96,128")
    assert done.image["crop"]["input"] == [96, 128]
    Image.fromarray(np.full((60, 60), 3000, np.uint16)).save(tmp_path / "deep.tif")
    assert_refused(command("explain", tmp_path / "deep.tif", *words), "value_range=(0, 4095)")
    done = command(
        "explain", tmp_path / "deep.tif", *words, "--preprocessing", "value_range=0,4095"
    )
    assert done.image["preprocessing"]["value_range"] == [0, 4095]


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("mean", "key=value"),
        ("mean=", "key=value"),
        ("maen=0.5", "did you mean 'mean'"),
        ("mean=0.5,0.5", "do not fit 3 channel"),
        ("mean=grey", "takes numbers"),
        ("std=0", "above 0"),
        ("interpolation=bicubik", "did you mean 'bicubic'"),
        ("crop_mode=5", "crop mode"),
        ("crop_pct=0", "above 0"),
        ("crop_pct=high", "takes numbers"),
        ("input_size=0", "above 0"),
        ("input_size=22.5", "whole numbers"),
        ("value_range=5", "wrong type"),
        ("value_range=9,5", "black and white"),
        ("resize=0", "resize is"),
    ],
)
@pytest.mark.parametrize("name", ["explain", "features"])
def test_senseless_preprocessing_is_refused(
    pair: str, said: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "load_model", load_model)
    assert_refused(command(name, COFFEE, *VIT, "--preprocessing", pair), said)


def test_copies_of_a_picture_in_one_run_are_one_answer(tmp_path: Path) -> None:
    shutil.copy(COFFEE, tmp_path / "coffee.jpg")
    done = command("explain", COFFEE, tmp_path / "coffee.jpg", *RANDOM)
    first, second = done.json["images"]
    assert first["picture_digest"] == second["picture_digest"]
    assert torch.tensor(first["results"]["random"]["score"]).isfinite()

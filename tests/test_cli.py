"""The command line: one JSON object on stdout, one line on stderr when the input is unusable."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from core import METHODS, METRICS, Explainer, cli, load_model
from core.errors import NotApplicableError
from core.models.listing import list_models
from core.views.colour import lut
from tests.conftest import SAMPLES

COFFEE = SAMPLES / "coffee.jpg"
VIT = ["--model", "test_vit", "--weights", "random"]
QUICK = [
    *("--set", "integrated_gradients.steps=3"),
    *("--set", "occlusion.window=112"),
    *("--set", "occlusion.stride=112"),
]
LOADING = ("shared", "methods")
"""Modules of commands that load a model."""
ASKED = "gradcam,integrated_gradients,occlusion,attention_rollout"


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; NaN and the like are no JSON."""
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))

    @property
    def image(self) -> Any:
        """The report of the only image."""
        (report,) = self.json["images"]
        return report


def command(*words: object) -> Outcome:
    """``python -m core`` with these words, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(autouse=True, scope="module")
def _models_stay_loaded() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        loaded = functools.cache(load_model)
        for module in LOADING:
            patch.setattr(f"core.cli.{module}.load_model", loaded)
        yield


# -- the command of the README ------------------------------------------------------------------


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory, _models_stay_loaded: None) -> Outcome:
    folder = tmp_path_factory.mktemp("answer") / "deep" / "out"
    images = sorted(SAMPLES.glob("*.jpg"))
    save = ["--output-dir", folder, "--save", "png,npz,json"]
    return command("explain", *images, "--methods", ASKED, *QUICK, *save)


def test_every_sample_is_answered_and_progress_is_on_stderr(answer: Outcome) -> None:
    assert answer.code == 0
    lines = answer.err.splitlines()
    files = sorted(SAMPLES.glob("*.jpg"))
    assert lines == [f"picture {n} of {len(files)}: {f}" for n, f in enumerate(files, 1)]
    reports = answer.json["images"]
    assert [r["image"] for r in reports] == [str(p) for p in sorted(SAMPLES.glob("*.jpg"))]
    assert list(answer.json) == ["images"]
    for report in reports:
        assert list(report["results"]) == ["gradcam", "integrated_gradients", "occlusion"]


def test_a_report_says_what_the_model_saw_and_said(answer: Outcome) -> None:
    report = next(r for r in answer.json["images"] if r["image"] == str(COFFEE))
    assert report["model"] == "tf_efficientnet_lite0"
    assert (report["predicted_class"], report["predicted_label"]) == (967, "espresso")
    assert report["target"] == "espresso"
    assert 0.9 < report["confidence"] < 1
    assert len(report["top5"]) == 5
    assert report["top5"][0] == {
        "class": 967,
        "label": "espresso",
        "probability": report["confidence"],
    }
    assert report["crop"]["box"] == [125.0, 25.0, 475.0, 375.0]


def test_a_result_says_how_it_came_about(answer: Outcome) -> None:
    report = next(r for r in answer.json["images"] if r["image"] == str(COFFEE))
    for result in report["results"].values():
        assert set(result) >= {"files", "score", "layer", "params", "cost"}
        assert result["score"] == pytest.approx(11.57, abs=0.05)
        assert set(result["cost"]) == {"forward", "backward", "seconds", "peak_bytes"}
    gradcam, integrated, occlusion = report["results"].values()
    assert (gradcam["layer"], integrated["layer"]) == ("bn2", None)
    assert gradcam["params"] == {"relu": True, "mask_outliers": False}
    assert integrated["params"] == {"steps": 3, "baselines": ["blur"], "tolerance": 0.0}
    assert integrated["completeness_error"] > 0
    assert "completeness_error" not in gradcam
    assert integrated["cost"]["backward"] == 3
    assert occlusion["params"]["window"] == 112


def test_attention_on_a_cnn_is_an_error_in_a_sentence_beside_the_results(answer: Outcome) -> None:
    for report in answer.json["images"]:
        assert list(report["errors"]) == ["attention_rollout"]
        reason = report["errors"]["attention_rollout"]
        assert reason.startswith("tf_efficientnet_lite0 computes no softmax attention")


def test_npz_holds_the_raw_map_its_grid_and_where_it_lies(answer: Outcome) -> None:
    report = next(r for r in answer.json["images"] if r["image"] == str(COFFEE))
    natives = {"gradcam": (7, 7), "integrated_gradients": (224, 224), "occlusion": (224, 224)}
    for key, native in natives.items():
        result = report["results"][key]
        with np.load(result["files"]["npz"], allow_pickle=False) as file:
            assert (file["values"].dtype, file["values"].shape) == (np.float32, (224, 224))
            assert file["native"].shape == native
            assert file["crop"].tolist() == report["crop"]["box"]
            assert file["picture"].tolist() == [400, 600]
            assert file["input"].tolist() == [224, 224]
            assert float(file["score"]) == pytest.approx(result["score"])
            if key == "integrated_gradients":
                assert file["values"].min() < 0 < file["values"].max()
                assert np.array_equal(file["values"], file["native"])
            if key == "gradcam":
                grown = torch.nn.functional.interpolate(
                    torch.from_numpy(file["native"])[None, None], (224, 224), mode="bilinear"
                )
                np.testing.assert_allclose(file["values"], grown[0, 0], atol=1e-6)


def shown_in(figure: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture of a saved figure with a title of one line; `size` has its proportions."""
    longer = 2 * 720
    width, height = (round(side * longer / max(size)) for side in size)
    return figure.crop((48, 124, 48 + width, 124 + height))


def test_png_shows_the_whole_picture_at_twice_the_size(answer: Outcome) -> None:
    for report in answer.json["images"]:
        with Image.open(report["image"]) as picture:
            seen = picture.convert("RGB")
        for result in report["results"].values():
            with Image.open(result["files"]["png"]) as figure:
                assert figure.format == "PNG"
                found = shown_in(figure, seen.size)
            corner = np.asarray(found.resize((60, 40)).crop((0, 0, 60, 2))).astype(float)
            own = np.asarray(seen.resize((60, 40)).crop((0, 0, 60, 2))).astype(float)
            assert abs(corner - own).mean() < 4, "outside of what the model saw it is as it was"


def test_png_is_the_map_over_the_picture_at_the_usual_opacity(answer: Outcome) -> None:
    report = next(r for r in answer.json["images"] if r["image"] == str(COFFEE))
    with Image.open(COFFEE) as picture:
        seen = np.asarray(picture.convert("RGB")).astype(float)
    left, upper, right, lower = (round(edge) for edge in report["crop"]["box"])
    for key, name in (("gradcam", "inferno"), ("integrated_gradients", "RdBu")):
        files = report["results"][key]["files"]
        with Image.open(files["png"]) as figure, np.load(files["npz"]) as raw:
            found = np.asarray(shown_in(figure, (600, 400))).astype(float)
            shown, native, signed = raw["values"], raw["native"], bool(raw["native"].min() < 0)
        if signed:  # a value for each pixel: smoothed, and the ends of the colours at 99 %
            ends = np.percentile(shown, [0.1, 99.9]).astype(np.float32)
            shown = gaussian_filter(shown.clip(*ends), 4, mode="nearest")
            native = shown
        top = np.percentile(abs(native), 99 if signed else 100)
        size = right - left, lower - upper
        values = Image.fromarray(shown).resize(size, Image.Resampling.BILINEAR)
        at = ((np.asarray(values) / top).clip(-1, 1) + signed) / (1 + signed)
        expected = seen.copy()
        inside = np.s_[upper:lower, left:right]
        colours = lut(name)[(at * 255).round().astype(int)]
        expected[inside] = 0.65 * colours + 0.35 * seen[inside]
        large = Image.fromarray(expected.round().clip(0, 255).astype(np.uint8)).resize(
            (1440, 960), Image.Resampling.LANCZOS
        )
        apart = abs(found - np.asarray(large)).max(2)
        scale, away = 2.4, 16  # the outline aside, and what resampling makes of its surroundings
        edges = [round(edge * scale) for edge in (left, upper, right, lower)]
        apart[edges[1] - away : edges[3] + away, edges[0] - away : edges[0] + away] = 0
        apart[edges[1] - away : edges[3] + away, edges[2] - away : edges[2] + away] = 0
        apart[edges[1] - away : edges[1] + away, edges[0] : edges[2]] = 0
        apart[edges[3] - away : edges[3] + away, edges[0] : edges[2]] = 0
        assert apart.max() <= 6, key


def test_the_json_file_is_the_report(answer: Outcome) -> None:
    for report in answer.json["images"]:
        (path,) = {r["files"]["json"] for r in report["results"].values()}
        assert json.loads(Path(path).read_text(encoding="utf-8")) == report


# -- in a process of its own --------------------------------------------------------------------


def test_end_to_end_in_a_process_of_its_own(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9 \xe2\x98\x95 v1.2.jpg")  # one byte of it is no UTF-8
    shutil.copy(COFFEE, odd)
    words = ["explain", str(odd), "--methods", "gradcam,attention", "--output-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "core", *words],
        cwd=SAMPLES.parent.parent,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    (report,) = json.loads(done.stdout)["images"]
    assert report["image"] == str(odd)
    assert list(report["errors"]) == ["attention"]
    files = report["results"]["gradcam"]["files"]
    assert all(Path(path).is_file() for path in files.values())
    assert json.loads(Path(files["json"]).read_text()) == report


def test_log_lines_never_stand_beside_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])  # as in a process of its own
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    found = command("--log-level", "INFO", "explain", COFFEE, "--methods", "gradcam,attention")
    assert list(found.image["errors"]) == ["attention"]
    assert found.err.startswith("attention failed on ")


# -- file names ---------------------------------------------------------------------------------


def test_equal_stems_do_not_overwrite_one_another(tmp_path: Path) -> None:
    sources = []
    for index, name in enumerate(
        ["a/x.png", "b/x.png", "c/x.jpg", "x-2.png", "c/x.v1.png", "c/x.v2.png"]
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 60 + index), (40 * index, 90, 10)).save(path)
        sources.append(path)
    out = tmp_path / "out"
    done = command("explain", *sources, *VIT, "--methods", "random", "--output-dir", out)
    assert done.code == 0
    files = [r["results"]["random"]["files"] for r in done.json["images"]]
    paths = [path for kinds in files for path in kinds.values()]
    assert len(set(paths)) == len(paths) == len(list(out.iterdir())) == 6 * 3
    for index, kinds in enumerate(files):
        with np.load(kinds["npz"]) as raw:
            assert raw["picture"].tolist() == [60 + index, 60]


@pytest.mark.parametrize(
    "stem", ["two words", "a.b.c", "-dash", "日本", "100%", "[x]{y}", ".dot", "q'\"$"]
)
def test_odd_stems_make_good_files(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.png"
    Image.new("RGB", (50, 40), "teal").save(path)
    out = tmp_path / "out"
    done = command("explain", *VIT, "--methods", "random", "--output-dir", out, "--", path)
    files = done.image["results"]["random"]["files"]
    assert {Path(p).name for p in files.values()} == {p.name for p in out.iterdir()}
    assert all(Path(p).name.startswith(stem) for p in files.values())


def test_a_leading_dash_is_no_option_after_two(tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copy(COFFEE, tmp_path / "-x.jpg")
    monkeypatch.chdir(tmp_path)
    done = command("explain", *VIT, "--methods", "random", "--output-dir", "out", "--", "-x.jpg")
    assert (done.code, done.image["image"]) == (0, "-x.jpg")
    assert (tmp_path / "out" / "-x.random.png").is_file()


def test_only_the_kinds_asked_for_are_written(tmp_path: Path) -> None:
    done = command(
        *("explain", COFFEE, *VIT, "--methods", "random"),
        *("--output-dir", tmp_path, "--save", "npz"),
    )
    assert [p.name for p in tmp_path.iterdir()] == ["coffee.random.npz"]
    assert list(done.image["results"]["random"]["files"]) == ["npz"]


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("explain", COFFEE, *VIT, "--methods", "random")
    assert done.image["results"]["random"]["files"] == {}
    assert list(tmp_path.iterdir()) == []


# -- what can be asked --------------------------------------------------------------------------


def test_attention_methods_run_on_a_transformer() -> None:
    done = command("explain", COFFEE, *VIT, "--methods", "attention,attention_rollout,gradcam")
    assert done.code == 0
    assert list(done.image["results"]) == ["attention", "attention_rollout", "gradcam"]
    assert done.image["errors"] == {}


@pytest.mark.parametrize(
    ("text", "described", "index"),
    [
        ("cup", "cup", 968),
        ("ESPRESSO", "espresso", 967),
        ("207", "golden retriever", 207),
        ("espresso-cup", "espresso rather than cup", None),
        ("967-968", "espresso rather than cup", None),
        ("black-and-tan coonhound", "black-and-tan coonhound", 165),
        ("cup-black-and-tan coonhound", "cup rather than black-and-tan coonhound", None),
    ],
)
def test_targets(text: str, described: str, index: int | None, lite0: Any) -> None:
    report = command("explain", COFFEE, "--target", text).image
    assert report["target"] == described
    logits = lite0.predict(COFFEE).scores[0]
    if index is not None:
        assert report["results"]["gradcam"]["score"] == pytest.approx(
            float(logits[index]), abs=1e-3
        )
    elif "espresso" in described:
        margin = float(logits[967] - logits[968])
        assert report["results"]["gradcam"]["score"] == pytest.approx(margin, abs=1e-3)


def test_what_was_drawn_by_chance_says_how_sure_it_is() -> None:
    few = ("--set", "kernel_shap.segments=9", "--set", "kernel_shap.evaluations=30")
    few += ("--set", "rise.masks=10", "--set", "lime.samples=10")
    done = command("explain", COFFEE, "--methods", "kernel_shap,rise,lime", *few)
    results = done.json["images"][0]["results"]
    for key, name in (
        ("kernel_shap", "standard_error"),
        ("rise", "standard_error"),
        ("lime", "r2"),
    ):
        assert 0 < results[key][name] < 10, key
    assert results["kernel_shap"]["efficiency_error"] < 1e-3


@pytest.mark.parametrize("alias", ["gradcam++", "gradcampp", "gradcam_plus_plus"])
def test_aliases_name_one_method_everywhere(alias: str) -> None:
    done = command(
        *("explain", COFFEE, "--methods", f"{alias},gradcam_plus_plus"),
        *("--set", f"{alias}.relu=no"),
    )
    (key, result), *more = done.image["results"].items()
    assert (key, more) == ("gradcam_plus_plus", [])
    assert result["params"] == {"relu": False, "mask_outliers": False}


def test_a_layer_is_looked_at_by_those_it_concerns() -> None:
    report = command(
        "explain", COFFEE, "--methods", "gradcam,saliency", "--layer", "blocks.4"
    ).image
    assert report["results"]["gradcam"]["layer"] == "blocks.4"
    assert report["results"]["saliency"]["layer"] is None


def test_a_layer_that_does_not_suit_is_each_methods_own_failure() -> None:
    done = command("explain", COFFEE, "--methods", "gradcam,random", "--layer", "classifier")
    assert (done.code, list(done.image["results"])) == (0, ["random"])
    assert "'classifier'" in done.image["errors"]["gradcam"]
    assert "blocks.0" in done.image["errors"]["gradcam"]


def test_metrics_stand_beside_the_controls() -> None:
    report = command(
        *("explain", COFFEE, *VIT, "--methods", "gradcam,random"), *("--metrics", "deletion")
    ).image
    for key in ("gradcam", "random"):
        deletion = report["results"][key]["scores"]["deletion"]
        assert 0 <= deletion["value"] <= 1
        assert deletion["higher_is_better"] is False
        assert set(deletion["controls"]) == {"random", "sobel", "centre"}
    control = report["results"]["random"]["scores"]["deletion"]
    assert control["value"] == control["controls"]["random"]


def test_the_seed_decides_what_is_drawn(tmp_path: Path) -> None:
    maps = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2), ("d", -1), ("e", 10**30)):
        words = [*VIT, "--methods", "random", "--seed", seed, "--output-dir", tmp_path / folder]
        report = command("explain", COFFEE, *words).image
        assert report["seed"] == seed
        maps.append(np.load(report["results"]["random"]["files"]["npz"])["values"])
    assert np.array_equal(maps[0], maps[1])
    assert len({m.tobytes() for m in maps}) == 4


def test_a_slow_method_stops_after_its_time_and_says_so(tmp_path: Path) -> None:
    words = ["--methods", "rise,gradcam", "--seconds", "0.5", "--output-dir", tmp_path]
    results = command("explain", COFFEE, *words).image["results"]
    partial, cost = results["rise"]["partial"], results["rise"]["cost"]
    assert (partial["of"], partial["unit"]) == (4000, "masks")
    assert 16 <= partial["done"] <= cost["forward"] < 4000
    assert cost["seconds"] >= 0.5
    assert results["rise"]["standard_error"] > 0
    assert "partial" not in results["gradcam"]
    samples = np.load(results["rise"]["files"]["npz"])["samples"]
    assert samples.tolist() == [partial["done"], 4000]
    assert "samples" not in np.load(results["gradcam"]["files"]["npz"])


def test_if_no_method_can_answer_the_code_is_1() -> None:
    done = command("explain", COFFEE, "--methods", "attention,attention_rollout")
    assert done.code == 1
    assert done.image["results"] == {}
    assert set(done.image["errors"]) == {"attention", "attention_rollout"}
    assert done.err == ""


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path) -> None:
    state = {
        k: v.clone() for k, v in load_model("test_vit", weights="random").model.state_dict().items()
    }
    state["head.weight"].fill_(3e38)
    torch.save(state, tmp_path / "huge.pth")
    weights = ["--model", "test_vit", "--weights", tmp_path / "huge.pth"]
    done = command(
        "explain", COFFEE, *weights, "--methods", "gradcam,random", "--metrics", "deletion"
    )
    assert done.image["confidence"] is None
    assert done.image["results"]["random"]["score"] is None
    assert done.image["results"]["random"]["scores"]["deletion"]["value"] is None
    assert "not finite" in done.image["errors"]["gradcam"]


# -- what cannot be asked -----------------------------------------------------------------------


def assert_refused(done: Outcome, *words: str) -> None:
    """One line on stderr that says why, then what to try; nothing on stdout, exit code 2."""
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert all(line.startswith("try: --") for line in done.err.splitlines()[1:])
    assert done.err.endswith("\n")
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "gradcan"], ["gradcan", "did you mean 'gradcam'"]),
        (["--methods", ","], ["--methods", "names none"]),
        (["--set", "gradcam.rel=1"], ["gradcam has no parameter 'rel'", "relu"]),
        (["--set", "gradcam.relu=maybe"], ["gradcam.relu = maybe"]),
        (["--set", "gradcam.relu=may\nbe"], ["gradcam.relu"]),
        (["--set", "gradcam.relu"], ["'gradcam.relu'", "key.param=value"]),
        (["--set", "gradcan.relu=1"], ["gradcan", "did you mean"]),
        (["--set", "occlusion.window=9"], ["occlusion", "--methods"]),
        (["--methods", "occlusion", "--set", "occlusion.window=0"], ["occlusion.window = 0", "1"]),
        (["--save", "png,gif"], ["'gif'", "png, svg, npz, json"]),
        (["--layer", "block.4"], ["'block.4'", "did you mean"]),
        (["--methods", "saliency", "--layer", "nope"], ["'nope'"]),
        (["--target", "99999"], ["99999", "0 to 999"]),
        (["--target", "-5"], ["no class -5", "numbered from 0"]),
        (["--target", "espreso"], ["did you mean 'espresso'"]),
        (["--target", ""], ["no class ''"]),
        (["--model", "resnet5"], ["resnet5", "did you mean"]),
        (["--device", "toaster"], ["toaster", "cpu"]),
        (["--weights", "nowhere.pth"], ["nowhere.pth"]),
        (["--labels", "nowhere.txt"], ["nowhere.txt"]),
        (["--metrics", "deletions"], ["did you mean 'deletion'?"]),
        (["--seed", "three"], ["--seed", "three"]),
        (["--seconds", "0"], ["--seconds", "positive number of seconds"]),
        (["--seconds", "soon"], ["--seconds", "'soon'"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_refusals(words: list[str], said: list[str]) -> None:
    target = [f"{words[0]}={words[1]}"] if words[1].startswith("-") else words
    assert_refused(command("explain", COFFEE, *target), *said)


@pytest.mark.parametrize(
    ("words", "tries"),
    [
        (["--methods", "lime(samples=20),gradcan"], ["--methods 'lime(samples=20),gradcam'"]),
        (["--methods", "gradcan@bn2"], ["--methods gradcam"]),
        (["--methods", "saliency", "--layer", "bn22"], ["--layer bn2"]),
        (["--target", "espreso"], ["--target 967", "--target 550"]),
        (["--model", "botnet50ts_256"], ["--weights random"]),
        (["--model", "world_vt"], ["--model world_vit"]),
        (["--metrics", "deletions"], []),
    ],
)
def test_an_error_says_which_options_to_try(words: list[str], tries: list[str]) -> None:
    done = command("explain", COFFEE, *words)
    assert_refused(done)
    told = [line.removeprefix("try: ") for line in done.err.splitlines()[1:]]
    assert told[: len(tries)] == tries
    assert bool(told) == bool(tries)
    for option in told[:1]:
        name, value = shlex.split(option)
        kept = words[:2] if name == "--layer" else words if name == "--weights" else []
        assert command("explain", COFFEE, *kept, name, value).code == 0


def test_a_method_without_a_map_says_in_json_what_helps() -> None:
    done = command("explain", COFFEE, "--methods", "gradcam,attention_rollout,gradcam@blocks.55")
    assert [*done.image["ways_out"]] == ["attention_rollout", "gradcam@blocks.55"]
    assert done.image["ways_out"]["attention_rollout"] == [
        {"field": "method", "value": "gradcam", "text": "Use Grad-CAM"}
    ]
    assert done.image["ways_out"]["gradcam@blocks.55"][0]["field"] == "layer"
    sane = command("sanity", "--methods", "attention_rollout")
    assert (sane.code, [*sane.json["ways_out"]]) == (1, ["attention_rollout"])


def test_what_to_try_leaves_the_other_models_alone() -> None:
    one = ["compare", COFFEE, SAMPLES / "chelsea.jpg", "--method"]
    done = command(*one, "attention_rollout")
    assert done.err.count("try: --method gradcam\n") == 2
    done = command(*one, "gradcam@blocks.55")
    assert "try: --method gradcam@bn2\n" in done.err
    models = ["compare", COFFEE, "--models"]
    done = command(*models, "tf_efficientnet_lite0,world_vt")
    assert "try: --models tf_efficientnet_lite0,world_vit\n" in done.err
    done = command(*models, "tf_efficientnet_lite0,botnet50ts_256")
    assert (done.code, "try:" in done.err) == (2, False)


@pytest.mark.parametrize("words", [[], ["explain"], ["explode"], ["explain", "--target"]])
def test_an_incomplete_command_is_refused_in_one_line(words: list[str]) -> None:
    assert_refused(command(*words), "--help")


@pytest.mark.parametrize("bad", ["corrupt.jpg", "missing.jpg", "notes.jpg", "empty.jpg"])
def test_if_no_picture_can_be_read_all_stops_before_any_work(
    tmp_path: Path, bad: str, monkeypatch: Any
) -> None:
    def untouched(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for module in LOADING:
        monkeypatch.setattr(f"core.cli.{module}.load_model", untouched)
    (tmp_path / "corrupt.jpg").write_bytes(COFFEE.read_bytes()[:2000])
    (tmp_path / "notes.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    for words in ([tmp_path / bad], [tmp_path / bad, tmp_path / bad]):
        done = command("explain", *words, "--output-dir", tmp_path / "out")
        assert_refused(done, bad)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def untouched(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for module in LOADING:
        monkeypatch.setattr(f"core.cli.{module}.load_model", untouched)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        for words in (["explain", COFFEE], ["features", COFFEE]):
            done = command(*words, "--output-dir", folder)
            assert_refused(done, "cannot write to", str(folder))


def test_a_metric_that_fails_is_an_error_and_the_maps_are_kept(monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NotApplicableError("no such luck; try another")

    monkeypatch.setattr(METRICS["deletion"], "measure", fail)
    words = ["explain", COFFEE, *VIT, "--methods", "gradcam", "--metrics", "deletion"]
    (report,) = command(*words).json["images"]
    assert report["errors"] == {"deletion": "no such luck; try another"}
    assert report["results"]["gradcam"]["cost"]["backward"] == 1


# -- the other commands -------------------------------------------------------------------------


def test_methods_lists_the_registry() -> None:
    found = command("methods").json
    assert list(found) == list(METHODS)
    assert all(
        set(facts) >= {"label", "family", "needs", "properties", "params", "paper", "cost"}
        for facts in found.values()
    )
    steps = found["integrated_gradients"]["params"]["steps"]
    assert (steps["default"], steps["minimum"], steps["maximum"]) == (50, 1, 1000)
    assert found["gradcam"]["needs"] == ["gradient", "layer"]


def test_models_takes_a_part_of_the_name_or_a_pattern() -> None:
    assert "resnet50.a1_in1k" in command("models", "resnet50").json
    assert set(command("models", "vit_tiny*").json) == set(list_models("vit_tiny*"))
    assert "tf_efficientnet_lite0.in1k" in command("models").json
    assert command("models", "no_such_model").json == {}


def test_layers_says_where_one_can_look() -> None:
    found = command("layers").json
    assert (found["model"], found["default"]) == ("tf_efficientnet_lite0", "bn2")
    assert "bn2" in found["stages"]
    assert found["layers"]["bn2"] == {
        "kind": "BatchNormAct2d",
        "stage": False,
        "layout": "NCHW",
        "grid": [7, 7],
        "channels": 1280,
        "prefix_tokens": 0,
    }
    assert found["layers"]["classifier"]["layout"] is None
    assert found["attention"] == {}
    tokens = command("layers", *VIT).json
    assert tokens["layers"]["blocks.0"]["prefix_tokens"] == 1
    assert tokens["attention"]["blocks.0.attn"] == {
        "heads": 2,
        "tokens": 101,
        "usable": True,
        "reason": "",
    }


def test_features_of_a_layer(tmp_path: Path) -> None:
    done = command(
        *("features", COFFEE, "--layer", "blocks.2", "--top", 3, "--by", "variance"),
        *("--output-dir", tmp_path),
    )
    report = done.json
    assert (report["layer"], report["grid"], len(report["channels"])) == ("blocks.2", [28, 28], 3)
    assert report["statistics"]["channels"] == 40
    assert 0 <= report["statistics"]["sparsity"] <= 1
    with np.load(report["files"]["npz"]) as maps:
        assert list(maps) == [f"channel{c}" for c in report["channels"]]
        assert maps[maps.files[0]].shape == (28, 28)


def test_features_of_attention_heads(tmp_path: Path) -> None:
    done = command(
        "features", COFFEE, *VIT, "--attention", "--query", "3", "--output-dir", tmp_path
    )
    assert (done.json["heads"], done.json["grid"]) == (2, [10, 10])
    with np.load(done.json["files"]["npz"]) as maps:
        assert list(maps) == ["head0", "head1"]


def test_features_of_a_patch(tmp_path: Path) -> None:
    done = command("features", COFFEE, *VIT, "--patch", "300,200", "--output-dir", tmp_path)
    report = done.json
    assert report["patch"] == {"x": 300, "y": 200}
    assert (len(report["similarity"]), len(report["attention"])) == (7, 6)
    layer = report["attention"][2]
    assert (layer["grid"], layer["heads"], layer["window"]) == ([10, 10], 2, 0)
    assert report["similarity"][0]["strongest"][0] == {
        **{name: pytest.approx(at, abs=25) for name, at in (("x", 300), ("y", 200))},
        "value": pytest.approx(1),
    }
    model = load_model("test_vit", weights="random")
    own = Explainer(model).patches(COFFEE)
    row = layer["cell"]["row"] * 10 + layer["cell"]["column"]
    with np.load(report["files"]["npz"]) as maps:
        assert maps.files[0] == "similarity.blocks.0"
        np.testing.assert_allclose(
            maps[f"attention.{layer['layer']}"], own.attention[2].maps(row), atol=1e-6
        )
    assert layer["other_tokens"] == pytest.approx(
        own.attention[2].other_tokens[:, row].tolist(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--patch", "5000,200"], "does not see this point"),
        (["--patch", "300"], "'300' is no point"),
        (["--patch", "300,200", "--layer", "classifier"], "'classifier'"),
        (["--top", "0"], "top is 0"),
        (["--layer", "nope"], "'nope'"),
        (["--attention"], "no softmax attention"),
        ([*VIT, "--attention", "--query", "somebody"], "'somebody'"),
        ([*VIT, "--attention", "--query", "²"], "'²'"),
        ([*VIT, "--attention", "--query", "100"], "0 to 99"),
        ([*VIT, "--attention", "--layer", "patch_embed"], "'patch_embed'"),
    ],
)
def test_refused_features(words: list[str], said: str) -> None:
    assert_refused(command("features", COFFEE, *words), said)


def test_layers_of_an_unknown_model_are_refused() -> None:
    assert_refused(command("layers", "--model", "resnet5"), "resnet5")


# -- what is asked of explanations ---------------------------------------------------------------


def test_maps_are_set_among_random_ones_and_one_method_is_recommended() -> None:
    found = command(
        "explain", COFFEE, "--methods", "gradcam,saliency,random",
        "--metrics", "energy_inside,max_sensitivity", "--set", "max_sensitivity.samples=1",
        "--ground-truth", "150,0,450,400", "--random-maps", "5", "--recommend",
    )  # fmt: skip
    image = found.image
    scores = image["results"]["gradcam"]["scores"]
    assert scores["energy_inside"]["percentile"] == 100
    assert "percentile" not in scores["max_sensitivity"], "a random map has no method to ask again"
    told = image["recommendation"]
    assert told["method"] == "gradcam"
    assert told["words"].startswith("Take Grad-CAM")
    assert {one["method"] for one in told["ranking"]} == {"gradcam", "saliency"}
    assert set(told["controls"]) == {"random", "sobel", "centre"}
    assert "saliency" in told["doubtful"]


@pytest.mark.parametrize("number", ["-3", "1000000", "many", "2.5"])
def test_a_number_of_random_maps_that_makes_no_sense_is_refused(number: str) -> None:
    found = command("explain", COFFEE, f"--random-maps={number}")
    assert_refused(found, "is not a number from 0 to 10000", number)


def test_sanity_of_methods_on_a_model() -> None:
    found = command("sanity", "--methods", "gradcam,sobel,attention")
    assert found.code == 0
    results = found.json["results"]
    assert results["gradcam"]["randomisation"]["tone"] == "good"
    assert len(results["gradcam"]["randomisation"]["curve"]) == 7
    assert len(results["gradcam"]["class_sensitivity"]["pictures"]) == 3
    assert {one["tone"] for one in results["sobel"].values()} == {"bad"}
    assert "softmax attention" in found.json["errors"]["attention"]
    assert command("sanity", "--methods", "attention").code == 1


def test_a_model_that_does_not_know_photographs_says_so() -> None:
    for words, note in (
        (["--model", "world_resnet"], "world_resnet knows only generated scenes"),
        (["--model", "world_resnet", "--weights", "random"], "The weights are random"),
    ):
        report = command("explain", SAMPLES / "coffee.jpg", *words).image
        assert any(told.startswith(note) for told in report["notes"])


def test_each_of_the_likeliest_classes_has_a_report_of_its_own(tmp_path: Path) -> None:
    words = ["explain", COFFEE, "--methods", "gradcam,layercam", "--output-dir", tmp_path]
    found = command(*words, "--each-class", 3).json["images"]
    names = [report["target"] for report in found]
    assert names == ["espresso", "cup", "consomme"]
    for place, report in enumerate(found):
        first, second = (report["results"][key] for key in ("gradcam", "layercam"))
        assert (first["cost"]["forward"], first["cost"]["backward"]) == (int(place == 0), 1)
        assert (second["cost"]["forward"], second["cost"]["backward"]) == (0, 0)
        assert Path(first["files"]["png"]).name == f"coffee-{names[place]}.gradcam.png"
    assert len(set(tmp_path.glob("*.png"))) == 6


def test_each_class_and_a_target_exclude_each_other() -> None:
    found = command("explain", COFFEE, "--target", "cup", "--each-class", 2)
    assert found.code == 2
    assert "not allowed with argument" in found.err

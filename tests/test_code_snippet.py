"""The code and the command line beside a map run as they are printed, and make the same map."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import sample_picture
from core.cli import main
from dashboard import actions
from dashboard.actions import NO_CLASS, ExplainRequest, Question, SaveRequest
from dashboard.state import Service

COFFEE = str(sample_picture("coffee"))
LITE0 = Question(COFFEE, "tf_efficientnet_lite0", "pretrained", None, NO_CLASS, "logit")
UNTRAINED = replace(LITE0, model="test_resnet", weights="random")
SCENE = replace(LITE0, picture=str(sample_picture("striped_disc")), model="world_vit")
CASES = {
    "default": ExplainRequest(LITE0, "gradcam", None, {}),
    "layer, class": ExplainRequest(replace(LITE0, target=968), "hirescam", "blocks.4", {}),
    "contrast": ExplainRequest(
        replace(LITE0, target=967, versus=968, unit="probability"), "layercam", "blocks.4", {}
    ),
    "against": ExplainRequest(replace(LITE0, target=967, against=True), "xgradcam", None, {}),
    "against a contrast": ExplainRequest(
        replace(LITE0, target=967, versus=968, against=True), "gradcam", None, {}
    ),
    "against, as a probability": ExplainRequest(
        replace(LITE0, against=True, unit="probability"), "saliency", None, {}
    ),
    "crop": ExplainRequest(replace(LITE0, crop="100,20,300,220.5"), "gradcam", None, {}),
    "whole": ExplainRequest(replace(LITE0, crop="whole"), "gradcam", None, {}),
    "settings": ExplainRequest(UNTRAINED, "lime", None, {"lime": {"samples": 12, "segments": 5}}),
    "baselines": ExplainRequest(
        UNTRAINED,
        "integrated_gradients",
        None,
        {"integrated_gradients": {"steps": 3, "baselines": ["black", "white"]}},
    ),
    "samples": ExplainRequest(UNTRAINED, "rise", None, {"rise": {"masks": 40}}, stop_after=16),
    "activation": ExplainRequest(
        replace(UNTRAINED, activation="sigmoid", unit="probability"), "gradcam", None, {}
    ),
    "numbers": ExplainRequest(
        replace(UNTRAINED, activation="identity", measured_in="mm", target=3), "gradcam", None, {}
    ),
    "scene": ExplainRequest(SCENE, "attention_rollout", None, {}),
}


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def values_in(path: str | Path) -> np.ndarray[Any, Any]:
    with np.load(path) as saved:
        found: np.ndarray[Any, Any] = saved["native"]
    return found


@pytest.mark.parametrize("case", CASES)
def test_both_run_as_printed_and_give_the_map_of_the_page(
    service: Service,
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = CASES[case]
    shown = actions.explain(service, request)
    expected = values_in(actions.save(service, SaveRequest(shown.request, "npz")))
    monkeypatch.chdir(tmp_path)

    scope: dict[str, Any] = {}
    exec(shown.code, scope)
    np.testing.assert_allclose(scope["answer"].values[0], expected, rtol=1e-5, atol=1e-6)
    (drawn,) = tmp_path.glob("*.png")
    with Image.open(drawn) as picture:
        assert min(picture.size) >= 96
    drawn.unlink()

    python, flag, package, *words = shlex.split(shown.command)
    assert (python, flag, package) == ("python", "-m", "core")
    assert main(words) == 0, capsys.readouterr().err
    (drawn,) = tmp_path.glob("*.png")
    assert main(shlex.split(shlex.join(words).replace("--save png", "--save npz"))) == 0
    (saved,) = tmp_path.glob("*.npz")
    np.testing.assert_allclose(values_in(saved), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "word"), [("my dog's.png", "my dog's.png"), ("-rf.png", "./-rf.png")]
)
def test_a_picture_of_ones_own_is_named_as_it_is(
    service: Service, tmp_path: Path, name: str, word: str
) -> None:
    own = tmp_path / name
    Image.new("RGB", (64, 64), "red").save(own)
    shown = actions.explain(
        service, ExplainRequest(replace(UNTRAINED, picture=str(own)), "gradcam", None, {})
    )
    assert f"picture = {name!r}  # your own file: give its path\n" in shown.code
    assert shlex.split(shown.command)[4] == word, "no option of the command line"


def test_a_picture_that_is_only_called_like_a_sample_is_not_taken_for_it(
    service: Service, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "coffee.jpg")
    asked = replace(UNTRAINED, picture=str(tmp_path / "coffee.jpg"))
    shown = actions.explain(service, ExplainRequest(asked, "gradcam", None, {}))
    assert "sample_picture" not in shown.code
    assert shlex.split(shown.command)[4] == "coffee.jpg"


def test_the_film_and_the_file_have_both(service: Service) -> None:
    shown = actions.explain(service, CASES["default"])
    film = actions.film(service, shown.request)
    stops = {stop.layer: (stop.code, stop.command) for stop in film.stops}
    assert stops["bn2"] == (shown.code, shown.command)
    report = Path(actions.save(service, SaveRequest(shown.request, "json"))).read_text("utf-8")
    assert '"command": "python -m core explain coffee --methods gradcam@bn2' in report

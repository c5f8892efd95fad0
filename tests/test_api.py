"""The API: what a program is given, what it is refused, and that it cannot harm the page."""

from __future__ import annotations

import ast
import dataclasses
import json
import time
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from core import Explainer, compare_models, sample_picture
from core.errors import TimmscopeError
from dashboard import api
from dashboard.api import requests
from dashboard.api.handlers import answer, checked, descriptions, documentation, parameters_of
from dashboard.state import Service
from tests.browser import launched
from tests.conftest import SAMPLES
from tests.failing import KINDS, Moody
from tests.test_docs import ROOT, blocks
from tests.test_failing_models import faulty  # noqa: F401

COFFEE = handle_file(str(SAMPLES / "coffee.jpg"))
REQUIRED = {"picture", "models", "second"}
UPLOADED = {"path": str(SAMPLES / "coffee.jpg"), "meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with launched(service) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False)


def refused(client: Client, **asked: Any) -> str:
    """The sentence that a call is refused with."""
    with pytest.raises(Exception, match=r"\w") as raised:
        client.predict(**asked)
    return str(raised.value)


# -- what there is ------------------------------------------------------------------------------


def test_the_endpoints_are_all_that_the_page_offers(client: Client) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(named) == {f"/{endpoint.__name__}" for endpoint in api.ENDPOINTS}
    for name, facts in named.items():
        assert facts["description"], name
        for one in facts["parameters"]:
            assert one["type"], (name, one["parameter_name"])
            assert one["python_type"]["description"], (name, one["parameter_name"])
            assert one["parameter_has_default"] or one["parameter_name"] in REQUIRED, name


@pytest.mark.parametrize("endpoint", api.ENDPOINTS, ids=lambda one: one.__name__)
def test_every_parameter_and_result_is_described(endpoint: Any) -> None:
    hints = typing.get_type_hints(endpoint)
    words = descriptions(hints["request"])
    assert [*words] == [field.name for field in dataclasses.fields(hints["request"])]
    for parameter in parameters_of(hints["request"]):
        assert f"    {parameter.name}: {words[parameter.name]}" in documentation(
            endpoint, hints["request"]
        )
    if typing.is_typeddict(hints["return"]):
        assert [*descriptions(hints["return"])] == [*hints["return"].__annotations__]


def test_the_examples_of_the_documentation_run(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    checks = 0
    for block in blocks("docs/api.md", "python"):
        lines = block.replace("http://127.0.0.1:7860", url).splitlines()
        for node in ast.parse("\n".join(lines)).body:
            code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            said = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
            if isinstance(node, ast.Expr):
                assert eval(code, names) == ast.literal_eval(said), code
                checks += 1
            else:
                exec(code, names)
    assert checks >= 20
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8").partition("## Every endpoint")[0]
    assert [one.__name__ for one in api.ENDPOINTS if f'"/{one.__name__}"' not in text] == []


def test_an_endpoint_answers_without_a_client(url: str) -> None:
    (line,) = [line for line in blocks("docs/api.md", "sh") if "curl" in line]
    data = json.loads(line.partition("-d '")[2].rpartition("'")[0])
    began = httpx.post(f"{url}gradio_api/call/layers", json=data).json()
    told = httpx.get(f"{url}gradio_api/call/layers/{began['event_id']}", timeout=60).text
    assert told.startswith("event: complete")
    assert json.loads(told.partition("data: ")[2])[0]["model"] == "world_vit"


# -- what is given ------------------------------------------------------------------------------


def test_a_map_is_the_one_that_python_gives(client: Client, lite0: Explainer) -> None:
    asked = {"picture": COFFEE, "target": "espresso", "versus": "cup", "api_name": "/explain"}
    found = client.predict(**asked, method="hirescam(relu=false)")
    same = lite0.explain(sample_picture("coffee"), "hirescam", target="espresso-cup", relu=False)
    np.testing.assert_allclose(found["values"], same.values[0], rtol=1e-5)
    assert found["score"] == pytest.approx(float(same.score))
    assert found["target"] == "espresso rather than cup"
    slow = client.predict(**asked, method="saliency", score="probability", values=False)
    assert slow["values"] is None
    assert slow["score"] < 1


def test_the_code_that_comes_with_a_map_makes_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = client.predict(
        picture=COFFEE, method="gradcam@blocks.4", target=967, api_name="/explain"
    )
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    exec(found["python"], names)
    np.testing.assert_allclose(found["values"], names["answer"].values[0], rtol=1e-5)
    assert found["layer"] == "blocks.4"


@pytest.mark.parametrize("kind", ["png", "svg", "npz", "json"])
def test_a_map_comes_as_a_file(client: Client, kind: str) -> None:
    path = Path(client.predict(picture=COFFEE, kind=kind, api_name="/save"))
    if kind == "png":
        with Image.open(path) as picture:
            assert picture.width == 2 * (720 + 2 * 24), "twice the size that it is shown at"
    elif kind == "svg":
        assert "Why espresso?" in path.read_text()
    elif kind == "npz":
        assert np.load(path)["native"].shape == (7, 7)
    else:
        assert json.loads(path.read_text())["method"] == "gradcam"


def test_evidence_is_a_file_or_a_box(client: Client, tmp_path: Path) -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[:, :150] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    asked: dict[str, Any] = {"methods": ["gradcam"], "metrics": ["energy_inside"]}
    scores = [
        client.predict(picture=COFFEE, **asked, **evidence, api_name="/measure")["scores"]
        for evidence in (
            {"box": "0,0,150,400"},
            {"evidence": handle_file(str(tmp_path / "mask.png"))},
        )
    ]
    left, masked = (found["gradcam"]["energy_inside"]["value"] for found in scores)
    assert left == pytest.approx(masked, abs=1e-6)
    ranked = client.predict(
        picture=COFFEE, **asked, box="150,0,450,400", random_maps=9, api_name="/measure"
    )
    assert ranked["scores"]["gradcam"]["energy_inside"]["percentile"] == 100


def test_a_part_is_hidden_as_python_hides_it(
    client: Client, lite0: Explainer, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"picture": COFFEE, "target": "espresso", "api_name": "/hide"}
    found = client.predict(**asked, box="150,0,450,400", baseline="mean")
    same = lite0.hide(sample_picture("coffee"), "150,0,450,400", baseline="mean", target="espresso")
    assert found["score"]["before"] == pytest.approx(float(same.score_before), rel=1e-5)
    assert found["score"]["after"] == pytest.approx(float(same.score_after), rel=1e-5)
    assert found["hidden"] == pytest.approx(float(same.share), rel=1e-5)
    assert found["after"]["predicted_label"] == same.after.top(1)[0][1]
    mask = np.zeros((400, 600), np.uint8)
    mask[:, :150] = mask[:, 450:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    masked = {"mask": handle_file(str(tmp_path / "mask.png")), "baseline": "mean"}
    kept = client.predict(**asked, **masked, keep_only=True)
    assert kept["score"] == found["score"], "all but the sides is the box"


def test_several_models_are_compared_as_in_python(client: Client) -> None:
    asked: dict[str, Any] = {
        "picture": handle_file(str(sample_picture("striped_disc"))),
        "model": "world_resnet", "method": "gradcam", "api_name": "/compare_models",
    }  # fmt: skip
    found = client.predict(**asked, models=["world_vit", "no_such_model"])
    same = compare_models(sample_picture("striped_disc"), ["world_resnet", "world_vit"], "gradcam")
    assert list(found["sides"]) == ["world_resnet", "world_vit"]
    for name, side in same.sides.items():
        told = found["sides"][name]
        np.testing.assert_allclose(told["result"]["values"], side.attribution.values[0], rtol=1e-5)
        assert told["predicted_label"] == "striped disc"
    assert list(found["errors"]) == ["no_such_model"]
    assert found["agreement"]["sides"] == ["world_resnet", "world_vit"]
    alone = client.predict(**asked, models=["world_resnet (random weights)"], own_class=True)
    assert "world_resnet (random weights)" in alone["sides"]


def test_two_pictures_are_compared(client: Client, lite0: Explainer) -> None:
    found = client.predict(
        picture=COFFEE, second=handle_file(str(SAMPLES / "chelsea.jpg")), target="espresso",
        values=False, api_name="/compare_pictures",
    )  # fmt: skip
    assert list(found["sides"]) == ["coffee", "chelsea"]
    cat = found["sides"]["chelsea"]
    same = lite0.explain(sample_picture("chelsea"), "gradcam", target="espresso")
    assert cat["result"]["score"] == pytest.approx(float(same.score), rel=1e-4)
    assert cat["result"]["values"] is None
    assert "agreement" not in found


# -- what is refused ----------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a method": ({"method": "gradcan", "api_name": "/explain"}, "did you mean 'gradcam'"),
    "a parameter": ({"method": "lime(samples=many)", "api_name": "/explain"}, "lime.samples"),
    "a layer": ({"layer": "blocks.99", "api_name": "/explain"}, "no layer 'blocks.99'"),
    "a class": ({"target": "no such class", "api_name": "/verdict"}, "no such class"),
    "a model": ({"model": "resnt50", "api_name": "/predict"}, "did you mean 'resnet50'"),
    "a path": ({"model": "/etc", "api_name": "/predict"}, "no model '/etc'"),
    "a number": ({"top": 0, "api_name": "/features"}, "top = 0"),
    "a type": ({"top": "many", "api_name": "/predict"}, "top = 'many'"),
    "a choice": ({"kind": "exe", "api_name": "/save"}, "kind = 'exe'"),
    "a metric": ({"metrics": ["srq"], "api_name": "/measure"}, "no metric 'srq'"),
    "no methods": ({"methods": [], "api_name": "/compare"}, "methods = []"),
    "no attention": ({"api_name": "/attention"}, "no softmax attention"),
    "a control": ({"method": "random", "api_name": "/verdict"}, "its map explains nothing"),
    "too many models": (
        {"models": ["world_vit"] * 4, "api_name": "/compare_models"}, "at most 3 items",
    ),
    "no part": ({"api_name": "/hide"}, "Nothing is hidden yet"),
    "a part outside": ({"box": "0,0,9,9", "api_name": "/hide"}, "that the model sees is marked"),
    "a box": ({"box": "1,2", "metrics": ["energy_inside"], "api_name": "/measure"}, "1,2"),
    "a colormap": ({"colormap": "pretty", "api_name": "/save"}, "no colormap 'pretty'"),
    "nothing works": (
        {"methods": ["attention"], "api_name": "/recommend"}, "no softmax attention",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_in_one_sentence(client: Client, case: str) -> None:
    asked, words = WRONG[case]
    told = refused(client, picture=COFFEE, **asked)
    assert words in told
    assert "Traceback" not in told
    assert client.predict(picture=COFFEE, top=1, api_name="/predict")["predictions"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "gradcan", "api_name": "/explain"}, "Try method=gradcam or method="),
        ({"method": "attention_rollout", "api_name": "/save"}, "Try method=gradcam."),
        ({"versus": "espreso", "api_name": "/explain"}, "Try versus=967 or"),
        ({"model": "botnet50ts_256", "api_name": "/predict"}, "Try weights=random."),
        ({"methods": ["attention"], "api_name": "/recommend"}, "Try gradcam among methods."),
    ],
)
def test_what_is_wrong_comes_with_what_to_try(
    client: Client, asked: dict[str, Any], said: str
) -> None:
    assert said in refused(client, picture=COFFEE, **asked)


def test_a_method_without_a_map_says_what_helps(client: Client) -> None:
    wanted = {"picture": COFFEE, "methods": ["gradcam", "attention_rollout"]}
    helps = {"attention_rollout": [{"field": "method", "value": "gradcam", "text": "Use Grad-CAM"}]}
    for name in ("compare", "measure", "recommend"):
        assert client.predict(**wanted, api_name=f"/{name}")["ways_out"] == helps, name


@pytest.mark.parametrize(
    "picture",
    [
        None,
        "/etc/passwd",
        {"path": "/etc/passwd"},
        {"path": str(SAMPLES / "coffee.jpg"), "meta": {}},
        {"path": {"path": "/etc/passwd"}, "meta": {"_type": "gradio.FileData"}},
    ],
)
def test_a_path_is_no_file(picture: Any) -> None:
    with pytest.raises(TimmscopeError, match=r"picture is no file; send one with handle_file"):
        checked(requests.PredictRequest, {"picture": picture})
    assert checked(requests.PredictRequest, {"picture": UPLOADED}).picture.path


def test_a_file_of_the_server_is_not_read(url: str) -> None:
    secret = {"path": str(ROOT / "LICENSE"), "meta": {"_type": "gradio.FileData"}}
    began = httpx.post(f"{url}gradio_api/call/predict", json={"data": [secret]}).json()
    told = httpx.get(f"{url}gradio_api/call/predict/{began['event_id']}", timeout=60).text
    assert told.startswith("event: error")


def test_a_file_that_is_no_picture_is_told(client: Client, tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("words")
    told = refused(client, picture=handle_file(str(tmp_path / "words.png")), api_name="/predict")
    assert "words.png" in told or "picture" in told


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_model_raises_is_told(faulty: Moody, kind: str) -> None:  # noqa: F811
    values = {"picture": UPLOADED, "model": "test_resnet", "weights": "random"}
    service = Service()
    assert answer(service, api.ENDPOINTS[1], requests.MapRequest, values, None)["values"]
    faulty.forward_error = KINDS[kind]()
    with pytest.raises(Exception, match=r"fail|memory") as raised:
        answer(
            Service(), api.ENDPOINTS[1], requests.MapRequest, {**values, "method": "saliency"}, None
        )
    assert type(raised.value).__name__ == "Error"


# -- slow work ----------------------------------------------------------------------------------


def test_a_slow_method_reports_and_can_be_cancelled(client: Client, service: Service) -> None:
    job = client.submit(picture=COFFEE, method="rise(masks=8000)", api_name="/explain")
    wait(lambda: job.status().progress_data)
    (told, *_) = job.status().progress_data or []
    assert "8,00" in str(told.desc)
    job.cancel()
    wait(lambda: service.slow.running == 0)


def test_a_slow_method_does_not_hold_up_an_instant_one(
    client: Client, url: str, service: Service
) -> None:
    job = client.submit(picture=COFFEE, method="rise(masks=8000)", api_name="/explain")
    wait(lambda: job.status().progress_data)
    try:
        found = Client(url, verbose=False).predict(
            picture=COFFEE, method="layercam", api_name="/explain"
        )
        assert found["method"] == "layercam"
        assert not job.done()
    finally:
        job.cancel()
        wait(lambda: service.slow.running == 0)


def wait(happened: Any) -> None:
    """Wait until something has happened."""
    for _ in range(600):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("nothing happened within a minute")

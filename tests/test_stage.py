"""What the stage tells beside the map: a sentence, hidden parts, layers, and a verdict."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core import Explainer, load_model
from core.errors import TimmscopeError
from dashboard import actions
from dashboard.actions import HideRequest, SaveRequest, VerdictRequest
from dashboard.state import Service
from tests.test_actions import CAT, LITE0, about, ask_for


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


def mask_of(*box: float, side: int = 16) -> dict[str, Any]:
    """A box of a square mask, as a browser sends it; edges as shares of the picture."""
    cells = np.zeros((side, side), dtype=bool)
    left, top, right, bottom = (round(edge * side) for edge in box)
    cells[top:bottom, left:right] = True
    bits = base64.b64encode(np.packbits(cells).tobytes()).decode()
    return {"width": side, "height": side, "bits": bits}


def test_a_control_is_not_called_evidence(service: Service) -> None:
    (panel,) = actions.explain(service, ask_for(about(), "sobel")).panels
    assert panel["words"].startswith("A control")


def test_a_contrast_shows_both_signs_and_names_them(service: Service) -> None:
    question = about(target=282, versus=281)
    (panel,) = actions.explain(service, ask_for(question, "gradcam")).panels
    assert panel["signed"]
    ticks = panel["figure"]["data"][0]["colorbar"]["ticktext"]
    assert re.search("◀ tabby.*tiger cat ▶", ticks[1])
    kept = ask_for(question, "gradcam", {"gradcam": {"relu": True}})
    assert not actions.explain(service, kept).panels[0]["signed"], "a person's choice goes first"


def test_hiding_a_part_tells_what_becomes_of_the_classes(service: Service) -> None:
    whole = actions.hide(service, HideRequest(about(), mask_of(0, 0, 1, 1)))
    assert next(iter(whole.after)) == "282"
    assert whole.words.startswith("With 100% of what the model sees hidden, tiger cat goes from 3")
    kept = actions.hide(service, HideRequest(about(), mask_of(0, 0, 1, 1), keep_only=True))
    assert kept.after["282"].text == actions.predict(service, about()).likely.rows[0].text
    for fill in ("mean", "black", "inpaint"):
        found = actions.hide(
            service, HideRequest(about(), mask_of(0.3, 0.3, 0.7, 0.7), False, fill)
        )
        assert found.after["282"].text != kept.after["282"].text
        json.dumps(found.to_json())


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, "the part to hide is missing"),
        ({"width": 4, "height": 4}, "marked on at most 512 x 512"),
        ({"width": 10**6, "height": 10**6, "bits": ""}, "marked on at most 512 x 512"),
        ({"width": True, "height": "4", "bits": ""}, "marked on at most 512 x 512"),
        ({"width": 4, "height": 4, "bits": "A" * 10**6}, "more than 4 x 4 cells"),
        ({"width": 4, "height": 4, "bits": "%%"}, "no base64"),
        ({"width": 4, "height": 4, "bits": "AAAA"}, "3 bytes do not hold 4 x 4 cells"),
        (mask_of(0, 0, 0.05, 1), "The model does not see that part"),
    ],
)
def test_a_part_that_cannot_be_read_is_refused(service: Service, mask: object, words: str) -> None:
    with pytest.raises(TimmscopeError, match=words):
        actions.hide(service, HideRequest(about(), mask))


def test_an_unknown_filling_is_refused(service: Service) -> None:
    with pytest.raises(TimmscopeError, match="cannot fill with 'pink'; choose from blur"):
        actions.hide(service, HideRequest(about(), mask_of(0, 0, 1, 1), False, "pink"))


def test_the_film_shows_every_stage_and_agrees_with_the_map_alone(service: Service) -> None:
    request = ask_for(about(), "gradcam")
    found = actions.film(service, request)
    stages = service.models.get(LITE0).model.stages()
    assert [stop.layer for stop in found.stops] == [layer.name for layer in stages]
    assert found.chosen == "bn2"
    assert found.stops[0].text == "112 × 112, 16 channels"
    for stop in found.stops[::3]:
        (alone,) = actions.explain(service, request.at(stop.layer)).panels
        assert alone["figure"] == stop.panel["figure"]
        assert alone["words"] == stop.panel["words"]
        assert f"layer='{stop.layer}'" in stop.code


def test_the_picture_on_the_stage_is_crisp_on_a_screen_of_high_density(
    service: Service, tmp_path: Path
) -> None:
    with Image.open(CAT) as picture:
        picture.resize((3000, 2000)).save(tmp_path / "large.jpg")
    request = ask_for(about(str(tmp_path / "large.jpg")), "gradcam")
    (shown,) = actions.explain(service, request).panels
    source = shown["figure"]["layout"]["images"][0]["source"]
    content = base64.b64decode(source.partition(",")[2])
    assert max(Image.open(io.BytesIO(content)).size) == 2048
    assert len(content) < 1_500_000
    stop = actions.film(service, request).stops[-1].panel
    assert stop["figure"]["layout"]["images"][0]["source"] == source


def test_all_layers_of_the_film_share_one_pass() -> None:
    explainer = Explainer(load_model(LITE0))
    rows: list[int] = []
    handle = explainer.model
    handle.model.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    handle.owned = True
    explainer.predict(CAT)
    del rows[:]
    found = explainer.explain_layers(CAT, "gradcam", target=282)
    assert len(found) == len(handle.stages())
    assert sum(rows) == 1


@pytest.mark.parametrize("method", ["saliency", "scorecam"])
def test_methods_without_layers_or_that_take_long_have_no_film(
    service: Service, method: str
) -> None:
    assert actions.film(service, ask_for(about(), method)).stops == []


def test_a_map_that_the_film_chose_is_saved(service: Service) -> None:
    path = actions.save(service, SaveRequest(ask_for(about(), "gradcam"), "npz", layer="blocks.4"))
    with np.load(path) as saved:
        assert saved["native"].shape == (14, 14)


def test_a_cheap_map_is_tested_without_being_asked(service: Service) -> None:
    found = actions.check_quietly(service, VerdictRequest(ask_for(about(), "gradcam")))
    assert re.match(r"(\d of \d checks passed|Doubtful: |Bad: )", found.badge)
    assert found.tone in ("good", "doubtful", "bad")
    for skipped in ("sobel", "rise"):
        assert actions.check_quietly(service, VerdictRequest(ask_for(about(), skipped))).badge == ""
    with service.slow.slot(), service.slow.slot():
        asked = VerdictRequest(ask_for(about(), "layercam"))
        assert actions.check_quietly(service, asked).badge == ""

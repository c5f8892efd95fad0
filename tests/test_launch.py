"""Who can reach the page decides what visitors may do there."""

from __future__ import annotations

import sys
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from dashboard import launch
from dashboard.state import Service


class Launched:
    """Stands in for the page, and notes how it is launched."""

    def __init__(self) -> None:
        self.service = Service()
        self.options: dict[str, Any] = {}
        self.warm: Queue[tuple[Any, ...]] = Queue()

    def build(self, service: Service) -> Launched:
        self.service = service
        return self

    def launch(self, **options: Any) -> None:
        self.options = options

    def warm_up(self, *about: Any) -> None:
        self.warm.put(about)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    page = Launched()
    monkeypatch.setattr(launch, "build", page.build)
    monkeypatch.setattr(launch, "limit_pools", lambda: None)
    monkeypatch.setattr(launch, "warm_up", page.warm_up)
    for name in ("GRADIO_SERVER_NAME", *launch.TELL_PUBLIC):
        monkeypatch.delenv(name, raising=False)
    return page


@pytest.mark.parametrize(
    ("words", "variable", "host", "public"),
    [
        ("", None, "127.0.0.1", False),
        ("", "0.0.0.0", "0.0.0.0", True),
        ("--host ::1", "0.0.0.0", "::1", False),
        ("--host localhost", None, "localhost", False),
        ("--host 192.0.2.1", None, "192.0.2.1", True),
    ],
)
def test_a_page_that_others_reach_is_public(
    words: str,
    variable: str | None,
    host: str,
    public: bool,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", *words.split()])
    if variable is not None:
        monkeypatch.setenv("GRADIO_SERVER_NAME", variable)
    launch.main()
    assert launched.options["server_name"] == host
    assert launched.service.models.public is public


def test_port_and_browser_are_handed_on(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "8000", "--browser"])
    launch.main()
    assert (launched.options["server_port"], launched.options["inbrowser"]) == (8000, True)
    assert launched.options["max_file_size"] == "25mb"


def test_what_the_page_opens_with_is_made_ready(
    launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py"])
    launch.main()
    service, model, picture, method = launched.warm.get(timeout=20)
    assert service is launched.service
    assert (model, method) == ("tf_efficientnet_lite0", "gradcam")
    assert Path(picture).name == "coffee.jpg"


@pytest.mark.parametrize("there", [True, False])
def test_tools_are_offered_where_their_package_is(
    there: bool,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(sys, "argv", ["app.py", "--mcp"])
    if there:
        launch.main()
        assert launched.options["mcp_server"] is True
        return
    with pytest.raises(SystemExit):
        launch.main()
    assert "pip install 'timmscope[mcp]'" in capsys.readouterr().err
    assert launched.options == {}


@pytest.mark.parametrize(
    ("words", "variables", "public"),
    [
        ("--public", {}, True),
        ("", {"TIMMSCOPE_PUBLIC": "1"}, True),
        ("", {"TIMMSCOPE_PUBLIC": "0"}, False),
        ("", {"TIMMSCOPE_PUBLIC": ""}, False),
        ("--host 127.0.0.1", {"GRADIO_ROOT_PATH": "/timmscope"}, True),
        ("", {"GRADIO_ROOT_PATH": ""}, False),
        ("", {"SPACE_ID": "someone/timmscope"}, True),
        ("--host 0.0.0.0", {"TIMMSCOPE_PUBLIC": "0"}, True),
    ],
)
def test_a_page_behind_a_proxy_or_of_a_space_is_public(
    words: str,
    variables: dict[str, str],
    public: bool,
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", *words.split()])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launch.main()
    assert launched.service.models.public is public


def test_every_recipe_of_a_page_for_others_says_that_it_is_public() -> None:
    text = (Path(__file__).parent.parent / "docs" / "deploy.md").read_text(encoding="utf-8")
    starts = [
        line for line in text.splitlines() if "timmscope-dashboard" in line and "--port" in line
    ]
    assert len(starts) == 3
    for line in starts:
        assert "--public" in line or '"--public"' in line, line

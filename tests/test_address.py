"""What the page's address may ask for, and what it may not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dashboard.actions import read_address
from dashboard.tabs.address import ADDRESSED
from dashboard.tabs.examples import EXAMPLE_FILES


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, {}),
        ({"method": "rise", "layer": "bn2"}, {"method": "rise", "layer": "bn2"}),
        ({"method": "../rise"}, {}),
        ({"picture": "rocket.jpg"}, {"picture": EXAMPLE_FILES["rocket.jpg"]}),
        ({"picture": "/etc/passwd"}, {}),
        ({"picture": EXAMPLE_FILES["rocket.jpg"]}, {}),
        ({"weights": "random", "activation": "sigmoid"},) * 2,
        ({"weights": "/tmp/x.pth", "activation": "exec"}, {}),
        ({"alpha": "0.5", "strongest": "20"}, {"alpha": 0.5, "strongest": 20.0}),
        ({"alpha": "nan", "strongest": "0"}, {}),
        ({"alpha": "inf"}, {}),
        ({"fade": "true", "smooth": "false"}, {"fade": True, "smooth": False}),
        ({"fade": "1"}, {}),
        ({"crop": "10, 0, 30.5,20"}, {"crop": "10,0,30.5,20"}),
        ({"crop": "whole"}, {"crop": "whole"}),
        ({"crop": "<b>"}, {}),
        ({"crop": "nan,0,1,1"}, {}),
        ({"settings": '{"rise": {"samples": 9}}'}, {"settings": {"rise": {"samples": 9}}}),
        ({"settings": "[1]"}, {}),
        ({"settings": '{"rise": 3}'}, {}),
        ({"settings": "[" * 3000}, {}),
        ({"settings": "x" * 10**6}, {}),
        ({"measured_in": "m" * 100}, {"measured_in": "m" * 16}),
        ({"colormap": "viridis", "unit": "probability"},) * 2,
        ({"colormap": "<script>"}, {}),
        ({"__theme": "dark", "unknown": "x"}, {}),
        (
            {"target": "3", "versus": "tabby, tabby cat"},
            {"target": 3, "versus": "tabby, tabby cat"},
        ),
        ({"target": "9" * 10, "versus": "-1"}, {"target": "9" * 10, "versus": -1}),
        (
            {"tab": "compare", "compare.methods": '["lime(samples=9)"]'},
            {"compare.methods": ["lime(samples=9)"]},
        ),
        (
            {"tab": "compare", "compare.what": "files", "compare.own_class": "true"},
            {"compare.own_class": True},
        ),
        ({"compare.methods": "[]", "compare.models": '[["a"]]', "metrics.methods": "{}"}, {}),
        ({"compare.methods": json.dumps(["a"] * 51)}, {}),
        ({"compare.methods": json.dumps(["a" * 300])}, {"compare.methods": ["a" * 200]}),
        ({"metrics.metrics": '["srg", "/etc"]'}, {"metrics.metrics": ["srg"]}),
        (
            {"features.top": "8", "metrics.random_maps": "5"},
            {"features.top": 8, "metrics.random_maps": 5},
        ),
        ({"features.top": "9", "metrics.random_maps": "1e3", "features.by": "x"}, {}),
        ({"target": "c" * 300}, {"target": "c" * 200}),
    ],
)
def test_only_what_is_usable_is_taken(query: dict[str, str], expected: dict[str, Any]) -> None:
    assert read_address(query, EXAMPLE_FILES) == expected
    assert set(read_address(query, EXAMPLE_FILES)) <= ADDRESSED

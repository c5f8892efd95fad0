"""The endpoints as tools of the Model Context Protocol, asked by a client of its own."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent

from core import Explainer, sample_picture
from dashboard.api.endpoints import ENDPOINTS
from dashboard.state import Service
from tests.browser import launched

T = TypeVar("T")
COFFEE = (
    "data:image/jpeg;base64," + base64.b64encode(sample_picture("coffee").read_bytes()).decode()
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with launched(Service(), mcp_server=True) as address:
        yield f"{address}gradio_api/mcp/"


def ask(url: str, question: Callable[[ClientSession], Awaitable[T]]) -> T:
    """What a client's session gives; in a thread of its own, as the tests' browser has a loop."""

    async def run() -> T:
        async with (
            streamable_http_client(url) as (reading, writing, _),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            return await question(session)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


def call(url: str, tool: str, values: dict[str, Any]) -> CallToolResult:
    return ask(url, lambda session: session.call_tool(tool, values))


def text(found: CallToolResult) -> str:
    (content,) = found.content
    assert isinstance(content, TextContent)
    return content.text


def test_every_endpoint_is_a_tool_with_a_description(url: str) -> None:
    tools = {tool.name: tool for tool in ask(url, lambda session: session.list_tools()).tools}
    assert set(tools) == {endpoint.__name__ for endpoint in ENDPOINTS}
    for tool in tools.values():
        assert tool.description
        for parameter in tool.inputSchema["properties"].values():
            assert parameter["description"]


def test_a_tool_predicts_what_python_predicts(url: str) -> None:
    found = call(url, "predict", {"picture": COFFEE, "top": 1})
    assert not found.isError
    ((index, label, value),) = Explainer().predict(sample_picture("coffee")).top(1)
    assert f"'index': {index}, 'label': '{label}'" in text(found)
    assert f"{value:.3f}" in text(found)


def test_a_tool_explains_and_gives_the_map_as_a_picture(url: str) -> None:
    found = call(url, "explain", {"picture": COFFEE, "method": "gradcam", "values": False})
    assert not found.isError
    assert "'target': 'espresso'" in text(found)
    saved = call(url, "save", {"picture": COFFEE, "method": "gradcam"})
    assert [content.type for content in saved.content] == ["image", "text"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"picture": COFFEE, "method": "gradcan"}, "did you mean 'gradcam'"),
        ({"picture": "/etc/hostname"}, "provide a url"),
        ({"picture": "data:text/plain;base64,aGVsbG8="}, "not a picture"),
        ({}, "'picture' is a required property"),
    ],
)
def test_a_tool_says_in_a_sentence_what_is_wrong(
    url: str, values: dict[str, Any], said: str
) -> None:
    found = call(url, "explain", values)
    assert found.isError
    assert said in text(found)

"""Launches the page, from the checkout or from the installed package."""

from __future__ import annotations

import argparse
import logging
import os
import threading
from importlib.util import find_spec

from dashboard import gpu
from dashboard.actions import warm_up
from dashboard.build import build
from dashboard.state import MODELS, Service
from dashboard.state.memory import limit_pools
from dashboard.tabs.examples import EXAMPLE_FILES, EXAMPLES, FIRST
from dashboard.tabs.explain import DEFAULT_METHOD
from dashboard.theme import launch_options

TELL_PUBLIC = ("TIMMSCOPE_PUBLIC", "GRADIO_ROOT_PATH", "SPACE_ID")
"""Environment variables that say that strangers reach the page: by itself, a proxy or a Space."""
OURS = ("127.0.0.1", "localhost", "::1")
"""Addresses that only this machine reaches."""


def is_public(host: str) -> bool:
    """Whether strangers can reach the page.

    Args:
        host: the address that it listens on.
    """
    told = (os.environ.get(name, "") for name in TELL_PUBLIC)
    return host not in OURS or any(value not in ("", "0") for value in told)


def main(program: str | None = None) -> None:
    """Launch the page as the command line says.

    Args:
        program: how this program was started, for its help; by default the name of the script.
    """
    parser = argparse.ArgumentParser(
        program, description="See why a vision model decided, in the browser."
    )
    parser.add_argument("--host", help="address to listen on; by default this machine only")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument("--browser", action="store_true", help="open a browser")
    parser.add_argument(
        "--public", action="store_true",
        help="strangers reach the page, through a proxy; they get no access to the hub with this "
        "machine's token (also: TIMMSCOPE_PUBLIC=1)",
    )  # fmt: skip
    parser.add_argument("--mcp", action="store_true", help="offer the API as MCP tools, too")
    arguments = parser.parse_args()
    if arguments.mcp and find_spec("mcp") is None:
        parser.error("--mcp needs the package mcp: pip install 'timmscope[mcp]'")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    limit_pools()
    host = arguments.host or os.environ.get("GRADIO_SERVER_NAME", OURS[0])
    device = "cpu" if gpu.is_lent() else None
    service = Service(public=arguments.public or is_public(host), device=device)
    demo = build(service)
    first = (service, MODELS[0], EXAMPLE_FILES[EXAMPLES[FIRST]], DEFAULT_METHOD)
    threading.Thread(target=warm_up, args=first, daemon=True).start()
    demo.launch(
        server_name=host,
        server_port=arguments.port,
        inbrowser=arguments.browser,
        mcp_server=arguments.mcp,
        **launch_options(),
    )

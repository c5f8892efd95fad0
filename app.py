"""Timmscope's dashboard; also the entry point of a Hugging Face Space."""

from __future__ import annotations

import argparse
import logging

from dashboard.build import build
from dashboard.theme import launch_options

demo = build()


def main() -> None:
    """Launch the page."""
    parser = argparse.ArgumentParser(description="See why a vision model decided, in the browser.")
    parser.add_argument("--host", help="address to listen on; by default this machine only")
    parser.add_argument("--port", type=int, help="port; by default the first free one from 7860 on")
    parser.add_argument("--browser", action="store_true", help="open a browser")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    demo.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        inbrowser=arguments.browser,
        **launch_options(),
    )


if __name__ == "__main__":
    main()

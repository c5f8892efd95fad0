"""The command line: ``python -m core``. One JSON object on stdout, everything else on stderr."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from core.cli import (
    compare,
    evaluate,
    explain,
    features,
    hide,
    layers,
    methods,
    metrics,
    models,
    sanity_checks,
)
from core.cli.shared import INTERRUPTED, Command, add_model_arguments, to_json
from core.cli.ways_out import lines_to_try
from core.errors import TimmscopeError
from core.models.load import DEFAULT_MODEL

PROGRAM = f"python -m {__name__.partition('.')[0]}"
"""How this command line is started, in the checkout and installed."""
COMMANDS: Mapping[str, Command] = {
    "explain": explain.COMMAND,
    "compare": compare.COMMAND,
    "evaluate": evaluate.COMMAND,
    "sanity": sanity_checks.COMMAND,
    "features": features.COMMAND,
    "hide": hide.COMMAND,
    "methods": methods.COMMAND,
    "metrics": metrics.COMMAND,
    "models": models.COMMAND,
    "layers": layers.COMMAND,
}
"""Every command by name, in the order of ``--help``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 if anything asked for was answered, 1 if nothing could be, 2 where nothing
        could be tried: unusable input, or a model that cannot be loaded or fails; 130 if it was
        interrupted (Ctrl-C), where what is finished is on stdout.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=arguments.log_level, format="%(message)s")
    try:
        answer, code = arguments.command(arguments)
    except TimmscopeError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.stderr.write(lines_to_try(error.ways_out, arguments))
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    try:
        sys.stdout.write(to_json(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(code)


def _version() -> str:
    """The version of this package, under whatever name it is installed."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="See why a vision model decided.")
    parser.add_argument("--version", action="version", version=f"timmscope {_version()}")
    parser.add_argument(
        "--log-level", default="WARNING", choices=["DEBUG", "INFO", "WARNING", "ERROR"]
    )
    model = _Parser(add_help=False)
    add_model_arguments(model, DEFAULT_MODEL)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        parents = [model] if command.needs_model else []
        one = commands.add_parser(name, parents=parents, help=command.help)
        command.configure(one)
        one.set_defaults(command=command.run)
    return parser

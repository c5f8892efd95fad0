"""Builds the package `timmscope` out of the checkout's folders `core`, `dashboard` and `assets`.

In the checkout they are imported as `core` and `dashboard`. Among other people's packages those
names are too common, so what is installed lies under one name of its own: `build_py` copies each
module and renames its imports on the way. Relative imports would need no renaming within `core`,
but cannot lead to it from `dashboard`, which lies beside it. All that can be said without code
stands in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from setuptools import find_namespace_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.errors import SetupError

FOLDERS = {"timmscope": "core", "timmscope.dashboard": "dashboard", "timmscope.assets": "assets"}
"""The folder that each package is made of."""
INSTALLED = {folder.encode(): package.encode() for package, folder in FOLDERS.items()}

IN_CODE = re.compile(rb"^((?:from\s+)?)(core|dashboard)\b")
"""Our name where an import names a module."""
IN_TEXT = re.compile(
    rb"((?<=from )|(?<=import )|(?<=-m )|(?<=`)|(?<![\w./])(?=\w+\.\w))(core|dashboard)\b(?![/-])"
)
"""Our name in a docstring: in code, in a dotted name; not the folder and not the English word."""

Place = tuple[ast.alias | ast.stmt, re.Pattern[bytes]]
"""A part of a module, and how our name is found in it."""


class BuildRenamed(build_py):
    """Copies the modules and renames what they import."""

    def run(self) -> None:
        """Build into an empty folder: a module deleted since the last time must not come along."""
        shutil.rmtree(Path(self.build_lib, "timmscope"), ignore_errors=True)
        super().run()

    def build_module(self, module: str, module_file: str, package: str) -> tuple[str, bool]:
        """Copy one module."""
        copy, copied = super().build_module(module, module_file, package)
        Path(copy).write_bytes(renamed(Path(module_file).read_bytes()))
        return copy, copied


class NoEditable(editable_wheel):
    """Refuses ``pip install -e``, which links to modules and so cannot rename what they import."""

    def run(self) -> None:
        """Say what to do instead."""
        raise SetupError(
            "timmscope cannot be installed as editable; use the checkout as it is "
            "(python -m core, python app.py), or install a copy of it: pip install ."
        )


def renamed(source: bytes) -> bytes:
    """A module's source under the name it is installed by; each line keeps its number."""
    starts = list(accumulate(map(len, source.splitlines(keepends=True)), initial=0))
    places = sorted(naming(ast.parse(source)), key=lambda p: (p[0].lineno, p[0].col_offset))
    for node, pattern in reversed(places):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        text = pattern.sub(lambda found: found[1] + INSTALLED[found[2]], source[start:end])
        source = source[:start] + text + source[end:]
    return source


def naming(tree: ast.Module) -> Iterator[Place]:
    """Imports of our packages, and docstrings.

    Raises:
        SetupError: a package is imported by its bare name, which all code below would go on using.
    """
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(level=0):
                yield node, IN_CODE
            case ast.Import(names=names):
                for alias in names:
                    if IN_CODE.match(alias.name.encode()) and alias.asname is None:
                        raise SetupError(
                            f"line {node.lineno}: write 'from {alias.name} import ...' or "
                            f"'import {alias.name} as ...'; a bare import cannot be renamed"
                        )
                    yield alias, IN_CODE
            case ast.Expr(value=ast.Constant(value=str())):
                yield node, IN_TEXT


def packages() -> Iterator[str]:
    """Every package that is installed; folders of assets hold data only."""
    for package, folder in FOLDERS.items():
        yield package
        for name in find_namespace_packages(folder, exclude=["*__pycache__*"]):
            yield f"{package}.{name}"


if __name__ == "__main__":
    setup(
        packages=list(packages()),
        package_dir=FOLDERS,
        package_data={
            "": ["*.css", "*.js", "*.json", "py.typed"],
            "timmscope.assets.plotly": ["*"],
            "timmscope.assets.samples": ["*"],
            "timmscope.assets.synthetic": ["*"],
        },
        exclude_package_data={"": ["*.pyi"]},  # Gradio leaves them beside the page's components
        cmdclass={"build_py": BuildRenamed, "editable_wheel": NoEditable},
    )

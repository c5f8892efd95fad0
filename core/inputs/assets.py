"""Where the files are that come along: sample pictures, and models trained on synthetic scenes."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "assets"


def asset(*parts: str) -> Path:
    """The path of a file or folder of `assets`, whatever the working directory.

    An installed package holds the folder; in a checkout it lies beside the package. Whether there
    is such a file is not checked.

    >>> asset("samples", "coffee.jpg").is_file()
    True
    """
    folder = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "assets"
    return folder.joinpath(*parts)

"""A picture for those who have the page's address."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import TimmscopeError
from core.inputs.batch import OnProgress
from core.inputs.image import open_picture
from dashboard.state import Service


@dataclass(frozen=True, slots=True)
class ShareRequest:
    """A picture whose owner pressed Share.

    Attributes:
        picture: path of the uploaded picture.
        examples: paths of the example pictures by file name, which every page has.
    """

    picture: str | None
    examples: Mapping[str, str] = field(default_factory=dict)


def share(service: Service, request: ShareRequest, on_progress: OnProgress | None = None) -> str:
    """Keep a copy of an uploaded picture for a while; the name by which an address asks for it.

    The name is empty for an example, which needs none.

    Raises:
        TimmscopeError: there is no picture, or it cannot be read.
    """
    if not request.picture:
        raise TimmscopeError("There is no picture to share. Add one first.")
    example = request.examples.get(Path(request.picture).name)
    try:
        if example and filecmp.cmp(request.picture, example, shallow=False):
            return ""
    except OSError:
        raise TimmscopeError("The picture is no longer on the server; add it again.") from None
    return service.shared.keep(open_picture(request.picture).image)

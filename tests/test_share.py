"""A picture is kept for others once its owner shared it, without metadata, and not for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.errors import TimmscopeError
from dashboard import actions
from dashboard.actions import ShareRequest, read_address
from dashboard.state import Service, shared_pictures
from dashboard.state.shared_pictures import SharedPictures
from dashboard.tabs.examples import EXAMPLE_FILES
from tests.conftest import SAMPLES

NOISE = np.random.default_rng(0)


def picture(side: int = 20) -> Image.Image:
    return Image.fromarray(NOISE.integers(0, 256, (side, side, 3), np.uint8))


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    """A photograph with the place where it was taken, and a telling name."""
    path = tmp_path / "my house.jpg"
    with Image.open(SAMPLES / "coffee.jpg") as image:
        exif = image.getexif()
        exif[0x010E] = "SECRET place"
        image.save(path, exif=exif, comment=b"SECRET comment", icc_profile=b"SECRET" * 30)
    return path


def test_a_shared_picture_has_its_pixels_and_nothing_else(upload: Path) -> None:
    service = Service()
    name = actions.share(service, ShareRequest(str(upload), EXAMPLE_FILES))
    kept = Path(str(service.shared.path(name)))
    assert len(name) * 6 >= 128, "as many bits of chance"
    assert name not in str(kept)
    assert "house" not in str(kept)
    assert b"SECRET" not in kept.read_bytes()
    with Image.open(kept) as copy, Image.open(upload) as own:
        assert copy.info == {}
        assert np.array_equal(np.asarray(copy), np.asarray(own))
    assert actions.share(service, ShareRequest(str(upload))) == name
    assert actions.share(Service(), ShareRequest(str(upload))) != name


def test_an_example_needs_no_copy_but_its_name_alone_makes_none(tmp_path: Path) -> None:
    service, path = Service(), tmp_path / "coffee.jpg"
    shutil.copy(SAMPLES / "coffee.jpg", path)
    assert actions.share(service, ShareRequest(str(path), EXAMPLE_FILES)) == ""
    shutil.copy(SAMPLES / "rocket.jpg", path)
    assert actions.share(service, ShareRequest(str(path), EXAMPLE_FILES))


def test_what_cannot_be_shared_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    for path, told in (
        (None, "no picture to share"),
        (str(tmp_path / "a.jpg"), r"a\.jpg"),
        (str(tmp_path / "coffee.jpg"), "no longer on the server"),
    ):
        with pytest.raises(TimmscopeError, match=told):
            actions.share(Service(), ShareRequest(path, EXAMPLE_FILES))


def test_an_address_names_a_picture_by_nothing_but_the_name_it_was_given(upload: Path) -> None:
    shared = SharedPictures()
    with Image.open(upload) as image:
        name = shared.keep(image)
    kept = str(shared.path(name))
    query = {"shared": name, "method": "rise"}
    assert read_address(query, EXAMPLE_FILES, shared.path) == {"picture": kept, "method": "rise"}
    for odd in (
        "",
        name[:-1],
        name + "/",
        "../" + name,
        kept,
        Path(kept).parent.name,
        "/etc/passwd",
    ):
        assert read_address({"shared": odd}, EXAMPLE_FILES, shared.path) == {}
    assert read_address({"picture": name}, EXAMPLE_FILES, shared.path) == {}


def test_pictures_go_after_their_time_and_the_oldest_first() -> None:
    now = [0.0]
    shared = SharedPictures(max_pictures=2, seconds=10, clock=lambda: now[0])
    first, second = shared.keep(picture()), shared.keep(picture())
    paths = [Path(str(shared.path(name))) for name in (first, second)]
    now[0] = 6
    third = shared.keep(picture())
    assert shared.path(first) is None
    assert [path.exists() for path in paths] == [False, True]
    now[0] = 9.9
    assert shared.path(second)
    now[0] = 10
    assert shared.path(second) is None
    assert shared.path(third)
    now[0] = 16
    assert shared.path(third) is None
    assert not paths[1].parent.exists()


def test_a_picture_that_is_shared_anew_ends_when_it_would_have_ended() -> None:
    now = [0.0]
    shared = SharedPictures(seconds=10, clock=lambda: now[0])
    name = shared.keep(one := picture())
    for second in (4, 8, 9.9):
        now[0] = second
        assert shared.keep(one) == name, "whoever opens the address can press Share"
    now[0] = 10
    assert shared.path(name) is None
    assert shared.keep(one) != name, "a new name, which nobody knows yet"


def test_all_pictures_together_have_a_bound_of_bytes() -> None:
    shared = SharedPictures(max_bytes=10_000)
    names = [shared.keep(picture(40)) for _ in range(4)]  # 4.8 kB each
    assert [bool(shared.path(name)) for name in names] == [False, False, True, True]


def test_a_large_picture_is_kept_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_pictures, "MAX_SIDE", 30)
    monkeypatch.setattr(shared_pictures, "MAX_PNG", 1000)
    shared = SharedPictures()
    with Image.open(str(shared.path(shared.keep(picture(60))))) as kept:
        assert (kept.format, kept.size) == ("JPEG", (30, 30))

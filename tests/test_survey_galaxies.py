"""Catalogues of galaxy images: which are chosen, what their pixels are, what enters the identity."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from darkhaloscope.errors import UserError
from darkhaloscope.survey import galaxies as room
from darkhaloscope.survey import galaxies_digest, galaxy_image, select_galaxies

COSMOS = Path(__file__).parent / "data" / "cosmos"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A catalogue of one's own to change."""
    for path in COSMOS.glob("*.fits"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / "catalogue.fits"


def forget() -> None:
    for cached in (room._catalogue, room._images, room.select_galaxies, room.galaxy_image):
        cached.cache_clear()


def change(path: Path, **columns: object) -> None:
    table = Table.read(path)
    for name, value in columns.items():
        table[name] = value
    table.write(path, overwrite=True)
    forget()


def test_galaxies_within_bounds_are_chosen(copy: Path) -> None:
    """By magnitude from the catalogue, by size from the table of fits beside it."""
    catalogue, sizes = Table.read(copy), Table.read(copy.with_name("catalogue_fits.fits"))
    reff = np.asarray(sizes["flux_radius"]) * 0.03
    keep = (catalogue["MAG"] >= 21.6) & (catalogue["MAG"] <= 22.4) & (reff > 0.2) & (reff < 0.45)
    assert 0 < keep.sum() < len(catalogue)
    chosen = select_galaxies(str(copy), (21.6, 22.4), (0.2, 0.45))
    np.testing.assert_array_equal(chosen.ident, np.sort(catalogue["IDENT"][keep]))
    np.testing.assert_allclose(np.sort(chosen.reff), np.sort(reff[keep]), rtol=1e-6)
    np.testing.assert_allclose(chosen.scale, 0.03, rtol=1e-6)


def test_images_are_those_of_astropy(copy: Path) -> None:
    for line in Table.read(copy):
        truth = fits.getdata(copy.with_name("galaxies.fits"), int(line["GAL_HDU"]))
        np.testing.assert_array_equal(galaxy_image(str(copy), int(line["IDENT"])), truth)


def test_pixels_and_the_choice_decide_the_digest(copy: Path) -> None:
    url = str(copy)

    def digest(mag: tuple[float, float] | None = None) -> str:
        forget()
        return galaxies_digest(url, select_galaxies(url, mag))

    before = digest()
    assert digest() == before
    assert digest((21.6, 22.4)) != before
    with fits.open(copy.with_name("galaxies.fits"), mode="update") as hdus:
        hdus[3].data[5, 5] += 1e-3
    assert digest() != before


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"MAG": 30.0}, "none of the 6 galaxies"),
        ({"IDENT": 7}, "lists galaxy 7 twice"),
        ({"GAL_HDU": 99}, "no image in HDU 99"),
        ({"GAL_FILENAME": "gone.fits"}, "gone.fits, which holds images"),
    ],
)
def test_a_mistake_is_one_sentence(copy: Path, columns: dict[str, object], says: str) -> None:
    change(copy, **columns)
    with pytest.raises(UserError, match=says):
        galaxies_digest(str(copy), select_galaxies(str(copy), (20, 25)))


def test_a_table_without_images_is_refused(copy: Path) -> None:
    forget()
    with pytest.raises(UserError, match="has no column MAG"):
        select_galaxies(str(copy.with_name("catalogue_fits.fits")))
    with pytest.raises(UserError, match="there is no table"):
        select_galaxies(str(copy.with_name("none.fits")))
    with pytest.raises(UserError, match="no galaxy 3;"):
        galaxy_image(str(copy), 3)

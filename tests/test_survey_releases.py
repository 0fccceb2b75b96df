"""Bricks as the pipeline of each release writes them (CFITSIO, fpack's options), read by their headers.

The compression of each kind of file, its cards and its HDUs are those of legacypipe at the time of the
release; the pixels are checked against CFITSIO's own decoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import fitsio
import numpy as np
import pytest
from small_brick import BRICK, SIZE, XS, YS, N, cards, mask, planes, reasons, sky

from darkhaloscope.survey import Cutouts, Reading, Survey, read_cutouts

BITS = (
    "NPRIMARY",
    "BRIGHT",
    "SATUR_G",
    "SATUR_R",
    "SATUR_Z",
    "ALLMASK_G",
    "ALLMASK_R",
    "ALLMASK_Z",
)
WISE = {"WISEM1": np.s_[:40, :], "WISEM2": np.s_[:, 200:]}
LATER = frozenset({"maskbits", "psfsize"})


class Release(NamedTuple):
    """What tells the files of a release from those of others."""

    hemisphere: str | None
    bands: str
    brick_card: str
    invvar: str
    absent: frozenset[str] = frozenset()
    mask_type: str = "i2"
    codec: str = "RICE_1"


RELEASES = {
    "dr6": Release(None, "grz", "BRICKNAM", "qz 16", LATER, codec="RICE_ONE"),
    "dr8": Release("north", "grz", "BRICK", "qz 16"),
    "dr9 north": Release("north", "grz", "BRICK", "q0 16", codec="RICE_ONE"),
    "dr9 two bands": Release("south", "gz", "BRICK", "q0 16"),
    "dr10": Release("south", "griz", "BRICK", "q0 16", mask_type="i4"),
}


def header(release: Release, kind: str) -> fitsio.FITSHDR:
    made = fitsio.FITSHDR()
    for name, value in {release.brick_card: BRICK, "IMTYPE": kind, **dict(cards())}.items():
        made.add_record({"name": name, "value": value, "comment": "as the pipeline says"})
    return made


def pixels_of(kind: str, band: str) -> np.ndarray:
    """With a corner and a strip that nobody looked at: exact zeros, and tiles that are constant."""
    made = planes(band)[kind]
    made[:, :100] = made[130:133] = 0
    return made


def write(
    place: str, options: str, codec: str, *hdus: tuple[np.ndarray, fitsio.FITSHDR | None, str]
) -> None:
    with fitsio.FITS(f"mem://[compress {options}]", "rw") as file:
        for pixels, cards_, name in hdus:
            file.write(pixels, header=cards_, **({"extname": name} if name else {}))
        raw = file.read_raw()
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_bytes(raw.replace(b"'RICE_1  '", f"'{codec}'".encode()))


@pytest.fixture(params=RELEASES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Release, Survey]:
    release = RELEASES[request.param]
    survey = Survey(str(tmp_path), release.hemisphere, tuple(release.bands), release.absent)
    compress = {"image": "R 100,100; qz -1e-4", "invvar": f"R 100,100; {release.invvar}"}
    if "psfsize" not in release.absent:
        compress["psfsize"] = "G 100,100; qz 0"
    for band in release.bands:
        for kind, options in compress.items():
            plane = (pixels_of(kind, band), header(release, kind), "")
            write(survey.url(kind, BRICK, band), options, release.codec.ljust(8), plane)
    if "maskbits" not in release.absent:
        cards_ = header(release, "maskbits")
        for number, name in enumerate((*BITS, *WISE)):
            cards_.add_record({"name": f"MBIT_{number}", "value": name})
        maps = [(mask().astype(release.mask_type), cards_, "MASKBITS")]
        for name, where in WISE.items():
            lit = np.zeros((N, N), np.uint8)
            lit[where] = 1
            maps.append((lit, None, name))
        write(survey.url("maskbits", BRICK), "H 100,100", release.codec.ljust(8), *maps)
    return release, survey


def window(out: Cutouts, k: int) -> tuple[slice, slice]:
    x0, y0 = round(out.x[k] - out.target_x[k]), round(out.y[k] - out.target_y[k])
    return np.s_[y0 : y0 + SIZE, x0 : x0 + SIZE]


@pytest.mark.parametrize("mode", ["ranges", "whole"])
def test_a_release_is_read_as_cfitsio_reads_it(made: tuple[Release, Survey], mode: str) -> None:
    release, survey = made
    reading = Reading(mode)  # type: ignore[arg-type]
    out = read_cutouts(survey, BRICK, *sky(XS, YS), SIZE, reading=reading)
    # The second target lies in the corner that nobody looked at.
    assert reasons(out) == ["ok", "no_coverage", "ok", "ok", "ok"], out.notes
    assert out.notes == []
    for b, band in enumerate(release.bands):
        for kind in ("image", "invvar"):
            truth = fitsio.read(survey.url(kind, BRICK, band))
            for k in np.flatnonzero(out.ok):
                np.testing.assert_array_equal(getattr(out, kind)[k, b], truth[window(out, k)])
        if "psfsize" in release.absent:
            assert not out.psfsize.any()
        else:
            truth = fitsio.read(survey.url("psfsize", BRICK, band))
            y, x = (np.floor(v[out.ok] + 0.5).astype(int) for v in (out.y, out.x))
            np.testing.assert_array_equal(out.psfsize[out.ok, b], truth[y, x])
    if "maskbits" in release.absent:
        assert np.isnan(out.bad_pixel_frac).all()
        assert np.isnan(out.wise_brightmask_frac).all()
        return
    lit = (mask() >> 8 & 3) > 0
    for where in WISE.values():
        lit[where] = True
    for k in np.flatnonzero(out.ok):
        bright = (mask()[window(out, k)] & 2) > 0
        assert out.bad_pixel_frac[k] == pytest.approx(bright.mean())
        assert out.wise_brightmask_frac[k] == pytest.approx(lit[window(out, k)].mean())


def test_the_files_are_what_they_are_meant_to_be(made: tuple[Release, Survey]) -> None:
    """The peculiarities that the test above is about are in the files."""
    release, survey = made
    band = release.bands[-1]
    for kind in ("image", "invvar"):
        raw = Path(survey.url(kind, BRICK, band)).read_bytes()
        assert release.codec.encode() in raw
        assert release.brick_card.encode().ljust(8) in raw
        dithered = kind == "image" or release.invvar.startswith("qz")
        assert (b"SUBTRACTIVE_DITHER_2" in raw) == dithered
        assert (b"NO_DITHER" in raw) != dithered
    assert b"GZIP_COMPRESSED_DATA" in Path(survey.url("invvar", BRICK, band)).read_bytes()
    if "maskbits" not in release.absent:
        assert b"HCOMPRESS_1" in Path(survey.url("maskbits", BRICK)).read_bytes()
        assert fitsio.read(survey.url("maskbits", BRICK)).dtype == np.dtype(release.mask_type)

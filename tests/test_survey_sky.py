"""The synthetic sky: as a release, the same bytes again, and what its headers and catalogue promise."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from rich.console import Console

from darkhaloscope import commands
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.survey import (
    SkySummary,
    combine,
    make_brick,
    make_sky,
    read_cutouts,
    select_targets,
    sky_bricks,
)
from darkhaloscope.survey.bricks import brick_bounds, brick_centre, brick_name
from darkhaloscope.survey.sky import MOST_BRICKS, _sources_on
from darkhaloscope.survey.skyconditions import SKY_SIGMA, coadd_noise, conditions, g_band_of
from darkhaloscope.survey.skyfiles import brick_wcs
from darkhaloscope.survey.tiles import read_images


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> SkySummary:
    """Four small bricks: the second without g data, the third without g files."""
    root = str(tmp_path_factory.mktemp("sky"))
    return combine(
        make_brick(root, name, size=304, seed=5, lrgs=120.0, g_band=g)
        for name, g in zip(sky_bricks(4), ("normal", "empty", "absent", "normal"), strict=True)
    )


def header(sky: SkySummary, kind: str, brick: str, band: str | None = "r") -> fits.Header:
    return fits.getheader(sky.survey.url(kind, brick, band), 1)


def test_a_contiguous_patch() -> None:
    names = sky_bricks(28)
    assert len(set(names)) == 28
    _, dec = brick_centre(names)
    assert dec.min() > -30
    assert dec.max() < -20
    west, east, *_ = brick_bounds(names)
    for row in np.unique(dec):
        np.testing.assert_allclose(np.sort(west[dec == row])[1:], np.sort(east[dec == row])[:-1])


def test_the_largest_patch_meets_itself_nowhere() -> None:
    side = math.isqrt(MOST_BRICKS)
    dec = -29.75 + 0.25 * np.arange(side + 1)
    west, east, *_ = brick_bounds(brick_name(np.full(side + 1, 55.0), dec))
    around = np.round(360 / (east - west)).astype(int)
    assert around[:side].min() >= side
    assert around.min() < side + 1  # a row and a column more would


def test_it_reads_as_a_release(sky: SkySummary) -> None:
    targets = select_targets([sky.survey.root])
    assert set(targets["brick"]) == set(sky.bricks)
    assert len(targets) > 0.8 * sky.lrgs
    for brick in sky.bricks:
        rows = targets[targets["brick"] == brick]
        out = read_cutouts(sky.survey, brick, rows["ra"], rows["dec"], 64)
        assert out.notes == []
        assert out.ok.mean() > 0.9
        assert set(out.reason) <= {Reason.OK, Reason.CROSSES_EDGE, Reason.NO_COVERAGE}
        # The map at the target is the width of the catalogue, and of the drawing.
        ok, r = out.ok, 1
        np.testing.assert_array_equal(out.psfsize[ok, r], rows["psfsize_r"].to_numpy("f4")[ok])
        # The galaxies are where, and about as bright as, the catalogue says.
        flux = 10 ** (0.4 * (22.5 - rows["mag_r"].to_numpy()))[ok]
        centre = out.image[ok, r, 22:42, 22:42].sum((1, 2))
        assert 0.4 < np.median(centre / flux) < 1.3


def test_g_band_defects(sky: SkySummary) -> None:
    empty, absent = sky.bricks[1:3]
    assert not fits.getdata(sky.survey.url("image", empty, "g")).any()
    assert not fits.getdata(sky.survey.url("invvar", empty, "g")).any()
    assert fits.getdata(sky.survey.url("image", empty, "r")).any()
    assert not Path(sky.survey.url("image", absent, "g")).exists()
    for brick in (empty, absent):
        out = read_cutouts(sky.survey, brick, *brick_centre([brick]), 64)
        assert out.coverage[0].tolist() == [0, 1, 1] or not out.ok[0]


def test_headers_and_compression(sky: SkySummary) -> None:
    brick = sky.bricks[0]
    ra, dec = brick_centre(brick)
    for kind, quantised, packing in (
        ("image", "SUBTRACTIVE_DITHER_2", "RICE_1"),
        ("invvar", None, "RICE_1"),
        ("psfsize", None, "GZIP_1"),
        ("maskbits", None, "HCOMPRESS_1"),
    ):
        path = sky.survey.url(kind, brick, "r")
        with fits.open(path, disable_image_compression=True) as hdus:
            raw = hdus[1].header
            assert raw["ZCMPTYPE"] == packing
            assert (raw["ZTILE1"], raw["ZTILE2"]) == (100, 100)
            if quantised:
                assert raw["ZQUANTIZ"] == quantised
        cards = header(sky, kind, brick)
        assert cards["SYNTH"] is True
        assert "Synthetic" in str(cards["COMMENT"])
        assert (cards["CRVAL1"], cards["CRVAL2"]) == (ra, dec)
        assert cards["CRPIX1"] == cards["CRPIX2"] == 152.5
    names = [image.name for image in read_images(Path(path).read_bytes())]
    assert names == ["MASKBITS", "WISEM1", "WISEM2"]
    assert fits.getdata(path).dtype.newbyteorder("=") == np.int32
    assert fits.getheader(sky.survey.tractor_url(brick), 1)["SYNTH"] is True
    places = [sky.survey.url("image", brick, "r"), sky.survey.url("maskbits", brick)]
    for place in [*places, sky.survey.tractor_url(brick)]:
        with fits.open(place) as hdus:
            for hdu in hdus:
                assert hdu.header["SYNTH"] is True
                assert "nothing here was observed" in str(hdu.header["COMMENT"])


def lag(noise: np.ndarray, dx: int, dy: int) -> float:
    """Correlation of pixels (dx, dy) apart, of noise of mean 0."""
    rows, columns = noise.shape
    first, second = noise[: rows - dy, : columns - dx], noise[dy:, dx:]
    return float(np.mean(first * second) / np.mean(noise**2))


def test_noise_is_correlated_as_in_real_coadds() -> None:
    """Measured in DR9: lag 1 about +0.12, lag 2 about -0.07, scatter about 0.9 / sqrt(invvar)."""
    noise = coadd_noise(np.random.default_rng(1), 900)
    assert noise.std() == pytest.approx(0.9, abs=0.02)
    for along in ((1, 0), (0, 1)):
        assert lag(noise, *along) == pytest.approx(0.12, abs=0.02)
        assert lag(noise, 2 * along[0], 2 * along[1]) == pytest.approx(-0.07, abs=0.02)
        assert lag(noise, 3 * along[0], 3 * along[1]) == pytest.approx(0.027, abs=0.01)
        assert abs(lag(noise, 8 * along[0], 8 * along[1])) < 0.006
    assert abs(lag(noise, 1, 1)) < 0.02


def test_noise_is_that_of_lanczos_resampling() -> None:
    """The covariance against exposures resampled one by one, at shifts of 1/16 pixel."""
    shifts = (np.arange(16) + 0.5) / 16
    taps = np.arange(-3, 4)
    kernels = [np.sinc(taps - s) * np.sinc((taps - s) / 3) * (abs(taps - s) < 3) for s in shifts]
    truth = [np.mean([k[: len(k) - m] @ k[m:] for k in kernels]) for m in range(4)]
    noise = coadd_noise(np.random.default_rng(2), 1200)
    assert noise.var() == pytest.approx(truth[0] ** 2, rel=0.01)
    for m in (1, 2, 3):
        assert lag(noise, m, 0) == pytest.approx(truth[m] / truth[0], abs=0.004)


def test_the_sky_is_as_noisy_as_invvar_says(sky: SkySummary) -> None:
    brick = sky.bricks[0]
    for band, sigma in SKY_SIGMA.items():
        if band == "i":
            continue
        image = fits.getdata(sky.survey.url("image", brick, band)).astype(float)
        invvar = fits.getdata(sky.survey.url("invvar", brick, band)).astype(float)
        # Neighbours share their light, in a straight line where it is faint, but not their noise:
        # the scatter of second differences is that of the noise, with its lags 1 and 2.
        second = np.diff(image, n=2, axis=1) * np.sqrt(invvar[:, 1:-1])
        expected = 0.888 * np.sqrt(6 - 8 * 0.112 + 2 * -0.076)
        faint = invvar[:, 1:-1] > 0.9 * np.percentile(invvar, 95)
        assert faint.sum() > 5000
        assert 1.4826 * np.median(np.abs(second[faint])) == pytest.approx(expected, rel=0.03)
        assert 1 / np.sqrt(np.median(invvar)) == pytest.approx(sigma, rel=0.5)


def test_depth_varies_by_exposures() -> None:
    """Somewhere a gap between detectors leaves three of four exposures."""
    ratios = [conditions(1, name, "r", 512).sigma for name in sky_bricks(4)]
    steps = np.concatenate([(s / s.min()).ravel() for s in ratios])
    assert steps.max() > 1.1
    assert 1.0 < np.median(steps) < 1.2


def test_conditions_are_of_the_sky() -> None:
    """Two bricks give one PSF and one depth where they overlap."""
    one, two = sky_bricks(2)
    points = np.arange(200, 3400, 400)
    west, east = sorted((one, two), key=lambda name: float(brick_centre(name)[0]))
    ra, dec = brick_wcs(west, 3600).wcs_pix2world(np.full(points.shape, 40), points, 0)
    x, y = (np.round(v).astype(int) for v in brick_wcs(east, 3600).wcs_world2pix(ra, dec, 0))
    assert (x > 3440).all()
    first, second = (conditions(1, name, "r", 3600) for name in (west, east))
    np.testing.assert_allclose(first.width[points, 40], second.width[y, x], atol=0.003)
    same = np.isclose(first.sigma[points, 40], second.sigma[y, x], rtol=1e-3)
    assert same.mean() > 0.8  # but for a gap's edge, a pixel away


def test_neighbours_share_the_sources_between_them() -> None:
    one, two = sky_bricks(2)
    west, east = sorted((one, two), key=lambda name: float(brick_centre(name)[0]))
    places = []
    for name in (west, east):
        sources, x, y = _sources_on(name, 3600, 1, 0.84)
        assert (x.min() < 0) & (x.max() > 3599) & (y.min() < 0) & (y.max() > 3599)
        places.append(set(zip(sources.ra.tolist(), sources.dec.tolist(), strict=True)))
    border, middle = float(brick_bounds(west)[1]), float(brick_centre(west)[1])
    strip = [
        {p for p in of if abs(p[0] - border) < 0.006 and abs(p[1] - middle) < 0.12} for of in places
    ]
    assert len(strip[0]) > 20
    assert strip[0] == strip[1]


def test_the_same_bytes_from_a_cluster(tmp_path: Path) -> None:
    options = {"size": 204, "lrgs": 5.0, "bricks": 2, "console": Console(quiet=True)}
    alone = commands.sky(str(tmp_path / "a"), **options)
    spread = commands.sky(str(tmp_path / "b"), workers=2, **options)
    assert (alone.bricks, alone.files, alone.bytes) == (spread.bricks, spread.files, spread.bytes)
    for path in (tmp_path / "a").rglob("*.f*"):
        if path.is_file():
            assert (
                path.read_bytes()
                == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
            )


@pytest.mark.long
def test_neighbours_show_the_same_galaxies(tmp_path: Path) -> None:
    """A strip of real width at the border of two bricks, from either brick's files."""
    names = sky_bricks(2)
    west, east = sorted(names, key=lambda name: float(brick_centre(name)[0]))
    made = [make_brick(str(tmp_path), n, size=3600, seed=1, lrgs=0.84, g_band="normal", bands="r")
            for n in (west, east)]  # fmt: skip
    lists = [
        fits.getdata(m.survey.tractor_url(n), 1) for m, n in zip(made, (west, east), strict=True)
    ]
    border = float(brick_bounds(west)[1])
    near = [
        t[np.abs(t["ra"] - border) * 3600 * np.cos(np.radians(t["dec"])) < 70 * 0.262]
        for t in lists
    ]
    assert len(near[0]) > 20
    key = [{(a, d) for a, d in zip(t["ra"], t["dec"], strict=True)} for t in near]
    inner = {p for p in key[0] if abs(p[1] - float(brick_centre(west)[1])) < 0.12}
    assert inner <= key[1]
    # Each source is primary in one of the two, the one whose area holds it.
    for t, name in zip(near, (west, east), strict=True):
        np.testing.assert_array_equal(t["brick_primary"], brick_name(t["ra"], t["dec"]) == name)
    # Their light agrees: the flux in a box about the brighter ones.
    images = [
        fits.getdata(m.survey.url("image", n, "r")) for m, n in zip(made, (west, east), strict=True)
    ]
    bright = near[0][(near[0]["flux_r"] > 5) & (near[0]["flux_r"] < 40)]
    seen = []
    for row in bright:
        flux = []
        for image, name in zip(images, (west, east), strict=True):
            x, y = (
                int(np.round(v))
                for v in brick_wcs(name, 3600).wcs_world2pix(row["ra"], row["dec"], 0)
            )
            if not (12 < x < 3587 and 12 < y < 3587):
                break
            flux.append(float(image[y - 10 : y + 11, x - 10 : x + 11].sum()))
        if len(flux) == 2 and 0 not in flux:
            seen.append(flux)
    assert len(seen) >= 3
    first, second = np.transpose(seen)
    np.testing.assert_allclose(first, second, rtol=0.1, atol=0.25)


def test_psf_varies_within_its_bounds(sky: SkySummary) -> None:
    widths = {b: fits.getdata(sky.survey.url("psfsize", sky.bricks[0], b)) for b in "grz"}
    for width in widths.values():
        assert width.min() >= 1.0
        assert width.max() <= 1.7
        assert 0.002 < np.ptp(width) < 0.5
        assert np.abs(np.diff(width)).max() < 0.01
    assert np.median(widths["g"]) > np.median(widths["z"])


def test_a_bright_star_is_masked(tmp_path: Path) -> None:
    """Whatever brick has one: its bits, its dimmed invvar and its saturated core go together."""
    found = 0
    for name in sky_bricks(8):
        made = make_brick(str(tmp_path), name, size=304, seed=4, lrgs=1.0, bands="r")
        bits = fits.getdata(made.survey.url("maskbits", name), 1)
        wise = fits.getdata(made.survey.url("maskbits", name), 2)
        bright = (bits & 2) != 0
        np.testing.assert_array_equal(bright, (bits & 256) != 0)
        np.testing.assert_array_equal(bright, wise > 0)
        if bright.any():
            found += 1
            invvar = fits.getdata(made.survey.url("invvar", name, "r"))
            assert np.median(invvar[bright]) < 0.5 * np.median(invvar[~bright])
            saturated = (bits & (1 << 3)) != 0
            np.testing.assert_array_equal(saturated, invvar == 0)
    assert 0 < found < 8


def test_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(folder: str) -> dict[str, bytes]:
        root = tmp_path / folder
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.f*") if p.is_file()}

    name = sky_bricks(1)[0]
    make_brick(str(tmp_path / "a"), name, size=204, seed=2, lrgs=30.0)
    later = time.time() + 1000
    monkeypatch.setattr(time, "time", lambda: later)  # gzip would write it into every tile
    make_brick(str(tmp_path / "b"), name, size=204, seed=2, lrgs=30.0)
    make_brick(str(tmp_path / "c"), name, size=204, seed=3, lrgs=30.0)
    a, b, c = files("a"), files("b"), files("c")
    assert len(a) == 11
    assert a == b
    assert a != c


def test_g_does_not_touch_the_other_bands(tmp_path: Path) -> None:
    name = sky_bricks(1)[0]
    one = make_brick(str(tmp_path / "a"), name, size=204, seed=2, lrgs=10.0, g_band="normal")
    two = make_brick(str(tmp_path / "b"), name, size=204, seed=2, lrgs=10.0, g_band="absent")
    for kind in ("image", "invvar", "psfsize"):
        for band in "rz":
            first, second = (Path(s.survey.url(kind, name, band)) for s in (one, two))
            assert first.read_bytes() == second.read_bytes()
    assert two.files == one.files - 3


def test_order_number_and_bands_do_not_matter(tmp_path: Path) -> None:
    names = sky_bricks(6)
    assert sky_bricks(9)[:2] == names[:2]
    alone = make_brick(str(tmp_path / "a"), names[1], size=204, seed=2, lrgs=20.0)
    make_sky(str(tmp_path / "b"), bricks=2, size=204, seed=2, lrgs=20.0, bands=("z", "i", "r", "g"))
    for kind in ("image", "invvar", "psfsize"):
        for band in "rz":
            first, second = (
                fits.open(Path(alone.survey.url(kind, names[1], band).replace("/a/", f"/{x}/")))
                for x in "ab"
            )
            np.testing.assert_array_equal(first[1].data, second[1].data)
    make_brick(str(tmp_path / "c"), names[1], size=204, seed=2, lrgs=20.0, bands="r")
    image = Path(alone.survey.url("image", names[1], "r"))
    other = Path(str(image).replace("/a/", "/c/"))
    np.testing.assert_array_equal(fits.getdata(image), fits.getdata(other))
    table = fits.getdata(alone.survey.tractor_url(names[1]).replace("/a/", "/b/"), 1)
    assert {"flux_i", "psfsize_i", "nobs_i"} <= set(table.names)
    assert (tmp_path / "b/south/coadd" / names[1][:3] / names[1]).exists()


def test_coverage_differs_between_bricks() -> None:
    names = [str(n) for n in np.unique(brick_name(np.arange(0, 50, 0.2), np.zeros(250)))]
    g = [g_band_of(3, name) for name in names]
    assert 0.01 < g.count("empty") / len(g) < 0.1
    assert 0.01 < g.count("absent") / len(g) < 0.1
    cut = [conditions(3, name, "r", 128).covered.mean() for name in names[:120]]
    partial = [c for c in cut if c < 1]
    assert 0 < len(partial) < 20
    assert max(partial) > 0


def test_mistakes(tmp_path: Path) -> None:
    for size in (100, 3700):
        with pytest.raises(UserError, match="it takes 128 to 3600"):
            make_sky(str(tmp_path), bricks=1, size=size)
    with pytest.raises(UserError, match="at least 4"):
        make_sky(str(tmp_path), bricks=1, size=302)
    for count in (0, MOST_BRICKS + 1):
        with pytest.raises(UserError, match="a sky has 1 to 170569 bricks"):
            make_sky(str(tmp_path), bricks=count)
    with pytest.raises(UserError, match="bands of a sky"):
        make_brick(str(tmp_path), sky_bricks(1)[0], bands="gy")
    with pytest.raises(UserError, match="LRGs"):
        make_brick(str(tmp_path), sky_bricks(1)[0], lrgs=-1)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "bands", "memory"), [(512, 3, "2GiB"), (3600, 3, "3GiB"), (3600, 4, "4GiB")]
)
def test_workers_of_a_sky_have_memory_for_its_bricks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, bands: int, memory: str
) -> None:
    """A brick of full size takes more than a run's worker has."""
    asked: list[str] = []

    def connect(section: ClusterSection, run: str) -> Any:
        asked.append(section.memory)
        raise UserError("far enough")

    monkeypatch.setattr(commands.inputs, "connect", connect)
    with pytest.raises(UserError, match="far enough"):
        commands.sky(str(tmp_path), size=size, bands="griz"[:bands], workers=1)
    assert asked == [memory]

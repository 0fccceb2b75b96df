"""The synthetic sky: as a release, the same bytes again, and what its headers and catalogue promise."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.survey import SkySummary, make_brick, make_sky, read_cutouts, select_targets
from darkhaloscope.survey.bricks import brick_bounds, brick_centre
from darkhaloscope.survey.sky import SKY_SIGMA, g_band_of, sky_bricks
from darkhaloscope.survey.tiles import read_images


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> SkySummary:
    return make_sky(str(tmp_path_factory.mktemp("sky")), bricks=4, size=304, seed=5, lrgs=120.0)


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
    assert [g_band_of(k, 4) for k in range(4)] == ["normal", "empty", "absent", "normal"]
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


def test_noise_is_what_invvar_says(sky: SkySummary) -> None:
    for band, sigma in SKY_SIGMA.items():
        image = fits.getdata(sky.survey.url("image", sky.bricks[0], band)).astype(float)
        invvar = fits.getdata(sky.survey.url("invvar", sky.bricks[0], band)).astype(float)
        # Neighbours share their light, in a straight line where it is faint, but not their noise.
        second = np.diff(image, n=2, axis=1) * np.sqrt(invvar[:, 1:-1] / 6)
        faint = invvar[:, 1:-1] > 0.9 * np.percentile(invvar, 99)
        assert faint.sum() > 5000
        assert 1.4826 * np.median(np.abs(second[faint])) == pytest.approx(1.0, abs=0.03)
        assert 1 / np.sqrt(np.median(invvar)) == pytest.approx(sigma, rel=0.4)


def test_psf_varies_within_its_bounds(sky: SkySummary) -> None:
    widths = {b: fits.getdata(sky.survey.url("psfsize", sky.bricks[0], b)) for b in "grz"}
    for width in widths.values():
        assert width.min() >= 1.0
        assert width.max() <= 1.7
        assert 0.01 < np.ptp(width) < 0.5
        assert np.abs(np.diff(width)).max() < 0.01
    assert np.median(widths["g"]) > np.median(widths["z"])


def test_a_bright_star_is_masked(tmp_path: Path) -> None:
    """Whatever brick has one: its bits, its dimmed invvar and its saturated core go together."""
    found = 0
    for name in sky_bricks(6):
        made = make_brick(str(tmp_path), name, size=204, seed=1, lrgs=10.0)
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
    assert 0 < found < 6


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
    one = make_brick(str(tmp_path / "a"), name, size=204, seed=2, lrgs=10.0)
    two = make_brick(str(tmp_path / "b"), name, size=204, seed=2, lrgs=10.0, g_band="absent")
    for kind in ("image", "invvar", "psfsize"):
        for band in "rz":
            first, second = (Path(s.survey.url(kind, name, band)) for s in (one, two))
            assert first.read_bytes() == second.read_bytes()
    assert two.files == one.files - 3


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 128"):
        make_sky(str(tmp_path), bricks=1, size=100)
    with pytest.raises(UserError, match="at least 4"):
        make_sky(str(tmp_path), bricks=1, size=302)
    with pytest.raises(UserError, match="at least one brick"):
        make_sky(str(tmp_path), bricks=0)
    assert not any(tmp_path.iterdir())

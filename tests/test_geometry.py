"""One pixel convention, against astropy's WCS and closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope import geometry as g
from darkhaloscope.plan import shear_components


@pytest.fixture(scope="module")
def wcs(real_root: str) -> WCS:
    folder = Path(real_root, "south/coadd/059/0591m305")
    with fits.open(folder / "legacysurvey-0591m305-image-r.fits.fz") as hdus:
        return WCS(hdus[1].header)


def test_the_centre_lies_between_the_central_pixels() -> None:
    assert g.stamp_centre(64) == 31.5
    assert g.stamp_centre(96) == 47.5
    assert g.stamp_centre(65) == 32.0
    assert g.core_slice(64) == slice(27, 37)  # symmetric about 31.5
    assert g.core_slice(96) == slice(43, 53)


@given(st.floats(-10_000, 10_000), st.integers(8, 257))
@settings(deadline=None)
def test_a_stamp_is_the_nearest_one(position: float, size: int) -> None:
    corner = int(g.stamp_corner(position, size))
    inside = position - corner
    assert abs(inside - g.stamp_centre(size)) <= 0.5 + 1e-9


@given(st.integers(-1000, 1000), st.integers(4, 64))
@settings(deadline=None)
def test_ties_go_down(pixel: int, half: int) -> None:
    # A target exactly on a pixel is half a pixel from the centre of two even stamps; the one that
    # starts lower is taken, everywhere.
    assert int(g.stamp_corner(pixel, 2 * half)) == pixel - half


@pytest.mark.parametrize(("east", "north"), [(1.0, 0.0), (0.0, 1.0), (-3.0, 2.0), (6.0, -6.0)])
def test_sky_axes_are_those_of_the_coadds_own_wcs(wcs: WCS, east: float, north: float) -> None:
    """Go ``east`` and ``north`` on the sky with astropy, and look where the pixel is."""
    x0, y0 = wcs.wcs.crpix - 1
    start = wcs.pixel_to_world(x0, y0)
    end = SkyCoord(start.spherical_offsets_by(east * u.arcsec, north * u.arcsec))
    x, y = wcs.world_to_pixel(end)
    assert g.pixel_to_sky(x, y, x0, y0) == pytest.approx((east, north), abs=1e-6)
    assert g.sky_to_pixel(east, north, x0, y0) == pytest.approx((float(x), float(y)), abs=1e-5)


def test_away_from_the_bricks_centre_north_is_turned_by_the_meridians(wcs: WCS) -> None:
    """By (ra - ra0) sin(dec), and by nothing else: scale and handedness hold all over the brick."""
    x0, y0 = 2668.3, 2007.8
    start = wcs.pixel_to_world(x0, y0)
    turn = np.radians(start.ra.deg - wcs.wcs.crval[0]) * np.sin(start.dec.rad)
    east, north = 6.0, -4.0
    x, y = wcs.world_to_pixel(
        SkyCoord(start.spherical_offsets_by(east * u.arcsec, north * u.arcsec))
    )
    turned = (
        east * np.cos(turn) - north * np.sin(turn),
        north * np.cos(turn) + east * np.sin(turn),
    )
    assert g.pixel_to_sky(x, y, x0, y0) == pytest.approx(turned, abs=2e-5)


def test_the_pixel_scale_is_the_coadds(wcs: WCS) -> None:
    from astropy.wcs.utils import proj_plane_pixel_scales

    np.testing.assert_allclose(proj_plane_pixel_scales(wcs) * 3600, g.PIXEL_SCALE, rtol=1e-9)


@given(*[st.floats(-50, 50)] * 4)
@settings(deadline=None)
def test_sky_and_pixels_are_inverse(east: float, north: float, x0: float, y0: float) -> None:
    x, y = g.sky_to_pixel(east, north, x0, y0)
    assert g.pixel_to_sky(x, y, x0, y0) == pytest.approx((east, north), abs=1e-9)


def test_radius_counts_from_the_sub_pixel_target() -> None:
    radius = g.radius_map(16, 7.25, 8.5)
    assert radius.shape == (16, 16)
    assert radius[8, 7] == pytest.approx(math.hypot(0.25, 0.5))  # [y, x]
    assert radius[2, 7] == pytest.approx(math.hypot(0.25, 6.5))
    assert radius[8, 1] == pytest.approx(math.hypot(6.25, 0.5))


@pytest.mark.parametrize("width", [1.0, 1.3, 2.2])
def test_noise_equivalent_area_is_the_integral_of_a_gaussian(width: float) -> None:
    """NEA = 1 / sum P^2 of a unit Gaussian of that FWHM, summed finely and in pixels."""
    step = 0.1
    axis = np.arange(-40, 40, step)  # pixels
    half_at = width / 2 / g.PIXEL_SCALE  # by definition of FWHM the profile is 1/2 there
    line = 0.5 ** ((axis / half_at) ** 2)
    profile = np.outer(line, line)
    profile /= profile.sum() * step**2
    area = 1.0 / ((profile**2).sum() * step**2)
    assert g.nea_pixels(width) == pytest.approx(area, rel=1e-9)


@pytest.mark.parametrize("pa", [0.0, 30.0, 45.0, 90.0, 120.0, -20.0])
def test_shear_stretches_images_along_its_position_angle(pa: float) -> None:
    """A circle in the source plane becomes an ellipse that points along ``shear_pa``.

    alpha = (g1 E + g2 N, g2 E - g1 N) and source = image - alpha, so the image of a circle is its
    product with the inverse of the Jacobian.
    """
    gamma = 0.08
    g1, g2 = shear_components(np.array([gamma]), np.array([pa]))
    jacobian = np.eye(2) - np.array([[g1[0], g2[0]], [g2[0], -g1[0]]])
    angle = np.linspace(0, 2 * np.pi, 3601)
    east, north = np.linalg.inv(jacobian) @ np.array([np.cos(angle), np.sin(angle)])
    radius = np.hypot(east, north)
    far = int(np.argmax(radius))
    along = np.degrees(np.arctan2(east[far], north[far]))  # east of north
    assert (along - pa + 90) % 180 - 90 == pytest.approx(0, abs=0.2)
    assert radius.max() == pytest.approx(1 / (1 - gamma), rel=1e-5)
    assert radius.min() == pytest.approx(1 / (1 + gamma), rel=1e-5)

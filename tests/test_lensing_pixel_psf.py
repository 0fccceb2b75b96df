"""Pixelised PSFs: shifted kernels added one by one, GalSim, and the analytic PSF of the same shape."""

import math
from pathlib import Path

import galsim
import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import (
    Lens,
    PixelPsf,
    Point,
    Psf,
    Sersic,
    kernel,
    render,
    sersic_profile,
    sie,
)
from darkhaloscope.lensing.pixel_psf import limit_band

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL = SHARED / "dr9" / "dr9_0591m305_grz_copsf_63.fits"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="../shared/data is not here")
SKEW = np.array([[0.01, 0.05, 0.02], [0.08, 0.6, 0.12], [0.02, 0.07, 0.03]])


def real(band):
    with fits.open(REAL) as hdus:
        image = np.asarray(hdus[band].data, dtype=float)
    return image / image.sum()


def gaussian(half, sigma=2.0):
    axis = np.arange(-half, half + 1)
    image = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / sigma**2)
    return image / image.sum()


def point_at(x, y, psf, size):
    """A point at those stamp pixels."""
    return render(None, Point((1.0,)), [psf], size=size, x=x, y=y).arc[0]


def dirichlet(offset, pixels):
    """Band-limited interpolation on a periodic grid of that (even) many pixels."""
    offset = np.asarray(offset, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.sin(np.pi * offset) / (pixels * np.tan(np.pi * offset / pixels))
    return np.where(np.isclose(offset % pixels, 0.0), 1.0, value)


@pytest.mark.parametrize("size", [9, 16, 33])
@pytest.mark.parametrize("image", [SKEW, gaussian(4, 1.2)], ids=["skew", "gaussian"])
def test_a_point_on_a_pixel_is_the_kernel(size, image):
    """Not mirrored, not turned, on its pixel, on even and odd stamps: every pixel to 5e-4."""
    place_x, place_y = size // 2, size // 2 - 1
    arc = point_at(place_x, place_y, PixelPsf(image), size)
    half, truth = image.shape[0] // 2, np.zeros((size + 20, size + 20))
    rows = slice(place_y + 10 - half, place_y + 11 + half)
    truth[rows, place_x + 10 - half : place_x + 11 + half] = image
    assert np.abs(arc - truth[10:-10, 10:-10]).max() < 5e-4 * image.max()


@pytest.mark.parametrize("per_pixel", [2, 4])
def test_limited_band_of_dots_on_pixels_is_theirs(per_pixel):
    """Highest frequencies included: dots on coarse nodes have the coarse grid's own transform."""
    coarse = np.random.default_rng(4).normal(size=(12, 12))
    fine = np.zeros((12 * per_pixel, 12 * per_pixel))
    fine[::per_pixel, ::per_pixel] = coarse
    limited = limit_band(np.fft.rfft2(fine), per_pixel)
    np.testing.assert_allclose(limited, np.fft.rfft2(coarse), atol=1e-12)


@needs_real
@pytest.mark.parametrize("band", [0, 1, 2])
def test_a_point_anywhere_is_the_interpolated_real_kernel(band):
    image, size = real(band), 64
    x, y = 31.37, 30.81
    axis, own = np.arange(size), np.arange(-31, 32)
    along = dirichlet(axis[:, None] - x - own[None, :], 192)
    up = dirichlet(axis[:, None] - y - own[None, :], 192)
    truth = up @ image @ along.T
    arc = point_at(x, y, PixelPsf(image), size)
    assert np.abs(arc - truth).max() < 1e-4 * truth.max()


@needs_real
def test_an_arc_is_the_sum_of_shifted_kernels():
    """The fine light of a lens, from a narrow PSF's image, each of its pixels a shifted kernel."""
    image, size, fine = real(1), 64, 4
    lens = Lens("SIE", 1.2, q=0.7, pa=30.0)
    source = Sersic((1.0,), 0.25, n=1.0, dx=0.15, dy=0.1)
    drawn = render(lens, source, [PixelPsf(image)], size=size, x=23.4, y=23.7)
    # Light in cells of a quarter pixel, each averaged over its own area: a flat PSF of that size.
    steps = 9
    rays = steps * fine * size
    axis = (np.arange(rays) + 0.5) / (steps * fine) - 0.5
    x, y = np.meshgrid(axis, axis)
    east, north = -(x - 23.4) * PIXEL_SCALE, (y - 23.7) * PIXEL_SCALE
    a = sie(east, north, 1.2, 0.7, 30.0)
    light = sersic_profile(east - a[0], north - a[1], source)
    light *= (PIXEL_SCALE / steps / fine) ** 2
    cells = light.reshape(fine * size, steps, fine * size, steps).sum(axis=(1, 3))
    place = (np.arange(fine * size) + 0.5) / fine - 0.5
    own, pixel = np.arange(-31, 32), np.arange(size)
    truth = np.zeros((size, size))
    spread = np.array([dirichlet(pixel[:, None] - p - own[None, :], 192) for p in place])
    rows = np.einsum("jx,xpk->jpk", cells, spread)  # light of row j at pixel p by kernel column k
    for j in range(fine * size):
        truth += (spread[j] @ image) @ rows[j].T
    # Cells blur by their own size: 1/12 of a quarter pixel squared, 1e-3 of the peak at most.
    assert np.abs(drawn.arc[0] - truth).max() < 2e-3 * truth.max()
    assert drawn.arc[0].sum() == pytest.approx(truth.sum(), rel=3e-4)


@needs_real
@pytest.mark.parametrize("band", [0, 2])
def test_galsim_draws_the_same(band):
    """GalSim's InterpolatedImage with its widest Lanczos; drawn without another pixel."""
    image, size = real(band), 64
    accurate = galsim.GSParams(
        kvalue_accuracy=1e-7, folding_threshold=1e-5, maxk_threshold=1e-5, maximum_fft_size=16384
    )
    psf = galsim.InterpolatedImage(
        galsim.Image(image, scale=PIXEL_SCALE),
        x_interpolant=galsim.Lanczos(15, conserve_dc=True),
        gsparams=accurate,
    )
    source = galsim.Sersic(1.0, half_light_radius=0.4, gsparams=accurate)
    source = source.shear(q=0.6, beta=(90.0 + 25.0) * galsim.degrees)
    truth = (
        galsim.Convolve(source, psf, gsparams=accurate)
        .drawImage(
            nx=size, ny=size, scale=PIXEL_SCALE, method="no_pixel", offset=(0.3, -0.2), dtype=float
        )
        .array
    )
    ours = render(
        None, Sersic((1.0,), 0.4, q=0.6, pa=25.0), [PixelPsf(image)], size=size, x=31.8, y=31.3
    ).arc[0]
    assert np.abs(ours - truth).max() < 1e-3 * truth.max()
    assert ours.sum() == pytest.approx(truth.sum(), rel=1e-3)


def test_a_sampled_analytic_psf_is_the_analytic_one():
    psf = Psf("gaussian", fwhm=1.2)
    same = PixelPsf(kernel(psf, 20))
    assert same.nea_fwhm == pytest.approx(1.2, rel=1e-6)
    lens = Lens("EPL", 1.3, q=0.7, pa=20.0, slope=2.1)
    source = Sersic((2.0, 3.0), 0.2, n=2.0, dx=0.2)
    drawn = render(lens, source, [psf, same], size=64, x=31.2, y=31.6)
    ratio = np.abs(drawn.arc[1] * 2.0 - drawn.arc[0] * 3.0).max() / (3.0 * drawn.arc[0].max())
    assert ratio < 2e-4


def test_flux_from_outside_comes_in_and_does_not_wrap():
    psf = PixelPsf(gaussian(16, 3.0))
    arc = point_at(-4.0, 16.0, psf, 34)
    truth = psf.image[16, 20:]
    np.testing.assert_allclose(arc[16, : truth.size], truth, atol=1e-4 * psf.image.max())
    assert np.abs(arc[:, 16:]).max() < 1e-4 * psf.image.max()


def test_bad_kernels_are_refused():
    good = gaussian(5)
    for image, sentence in (
        (good[:, :-1], r"shape \(11, 10\); it must be square"),
        (good[:-1, :-1], "10 pixels a side; it must be an odd number"),
        (0.98 * good, r"sums to 0\.98; it must sum to 1"),
        (np.roll(good, 1, axis=1), "peak at x, y = 6, 5; it must be on the central pixel, 5, 5"),
        (np.full((11, 11), math.nan), "NaN"),
    ):
        with pytest.raises(UserError, match=sentence):
            PixelPsf(image)
    lopsided = good.copy()
    lopsided[5, 9] += 0.1
    lopsided[5, 5] += 0.1
    with pytest.raises(UserError, match=r"centroid 0\.\d+, .* off the central pixel"):
        PixelPsf(lopsided / lopsided.sum())
    with pytest.raises(UserError, match="must be one of effective"):
        PixelPsf(good, pixel="integrate")
    with pytest.raises(UserError, match=r"121 pixels a side; .* at most \d+: cut its wings off"):
        point_at(4.0, 4.0, PixelPsf(gaussian(60)), 8)
    with pytest.raises(UserError, match=r"PSF pixel_scale is 0\.2 arcsec; it must be the stamp's"):
        point_at(8.0, 8.0, PixelPsf(good, pixel_scale=0.2), 16)

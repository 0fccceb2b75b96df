"""Pixelised sources: real galaxies against GalSim, brute force, and analytic magnifications."""

import math
import pickle
from pathlib import Path

import galsim
import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import (
    Components,
    Lens,
    PixelSource,
    Point,
    Psf,
    Sersic,
    epl,
    psf_profile,
    render,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COSMOS = SHARED / "cosmos" / "real_galaxy_images.fits"
needs_cosmos = pytest.mark.skipif(not COSMOS.exists(), reason="../shared/data is not here")
PSF = Psf("gaussian", fwhm=1.0)
STAMP = {"size": 48, "x": 23.3, "y": 23.8}


def galaxy(index):
    with fits.open(COSMOS) as hdus:
        return np.asarray(hdus[index].data, dtype=float)


def blob(sigma=4.0, shape=(41, 51), tilt=0.5):
    """A smooth lopsided galaxy: no symmetry hides a flip."""
    y, x = np.indices(shape, dtype=float)
    x, y = x - 0.5 * (shape[1] - 1), y - 0.5 * (shape[0] - 1)
    first = np.exp(-0.5 * (x**2 + (y - tilt * x) ** 2) / sigma**2)
    return first + 0.5 * np.exp(-0.5 * ((x - 6) ** 2 + (y + 4) ** 2) / (0.5 * sigma) ** 2)


@needs_cosmos
@pytest.mark.parametrize("index", [0, 5, 20, 60])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_flux_of_a_real_galaxy_is_kept(index, interpolation):
    source = PixelSource(
        (2.0,), galaxy(index), 0.03, dx=0.1, rotation=33.0, interpolation=interpolation
    )
    drawn = render(None, source, [PSF], **STAMP)
    assert drawn.magnification == pytest.approx(1.0, abs=1e-3)
    assert drawn.arc[0].sum() == pytest.approx(2.0, rel=1e-3)
    assert not source.deconvolved


@needs_cosmos
@pytest.mark.parametrize(
    ("rotation", "mirrored"), [(0.0, False), (40.0, False), (0.0, True), (-70.0, True)]
)
def test_galsim_draws_the_same_real_galaxy(rotation, mirrored):
    """Its interpolated image, turned: x runs to the West, so east of north is +x to +y as well."""
    accurate = galsim.GSParams(
        kvalue_accuracy=1e-7, folding_threshold=1e-5, maxk_threshold=1e-4, maximum_fft_size=16384
    )
    image = galaxy(20)
    turned = image[:, ::-1] if mirrored else image
    peer = galsim.InterpolatedImage(
        galsim.Image(turned.copy(), scale=0.03), x_interpolant="cubic", gsparams=accurate, flux=1.0
    ).rotate(rotation * galsim.degrees)
    blur = galsim.Gaussian(fwhm=1.0, gsparams=accurate)
    truth = (
        galsim.Convolve(peer, blur, gsparams=accurate)
        .drawImage(
            nx=48, ny=48, scale=PIXEL_SCALE, method="no_pixel", offset=(-0.2, 0.3), dtype=float
        )
        .array
    )
    source = PixelSource((1.0,), image, 0.03, rotation=rotation, mirrored=mirrored)
    ours = render(None, source, [PSF], **STAMP).arc[0]
    assert np.abs(ours - truth).max() < 1e-3 * truth.max()


@pytest.mark.parametrize("rotation", [0.0, 90.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_which_way_is_up(rotation, mirrored):
    """A bright pixel up and to the right: North and West, turned to the East by 90 degrees."""
    image = np.full((21, 21), 1e-9)
    image[18, 15] = 1.0
    source = PixelSource((1.0,), image, 0.1, rotation=rotation, mirrored=mirrored)
    arc = render(None, source, [PSF], size=33, x=16.0, y=16.0).arc[0]
    axis = np.arange(33) - 16.0
    east = -(arc * axis).sum() / arc.sum() * PIXEL_SCALE
    north = (arc.T * axis).sum() / arc.sum() * PIXEL_SCALE
    west = -0.5 if mirrored else 0.5
    truth = (-west, 0.8) if rotation == 0.0 else (0.8, west)
    assert (east, north) == pytest.approx(truth, abs=2e-3)


def test_a_sampled_gaussian_is_the_gaussian():
    """Pixels of an analytic source, cubics between them, behind a lens."""
    sigma, scale = 0.2, 0.03
    axis = (np.arange(101) - 50) * scale
    image = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / sigma**2)
    exact = Sersic((1.0,), sigma * math.sqrt(2 * math.log(2)), n=0.5, dx=0.3, dy=0.2)
    for lens in (None, Lens("SIS", 1.2), Lens("EPL", 1.2, q=0.6, pa=30.0, slope=1.8)):
        ours = render(lens, PixelSource((1.0,), image, scale, dx=0.3, dy=0.2), [PSF], **STAMP)
        truth = render(lens, exact, [PSF], **STAMP)
        assert ours.magnification == pytest.approx(truth.magnification, rel=1e-3)
        assert np.abs(ours.arc - truth.arc).max() < 1e-3 * truth.arc.max()


@pytest.mark.parametrize("offset", [(0.9, 0.5), (2.0, -1.0)])
def test_magnification_by_an_sis(offset):
    """Source-plane sum of ``2 theta_e/beta``, ``1 + theta_e/beta`` over the interpolated image."""
    theta_e, scale, fine, image = 1.8, 0.03, 8, blob(3.0, (31, 35))
    source = PixelSource((1.0,), image, scale, dx=offset[0], dy=offset[1], interpolation="linear")
    low, step = -1.0 + 0.5 / fine, 1.0 / fine
    y, x = np.meshgrid(np.arange(low, 31.0, step), np.arange(low, 35.0, step), indexing="ij")
    padded = np.pad(image, 1)
    j, i = np.floor(y).astype(int), np.floor(x).astype(int)
    g, f = y - j, x - i
    light = (
        (1 - g) * (1 - f) * padded[j + 1, i + 1]
        + (1 - g) * f * padded[j + 1, i + 2]
        + g * (1 - f) * padded[j + 2, i + 1]
        + g * f * padded[j + 2, i + 2]
    )
    beta = np.hypot(offset[0] - (x - 17.0) * scale, offset[1] + (y - 15.0) * scale)
    mu = np.where(beta < theta_e, 2 * theta_e / beta, 1 + theta_e / beta)
    truth = (light * mu).sum() / light.sum()
    drawn = render(Lens("SIS", theta_e), source, [None], size=64, x=31.5, y=31.5)
    assert drawn.magnification == pytest.approx(truth, rel=1e-3)


def test_an_arc_is_that_of_brute_force():
    """Rays on an even lattice, cubics by GalSim, each ray blurred by the PSF itself."""
    lens = Lens("EPL", 1.0, q=0.7, pa=20.0, slope=2.1)
    image, scale, size, fine = blob(), 0.04, 24, 8
    source = PixelSource((1.0,), image, scale, dx=0.1, dy=-0.2, rotation=50.0)
    ours = render(lens, source, [PSF], size=size, x=11.7, y=11.4).arc[0]
    axis = (np.arange(size * fine) + 0.5) / fine - 0.5
    x, y = np.meshgrid(axis, axis)
    east, north = -(x - 11.7) * PIXEL_SCALE, (y - 11.4) * PIXEL_SCALE
    pull = epl(east, north, 1.0, 0.7, 20.0, 2.1)
    peer = galsim.InterpolatedImage(
        galsim.Image(image / image.sum(), scale=scale), x_interpolant="cubic", normalization="flux"
    ).rotate(50.0 * galsim.degrees)
    dx, dy = -(east - pull[0] - 0.1), north - pull[1] + 0.2
    light = np.zeros(x.size)
    for k in np.flatnonzero(np.hypot(dx, dy).ravel() < 1.4):
        light[k] = peer.xValue(float(dx.flat[k]), float(dy.flat[k]))
    light *= (PIXEL_SCALE / fine) ** 2
    truth, pixel = np.zeros((size, size)), np.arange(size)
    for k in np.flatnonzero(np.abs(light) > 1e-9):
        radius = np.hypot(pixel[None, :] - x.flat[k], pixel[:, None] - y.flat[k]) * PIXEL_SCALE
        truth += light[k] * psf_profile(radius, PSF) * PIXEL_SCALE**2
    assert np.abs(ours - truth).max() < 3e-3 * truth.max()
    flipped = PixelSource((1.0,), image, scale, dx=0.1, dy=-0.2, rotation=50.0, mirrored=True)
    wrong = render(lens, flipped, [PSF], size=size, x=11.7, y=11.4).arc[0]
    assert np.abs(wrong - truth).max() > 3e-2 * truth.max()


def test_it_is_a_part_of_components():
    source = PixelSource((1.0, 2.0), blob(), 0.03)
    both = Components([source, Point((1.0, 0.0), dx=0.3)])
    drawn = render(None, both, [PSF, PSF], **STAMP)
    np.testing.assert_allclose(drawn.arc_flux_total, [2.0, 2.0], rtol=1e-3)


def test_bad_images_are_refused():
    for image, sentence in (
        (np.ones(5), r"shape \(5,\); it must be \(y, x\)"),
        (np.zeros((5, 5)), "sums to 0; its sum must be above 0"),
        (np.full((5, 5), math.nan), "NaN or infinity"),
    ):
        with pytest.raises(UserError, match=sentence):
            PixelSource((1.0,), image, 0.03)
    for name, value in (("scale", 0.0), ("scale", 2.0), ("dx", math.nan), ("rotation", 1e4)):
        with pytest.raises(UserError, match=f"source {name} is"):
            PixelSource((1.0,), np.ones((5, 5)), **{"scale": 0.03, name: value})
    with pytest.raises(UserError, match="must be one of linear, cubic"):
        PixelSource((1.0,), np.ones((5, 5)), 0.03, interpolation="nearest")


def test_the_order_of_the_pixels_in_memory_does_not_matter():
    """One layout reaches the compiled code: another would be compiled in a worker's first task."""
    image = np.arange(12.0).reshape(3, 4)
    turned = PixelSource((1.0,), np.asfortranarray(image), 0.03)
    assert turned.image.flags.c_contiguous
    np.testing.assert_array_equal(turned.image, PixelSource((1.0,), image, 0.03).image)


def test_a_copy_through_pickle_is_read_only_as_well() -> None:
    """numba compiles for arrays that can be written apart: a worker would compile anew."""
    copy = pickle.loads(pickle.dumps(PixelSource((1.0,), np.eye(5), 0.1)))  # noqa: S301
    assert not copy.image.flags.writeable

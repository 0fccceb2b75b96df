"""Magnitudes against astropy, S/N against Monte Carlo, photon noise against its own statistics."""

import math
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.errors import UserError
from darkhaloscope.lensing import (
    Lens,
    Psf,
    Sersic,
    arc_snr,
    flux_from_mag,
    gain_from_invvar,
    poisson_noise,
    render,
    snr_matched_filter,
    snr_peak,
    snr_region,
)

COADD = Path(__file__).parent / "data/dr9/south/coadd/059/0591m305"


@pytest.fixture(scope="module")
def arc():
    lens, source = Lens("SIE", 1.3, q=0.7, pa=20.0), Sersic((1.0, 3.0), 0.2, dx=0.1)
    psfs = [Psf("moffat", nea_fwhm=width) for width in (1.4, 1.2)]
    return render(lens, source, psfs, size=48, x=23.2, y=23.6).arc


def test_flux_of_a_magnitude_is_astropys():
    mags = np.array([15.0, 20.3, 22.5, 26.1])
    truth = (mags * u.ABmag).to_value(3631e-9 * u.Jy)
    np.testing.assert_allclose(flux_from_mag(mags), truth, rtol=1e-4)  # 3631 Jy is 3630.78
    assert flux_from_mag(22.5) == 1.0
    # g - r = 1, z - r = -0.4: fainter in g, brighter in z
    np.testing.assert_allclose(
        flux_from_mag(21.0, [1.0, 0.0, -0.4]), 10 ** (0.4 * (1.5 - np.array([1.0, 0.0, -0.4])))
    )
    with pytest.raises(UserError, match="mag is nan"):
        flux_from_mag([20.0, math.nan])


def test_matched_filter_is_the_scatter_of_its_own_estimate(arc):
    """Noise drawn 4,000 times: the amplitude's weighted estimate scatters by 1 / snr."""
    rng = np.random.default_rng(5)
    invvar = np.full(arc[1].shape, 2500.0)
    invvar[:, 10:20] = 900.0
    invvar[5:9] = 0.0
    noise = rng.normal(size=(4000, *arc[1].shape)) / np.sqrt(np.where(invvar > 0, invvar, 1.0))
    norm = (arc[1] ** 2 * invvar).sum()
    amplitude = (noise * arc[1] * invvar).sum(axis=(1, 2)) / norm
    snr = snr_matched_filter(arc, invvar)
    assert snr[1] == pytest.approx(1.0 / amplitude.std(), rel=0.04)
    assert snr[1] == pytest.approx(arc_snr(arc[1], invvar), rel=1e-12)
    flux = (noise * (arc[1] > 0.02) * (invvar > 0)).sum(axis=(1, 2))
    region = snr_region(arc[1], invvar, region=arc[1] > 0.02)
    signal = arc[1][(arc[1] > 0.02) & (invvar > 0)].sum()
    assert region == pytest.approx(signal / flux.std(), rel=0.04)


def test_definitions_and_their_order(arc):
    invvar = np.full(arc.shape, 400.0)
    peak, region, matched = (f(arc, invvar) for f in (snr_peak, snr_region, snr_matched_filter))
    np.testing.assert_allclose(peak, arc.max(axis=(1, 2)) * 20.0)
    assert (peak < matched).all()
    assert (region <= matched * (1 + 1e-12)).all()  # no sum is better than the matched filter
    inside = arc[1] > 1.0 / 20.0
    assert region[1] == pytest.approx(arc[1][inside].sum() * 20.0 / math.sqrt(inside.sum()))
    assert (snr_region(arc, np.zeros(arc.shape)) == 0.0).all()
    for scale in (0.5, 3.0):
        np.testing.assert_allclose(snr_peak(scale * arc, invvar), scale * peak)


def test_bad_weights_are_refused(arc):
    with pytest.raises(UserError, match="invvar holds a NaN or a negative"):
        snr_peak(arc[0], -np.ones(arc[0].shape))
    with pytest.raises(UserError, match="of the same stamp"):
        snr_peak(arc[0], np.ones((3, 3)))
    for wrong in (-np.ones(arc[0].shape), np.full(arc[0].shape, math.nan), np.ones((3, 3))):
        with pytest.raises(UserError, match="invvar"):
            arc_snr(arc[0], wrong)
    with pytest.raises(UserError, match="threshold is -1"):
        snr_region(arc[0], np.ones(arc[0].shape), threshold=-1.0)


@pytest.mark.parametrize("gain", [30.0, 2000.0])
def test_photon_noise_has_the_arcs_variance(arc, gain):
    rng = np.random.default_rng(11)
    noise = np.array([poisson_noise(arc[1], rng, gain=gain) for _ in range(3000)])
    light = np.maximum(arc[1], 0.0)
    spread = np.sqrt(light / gain / 3000)
    bright = light * gain > 1.0
    pulls = noise.mean(axis=0)[bright] / spread[bright]
    assert abs(pulls.mean()) < 5.0 / math.sqrt(bright.sum())
    assert pulls.std() == pytest.approx(1.0, abs=0.2)
    ratio = noise.var(axis=0)[bright] / (light[bright] / gain)
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    photons = (noise[0] + light) * gain
    np.testing.assert_allclose(photons, np.round(photons), atol=1e-6)
    again = poisson_noise(arc[1], np.random.default_rng(11), gain=gain)
    assert np.array_equal(again, noise[0])
    assert not poisson_noise(-light, rng, gain=gain).any()


@pytest.mark.parametrize("gain", [300.0, 3000.0])
def test_gain_from_pixels_of_known_gain(arc, gain):
    """A galaxy and sky of known photons; invvar as a survey estimates it, from noisy pixels."""
    rng = np.random.default_rng(2)
    y, x = np.indices((64, 64)) - 31.5
    galaxy = 3.0 * np.exp(-np.hypot(x, y) / 4.0)
    truth = 0.01**2 + galaxy / gain
    pixels = galaxy + rng.normal(size=galaxy.shape) * np.sqrt(truth)
    invvar = 1.0 / (0.01**2 + np.maximum(pixels, 0.0) / gain)
    invvar[:4] = 0.0
    assert gain_from_invvar(pixels, invvar) == pytest.approx(gain, rel=0.1)
    rng = np.random.default_rng(3)
    noise = np.array([poisson_noise(arc[1], rng, flux=pixels, invvar=invvar) for _ in range(400)])
    bright = arc[1] > 0.3 * arc[1].max()
    assert noise.var(axis=0)[bright].mean() == pytest.approx(arc[1][bright].mean() / gain, rel=0.12)


def real_pixels(band):
    window = (slice(1880, 2136), slice(2540, 2796))
    with fits.open(COADD / f"legacysurvey-0591m305-image-{band}.fits.fz") as hdus:
        pixels = np.asarray(hdus[1].section[window], dtype=float)
    with fits.open(COADD / f"legacysurvey-0591m305-invvar-{band}.fits.fz") as hdus:
        return pixels, np.asarray(hdus[1].section[window], dtype=float)


@pytest.mark.parametrize("band", ["g", "r"])
def test_gain_of_real_pixels_explains_their_invvar(band):
    """Where a real coadd is bright its variance is the sky's plus flux over gain, within 30 %."""
    pixels, invvar = real_pixels(band)
    gain = gain_from_invvar(pixels, invvar)
    sky = np.median(1.0 / invvar[invvar > 0])
    known = (pixels * np.sqrt(invvar) > 20.0) & (invvar > 0)
    excess = 1.0 / invvar[known] - sky
    assert np.median(excess / (pixels[known] / gain)) == pytest.approx(1.0, abs=0.3)


def test_no_gain_where_the_sky_drowns_it():
    with pytest.raises(UserError, match="invvar does not fall"):
        gain_from_invvar(*real_pixels("z"))


def test_ways_to_a_gain_are_exclusive(arc):
    rng, ones = np.random.default_rng(0), np.ones((8, 8))
    for kwargs in ({}, {"gain": 5.0, "flux": ones, "invvar": ones}, {"flux": ones}):
        with pytest.raises(UserError, match="needs gain, or flux and invvar"):
            poisson_noise(arc[0], rng, **kwargs)
    for gain in (0.0, math.nan, -3.0):
        with pytest.raises(UserError, match=r"gain is .* above 0"):
            poisson_noise(arc[0], rng, gain=gain)
    with pytest.raises(UserError, match="photons of arc is 1e"):
        poisson_noise(np.full((2, 2), 1e8), rng, gain=1e12)
    with pytest.raises(UserError, match="0 pixels above 20 sigma"):
        gain_from_invvar(0.1 * ones, ones)
    bright = ones.copy()
    bright[:3] = 100.0
    with pytest.raises(UserError, match="does not fall"):
        gain_from_invvar(bright, ones)

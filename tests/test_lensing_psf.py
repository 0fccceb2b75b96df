"""PSF profiles and widths against GalSim, numerical integrals and the survey's own ratios."""

import math

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gamma, kv

from darkhaloscope.geometry import FWHM_PER_SIGMA, PIXEL_SCALE
from darkhaloscope.lensing import (
    Psf,
    kernel,
    moffat_alpha,
    moffat_alpha_from_nea,
    moffat_fwhm,
    moffat_nea_fwhm,
    psf_profile,
)
from darkhaloscope.lensing.psf import transfer

WIDTH = st.floats(0.4, 3.0)
BETA = st.floats(1.5, 6.0)


@settings(max_examples=25, deadline=None)
@given(fwhm=WIDTH, beta=BETA)
def test_profiles_are_the_peers(fwhm, beta):
    r = np.linspace(0.0, 8.0, 30)
    fine = galsim.GSParams(xvalue_accuracy=1e-20)  # it cuts the wings of a Moffat there
    for psf, peer in (
        (Psf("moffat", fwhm=fwhm, beta=beta), galsim.Moffat(beta=beta, fwhm=fwhm, gsparams=fine)),
        (Psf("gaussian", fwhm=fwhm), galsim.Gaussian(fwhm=fwhm)),
    ):
        truth = [peer.xValue(float(value), 0.0) for value in r]
        np.testing.assert_allclose(psf_profile(r, psf), truth, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(nea_fwhm=WIDTH, beta=st.floats(1.2, 8.0))
def test_nea_width_is_the_integral(nea_fwhm, beta):
    """NEA = 1 / int P^2 dA, and the width is the FWHM of the Gaussian with that area."""
    for psf in (Psf("moffat", nea_fwhm=nea_fwhm, beta=beta), Psf("gaussian", nea_fwhm=nea_fwhm)):
        square, _ = quad(
            lambda r, psf=psf: 2 * np.pi * r * float(psf_profile(r, psf)) ** 2,
            0,
            np.inf,
            epsabs=0,
            epsrel=1e-9,
        )
        width = FWHM_PER_SIGMA * math.sqrt(1.0 / square / (4 * np.pi))
        assert width == pytest.approx(nea_fwhm, rel=1e-7)
        assert psf.nea_fwhm == nea_fwhm


@pytest.mark.parametrize(("beta", "ratio"), [(2.5, 1.39), (3.0, 1.29), (3.5, 1.23), (4.765, 1.15)])
def test_nea_width_over_fwhm(beta, ratio):
    """psfsize over the Moffat's FWHM, as measured on the survey's own PSF models."""
    psf = Psf("moffat", fwhm=1.0, beta=beta)
    assert psf.nea_fwhm == pytest.approx(ratio, abs=0.006)


@settings(max_examples=25, deadline=None)
@given(width=WIDTH, beta=BETA)
def test_widths_there_and_back(width, beta):
    assert moffat_fwhm(moffat_alpha(width, beta), beta) == pytest.approx(width)
    assert moffat_nea_fwhm(moffat_alpha_from_nea(width, beta), beta) == pytest.approx(width)
    psf = Psf("moffat", fwhm=width, beta=beta)
    again = Psf("moffat", nea_fwhm=psf.nea_fwhm, beta=beta)
    assert again.fwhm == pytest.approx(width)
    # Half the peak at half the full width.
    half, peak = psf_profile(np.array([width / 2, 0.0]), psf)
    assert half == pytest.approx(peak / 2)


def test_survey_formula_for_alpha():
    """alpha = psfsize (beta - 1) / (0.6643 sqrt(pi (2 beta - 1))), the constant to its 4 digits."""
    short = 1.3 * 2.5 / (0.6643 * math.sqrt(math.pi * 6.0))
    assert moffat_alpha_from_nea(1.3, 3.5) == pytest.approx(short, rel=1e-4)


def test_many_betas_end_in_a_gaussian():
    r = np.linspace(0, 2, 20)
    np.testing.assert_allclose(
        psf_profile(r, Psf("moffat", fwhm=1.2, beta=100.0)),
        psf_profile(r, Psf("gaussian", fwhm=1.2)),
        atol=0.01,
    )


@pytest.mark.parametrize("beta", [2.5, 3.5, 4.765])
def test_kernel_misses_only_what_lies_outside(beta):
    """Not renormalised: the flux outside a circle is (1 + r^2 / alpha^2)^(1 - beta)."""
    psf = Psf("moffat", fwhm=1.3, beta=beta)
    grid = kernel(psf, 33)
    axis = np.arange(-33, 34) * PIXEL_SCALE
    inside = np.hypot(axis[:, None], axis[None, :]) <= 33 * PIXEL_SCALE
    missing = (1.0 + (33 * PIXEL_SCALE / psf.alpha) ** 2) ** (1.0 - beta)
    assert 1.0 - grid[inside].sum() == pytest.approx(missing, rel=0.05)
    assert grid.shape == (67, 67)
    assert np.unravel_index(grid.argmax(), grid.shape) == (33, 33)


@pytest.mark.parametrize("beta", [2.5, 3.5, 4.765])
@pytest.mark.parametrize("fwhm", [0.6, 1.3, 2.5])
def test_transfer_is_the_analytic_transform(beta, fwhm):
    """(k alpha / 2)^(beta - 1) 2 K_(beta - 1)(k alpha) / Gamma(beta - 1), Moffat 1969 transformed.

    Half-pixel sampling is adequate at 0.6 arcsec: what aliases is below 1e-3. The grid is large, so
    that little of the wings is missing.
    """
    psf = Psf("moffat", fwhm=fwhm, beta=beta)
    nodes = 1536
    hat = transfer(psf, nodes, 2, PIXEL_SCALE)[0] / 4.0
    k = 2 * np.pi * np.arange(nodes // 2 + 1) / (nodes * PIXEL_SCALE / 2)
    x = k[1:] * psf.alpha
    truth = np.append(1.0, 2.0 * (x / 2) ** (beta - 1) * kv(beta - 1, x) / gamma(beta - 1))
    assert np.abs(hat - truth).max() < 1e-3


def test_transfer_of_the_pixel():
    """'integrate' adds the square pixel's transform and nothing else."""
    plain = transfer(Psf("gaussian", fwhm=1.2), 96, 2, PIXEL_SCALE)
    twice = transfer(Psf("gaussian", fwhm=1.2, pixel="integrate"), 96, 2, PIXEL_SCALE)
    f = np.arange(49) / 96 * 2  # cycles per pixel
    np.testing.assert_allclose(twice, plain * np.sinc(f)[:, None] * np.sinc(f)[None, :], atol=1e-12)

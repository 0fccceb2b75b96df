"""The elliptical power law: lenstronomy, the isothermal limit, and the independent integrator."""

import math

import lenstronomy.LensModel.Profiles.epl as peer_epl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.LensModel.Profiles.epl_numba import EPL_numba
from lenstronomy.Util.param_util import phi_q2_ellipticity

from darkhaloscope.audit.reference import ArcParameters, reference_arc
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import Lens, Psf, Sersic, epl, render, sie, sis
from darkhaloscope.lensing.deflection import lens_ray, stretch

EAST, NORTH = (
    axis.ravel() for axis in np.meshgrid(np.linspace(-8.03, 8.1, 31), np.linspace(-7.9, 8.2, 29))
)
THETA_E = st.floats(0.3, 3.0)
PA = st.floats(-180.0, 180.0)
SLOPE = st.floats(1.6, 2.4)


def components(q, pa):
    """lenstronomy's e1, e2: its angle runs from +x (East) to +y (North)."""
    return phi_q2_ellipticity(math.radians(90.0 - pa), q)


@settings(max_examples=60, deadline=None)
@given(theta_e=THETA_E, q=st.floats(0.4, 0.999), pa=PA, slope=SLOPE)
def test_deflection_is_the_peers(theta_e, q, pa, slope):
    ours = epl(EAST, NORTH, theta_e, q, pa, slope)
    peer = peer_epl.EPL().derivatives(EAST, NORTH, theta_e, slope, *components(q, pa))
    np.testing.assert_allclose(ours, peer, rtol=0, atol=1e-12 * theta_e)
    fast = EPL_numba().derivatives(EAST, NORTH, theta_e, slope, *components(q, pa))
    np.testing.assert_allclose(ours, fast, rtol=0, atol=2e-9 * theta_e)


@pytest.mark.parametrize("slope", [1.4, 1.8, 2.0, 2.3, 2.6])
@pytest.mark.parametrize("q", [0.05, 0.3, 0.8, 1.0])
def test_deflection_solves_poisson(slope, q):
    """Half the divergence of alpha is kappa, in the intermediate-axis convention; no curl."""
    rng = np.random.default_rng(3)
    angle, r, h, pa = rng.uniform(0, 6.28, 40), rng.uniform(0.5, 5.0, 40), 1e-4, 33.0
    e, n = r * np.cos(angle), r * np.sin(angle)
    right, left = epl(e + h, n, 1.2, q, pa, slope), epl(e - h, n, 1.2, q, pa, slope)
    up, down = epl(e, n + h, 1.2, q, pa, slope), epl(e, n - h, 1.2, q, pa, slope)
    sin, cos = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    major, minor = e * sin + n * cos, e * cos - n * sin
    radius = np.sqrt(q * major**2 + minor**2 / q)
    kappa = (3.0 - slope) / 2.0 * (1.2 / radius) ** (slope - 1.0)
    divergence = (right[0] - left[0] + up[1] - down[1]) / (2 * h)
    curl = (right[1] - left[1] - up[0] + down[0]) / (2 * h)
    np.testing.assert_allclose(divergence / 2, kappa, rtol=1e-4)
    np.testing.assert_allclose(curl, 0.0, atol=1e-5)


@pytest.mark.parametrize("q", [0.2, 0.6, 0.95, 1.0])
def test_slope_two_is_the_isothermal_ellipsoid(q):
    exact = np.array(sie(EAST, NORTH, 1.3, q, 20.0))
    assert np.array_equal(epl(EAST, NORTH, 1.3, q, 20.0, 2.0), exact)
    for slope in (2.0 - 1e-12, 2.0 + 1e-12):  # the series itself, next to it
        np.testing.assert_allclose(epl(EAST, NORTH, 1.3, q, 20.0, slope), exact, atol=1e-11)
    source, psf = Sersic((1.0,), 0.2, dx=0.2), [Psf("moffat", nea_fwhm=1.2)]
    a = render(Lens("SIE", 1.3, q=q, pa=20.0), source, psf, size=32, x=15.5, y=15.5)
    b = render(Lens("EPL", 1.3, q=q, pa=20.0), source, psf, size=32, x=15.5, y=15.5)
    assert np.array_equal(a.arc, b.arc)


@pytest.mark.parametrize("slope", [1.4, 1.7, 2.3, 2.6])
def test_round_limit_and_einstein_radius(slope):
    """q = 1 is ``theta_e (r / theta_e)^(2 - slope)`` towards the centre, and q -> 1 leads there."""
    r = np.hypot(EAST, NORTH)
    exact = np.array(sis(EAST, NORTH, 1.3)) * (r / 1.3) ** (2.0 - slope)
    np.testing.assert_allclose(epl(EAST, NORTH, 1.3, 1.0, 0.0, slope), exact, rtol=1e-13)
    for gap in (1e-15, 1e-10, 1e-6, 1e-4):
        nearly = np.array(epl(EAST, NORTH, 1.3, 1.0 - gap, 20.0, slope))
        assert np.abs(nearly - exact).max() <= np.abs(exact).max() * (gap + 1e-14)


def test_the_origin_is_finite():
    for slope in (1.4, 1.9, 2.1, 2.6):
        assert epl(0.0, 0.0, 1.2, 0.6, 40.0, slope) == (0.0, 0.0)
        near = np.array(epl([1e-300, 0.0, 1e-30], [0.0, 1e-300, -1e-30], 1.2, 0.6, 40.0, slope))
        assert np.isfinite(near).all()


@settings(max_examples=150, deadline=None)
@given(
    q=st.floats(0.1, 1.0),
    slope=st.floats(1.4, 2.6),
    gamma=st.floats(-0.3, 0.3),
    r=st.floats(0.0, 3.0),
    half=st.floats(0.001, 2.0),
    seed=st.integers(0, 1000),
)
def test_stretch_bounds_the_map(q, slope, gamma, r, half, seed):
    """No ray within ``half`` of a point lands further from it in the source plane than that."""
    lens = Lens("EPL", 1.0, q=q, pa=30.0, gamma1=gamma, gamma2=0.1, slope=slope).numbers()
    rng = np.random.default_rng(seed)
    turn, angle = rng.uniform(0, 2 * np.pi, 200), rng.uniform(0, 2 * np.pi)
    reach = half * np.sqrt(rng.uniform(0, 1, 200))
    e0, n0 = r * np.cos(angle), r * np.sin(angle)

    def source(e, n):
        a, b = lens_ray(e, n, lens)
        return e - a, n - b

    b0 = source(e0, n0)
    landed = [
        source(e0 + d * math.cos(t), n0 + d * math.sin(t)) for d, t in zip(reach, turn, strict=True)
    ]
    moved = max(math.hypot(e - b0[0], n - b0[1]) for e, n in landed)
    assert moved <= stretch(r, half, lens) * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    q=st.floats(0.1, 1.0), slope=st.floats(1.4, 2.6), gamma=st.floats(0.0, 0.4), d=st.floats(0, 5)
)
def test_nothing_beyond_reach_lands_near_the_axis(q, slope, gamma, d):
    lens = Lens("EPL", 1.0, q=q, gamma1=gamma, slope=slope)
    for factor in (1.0, 1.3, 4.0):
        for angle in np.linspace(0, np.pi, 19):
            e = factor * lens.reach(d) * math.cos(angle)
            n = factor * lens.reach(d) * math.sin(angle)
            a, b = lens_ray(e, n, lens.numbers())
            assert math.hypot(e - a, n - b) >= d * (1 - 1e-9)


@pytest.mark.parametrize(
    ("slope", "q", "n", "reff", "offset", "psf"),
    [
        (1.4, 0.65, 3.6, 0.37, (0.4, 0.3), Psf("gaussian", fwhm=1.3)),
        (1.6, 0.4, 4.0, 0.05, (0.1, -0.05), Psf("moffat", nea_fwhm=0.7, beta=2.5)),
        (1.9, 0.7, 1.0, 0.2, (1.5, 0.0), Psf("moffat", nea_fwhm=1.2)),
        (2.2, 1.0, 1.0, 0.2, (0.0, 0.3), Psf("moffat", nea_fwhm=1.2)),
        (2.4, 0.4, 4.0, 0.05, (0.1, -0.05), Psf("gaussian", fwhm=1.3)),
        (2.6, 0.9, 2.0, 0.3, (0.3, 0.6), Psf("moffat", nea_fwhm=1.2)),
    ],
)
def test_arcs_are_the_independent_integrators(slope, q, n, reff, offset, psf):
    lens = Lens("EPL", 1.4, q=q, pa=25.0, gamma1=0.05, gamma2=-0.03, dx=0.1, dy=-0.1, slope=slope)
    source = Sersic((1.0,), reff, n=n, q=0.6, pa=70.0, dx=offset[0], dy=offset[1])
    ours = render(lens, source, [psf], size=64, x=31.2, y=31.8)
    truth = reference_arc(
        ArcParameters(
            theta_e=1.4,
            lens_q=q,
            lens_pa=25.0,
            gamma1=0.05,
            gamma2=-0.03,
            lens_dx=0.1,
            lens_dy=-0.1,
            src_reff=reff,
            src_n=n,
            src_q=0.6,
            src_pa=70.0,
            src_dx=offset[0],
            src_dy=offset[1],
            src_flux=(1.0,),
            psf_model=psf.model,
            psf_beta=psf.beta,
            psf_nea_fwhm=(psf.nea_fwhm,),
            slope=slope,
        ),
        size=64,
        target_x=31.2,
        target_y=31.8,
        pixel_scale=PIXEL_SCALE,
    )
    assert ours.magnification == pytest.approx(truth.magnification, rel=2e-4)
    assert ours.arc.sum() == pytest.approx(truth.arc.sum(), rel=2e-4)
    assert np.abs(ours.arc - truth.arc).max() <= 1e-3 * truth.arc.max()


def test_parameters_out_of_range_are_refused():
    for slope in (1.3, 2.7, math.nan):
        with pytest.raises(UserError, match=r"lens slope is .*at least 1\.4 and at most 2\.6"):
            Lens("EPL", 1.0, slope=slope)
    with pytest.raises(UserError, match=r"lens slope of an SIE is 2\.1"):
        Lens("SIE", 1.0, q=0.7, slope=2.1)

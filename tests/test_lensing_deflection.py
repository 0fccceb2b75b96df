"""Deflections against lenstronomy, at the Einstein radius, and where formulas are delicate."""

import math

import lenstronomy.LensModel.Profiles.sie as peer_sie
import lenstronomy.LensModel.Profiles.sis as peer_sis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.LensModel.Profiles.shear import Shear as PeerShear
from lenstronomy.Util.param_util import phi_q2_ellipticity

from darkhaloscope.lensing import Lens, shear, sie, sis
from darkhaloscope.lensing.deflection import lens_ray, stretch

EAST, NORTH = (
    axis.ravel() for axis in np.meshgrid(np.linspace(-8.03, 8.1, 31), np.linspace(-7.9, 8.2, 29))
)
THETA_E = st.floats(0.05, 5.0)
PA = st.floats(-180.0, 180.0)


def components(q, pa):
    """lenstronomy's e1, e2: its angle runs from +x (East) to +y (North)."""
    return phi_q2_ellipticity(math.radians(90.0 - pa), q)


@settings(max_examples=40, deadline=None)
@given(theta_e=THETA_E)
def test_sis_is_the_peers(theta_e):
    peer = peer_sis.SIS().derivatives(EAST, NORTH, theta_e)
    np.testing.assert_allclose(sis(EAST, NORTH, theta_e), peer, rtol=0, atol=1e-12 * theta_e)


@settings(max_examples=60, deadline=None)
@given(theta_e=THETA_E, q=st.floats(0.3, 0.99), pa=PA)
def test_sie_is_the_peers(theta_e, q, pa):
    # The peer softens its centre with a core of 1e-10 arcsec: hence not 1e-12.
    peer = peer_sie.SIE().derivatives(EAST, NORTH, theta_e, *components(q, pa))
    np.testing.assert_allclose(sie(EAST, NORTH, theta_e, q, pa), peer, rtol=0, atol=2e-9 * theta_e)


@settings(max_examples=40, deadline=None)
@given(g1=st.floats(-0.3, 0.3), g2=st.floats(-0.3, 0.3))
def test_shear_is_the_peers(g1, g2):
    peer = PeerShear().derivatives(EAST, NORTH, g1, g2)
    np.testing.assert_allclose(shear(EAST, NORTH, g1, g2), peer, rtol=0, atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    theta_e=THETA_E, q=st.floats(0.2, 1.0), pa=PA, e=st.floats(-5.0, 5.0), n=st.floats(-5.0, 5.0)
)
def test_deflection_solves_poisson(theta_e, q, pa, e, n):
    """Half the divergence of alpha is kappa, in the intermediate-axis convention; no curl."""
    if math.hypot(e, n) < 0.3:
        return
    h = 1e-4
    right, left = sie(e + h, n, theta_e, q, pa), sie(e - h, n, theta_e, q, pa)
    up, down = sie(e, n + h, theta_e, q, pa), sie(e, n - h, theta_e, q, pa)
    sin, cos = math.sin(math.radians(pa)), math.cos(math.radians(pa))
    major, minor = e * sin + n * cos, e * cos - n * sin
    kappa = theta_e / (2.0 * math.sqrt(q * major**2 + minor**2 / q))
    divergence = (right[0] - left[0] + up[1] - down[1]) / (2 * h)
    curl = (right[1] - left[1] - up[0] + down[0]) / (2 * h)
    assert divergence / 2 == pytest.approx(kappa, rel=1e-5)
    assert curl == pytest.approx(0.0, abs=1e-5 * theta_e)


@pytest.mark.parametrize("gap", [0.0, 1e-15, 1e-12, 1e-8, 1e-6, 1e-5, 5e-5, 1e-4])
def test_round_ellipsoid_is_the_sphere(gap):
    """q -> 1 without a jump: the difference is first order in 1 - q, with no noise on top."""
    round_ = np.array(sis(EAST, NORTH, 1.3))
    nearly = np.array(sie(EAST, NORTH, 1.3, 1.0 - gap, 20.0))
    assert np.abs(nearly - round_).max() <= 1.3 * gap + 1e-15


def test_series_and_closed_form_meet():
    """Either side of the argument where atan(u)/u changes to its series."""
    for q in (0.99994, 0.99995, 0.99996):
        below, above = sie(1.0, 1e-9, 1.0, q, 0.0), sie(1.0, 1e-9, 1.0, q + 1e-9, 0.0)
        assert np.abs(np.array(below) - np.array(above)).max() < 2e-9


def test_the_origin_is_finite():
    assert sis(0.0, 0.0, 1.2) == (0.0, 0.0)
    assert sie(0.0, 0.0, 1.2, 0.6, 40.0) == (0.0, 0.0)
    near = np.array(sie([1e-300, 0.0, 1e-30], [0.0, 1e-300, -1e-30], 1.2, 0.6, 40.0))
    assert np.isfinite(near).all()


def test_rays_at_the_einstein_radius_come_from_the_centre():
    angle = np.linspace(0.0, 2 * np.pi, 50)
    e, n = 1.7 * np.cos(angle), 1.7 * np.sin(angle)
    np.testing.assert_allclose(sis(e, n, 1.7), (e, n), atol=1e-14)


def test_position_angle_is_east_of_north():
    """The mass is along the major axis, so that the pull across it is the stronger one there."""
    for pa, along in ((0.0, (0.0, 1.0)), (90.0, (1.0, 0.0)), (45.0, (0.5**0.5, 0.5**0.5))):
        a_e, a_n = sie(*along, 1.0, 0.5, pa)
        b_e, b_n = sie(along[1], -along[0], 1.0, 0.5, pa)
        e = math.sqrt(0.75)
        assert math.hypot(a_e, a_n) == pytest.approx(math.sqrt(0.5) / e * math.atan(e / 0.5))
        assert math.hypot(b_e, b_n) == pytest.approx(math.sqrt(0.5) / e * math.atanh(e))


def test_lens_is_the_sum_of_its_parts():
    lens = Lens("SIE", 1.1, q=0.7, pa=25.0, gamma1=0.04, gamma2=-0.03)
    total = lens_ray(0.7, -1.9, lens.numbers())
    parts = np.array(sie(0.7, -1.9, 1.1, 0.7, 25.0)) + np.array(shear(0.7, -1.9, 0.04, -0.03))
    np.testing.assert_allclose(total, parts, rtol=1e-14)


@settings(max_examples=80, deadline=None)
@given(
    q=st.floats(0.1, 1.0),
    gamma=st.floats(-0.3, 0.3),
    r=st.floats(0.0, 3.0),
    half=st.floats(0.001, 2.0),
    seed=st.integers(0, 1000),
)
def test_stretch_bounds_the_map(q, gamma, r, half, seed):
    """No ray within ``half`` of a point lands further from it in the source plane than that."""
    lens = Lens("SIE", 1.0, q=q, pa=30.0, gamma1=gamma, gamma2=0.1)
    rng = np.random.default_rng(seed)
    turn, angle = rng.uniform(0, 2 * np.pi, 200), rng.uniform(0, 2 * np.pi)
    reach = half * np.sqrt(rng.uniform(0, 1, 200))
    e0, n0 = r * np.cos(angle), r * np.sin(angle)

    def source(e, n):
        a, b = sie(e, n, 1.0, q, 30.0)
        c, d = shear(e, n, gamma, 0.1)
        return e - a - c, n - b - d

    b0, b1 = source(e0, n0), source(e0 + reach * np.cos(turn), n0 + reach * np.sin(turn))
    moved = np.hypot(b1[0] - b0[0], b1[1] - b0[1]).max()
    assert moved <= stretch(r, half, lens.numbers()) * (1 + 1e-9)


@pytest.mark.parametrize("r", [0.0, 5e-324, 1.75e-161, 1e-155, 1e-100])
@pytest.mark.parametrize("model", ["SIS", "SIE", "EPL"])
def test_no_ray_at_or_next_to_the_origin_is_lost(model: str, r: float) -> None:
    """Squares underflow below 1e-154: a direction made of them could point beyond the unit circle."""
    q = 1.0 if model == "SIS" else 0.109375
    lens = Lens(model, 1.0, q=q, pa=30.0, slope=2.2 if model == "EPL" else 2.0)
    for angle in np.linspace(0, 2 * np.pi, 97):
        pull = lens_ray(r * np.cos(angle), r * np.sin(angle), lens.numbers())
        assert np.isfinite(pull).all()

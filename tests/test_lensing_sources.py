"""The Sersic profile against GalSim and against its own definition."""

import galsim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from darkhaloscope.lensing import Sersic, sersic_b, sersic_profile
from darkhaloscope.lensing.sources import sersic_radius_outside

INDEX = st.floats(0.5, 6.0)


@settings(max_examples=25, deadline=None)
@given(n=INDEX, q=st.floats(0.1, 1.0), pa=st.floats(-180, 180), reff=st.floats(0.05, 3.0))
def test_profile_is_the_peers(n, q, pa, reff):
    source = Sersic((1.0,), reff, n=n, q=q, pa=pa, dx=0.1, dy=-0.2)
    # GalSim's beta runs from +x to +y: with x = East that is 90 - pa.
    peer = galsim.Sersic(n, half_light_radius=reff)
    peer = peer.shear(q=q, beta=(90.0 - pa) * galsim.degrees).shift(0.1, -0.2)
    for u, v in ((0.3, 0.1), (-0.5, 0.4), (1.3, -0.9), (0.1 + reff, -0.2)):
        ours = float(sersic_profile(u, v, source))
        # GalSim reads a table of its profile: 1e-5 of the value, and nothing of the far wings.
        assert ours == pytest.approx(peer.xValue(u, v), rel=3e-4, abs=1e-9 / reff**2)


@settings(max_examples=25, deadline=None)
@given(n=INDEX, reff=st.floats(0.05, 3.0))
def test_flux_and_half_light_radius(n, reff):
    """The integral over the plane is 1, half of it inside reff."""
    source = Sersic((1.0,), reff, n=n)

    def light(t):  # radius = reff t^n, so that the cusp is smooth in t
        return float(sersic_profile(reff * t**n, 0.0, source)) * reff**2 * n * t ** (2 * n - 1)

    inside = 2 * np.pi * quad(light, 0, 1, epsabs=0, epsrel=1e-10)[0]
    outside = 2 * np.pi * quad(light, 1, 60.0 / float(sersic_b(n)), epsabs=0, epsrel=1e-9)[0]
    assert inside == pytest.approx(0.5, rel=1e-8)
    assert outside == pytest.approx(0.5, rel=1e-8)


def test_flux_does_not_depend_on_the_axis_ratio():
    axis = np.arange(-400, 400) * 0.01 + 0.005
    e, n = np.meshgrid(axis, axis)
    for q, pa in ((1.0, 0.0), (0.5, 33.0), (0.3, 120.0)):
        total = sersic_profile(e, n, Sersic((1.0,), 0.3, n=1.0, q=q, pa=pa)).sum() * 1e-4
        assert total == pytest.approx(1.0, abs=2e-4)


def test_known_values_of_b():
    """Graham & Driver 2005: 1.678 at n = 1, 7.669 at n = 4."""
    np.testing.assert_allclose(sersic_b([0.5, 1.0, 4.0]), [np.log(2), 1.6783, 7.6692], atol=1e-4)


def test_gaussian_is_n_of_a_half():
    sigma = 0.2 / np.sqrt(2 * np.log(2))
    r = np.linspace(0, 1, 9)
    truth = np.exp(-0.5 * (r / sigma) ** 2) / (2 * np.pi * sigma**2)
    np.testing.assert_allclose(
        sersic_profile(r, 0.0, Sersic((1.0,), 0.2, n=0.5)), truth, rtol=1e-12
    )


def test_position_angle_is_east_of_north():
    north = Sersic((1.0,), 0.3, q=0.4, pa=0.0)
    assert sersic_profile(0.0, 0.5, north) > sersic_profile(0.5, 0.0, north)
    tilted = Sersic((1.0,), 0.3, q=0.4, pa=45.0)
    assert sersic_profile(0.4, 0.4, tilted) > sersic_profile(-0.4, 0.4, tilted)


@pytest.mark.parametrize(("n", "fraction"), [(0.5, 1e-3), (1.0, 0.5), (4.0, 1e-6)])
def test_radius_that_holds_a_part_of_the_light(n, fraction):
    radius = sersic_radius_outside(0.4, n, fraction)
    source = Sersic((1.0,), 0.4, n=n)

    def light(t):
        r = radius * t**n
        return float(sersic_profile(r, 0.0, source)) * radius**2 * n * t ** (2 * n - 1)

    inside = 2 * np.pi * quad(light, 0, 1, epsabs=0, epsrel=1e-11, limit=200)[0]
    assert 1.0 - inside == pytest.approx(fraction, rel=1e-3)

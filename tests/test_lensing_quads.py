"""Four rays at once deflect as the peer's do."""

import math

import numpy as np
import pytest
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.Util.param_util import phi_q2_ellipticity

from darkhaloscope.lensing import Lens
from darkhaloscope.lensing.deflection import SERIES_STARTS, lens_ray
from darkhaloscope.lensing.quads import A_EAST, A_NORTH, EAST, NORTH, ROWS, lens_rays

LENSES = [
    Lens("SIS", 1.3, gamma1=0.05, gamma2=-0.03),
    Lens("SIE", 1.3, q=0.999, pa=70.0),
    Lens("SIE", 0.8, q=0.7, pa=25.0, gamma1=-0.04, gamma2=0.07),
    Lens("SIE", 0.8, q=0.2, pa=25.0),
    Lens("EPL", 1.3, q=1.0, slope=1.7),
    Lens("EPL", 1.3, q=0.6, pa=130.0, gamma1=0.02, gamma2=0.01, slope=2.3),
    Lens("EPL", 2.0, q=0.1, pa=10.0, slope=1.5),
]


def four(lens, east, north):
    rays = np.empty((ROWS, 4))
    rays[EAST], rays[NORTH] = east, north
    lens_rays(rays, lens.numbers())
    return rays[A_EAST].copy(), rays[A_NORTH].copy()


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model}-{lens.q}-{lens.slope}")
def test_four_rays_are_the_peers(lens):
    rng = np.random.default_rng(4)
    kind = "EPL" if lens.model == "EPL" else "SIE"
    e1, e2 = phi_q2_ellipticity(math.radians(90.0 - lens.pa), lens.q)
    shape = {"theta_E": lens.theta_e, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0}
    if kind == "EPL":
        shape["gamma"] = lens.slope
    outer = {"gamma1": lens.gamma1, "gamma2": lens.gamma2, "ra_0": 0.0, "dec_0": 0.0}
    for scale in (0.01, 1.0, 20.0):
        east, north = scale * rng.normal(size=(2, 4))
        truth = LensModel([kind, "SHEAR"]).alpha(east, north, [shape, outer])
        ours = four(lens, east, north)
        # the peer moves its lenses 1e-6 or so from where they are singular
        np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
        one = [lens_ray(e, n, lens.numbers()) for e, n in zip(east, north, strict=True)]
        np.testing.assert_allclose(ours, np.transpose(one), rtol=1e-12, atol=1e-13)


def test_at_the_centre_nothing_is_deflected():
    """Whatever the other three do."""
    for lens in LENSES:
        a_east, a_north = four(lens, [0.0, 1.0, 1e-300, 0.3], [0.0, 0.0, 0.0, -0.2])
        assert a_east[0] == a_north[0] == 0.0
        assert max(abs(a_east[2]), abs(a_north[2])) < 1e-299
        assert np.isfinite([a_east, a_north]).all()
        assert abs(a_east[1]) > 0.1


def test_a_flat_sie_has_no_series():
    """Its terms fall off too slowly; the others' are what the test above compared."""
    sizes = {lens: lens.numbers().size - SERIES_STARTS for lens in LENSES if lens.model == "SIE"}
    assert {lens.q for lens, terms in sizes.items() if terms == 0} == {0.2}
    assert sizes[LENSES[1]] < sizes[LENSES[2]] < 25

"""Point sources and sources of several parts: analytic images, lenstronomy's solver, linearity."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver
from lenstronomy.Util.param_util import phi_q2_ellipticity

from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE, sky_to_pixel
from darkhaloscope.lensing import (
    Components,
    Lens,
    Point,
    Psf,
    Sersic,
    image_positions,
    psf_profile,
    render,
)

PSF = Psf("moffat", nea_fwhm=1.2)


@settings(max_examples=60, deadline=None)
@given(
    theta_e=st.floats(0.3, 3.0), fraction=st.floats(0.001, 2.0), angle=st.floats(0.0, 2 * math.pi)
)
def test_images_of_an_sis(theta_e, fraction, angle):
    """``beta + theta_e`` with 1 + theta_e/beta, and inside, on the other side, 1 - theta_e/beta."""
    if abs(fraction - 1.0) < 2e-5:  # an image fainter than 1e-5 is left out
        return
    beta = fraction * theta_e
    images = image_positions(Lens("SIS", theta_e), beta * math.cos(angle), beta * math.sin(angle))
    distance, magnification = [beta + theta_e], [1.0 + 1.0 / fraction]
    if fraction < 1.0:
        distance.append(beta - theta_e)
        magnification.append(1.0 - 1.0 / fraction)
    np.testing.assert_allclose(images.east, np.array(distance) * math.cos(angle), atol=1e-9)
    np.testing.assert_allclose(images.north, np.array(distance) * math.sin(angle), atol=1e-9)
    np.testing.assert_allclose(images.magnification, magnification, rtol=1e-8, atol=1e-8)


def peer_images(lens, dx, dy):
    """lenstronomy's solver, searched finely enough for what is asked of it here."""
    e1, e2 = phi_q2_ellipticity(math.radians(90.0 - lens.pa), lens.q)
    main = {"theta_E": lens.theta_e, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0}
    if lens.model == "EPL":
        main["gamma"] = lens.slope
    arguments = [main, {"gamma1": lens.gamma1, "gamma2": lens.gamma2}]
    model = LensModel([lens.model, "SHEAR"])
    east, north = LensEquationSolver(model).image_position_from_source(
        dx,
        dy,
        arguments,
        min_distance=0.01 * lens.theta_e,
        search_window=7.0 * lens.theta_e,
        precision_limit=1e-12,
        num_iter_max=200,
        arrival_time_sort=False,
    )
    return east, north, model.magnification(east, north, arguments)


def caustic_is_far(lens, dx, dy, images):
    """The number of images is the same all around: the peer may be trusted with it."""
    away = 0.02 * lens.theta_e
    around = [(dx + away * math.cos(a), dy + away * math.sin(a)) for a in np.arange(8) * np.pi / 4]
    counts = {len(image_positions(lens, *place).east) for place in around}
    return counts == {len(images.east)}


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(["SIE", "EPL"]),
    slope=st.floats(1.7, 2.4),
    theta_e=st.floats(0.5, 2.0),
    q=st.floats(0.4, 0.95),
    pa=st.floats(0.0, 180.0),
    g1=st.floats(-0.08, 0.08),
    g2=st.floats(-0.08, 0.08),
    fraction=st.floats(0.02, 1.4),
    angle=st.floats(0.0, 2 * math.pi),
)
def test_images_are_the_peers(model, slope, theta_e, q, pa, g1, g2, fraction, angle):
    slope = slope if model == "EPL" else 2.0
    lens = Lens(model, theta_e, q=q, pa=pa, gamma1=g1, gamma2=g2, slope=slope)
    dx, dy = fraction * theta_e * math.cos(angle), fraction * theta_e * math.sin(angle)
    images = image_positions(lens, dx, dy)
    if not caustic_is_far(lens, dx, dy, images):
        return
    east, north, magnification = peer_images(lens, dx, dy)
    # Next to the singular centre the peer's grid of windows finds some images and misses others.
    ours = np.hypot(images.east, images.north) > 0.1 * theta_e
    theirs = np.hypot(east, north) > 0.1 * theta_e
    assert ours.sum() == theirs.sum()
    for e, n, mu in zip(east[theirs], north[theirs], magnification[theirs], strict=True):
        nearest = np.argmin(np.hypot(images.east - e, images.north - n))
        assert math.hypot(images.east[nearest] - e, images.north[nearest] - n) < 1e-5 * theta_e
        assert images.magnification[nearest] == pytest.approx(mu, rel=1e-3)


def test_two_or_four_images_and_their_parities():
    lens = Lens("SIE", 1.0, q=0.6)
    four = image_positions(lens, 0.02, 0.05).magnification
    two = image_positions(lens, 0.4, 0.4).magnification
    assert (four > 0).sum() == (four < 0).sum() == 2
    assert (two > 0).sum() == (two < 0).sum() == 1
    assert (np.diff(np.abs(four)) <= 0).all()


def test_a_shallow_lens_has_a_central_image():
    images = image_positions(Lens("EPL", 1.0, slope=1.6), 0.3, 0.0)
    assert len(images.east) == 3
    r = -images.east[-1]  # on the other side, where alpha = r^0.4 outdoes r by the offset
    assert r**0.4 - r == pytest.approx(0.3, abs=1e-12)
    truth = r / 0.3 / (0.4 * r**-0.6 - 1.0)
    assert images.magnification[-1] == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("slope", [1.7, 2.0, 2.3])
def test_magnification_is_that_of_a_dot(slope):
    """The rays of an extended source of 0.01 arcsec, which caustics nearby change a little."""
    lens = Lens("EPL", 1.3, q=0.7, pa=20.0, gamma1=0.04, slope=slope)
    for dx, dy in ((0.3, 0.1), (0.05, 0.02), (1.5, -0.8)):
        kwargs = {"size": 48, "x": 23.3, "y": 23.8}
        point = render(lens, Point((1.0,), dx=dx, dy=dy), [PSF], **kwargs)
        dot = render(lens, Sersic((1.0,), 0.01, n=0.5, dx=dx, dy=dy), [PSF], **kwargs)
        assert point.magnification == pytest.approx(dot.magnification, rel=3e-3)
        assert np.abs(point.arc - dot.arc).max() < 6e-3 * dot.arc.max()


@pytest.mark.parametrize("place", [(20.0, 20.0), (19.63, 20.29)])
def test_each_image_is_the_psf(place):
    lens, source = Lens("SIS", 1.4, dx=0.1, dy=-0.2), Point((2.0, 3.0), dx=0.3, dy=0.4)
    drawn = render(lens, source, [PSF, None], size=41, x=place[0], y=place[1])
    truth, axis = np.zeros((41, 41)), np.arange(41)
    for sign in (1.0, -1.0):
        r = 0.5 + sign * 1.4
        x, y = sky_to_pixel(0.1 + r * 0.6, -0.2 + r * 0.8, *place)
        radius = np.hypot(axis[None, :] - x, axis[:, None] - y) * PIXEL_SCALE
        flux = 2.0 * abs(1.0 + sign * 1.4 / 0.5)
        truth += flux * psf_profile(radius, PSF) * PIXEL_SCALE**2
    assert np.abs(drawn.arc[0] - truth).max() < 5e-4 * truth.max()
    assert not drawn.arc[1].any()
    assert drawn.magnification == pytest.approx(2 * 1.4 / 0.5, rel=1e-12)
    np.testing.assert_allclose(drawn.arc_flux_total, [11.2, 16.8])


def test_an_unlensed_point():
    drawn = render(None, Point((2.0,), dx=0.5), [PSF], size=33, x=16.0, y=16.0)
    axis = np.arange(33)
    radius = np.hypot(axis[None, :] - 16.0 + 0.5 / PIXEL_SCALE, axis[:, None] - 16.0) * PIXEL_SCALE
    truth = 2.0 * psf_profile(radius, PSF) * PIXEL_SCALE**2
    assert np.abs(drawn.arc[0] - truth).max() < 5e-4 * truth.max()
    assert drawn.magnification == 1.0


def test_a_point_on_a_caustic_is_refused():
    with pytest.raises(UserError, match=r"\(0, 0\) arcsec, on a caustic"):
        image_positions(Lens("SIS", 1.0), 0.0, 0.0)
    with pytest.raises(UserError, match="source dx is nan"):
        Point((1.0,), dx=math.nan)
    with pytest.raises(UserError, match="source flux"):
        Point((-1.0,))


LENS = Lens("SIE", 1.3, q=0.7, pa=20.0)
BULGE = Sersic((1.0, 4.0), 0.1, n=4.0, dx=0.1)
DISC = Sersic((3.0, 2.0), 0.4, n=1.0, q=0.5, dx=0.15, dy=0.02)
STAMP = {"size": 32, "x": 15.7, "y": 15.2}


def test_parts_add_up_band_by_band():
    parts = [BULGE, DISC, Point((0.5, 0.0), dx=0.1)]
    whole = render(LENS, Components(parts), [PSF, PSF], **STAMP)
    each = [render(LENS, part, [PSF, PSF], **STAMP) for part in parts]
    np.testing.assert_allclose(whole.arc, sum(one.arc for one in each), rtol=0, atol=1e-14)
    total = sum(one.arc_flux_total for one in each)
    np.testing.assert_allclose(whole.arc_flux_total, total)
    np.testing.assert_allclose(whole.magnification_band, total / np.array([4.5, 6.0]))
    assert whole.magnification == pytest.approx(total.sum() / 10.5)
    assert whole.magnification_band[0] != pytest.approx(whole.magnification_band[1], rel=1e-2)
    assert Components(parts).flux == (4.5, 6.0)


def test_one_part_is_the_part_itself():
    whole, alone = (render(LENS, s, [PSF, None], **STAMP) for s in (Components([DISC]), DISC))
    assert np.array_equal(whole.arc, alone.arc)
    assert whole.magnification == alone.magnification
    np.testing.assert_array_equal(alone.magnification_band, alone.magnification)


def test_a_band_without_flux_has_no_magnification():
    dark = [Sersic((1.0, 0.0), 0.2), Sersic((1.0, 0.0), 0.3)]
    drawn = render(LENS, Components(dark), [PSF, PSF], **STAMP)
    assert math.isnan(drawn.magnification_band[1])
    assert drawn.magnification == drawn.magnification_band[0]


def test_bad_parts_are_refused():
    with pytest.raises(UserError, match="source parts is empty"):
        Components([])
    with pytest.raises(UserError, match="source parts have 1 and 2 fluxes"):
        Components([BULGE, Point((1.0,))])
    with pytest.raises(UserError, match="it must be between"):
        render(LENS, Components([BULGE, Point((1.0, 1.0), dx=90.0)]), [PSF, PSF], **STAMP)

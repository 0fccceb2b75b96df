"""The independent integrator against analytic truths, brute force, GalSim and lenstronomy."""

from __future__ import annotations

import ast
import itertools
import math
from dataclasses import replace
from pathlib import Path

import galsim
import numpy as np
import pytest
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LensModel.Solver.lens_equation_solver import LensEquationSolver
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util import param_util
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.ndimage import gaussian_filter
from scipy.special import gamma as gamma_function
from scipy.special import gammaincinv, hyp2f1

from darkhaloscope.audit import reference, reference_lens, reference_psf
from darkhaloscope.audit.reference import ArcParameters, reference_arc
from darkhaloscope.audit.reference_points import point_images
from darkhaloscope.audit.reference_psf import moffat_alpha

SCALE = 0.262
ARC = ArcParameters(
    theta_e=1.3,
    lens_q=0.7,
    lens_pa=35.0,
    gamma1=0.04,
    gamma2=-0.03,
    lens_dx=0.11,
    lens_dy=-0.07,
    src_reff=0.3,
    src_n=1.0,
    src_q=0.6,
    src_pa=110.0,
    src_dx=0.25,
    src_dy=0.12,
    src_flux=(1.0,),
    psf_model="moffat",
    psf_beta=3.5,
    psf_nea_fwhm=(1.2,),
)
UNLENSED = replace(ARC, theta_e=0.0, gamma1=0.0, gamma2=0.0)
STAMP = {"size": 32, "target_x": 15.7, "target_y": 15.2, "pixel_scale": SCALE}


def sersic(radius: NDArray[np.float64], reff: float, n: float) -> NDArray[np.float64]:
    """Unit-flux Sersic at an elliptical radius."""
    b = gammaincinv(2 * n, 0.5)
    norm = b ** (2 * n) / (2 * np.pi * n * reff**2 * gamma_function(2 * n))
    return norm * np.exp(-b * (radius / reff) ** (1 / n))


def moffat(r2: NDArray[np.float64], alpha: float, beta: float) -> NDArray[np.float64]:
    return (beta - 1) / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -beta


def random_arc(rng: np.random.Generator) -> ArcParameters:
    """A draw of the widest prior that is rendered."""
    u = rng.uniform
    theta_e, r, phi, g, g_phi = u(0.3, 3), math.sqrt(u()), u(0, 2 * np.pi), u(0, 0.1), u(0, np.pi)
    return ArcParameters(
        theta_e=theta_e,
        lens_q=u(0.4, 1),
        lens_pa=u(0, 180),
        gamma1=g * math.cos(2 * g_phi),
        gamma2=g * math.sin(2 * g_phi),
        lens_dx=u(-0.2, 0.2),
        lens_dy=u(-0.2, 0.2),
        src_reff=math.exp(u(math.log(0.05), math.log(0.5))),
        src_n=u(0.5, 4),
        src_q=u(0.2, 1),
        src_pa=u(0, 180),
        src_dx=1.5 * theta_e * r * math.cos(phi),
        src_dy=1.5 * theta_e * r * math.sin(phi),
        src_flux=(1.0,),
        psf_model="gaussian" if u() < 0.5 else "moffat",
        psf_beta=u(2.5, 4.765),
        psf_nea_fwhm=(u(0.6, 2.5),),
    )


# --- flux ------------------------------------------------------------------


@pytest.mark.parametrize("n", [0.5, 1.0, 2.5, 4.0, 6.0])
@pytest.mark.parametrize("q", [0.2, 1.0])
def test_unlensed_flux_is_the_sersics(n: float, q: float) -> None:
    drawn = reference_arc(replace(UNLENSED, src_n=n, src_q=q, src_flux=(3.0,)), **STAMP)
    assert drawn.magnification == pytest.approx(1.0, abs=1e-5)
    assert drawn.flux_total == pytest.approx([3.0], rel=1e-5)


def test_shear_alone_magnifies_by_its_determinant() -> None:
    drawn = reference_arc(replace(UNLENSED, gamma1=0.06, gamma2=-0.08, src_n=4.0), **STAMP)
    assert drawn.magnification == pytest.approx(1 / (1 - 0.01), rel=1e-5)


def sis_magnification(p: ArcParameters) -> float:
    """Source plane: 2 theta_E / beta inside theta_E, 1 + theta_E / beta outside, a round source."""
    offset = math.hypot(p.src_dx, p.src_dy)

    def ring(beta: float) -> float:
        def along(phi: float) -> float:
            # the law of cosines without the cancellation near the source's centre
            distance = math.sqrt((beta - offset) ** 2 + 4 * beta * offset * math.sin(phi / 2) ** 2)
            return float(sersic(np.float64(distance), p.src_reff, p.src_n))

        scale = min(0.9 * np.pi, 0.3 * p.src_reff / max(beta, offset))
        edges = [0.0, 1e-4 * scale, 1e-2 * scale, 0.1 * scale, scale, np.pi]
        parts = itertools.pairwise(edges)
        return 2 * sum(quad(along, a, b, epsrel=1e-7)[0] for a, b in parts)

    def integrand(beta: float) -> float:
        jump = 2 * p.theta_e if beta < p.theta_e else beta + p.theta_e
        return jump * ring(beta)  # mu beta d beta

    steps = np.array([0.001, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0]) * p.src_reff
    edges = np.concatenate([[0.0, offset, p.theta_e], offset - steps, offset + steps])
    edges = np.unique(edges[edges >= 0.0])
    far = edges[-1] + 300.0 * p.src_reff
    parts = itertools.pairwise(edges)
    total = sum(quad(integrand, a, b, epsrel=1e-6)[0] for a, b in parts)
    return float(total + quad(integrand, edges[-1], far, epsrel=1e-6, limit=200)[0])


@pytest.mark.parametrize(
    ("n", "reff", "offset"),
    [(1.0, 0.3, 0.0), (4.0, 0.1, 0.0), (1.0, 0.2, 0.7), (0.5, 0.05, 1.28), (2.0, 0.3, 1.8)],
)
def test_sis_magnification_of_an_extended_source(n: float, reff: float, offset: float) -> None:
    p = replace(
        ARC,
        lens_q=1.0,
        gamma1=0.0,
        gamma2=0.0,
        src_q=1.0,
        src_n=n,
        src_reff=reff,
        src_dx=offset * 0.6,
        src_dy=-offset * 0.8,
    )
    drawn = reference_arc(p, **STAMP)
    assert drawn.magnification == pytest.approx(sis_magnification(p), rel=2e-5)


def test_a_round_lens_is_the_limit_of_an_elliptical_one() -> None:
    at = [
        reference_arc(replace(ARC, lens_q=q), **STAMP, tolerance=1e-7).magnification
        for q in (1.0, 1.0 - 1e-10, 1.0 - 4e-9, 1.0 - 6e-9)  # round below e = 1e-4
    ]
    assert at[1:] == pytest.approx([at[0]] * 3, rel=3e-6)


# --- pixels against brute force --------------------------------------------


def brute_force(p: ArcParameters, fine: int = 12) -> tuple[NDArray[np.float64], float]:
    """Rays of lenstronomy on an even lattice, each spread over all pixels by the PSF itself.

    The lattice covers three stamps. Returns the stamp and the magnification.
    """
    size = STAMP["size"]
    axis = (np.arange(-size * fine, 2 * size * fine) + 0.5) / fine - 0.5
    y, x = (a.ravel() for a in np.meshgrid(axis, axis, indexing="ij"))
    east = -(x - STAMP["target_x"]) * SCALE - p.lens_dx
    north = (y - STAMP["target_y"]) * SCALE - p.lens_dy
    e1, e2 = param_util.phi_q2_ellipticity(np.deg2rad(90.0 - p.lens_pa), p.lens_q)
    lens = [
        {"theta_E": p.theta_e, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0},
        {"gamma1": p.gamma1, "gamma2": p.gamma2},
    ]
    model = "SIE"
    if p.slope != 2.0:
        model = "EPL"
        lens[0]["gamma"] = p.slope
    beta_e, beta_n = LensModel([model, "SHEAR"]).ray_shooting(east, north, lens)
    de, dn = beta_e - p.src_dx, beta_n - p.src_dy
    pa = np.deg2rad(p.src_pa)
    major, minor = de * np.sin(pa) + dn * np.cos(pa), de * np.cos(pa) - dn * np.sin(pa)
    light = sersic(np.sqrt(p.src_q * major**2 + minor**2 / p.src_q), p.src_reff, p.src_n)
    light *= (SCALE / fine) ** 2
    bright = light > 1e-9 * light.sum()
    image = np.zeros((size, size))
    pixel = np.arange(size, dtype=float)
    width = p.psf_nea_fwhm[0] / SCALE
    for ray_x, ray_y, flux in zip(x[bright], y[bright], light[bright], strict=True):
        r2 = (pixel[None, :] - ray_x) ** 2 + (pixel[:, None] - ray_y) ** 2
        if p.psf_model == "moffat":
            image += flux * moffat(r2, moffat_alpha(width, p.psf_beta), p.psf_beta)
        else:
            sigma = width / math.sqrt(8 * math.log(2))
            image += flux * np.exp(-0.5 * r2 / sigma**2) / (2 * np.pi * sigma**2)
    return image, float(light.sum())


@pytest.fixture(scope="module")
def brute() -> tuple[ArcParameters, NDArray[np.float64], float]:
    # smooth (n = 0.5): an even lattice converges on it far beyond what is asserted
    p = replace(ARC, src_n=0.5, src_reff=0.35)
    return p, *brute_force(p, fine=6)


def test_pixels_and_flux_are_those_of_brute_force(
    brute: tuple[ArcParameters, NDArray[np.float64], float],
) -> None:
    p, image, magnification = brute
    drawn = reference_arc(p, **STAMP, tolerance=1e-6)
    assert drawn.magnification == pytest.approx(magnification, rel=1e-4)
    assert np.abs(drawn.arc[0] - image).max() < 1e-4 * image.max()
    assert drawn.arc[0].sum() == pytest.approx(image.sum(), rel=1e-4)


def test_pixels_of_an_exponential_with_a_gaussian_psf() -> None:
    p = replace(ARC, psf_model="gaussian", psf_nea_fwhm=(0.8,), src_reff=0.4)
    image, magnification = brute_force(p, fine=6)
    drawn = reference_arc(p, **STAMP)
    assert drawn.magnification == pytest.approx(magnification, rel=1e-3)
    assert np.abs(drawn.arc[0] - image).max() < 1e-3 * image.max()


@pytest.mark.parametrize(
    "defect",
    [
        {"lens_pa": -35.0},
        {"lens_pa": 55.0},
        {"src_pa": -110.0},
        {"src_q": 1.0},
        {"gamma1": -0.04},
        {"gamma2": 0.03},
        {"src_dx": -0.25},
        {"lens_dx": -0.11},
        {"lens_dy": 0.07},
        {"theta_e": 1.3 / math.sqrt(0.7)},
        {"src_reff": 0.35 * math.sqrt(0.6)},
        {"psf_width_is": "fwhm"},
        {"pixel": "integrate"},
        {"psf_beta": 2.5},
        {"src_flux": (1.01,)},
        {"slope": 2.03},
    ],
    ids=lambda d: "-".join(f"{k}={v}" for k, v in d.items()),
)
def test_brute_force_tells_a_wrong_convention(
    brute: tuple[ArcParameters, NDArray[np.float64], float], defect: dict[str, object]
) -> None:
    p, image, _ = brute
    wrong = reference_arc(replace(p, **defect), **STAMP).arc[0]
    assert np.abs(wrong - image).max() > 5e-3 * image.max()


@pytest.mark.parametrize(("n", "limit"), [(0.5, 2e-4), (1.0, 4e-4)])
def test_lenstronomy_draws_the_same_image(n: float, limit: float) -> None:
    p = replace(ARC, src_reff=0.4, src_n=n, pixel="integrate", psf_model="gaussian")
    size, fine = 40, 11
    # x of lenstronomy is the East: the array's columns run the other way
    data = ImageData(
        image_data=np.zeros((size, size)),
        ra_at_xy_0=STAMP["target_x"] * SCALE - p.lens_dx,
        dec_at_xy_0=-STAMP["target_y"] * SCALE - p.lens_dy,
        transform_pix2angle=np.array([[-SCALE, 0.0], [0.0, SCALE]]),
    )
    psf = PSF(psf_type="GAUSSIAN", fwhm=p.psf_nea_fwhm[0], pixel_size=SCALE, truncation=6)
    e1, e2 = param_util.phi_q2_ellipticity(np.deg2rad(90.0 - p.lens_pa), p.lens_q)
    s1, s2 = param_util.phi_q2_ellipticity(np.deg2rad(90.0 - p.src_pa), p.src_q)
    model = ImageModel(
        data,
        psf,
        lens_model_class=LensModel(["SIE", "SHEAR"]),
        source_model_class=LightModel(["SERSIC_ELLIPSE"]),
        kwargs_numerics={"supersampling_factor": fine, "supersampling_convolution": True},
    )
    # lenstronomy takes b_n = 1.9992 n - 0.3271, 0.4 % low at n = 1: asked for the same profile, its
    # radius is not R_e, and its amplitude is the brightness there
    b = 1.9992 * n - 0.3271
    source = {
        "amp": float(sersic(np.float64(0.0), p.src_reff, n)) * math.exp(-b),
        "R_sersic": p.src_reff * (b / gammaincinv(2 * n, 0.5)) ** n,
        "n_sersic": p.src_n,
        "e1": s1,
        "e2": s2,
        "center_x": p.src_dx,
        "center_y": p.src_dy,
    }
    lens = [
        {"theta_E": p.theta_e, "e1": e1, "e2": e2, "center_x": 0.0, "center_y": 0.0},
        {"gamma1": p.gamma1, "gamma2": p.gamma2},
    ]
    image = model.image(lens, [source], kwargs_lens_light=None, kwargs_ps=None)
    drawn = reference_arc(p, **{**STAMP, "size": size}).arc[0]
    assert drawn.sum() == pytest.approx(image.sum(), rel=1e-4)
    assert np.abs(drawn - image).max() < limit * image.max()


# --- power law -------------------------------------------------------------


@pytest.mark.parametrize("slope", [1.2, 1.6, 1.95, 2.05, 2.4, 2.8])
@pytest.mark.parametrize("q", [0.05, 0.4, 0.9, 1.0])
def test_the_power_laws_pull_is_the_hypergeometric_function(slope: float, q: float) -> None:
    p = replace(ARC, slope=slope, lens_q=q, lens_pa=0.0)
    c, t, b = reference_lens.ray_coefficients(p), slope - 1.0, p.theta_e * math.sqrt(q)
    for angle in np.linspace(0.01, 6.2, 23):
        z = complex(q * math.cos(angle), math.sin(angle))
        turn = (z / abs(z)) ** 2
        series = hyp2f1(1.0, t / 2, 2 - t / 2, -(1 - q) / (1 + q) * turn)
        truth = 2 * b / (1 + q) * (b / abs(z)) ** (t - 1) * z / abs(z) * series
        ours = reference_lens.power_law_pull(math.cos(angle), math.sin(angle), c)
        assert abs(ours - truth) < 1e-12 * abs(truth)


def test_a_power_law_of_slope_two_is_isothermal() -> None:
    exact = reference_arc(ARC, **STAMP, tolerance=1e-6)
    for slope in (2.0 - 1e-9, 2.0 + 1e-9):  # the power law's own formula, next to it
        near = reference_arc(replace(ARC, slope=slope), **STAMP, tolerance=1e-6)
        assert near.magnification == pytest.approx(exact.magnification, rel=1e-6)
        assert np.abs(near.arc - exact.arc).max() < 1e-5 * exact.arc.max()


@pytest.mark.parametrize("slope", [1.6, 2.4])
def test_power_law_pixels_are_those_of_brute_force(slope: float) -> None:
    p = replace(ARC, src_n=0.5, src_reff=0.35, slope=slope)
    image, magnification = brute_force(p, fine=6)
    drawn = reference_arc(p, **STAMP, tolerance=1e-6)
    assert drawn.magnification == pytest.approx(magnification, rel=3e-4)
    assert np.abs(drawn.arc[0] - image).max() < 3e-4 * image.max()
    wrong = reference_arc(replace(p, slope=4.0 - slope), **STAMP).arc[0]
    assert np.abs(wrong - image).max() > 5e-3 * image.max()


# --- convolution -----------------------------------------------------------


@pytest.mark.parametrize("pixel", ["effective", "integrate"])
@pytest.mark.parametrize("n", [1.0, 4.0])
@pytest.mark.parametrize("model", ["gaussian", "moffat"])
def test_galsim_draws_the_same_unlensed_source(pixel: str, n: float, model: str) -> None:
    p = replace(
        UNLENSED, src_n=n, pixel=pixel, psf_model=model, psf_width_is="fwhm", src_flux=(2.0,)
    )
    accurate = galsim.GSParams(
        folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7, maximum_fft_size=16384
    )
    x = STAMP["target_x"] - (p.lens_dx + p.src_dx) / SCALE
    y = STAMP["target_y"] + (p.lens_dy + p.src_dy) / SCALE
    centre = (STAMP["size"] - 1) / 2
    source = galsim.Sersic(n=n, half_light_radius=p.src_reff, flux=2.0, gsparams=accurate)
    # GalSim's angle runs from +x to +y, and East is -x
    source = source.shear(q=p.src_q, beta=(90.0 + p.src_pa) * galsim.degrees)
    width = p.psf_nea_fwhm[0]
    psf = (
        galsim.Gaussian(fwhm=width, gsparams=accurate)
        if model == "gaussian"
        else galsim.Moffat(beta=p.psf_beta, fwhm=width, gsparams=accurate)
    )
    image = (
        galsim.Convolve(source, psf)
        .drawImage(
            nx=STAMP["size"],
            ny=STAMP["size"],
            scale=SCALE,
            offset=(x - centre, y - centre),
            method="no_pixel" if pixel == "effective" else "auto",
            dtype=float,
        )
        .array
    )
    drawn = reference_arc(p, **STAMP).arc[0]
    assert np.abs(drawn - image).max() < 2e-4 * image.max()


def test_a_source_to_the_east_lies_at_smaller_x() -> None:
    def centroid(**moved: float) -> tuple[float, float]:
        drawn = reference_arc(
            replace(UNLENSED, lens_dx=0.0, lens_dy=0.0, psf_model="gaussian", **moved), **STAMP
        ).arc[0]
        y, x = np.mgrid[: STAMP["size"], : STAMP["size"]]
        return float((drawn * x).sum() / drawn.sum()), float((drawn * y).sum() / drawn.sum())

    tx, ty = STAMP["target_x"], STAMP["target_y"]
    assert centroid(src_dx=SCALE, src_dy=0.0) == pytest.approx((tx - 1, ty), abs=1e-4)
    assert centroid(src_dx=0.0, src_dy=SCALE) == pytest.approx((tx, ty + 1), abs=1e-4)


def test_position_angle_runs_from_north_to_east() -> None:
    drawn = reference_arc(replace(UNLENSED, src_q=0.2, src_pa=45.0, src_reff=0.6), **STAMP).arc[0]
    y, x = np.mgrid[: STAMP["size"], : STAMP["size"]].astype(float)
    x -= (drawn * x).sum() / drawn.sum()
    y -= (drawn * y).sum() / drawn.sum()
    assert (drawn * x * y).sum() < -0.1 * (drawn * x * x).sum()  # north-east is up and to the left


@pytest.mark.parametrize("beta", [2.5, 3.5, 4.765])
def test_equal_noise_equivalent_areas(beta: float) -> None:
    alpha = moffat_alpha(1.3, beta)
    power = quad(lambda r: 2 * np.pi * r * float(moffat(r * r, alpha, beta)) ** 2, 0, np.inf)[0]
    assert 1 / power == pytest.approx(4 * np.pi * 1.3**2 / (8 * math.log(2)), rel=1e-8)


def test_moffat_of_a_stated_fwhm_has_it() -> None:
    alpha = moffat_alpha(1.3, 2.5, "fwhm")
    assert moffat(0.65**2, alpha, 2.5) == pytest.approx(0.5 * moffat(0.0, alpha, 2.5), rel=1e-12)


def compact(x: float, y: float, size: int, **psf: object) -> NDArray[np.float64]:
    """A source of 0.0004 pixel at pixel (x, y): the PSF itself."""
    p = replace(
        UNLENSED, lens_dx=0.0, lens_dy=0.0, src_dx=0.0, src_dy=0.0, src_n=0.5, src_reff=1e-4, **psf
    )
    return reference_arc(p, size=size, target_x=x, target_y=y, pixel_scale=SCALE).arc[0]


@pytest.mark.parametrize("size", [31, 64])
@pytest.mark.parametrize(("width", "beta"), [(0.6, 2.5), (2.5, 2.5), (1.2, 3.5), (0.6, 4.765)])
@pytest.mark.parametrize("place", [(15.37, 14.81), (-4.3, 20.2)])
def test_wings_are_the_moffats_own(
    size: int, width: float, beta: float, place: tuple[float, float]
) -> None:
    x, y = place
    drawn = compact(x, y, size, psf_beta=beta, psf_nea_fwhm=(width,))
    axis = np.arange(size, dtype=float)
    alpha = moffat_alpha(width / SCALE, beta)
    true = moffat((axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2, alpha, beta)
    assert np.abs(drawn - true).max() < 1e-5 * moffat(0.0, alpha, beta)
    # a pedestal of 5e-9 of the flux is 1e-5 of the sky's sigma for an arc of 4 nMgy
    far = np.hypot(axis[None, :] - x, axis[:, None] - y) > min(5 * width / SCALE, 12.0)
    assert np.abs(drawn - true)[far].max() < 5e-9


def test_wings_without_the_correction_are_too_high(monkeypatch: pytest.MonkeyPatch) -> None:
    psf = {"psf_beta": 2.5, "psf_nea_fwhm": (2.5,)}
    right = compact(15.0, 15.0, 31, **psf)
    monkeypatch.setattr(reference_psf, "_image_wings", lambda *args: 0.0)
    assert (compact(15.0, 15.0, 31, **psf) - right).min() > 1e-8


def test_light_from_outside_comes_in_and_does_not_wrap() -> None:
    image, _ = brute_force(p := replace(ARC, src_n=0.5, src_reff=0.35, lens_dx=4.4), fine=5)
    drawn = reference_arc(p, **STAMP).arc[0]
    assert image[:, 0].max() > 0.05 * image.max()  # the arc does cross the edge
    assert np.abs(drawn - image).max() < 2e-4 * image.max()


def test_bands_differ_by_flux_and_width_only() -> None:
    p = replace(
        ARC,
        src_flux=(1.0, 2.0, math.nan, 4.0),
        psf_nea_fwhm=(1.5, 1.2, math.nan, 0.0),
    )
    drawn = reference_arc(p, **STAMP)
    alone = reference_arc(replace(ARC, src_flux=(2.0,), psf_nea_fwhm=(1.2,)), **STAMP)
    assert drawn.arc.shape == (4, 32, 32)
    assert np.abs(drawn.arc[1] - alone.arc[0]).max() < 1e-5 * alone.arc.max()
    assert not drawn.arc[2:].any()
    assert drawn.flux_total[[0, 1, 3]] == pytest.approx(drawn.magnification * np.array([1, 2, 4]))
    assert math.isnan(drawn.flux_total[2])


# --- the estimate ----------------------------------------------------------


def test_tolerance_is_kept_over_the_prior() -> None:
    rng = np.random.default_rng(20240611)
    for _ in range(60):
        p, place = random_arc(rng), rng.uniform(31.0, 32.0, 2)
        stamp = {"size": 64, "target_x": place[0], "target_y": place[1], "pixel_scale": SCALE}
        truth = reference_arc(p, **stamp, tolerance=1e-6)
        for tolerance in (1e-2, 1e-3, 1e-5):
            drawn = reference_arc(p, **stamp, tolerance=tolerance)
            error = abs(drawn.magnification / truth.magnification - 1)
            assert drawn.error_estimate <= 1.02 * tolerance
            assert error <= drawn.error_estimate + truth.error_estimate
            assert np.abs(drawn.arc - truth.arc).max() <= (tolerance + 1e-6) * truth.arc.max()


def test_a_perfect_ring_of_a_cusp_keeps_its_tolerance() -> None:
    p = replace(
        ARC, lens_q=1.0, gamma1=0.0, gamma2=0.0, src_dx=0.0, src_dy=0.0, src_n=4.0, src_q=1.0
    )
    drawn = reference_arc(p, **STAMP)
    assert drawn.error_estimate <= 1.02e-5
    assert drawn.magnification == pytest.approx(sis_magnification(p), rel=1e-5)


def test_the_estimate_says_so_when_cells_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = reference_arc(ARC, **STAMP)
    monkeypatch.setattr(reference, "MAX_CELLS", 200)
    drawn = reference_arc(ARC, **STAMP)
    error = abs(drawn.magnification / truth.magnification - 1)
    assert 1e-5 < error < drawn.error_estimate


# --- what it is ------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("theta_e", -1.0),
        ("theta_e", math.nan),
        ("lens_q", 0.0),
        ("lens_q", 1.2),
        ("lens_pa", math.inf),
        ("gamma1", 0.95),
        ("lens_dx", math.nan),
        ("src_reff", 0.0),
        ("src_reff", -0.1),
        ("src_n", 0.1),
        ("src_q", 0.0),
        ("src_dx", math.nan),
        ("src_flux", (-1.0,)),
        ("src_flux", (math.nan,)),
        ("psf_nea_fwhm", (1.0, 1.0)),
        ("psf_model", "airy"),
        ("psf_beta", 1.0),
        ("psf_beta", math.nan),
        ("psf_nea_fwhm", (-1.0,)),
        ("psf_nea_fwhm", (math.inf,)),
        ("psf_width_is", "sigma"),
        ("pixel", "twice"),
    ],
)
def test_bad_parameters_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name}.* must be .*\.$"):
        replace(ARC, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("size", 100_000),
        ("size", 31.5),
        ("target_x", math.nan),
        ("target_y", 1e4),
        ("pixel_scale", 0.0),
        ("pixel_scale", math.nan),
        ("tolerance", 0.0),
        ("tolerance", math.nan),
    ],
)
def test_bad_stamps_are_named(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .*\.$"):
        reference_arc(ARC, **{**STAMP, name: value})


@pytest.mark.parametrize("width", [0.1, 60.0])
def test_a_psf_that_the_grid_cannot_hold_is_named(width: float) -> None:
    with pytest.raises(ValueError, match="psf_nea_fwhm must be"):
        reference_arc(replace(ARC, psf_nea_fwhm=(width,)), **STAMP)


PARTS = sorted(Path(reference.__file__).parent.glob("reference*.py"))


@pytest.mark.parametrize("path", PARTS, ids=lambda path: path.name)
def test_it_imports_nothing_of_ours(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "." * node.level]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    own = {f"darkhaloscope.audit.{part.stem}" for part in PARTS} | {"darkhaloscope.compiled"}
    known = {"__future__", "dataclasses", "functools", "math", "numba", "numpy", "scipy", "typing"}
    assert len(PARTS) > 1
    assert {name for name in names if name.split(".")[0] not in known} <= own


# --- points --------------------------------------------------------------------------------------


def random_point(rng: np.random.Generator, slope: float, round_lens: bool) -> ArcParameters:
    u = rng.uniform
    theta_e, shear = u(0.3, 3), 0.0 if round_lens else 0.1
    return replace(
        ARC,
        src_model="point",
        theta_e=theta_e,
        lens_q=1.0 if round_lens else u(0.3, 1),
        lens_pa=u(0, 180),
        gamma1=u(-shear, shear),
        gamma2=u(-shear, shear),
        slope=slope,
        src_dx=u(-0.7, 0.7) * theta_e,
        src_dy=u(-0.7, 0.7) * theta_e,
    )


@pytest.mark.parametrize("round_lens", [False, True])
@pytest.mark.parametrize("slope", [1.6, 2.0, 2.3])
def test_images_of_a_point_are_lenstronomys(slope: float, round_lens: bool) -> None:
    """Every place that lenstronomy's equation solver finds, with its magnification, and no other that
    its lens equation does not confirm."""
    rng = np.random.default_rng(int(100 * slope) + round_lens)
    model = LensModel(["EPL", "SHEAR"])
    for _ in range(8):
        p = random_point(rng, slope, round_lens)
        e1, e2 = param_util.phi_q2_ellipticity(np.deg2rad(90.0 - p.lens_pa), p.lens_q)
        kwargs = [
            {
                "theta_E": p.theta_e,
                "gamma": slope,
                "e1": e1,
                "e2": e2,
                "center_x": 0,
                "center_y": 0,
            },
            {"gamma1": p.gamma1, "gamma2": p.gamma2},
        ]
        east, north, flux = point_images(p)
        landed = model.ray_shooting(east, north, kwargs)
        np.testing.assert_allclose(
            landed, [[p.src_dx] * len(east), [p.src_dy] * len(east)], atol=1e-8
        )
        np.testing.assert_allclose(
            flux, np.abs(model.magnification(east, north, kwargs)), rtol=1e-4
        )
        theirs = LensEquationSolver(model).image_position_from_source(
            p.src_dx, p.src_dy, kwargs, min_distance=0.02 * p.theta_e, search_window=8 * p.theta_e,
            precision_limit=1e-10, num_iter_max=100, magnification_limit=1e-3,
        )  # fmt: skip
        for x, y in zip(*theirs, strict=True):
            assert np.hypot(east - x, north - y).min() < 1e-6


def test_a_point_behind_a_sphere_is_magnified_as_a_textbook_says() -> None:
    """Two images of an SIS at beta +- theta_e, magnified 2 theta_e / beta together."""
    p = replace(
        ARC, lens_q=1.0, gamma1=0.0, gamma2=0.0, src_dx=0.3, src_dy=0.4, src_model="point",
    )  # fmt: skip
    east, north, flux = point_images(p)
    np.testing.assert_allclose(np.sort(np.hypot(east, north)), [1.3 - 0.5, 1.3 + 0.5], rtol=1e-12)
    assert flux.sum() == pytest.approx(2 * 1.3 / 0.5, rel=1e-9)


def test_a_point_is_the_psf_times_its_magnification_in_its_place() -> None:
    p = replace(UNLENSED, src_model="point", src_flux=(2.0,), psf_width_is="fwhm")
    drawn = reference_arc(p, **STAMP)
    east, north = p.lens_dx + p.src_dx, p.lens_dy + p.src_dy
    psf = galsim.Moffat(beta=3.5, fwhm=1.2, flux=2.0).shift(-east, north)
    offset = (STAMP["target_x"] - 15.5, STAMP["target_y"] - 15.5)
    theirs = psf.drawImage(nx=32, ny=32, scale=SCALE, offset=offset, method="no_pixel").array
    np.testing.assert_allclose(drawn.arc[0], theirs, atol=1e-4 * theirs.max())
    assert drawn.flux_total[0] == pytest.approx(2.0)


# --- images --------------------------------------------------------------------------------------


def blob(rows: int = 37, columns: int = 51) -> NDArray[np.float64]:
    """A smooth lopsided galaxy: no symmetry hides a flip."""
    y, x = np.indices((rows, columns), dtype=float)
    x, y = x - 0.5 * (columns - 1), y - 0.5 * (rows - 1)
    return np.exp(-(x**2 / 60 + (y - 0.4 * x) ** 2 / 20)) + 0.4 * np.exp(
        -((x - 7) ** 2 + (y - 4) ** 2) / 8
    )


IMAGE = replace(ARC, src_model="image", src_image=blob(), src_scale=0.04, src_rotation=35.0)


@pytest.mark.parametrize("rotation", [0.0, 35.0, 200.0])
def test_an_image_is_galsims(rotation: float) -> None:
    """GalSim's cubic interpolant is that of Keys; its x axis points to the stamp's +x as ours does."""
    p = replace(
        IMAGE, theta_e=0.0, gamma1=0.0, gamma2=0.0, src_rotation=rotation, psf_width_is="fwhm"
    )
    drawn = reference_arc(p, **STAMP)
    image = galsim.Image(blob(), scale=0.04)
    galaxy = galsim.InterpolatedImage(image, x_interpolant="cubic", flux=1.0)
    # Position angles count from north towards east, which is anticlockwise on the stamp.
    galaxy = galaxy.rotate(rotation * galsim.degrees)
    east, north = p.lens_dx + p.src_dx, p.lens_dy + p.src_dy
    both = galsim.Convolve(galaxy.shift(-east, north), galsim.Moffat(beta=3.5, fwhm=1.2))
    offset = (STAMP["target_x"] - 15.5, STAMP["target_y"] - 15.5)
    theirs = both.drawImage(nx=32, ny=32, scale=SCALE, offset=offset, method="no_pixel").array
    np.testing.assert_allclose(drawn.arc[0], theirs, atol=1e-3 * theirs.max())
    assert drawn.magnification == pytest.approx(1.0, abs=1e-4)


def test_a_lensed_image_is_lenstronomys() -> None:
    """Its INTERPOL interpolates by lines, 0.04 arcsec apart in a blob five times as wide: within 1 %."""
    p = replace(IMAGE, pixel="integrate", psf_model="gaussian", psf_nea_fwhm=(1.1,))
    fine, size = 8, 32
    model = LensModel(["SIE", "SHEAR"])
    e1, e2 = param_util.phi_q2_ellipticity(np.deg2rad(90.0 - p.lens_pa), p.lens_q)
    lens = [
        {"theta_E": p.theta_e, "e1": e1, "e2": e2, "center_x": 0, "center_y": 0},
        {"gamma1": p.gamma1, "gamma2": p.gamma2},
    ]
    axis = (np.arange(size * fine) + 0.5) / fine - 0.5
    east = -(axis[None, :] - STAMP["target_x"]) * SCALE - p.lens_dx + 0 * axis[:, None]
    north = (axis[:, None] - STAMP["target_y"]) * SCALE - p.lens_dy + 0 * axis[None, :]
    x, y = model.ray_shooting(east.ravel(), north.ravel(), lens)
    # x of the image falls towards the east, so in (East, North) its columns are turned round, and
    # lenstronomy's angle counts the other way about.
    light = LightModel(["INTERPOL"]).surface_brightness(
        x, y, [{
            "image": blob()[:, ::-1], "amp": 1.0, "center_x": p.src_dx, "center_y": p.src_dy,
            "phi_G": -np.deg2rad(p.src_rotation), "scale": p.src_scale,
        }],
    )  # fmt: skip
    light = light.reshape(east.shape) / (blob().sum() * p.src_scale**2)
    area = (SCALE / fine) ** 2
    sigma = 1.1 / SCALE / 2.3548 * fine
    fine_image = gaussian_filter(light * area, sigma, mode="constant", truncate=6)
    theirs = fine_image.reshape(size, fine, size, fine).sum(axis=(1, 3))
    drawn = reference_arc(p, **STAMP).arc[0]
    assert theirs.sum() > 3
    np.testing.assert_allclose(drawn, theirs, atol=0.01 * theirs.max())
    assert drawn.sum() == pytest.approx(theirs.sum(), rel=5e-3)


@pytest.mark.parametrize("slope", [1.7, 2.0, 2.3])
def test_an_image_of_a_gaussian_is_the_gaussian(slope: float) -> None:
    """A finely sampled Sersic of n = 1/2 through both of the integrator's ways."""
    p = replace(ARC, src_n=0.5, src_reff=0.3, src_q=1.0, slope=slope)
    sigma = 0.3 / math.sqrt(2 * math.log(2))
    axis = (np.arange(121) - 60) * 0.02
    pixels = np.exp(-(axis[None, :] ** 2 + axis[:, None] ** 2) / (2 * sigma**2))
    image = replace(p, src_model="image", src_image=pixels, src_scale=0.02, src_rotation=10.0)
    truth, drawn = reference_arc(p, **STAMP), reference_arc(image, **STAMP)
    np.testing.assert_allclose(drawn.arc, truth.arc, atol=2e-4 * truth.arc.max())
    assert drawn.magnification == pytest.approx(truth.magnification, rel=2e-4)
    assert drawn.error_estimate < 1e-4

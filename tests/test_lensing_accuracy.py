"""The renderer against a stored truth, over a thousand draws of the widest prior.

The truth is by the independent integrator, which shares no code with the renderer and has tests of
its own against analytic values (``test_reference.py``); ``benchmarks/truth.py`` made the file. The
magnification of an SIS against quadrature on the source plane is in ``test_lensing_render.py``; here
it is that of a small source, in closed form.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import truth

from darkhaloscope.lensing import Lens, Sersic, render
from darkhaloscope.lensing.render import SUPERSAMPLE


@pytest.fixture(scope="module")
def stored() -> truth.StoredTruth:
    return truth.load()


@pytest.fixture(scope="module", params=[SUPERSAMPLE, 16], ids=["finest", "of experiments"])
def rendered(stored: truth.StoredTruth, request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """Errors of the renderer on every draw, at its own limit of sampling and at an experiment's."""
    errors = {name: np.empty(truth.COUNT) for name in ("flux", "centroid", "pixel", "mu")}
    for i, draw in enumerate(stored.draws):
        ours = truth.ours(draw, supersample=request.param)
        image = ours.arc[0]
        errors["flux"][i] = abs(image.sum() / stored.flux[i] - 1.0)
        errors["centroid"][i] = np.hypot(*(truth.centroid(image) - stored.centroid[i]))
        errors["pixel"][i] = np.abs(image - stored.images[i]).max() / stored.peak[i]
        errors["mu"][i] = abs(ours.magnification / stored.magnification[i] - 1.0)
    return errors


def test_flux_in_the_stamp(rendered: dict[str, np.ndarray]) -> None:
    flux = rendered["flux"]
    assert np.median(flux) <= 2e-4
    assert np.quantile(flux, 0.99) <= 1e-3
    assert flux.max() <= 5e-3


def test_pixels(rendered: dict[str, np.ndarray]) -> None:
    """The largest error of any pixel, in peaks; 2.5e-4 of it is the rounding of the stored stamp."""
    assert np.quantile(rendered["pixel"], 0.99) <= 0.01
    assert rendered["pixel"].max() <= 0.02


def test_centroid(rendered: dict[str, np.ndarray]) -> None:
    assert rendered["centroid"].max() <= 0.01


def test_magnification(rendered: dict[str, np.ndarray]) -> None:
    assert rendered["mu"].max() <= 1e-3


@pytest.mark.parametrize("offset", np.linspace(0.15, 1.45, 14))
@pytest.mark.parametrize("n", [0.5, 1.0])
def test_magnification_by_an_sis_is_analytic(offset: float, n: float) -> None:
    """``2 theta_e / beta`` inside the Einstein radius, ``1 + theta_e / beta`` outside, and for an
    extended source its mean: ``mu + <d^2> lap(mu) / 4``, where lap(1 / beta) is ``1 / beta^3``."""
    theta_e, reff = 1.7, 0.01
    beta = offset * theta_e
    source = Sersic((1.0,), reff, n=n, dx=0.28 * beta, dy=0.96 * beta)
    ours = render(Lens("SIS", theta_e), source, [None], size=64, x=31.5, y=31.5)
    point = 2.0 * theta_e / beta if offset < 1.0 else 1.0 + theta_e / beta
    strength = 2.0 * theta_e if offset < 1.0 else theta_e
    # <d^2> of a Gaussian of that half-light radius is 1.44 reff^2, of an exponential 2.13 reff^2
    spread = {0.5: 1.0 / math.log(2.0), 1.0: 6.0 / 1.67834699**2}[n] * reff**2
    assert ours.magnification == pytest.approx(point + 0.25 * spread * strength / beta**3, rel=1e-3)


def test_the_draws_fill_the_prior(stored: truth.StoredTruth) -> None:
    assert len(stored.draws) == truth.COUNT == 1000
    values = {name: np.array([getattr(d, name) for d in stored.draws]) for name in ALLOWED}
    for name, (low, high) in ALLOWED.items():
        margin = 0.02 * (high - low)
        assert low <= values[name].min() <= low + margin, name
        assert high - margin <= values[name].max() <= high, name
    assert {d.size for d in stored.draws} == {64, 96}
    for kind in ("slope", "moffat_beta"):
        plain = np.mean([getattr(d, kind) in (0.0, 2.0) for d in stored.draws])
        assert 0.4 < plain < 0.6
    moffats = [d.moffat_beta for d in stored.draws if d.moffat_beta]
    assert min(moffats) >= 2.5
    offsets = [math.hypot(d.source_dx, d.source_dy) / d.theta_e for d in stored.draws]
    assert 1.48 < max(offsets) <= 1.5
    assert max(math.hypot(d.gamma1, d.gamma2) for d in stored.draws) <= 0.1


ALLOWED = {
    "theta_e": (0.3, 3.0),
    "slope": (1.6, 2.4),
    "lens_q": (0.4, 1.0),
    "reff": (0.05, 0.5),
    "n": (0.5, 4.0),
    "source_q": (0.2, 1.0),
    "nea_fwhm": (0.6, 2.5),
    "moffat_beta": (0.0, 4.765),
}


@pytest.mark.parametrize("index", [3, 211, 498, 754, 999])
def test_the_stored_truth_is_the_integrators(stored: truth.StoredTruth, index: int) -> None:
    """Once more at a tenth of the error: a file that no longer fits its parameters is seen."""
    arc = truth.truth_of(stored.draws[index], tolerance=1e-6)
    image = arc.arc[0]
    assert arc.error_estimate < 1.1e-6
    assert stored.error_estimate[index] < 1.1e-5
    assert stored.magnification[index] == pytest.approx(arc.magnification, rel=1.2e-5)
    assert stored.flux[index] == pytest.approx(image.sum(), rel=2e-5)
    assert stored.peak[index] == pytest.approx(image.max(), rel=1e-4)
    np.testing.assert_allclose(stored.centroid[index], truth.centroid(image), atol=1e-3)
    np.testing.assert_allclose(stored.images[index], image, atol=3e-4 * image.max())


def test_a_wrong_width_or_place_is_seen(stored: truth.StoredTruth) -> None:
    """The bounds bite: a width 2 % off, and a target 0.02 pixels off, break them."""
    index = int(np.argmin([d.nea_fwhm for d in stored.draws]))
    draw = stored.draws[index]
    wide = truth.ours(replace(draw, nea_fwhm=1.02 * draw.nea_fwhm)).arc[0]
    assert np.abs(wide - stored.images[index]).max() > 0.02 * stored.peak[index]
    moved = truth.ours(replace(draw, x=draw.x + 0.02)).arc[0]
    assert np.hypot(*(truth.centroid(moved) - stored.centroid[index])) > 0.01

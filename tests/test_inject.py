"""One brick's stamps and provenance, on the real brick and on hand-made cut-outs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from darkhaloscope import inject, lensing
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.inject import (
    choose_widths,
    inject_brick,
    load_brick,
    round_ctrl,
    round_mantissa,
    sky_sigma,
)
from darkhaloscope.plan import Plan
from darkhaloscope.survey import Cutouts
from darkhaloscope.variables import NO_PSF, VARIABLES

BRICK = "0591m305"
BANDS = ("g", "r", "z")
SCALE = 0.262
# Inside the window of real pixels; the first is a galaxy, the last empty sky.
PLACES = [(59.1072292, -30.4899081), (59.1030888, -30.4869181), (59.1090, -30.4870)]


def experiment(root: str = "/none", **sections: Any) -> Experiment:
    document: dict[str, Any] = {
        "seed": 3,
        "survey": {"root": root},
        "targets": {"positions": PLACES},
        "lens": {"theta_e": {"uniform": [0.8, 1.6]}, "q": 0.8, "shear": 0.05, "shear_pa": 20},
        "source": {"mag": 21.0, "colour": {"g": 0.4, "z": -0.2}, "dx": 0.1, "dy": -0.15},
    }
    for name, value in sections.items():
        merged = {**document.get(name, {}), **value} if isinstance(value, dict) else value
        document[name] = merged
    return parse_experiment(document)


def planned(
    exp: Experiment, places: list[tuple[float, float]] = PLACES, **columns: Any
) -> pd.DataFrame:
    """The planned rows of targets at these places of the brick."""
    table = pd.DataFrame(
        {
            "brick": BRICK,
            "objid": np.arange(len(places), dtype=np.int64),
            "target_id": np.arange(len(places), dtype=np.int64),
            "ra": [ra for ra, _ in places],
            "dec": [dec for _, dec in places],
        }
    ).assign(**columns)
    return Plan(exp, table).brick_rows(str(table["brick"][0]))


def make(rows: pd.DataFrame, exp: Experiment) -> xr.Dataset:
    return inject_brick(rows, load_brick(rows, exp), exp)


def injected(
    exp: Experiment, places: list[tuple[float, float]] = PLACES, **columns: Any
) -> xr.Dataset:
    return make(planned(exp, places, **columns), exp)


ALL: dict[str, Any] = {"plan": {"control_fraction": 0.0}}


@pytest.fixture(scope="module")
def mixed(real_root: str) -> tuple[Experiment, xr.Dataset]:
    """Injections and controls of the three places, as stored by default."""
    exp = experiment(real_root, plan={"repeats": 4})
    return exp, injected(exp)


@pytest.fixture(scope="module")
def exact(real_root: str) -> xr.Dataset:
    return injected(experiment(real_root, plan={"repeats": 4}, store={"precision": "exact"}))


def coadd(root: str, kind: str, band: str) -> tuple[np.ndarray, WCS]:
    """A whole coadd as astropy decodes it."""
    name = f"legacysurvey-{BRICK}-{kind}-{band}.fits.fz"
    with fits.open(Path(root, "south/coadd/059", BRICK, name)) as hdus:
        return np.asarray(hdus[1].data), WCS(hdus[1].header)


@pytest.fixture(scope="module")
def coadds(real_root: str) -> dict[tuple[str, str], tuple[np.ndarray, WCS]]:
    return {(k, b): coadd(real_root, k, b) for k in ("image", "invvar") for b in BANDS}


def window(plane: np.ndarray, wcs: WCS, ra: float, dec: float, size: int) -> np.ndarray:
    """The stamp whose centre is nearest to the target, cut with astropy's WCS alone."""
    x, y = wcs.wcs_world2pix(ra, dec, 0)
    first_x, first_y = (round(float(p) - (size - 1) / 2) for p in (x, y))
    return plane[first_y : first_y + size, first_x : first_x + size]


# --- real pixels ----------------------------------------------------------------------------------


def test_every_row_of_the_real_brick_is_good(mixed: tuple[Experiment, xr.Dataset]) -> None:
    _, cube = mixed
    assert cube.sizes == {"pair": 12, "band": 3, "y": 64, "x": 64}
    assert (cube["reason"] == Reason.OK).all()
    assert cube["cutout_ok"].all()
    assert cube.attrs["notes"] == []
    assert 0 < int((cube["lens_model"] == 0).sum()) < 12
    assert set(cube.data_vars) == {variable.name for variable in VARIABLES}
    for variable in VARIABLES:
        assert cube[variable.name].dims == variable.dims
        expected = np.dtype(object if variable.dtype == "str" else variable.dtype)
        assert cube[variable.name].dtype == expected


@pytest.mark.parametrize("precision", ["exact", "rounded"])
def test_invvar_is_the_coadds_where_it_is_asked_for(
    real_root: str, coadds: dict[tuple[str, str], tuple[np.ndarray, WCS]], precision: str
) -> None:
    """So wide that some pixels have no data."""
    asked = {"precision": precision, "invvar": True}
    plan = {"control_fraction": 1.0}
    exp = experiment(real_root, stamp={"size": 192}, plan=plan, store=asked)
    cube = injected(exp)
    assert set(cube.data_vars) - {variable.name for variable in VARIABLES} == {"invvar"}
    assert cube["invvar"].dtype == np.float32
    assert cube["cutout_ok"].all()
    for b, band in enumerate(BANDS):
        plane, wcs = coadds["invvar", band]
        for i in range(len(cube["pair"])):
            truth = window(plane, wcs, float(cube["ra"][i]), float(cube["dec"][i]), 192)
            stored = cube["invvar"].values[i, b]
            tolerance = 0 if precision == "exact" else 2.0**-11
            np.testing.assert_allclose(stored, truth, rtol=tolerance, atol=0)
            np.testing.assert_array_equal(stored == 0, (cube["nodata"].values[i] >> b & 1) == 1)
    assert (cube["invvar"] == 0).any()


@pytest.mark.parametrize("size", [64, 96])
def test_ctrl_is_the_coadd_at_the_right_place(
    real_root: str, coadds: dict[tuple[str, str], tuple[np.ndarray, WCS]], size: int
) -> None:
    exp = experiment(real_root, stamp={"size": size}, **ALL)
    rounded = injected(exp)
    exact = injected(experiment(real_root, stamp={"size": size}, store={"precision": "exact"}))
    for i, (ra, dec) in enumerate(PLACES):
        for b, band in enumerate(BANDS):
            truth = window(*coadds["image", band], ra, dec, size)
            weight = window(*coadds["invvar", band], ra, dec, size)
            np.testing.assert_array_equal(exact["ctrl"][i, b], truth)
            sigma = 1 / math.sqrt(np.median(weight[weight > 0].astype(float)))
            assert float(rounded["sky_sigma"][i, b]) == pytest.approx(sigma, rel=1e-6)
            step = 2.0 ** math.floor(math.log2(sigma / 16))
            stored = rounded["ctrl"][i, b].values.astype(float)
            assert np.abs(stored - truth).max() <= step / 2 * (1 + 1e-6)
            np.testing.assert_array_equal(stored / step, np.rint(stored / step))


def test_the_target_position_is_the_wcs_position(
    exact: xr.Dataset, coadds: dict[tuple[str, str], tuple[np.ndarray, WCS]]
) -> None:
    _, wcs = coadds["image", "r"]
    for i in range(exact.sizes["pair"]):
        x, y = wcs.wcs_world2pix(float(exact["ra"][i]), float(exact["dec"][i]), 0)
        assert float(exact["target_x"][i]) % 1 == pytest.approx(float(x) % 1, abs=1e-4)
        assert float(exact["target_y"][i]) % 1 == pytest.approx(float(y) % 1, abs=1e-4)
    assert np.abs(exact["target_x"] - 31.5).max() <= 0.5
    assert np.abs(exact["target_y"] - 31.5).max() <= 0.5


def test_rounding_moves_no_mean(coadds: dict[tuple[str, str], tuple[np.ndarray, WCS]]) -> None:
    """Mean shift below 1e-3 sigma; its scatter over these 65,536 real pixels is 7e-5 sigma."""
    part = (slice(1880, 2136), slice(2540, 2796))
    image = np.stack([coadds["image", b][0][part] for b in BANDS])
    sigma = sky_sigma(np.stack([coadds["invvar", b][0][part] for b in BANDS]))
    shift = (round_ctrl(image, sigma).astype(float) - image).mean(axis=(1, 2))
    assert np.abs(shift / sigma).max() < 1e-3
    # ... and it does round: the error has the scatter of a step between sigma/32 and sigma/16.
    scatter = (round_ctrl(image, sigma).astype(float) - image).std(axis=(1, 2)) / sigma
    assert (scatter > 0.99 / 32 / math.sqrt(12)).all()
    assert (scatter < 1.01 / 16 / math.sqrt(12)).all()


@pytest.mark.parametrize(("sigma", "step"), [(0.016, 2.0**-10), (1.0, 0.0625), (0.999, 0.03125)])
def test_the_step_is_a_power_of_two(sigma: float, step: float) -> None:
    image = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(1, 64, 64)
    levels = round_ctrl(image, np.array([sigma])).astype(float) / step
    np.testing.assert_array_equal(levels, np.rint(levels))
    assert np.unique(np.diff(np.unique(levels))).tolist() == [1.0]


def test_a_band_of_unknown_noise_is_not_rounded() -> None:
    image = np.random.default_rng(0).normal(size=(2, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(round_ctrl(image, np.array([np.nan, 1.0]))[0], image[0])
    assert np.isnan(sky_sigma(np.zeros((1, 8, 8), np.float32))).all()


FLOATS = st.floats(1e-30, 1e6) | st.floats(-1e6, -1e-30) | st.just(0.0)


@given(hnp.arrays(float, 20, elements=FLOATS))
@settings(max_examples=100, deadline=None)
def test_ten_mantissa_bits(arc: np.ndarray) -> None:
    stored = round_mantissa(arc)
    assert stored.dtype == np.float32
    assert np.all(np.abs(stored.astype(float) - arc) <= 2.0**-11 * np.abs(arc))
    # Ten bits below the leading one: the other 13 of a float32 are zero.
    assert np.all(stored.view(np.uint32) & 0x1FFF == 0)


def test_a_rounded_arc_keeps_its_flux(
    mixed: tuple[Experiment, xr.Dataset], exact: xr.Dataset
) -> None:
    _, rounded = mixed
    drawn = exact["lens_model"].values > 0
    flux = exact["arc"].values[drawn].sum(axis=(2, 3), dtype=float)
    moved = rounded["arc"].values[drawn].sum(axis=(2, 3), dtype=float) / flux - 1
    assert np.abs(moved).max() < 2e-4
    assert np.abs(moved).max() > 0  # rounded it is


# --- the arc --------------------------------------------------------------------------------------

RING: dict[str, Any] = {
    "lens": {"model": "SIS", "theta_e": 1.1, "q": 1.0, "shear": 0.0},
    "source": {"mag": 20.0, "dx": 0.0, "dy": 0.0, "reff": 0.2},
    "psf": {"model": "gaussian"},
    "store": {"precision": "exact"},
    **ALL,
}


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.7)])
def test_a_ring_is_centred_on_the_lens(real_root: str, dx: float, dy: float) -> None:
    """Toward east is toward smaller x, toward north toward larger y."""
    exp = experiment(real_root, **{**RING, "lens": {**RING["lens"], "dx": dx, "dy": dy}})
    cube = injected(exp)
    axis = np.arange(64.0)
    for i in range(len(PLACES)):
        for b in range(3):
            arc = cube["arc"].values[i, b].astype(float)
            x = (arc * axis).sum() / arc.sum()
            y = (arc * axis[:, None]).sum() / arc.sum()
            assert x == pytest.approx(float(cube["target_x"][i]) - dx / SCALE, abs=2e-3)
            assert y == pytest.approx(float(cube["target_y"][i]) + dy / SCALE, abs=2e-3)


def test_magnification_of_a_disc_behind_an_sis(real_root: str) -> None:
    """Images of a source ring at radius b lie at theta_e + b and, for b < theta_e, at theta_e - b."""
    theta, reff = 1.1, 0.2
    scale = reff / 1.6783469900166605  # of an exponential with that half-light radius

    def light(b: float) -> float:
        return math.exp(-b / scale)

    lensed = scipy.integrate.quad(lambda b: light(b) * (theta + b), 0, 60 * scale)[0]
    lensed += scipy.integrate.quad(lambda b: light(b) * (theta - b), 0, theta)[0]
    truth = lensed / scipy.integrate.quad(lambda b: light(b) * b, 0, 60 * scale)[0]
    cube = injected(experiment(real_root, **RING))
    np.testing.assert_allclose(cube["magnification"], truth, rtol=1e-3)
    flux = 10 ** (0.4 * (22.5 - np.array([20.4, 20.0, 19.8])))  # colours of experiment() above
    np.testing.assert_allclose(cube["arc_flux_total"][0], truth * flux, rtol=1e-3)
    # All of a ring and of its Gaussian lies inside the stamp.
    np.testing.assert_allclose(cube["total_injected_flux"], cube["arc_flux_total"], rtol=1e-4)


def test_outcomes_are_their_formulas(
    exact: xr.Dataset, coadds: dict[tuple[str, str], tuple[np.ndarray, WCS]]
) -> None:
    drawn = np.flatnonzero(exact["lens_model"] > 0)
    assert len(drawn) > 2
    for i in drawn:
        arc = exact["arc"].values[i].astype(float)
        place = float(exact["ra"][i]), float(exact["dec"][i])
        weight = window(*coadds["invvar", "r"], *place, 64).astype(float)
        snr = math.sqrt((arc[1] ** 2 * weight).sum())
        assert float(exact["arc_snr"][i]) == pytest.approx(snr, rel=1e-6)
        np.testing.assert_allclose(exact["total_injected_flux"][i], arc.sum(axis=(1, 2)), rtol=1e-6)
        ratio = exact["arc_flux_total"][i] / exact["src_flux"][i]
        np.testing.assert_allclose(ratio, float(exact["magnification"][i]), rtol=1e-6)


def test_the_source_flux_is_the_planned_one(mixed: tuple[Experiment, xr.Dataset]) -> None:
    _, cube = mixed
    drawn = cube["lens_model"].values > 0
    mags = 22.5 - 2.5 * np.log10(cube["src_flux"].values[drawn])
    np.testing.assert_allclose(mags, np.broadcast_to([21.4, 21.0, 20.8], mags.shape), atol=1e-5)


@pytest.mark.parametrize("model", ["gaussian", "moffat"])
@pytest.mark.parametrize("width", ["nea", "fwhm"])
def test_widths_drawn(real_root: str, model: str, width: str) -> None:
    """NEA of a Moffat is pi alpha^2 (2 beta - 1) / (beta - 1)^2, that of a Gaussian 4 pi sigma^2."""
    cube = injected(experiment(real_root, psf={"model": model, "beta": 3.5, "width": width}, **ALL))
    psfsize = cube["psfsize"].values.astype(float)
    assert (psfsize > 0.8).all()
    assert (psfsize < 2).all()
    np.testing.assert_array_equal(cube["psf_fwhm_used"], cube["psfsize"])
    drawn = psfsize
    if (model, width) == ("moffat", "nea"):
        sigma = psfsize / 2.3548200450309493
        alpha = np.sqrt(4 * sigma**2 * 2.5**2 / 6.0)
        drawn = 2 * alpha * math.sqrt(2 ** (1 / 3.5) - 1)
    np.testing.assert_allclose(cube["psf_fwhm_drawn"], drawn, rtol=1e-6)
    assert (cube["psf_source"] == 0).all()
    assert (cube["psf_model"] == {"gaussian": 1, "moffat": 2}[model]).all()
    beta = np.nan if model == "gaussian" else 3.5
    np.testing.assert_array_equal(cube["psf_beta"], np.full(len(PLACES), beta, np.float32))


def test_psfdepth_is_the_depth_of_a_psf_flux(mixed: tuple[Experiment, xr.Dataset]) -> None:
    _, cube = mixed
    sigma_psf = cube["psfsize"] / 2.3548200450309493 / SCALE  # pixels
    truth = 1 / (cube["sky_sigma"] ** 2 * 4 * math.pi * sigma_psf**2)
    np.testing.assert_allclose(cube["psfdepth"], truth, rtol=1e-5)


def test_a_core_mask_is_applied_after_the_psf_and_recorded(real_root: str) -> None:
    plain = injected(experiment(real_root, store={"precision": "exact"}, **ALL))
    masked = injected(
        experiment(
            real_root, store={"precision": "exact"}, fix={"core_mask": {"radius_px": 4}}, **ALL
        )
    )
    axis = np.arange(64.0)
    for i in range(len(PLACES)):
        x0, y0 = float(plain["target_x"][i]), float(plain["target_y"][i])
        inside = np.hypot(axis - x0, axis[:, None] - y0) < 4
        truth = np.where(inside, 0, plain["arc"].values[i])
        np.testing.assert_array_equal(masked["arc"].values[i], truth)
    assert set(masked["fix"].values) == {"core_mask(radius_px=4,taper_px=0)"}
    assert set(plain["fix"].values) == {"none"}
    # The flux inside the stamp is what is left; the lensed flux of the plane is what it was.
    assert (masked["total_injected_flux"] < 0.999 * plain["total_injected_flux"]).all()
    np.testing.assert_array_equal(masked["arc_flux_total"], plain["arc_flux_total"])


# --- controls and failures ------------------------------------------------------------------------

OUTCOMES = [
    "arc_snr", "magnification", "total_injected_flux", "arc_flux_total", "psf_fwhm_used",
    "psf_fwhm_drawn",
]  # fmt: skip


def test_controls_miss_what_they_do_not_have(mixed: tuple[Experiment, xr.Dataset]) -> None:
    _, cube = mixed
    control = cube["lens_model"].values == 0
    assert control.any()
    for name in [*OUTCOMES, "lens_q", "gamma1", "src_reff", "src_flux", "psf_beta"]:
        assert np.isnan(cube[name].values[control]).all(), name
        assert np.isfinite(cube[name].values[~control]).all(), name
    assert (cube["theta_e"].values[control] == 0).all()
    assert (cube["arc"].values[control] == 0).all()
    assert (np.abs(cube["arc"].values[~control]).max(axis=(1, 2, 3)) > 0).all()
    assert (cube["psf_model"].values[control] == 0).all()
    assert (cube["src_model"].values[control] == 0).all()
    assert set(cube["fix"].values[control]) == {"none"}
    # What belongs to the sky they have as injections do.
    for name in ["psfsize", "sky_sigma", "psfdepth", "coverage", "bad_pixel_frac"]:
        assert np.isfinite(cube[name].values).all(), name


def assert_failed(cube: xr.Dataset, rows: pd.DataFrame, i: int, reason: Reason) -> None:
    assert Reason(int(cube["reason"][i])) is reason
    assert not cube["cutout_ok"][i]
    for name in ["ctrl", "arc", "nodata"]:
        assert (cube[name].values[i] == 0).all()
    sky = ["psfsize", "sky_sigma", "psfdepth", "coverage", "bad_pixel_frac", "wise_brightmask_frac"]
    for name in [*OUTCOMES, *sky]:
        assert np.isnan(cube[name].values[i]).all(), name
    # Planned columns stay.
    for name in ["theta_e", "lens_q", "lens_pa", "src_dx", "src_reff", "ra", "dec"]:
        np.testing.assert_allclose(float(cube[name][i]), rows[name].iloc[i], rtol=1e-6)
    assert int(cube["slot"][i]) == rows["slot"].iloc[i]
    assert int(cube["lens_model"][i]) == rows["lens_model"].iloc[i]
    flux = rows[[f"src_flux_{b}" for b in BANDS]].iloc[i].to_numpy(float)
    np.testing.assert_allclose(cube["src_flux"][i], flux, rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_failed_rows_are_rows(real_root: str, fraction: float) -> None:
    exp = experiment(real_root, plan={"control_fraction": fraction})
    places = [PLACES[0], (60.1, -30.5), (59.1800643, -30.5), (59.3313, -30.5)]
    rows = planned(exp, places)
    cube = make(rows, exp)
    assert Reason(int(cube["reason"][0])) is Reason.OK
    assert_failed(cube, rows, 1, Reason.OUTSIDE_BRICK)
    assert_failed(cube, rows, 2, Reason.NO_COVERAGE)
    assert_failed(cube, rows, 3, Reason.CROSSES_EDGE)


def test_a_missing_brick_fails_its_rows(real_root: str) -> None:
    exp = experiment(real_root, **ALL)
    rows = planned(exp, brick="0594m305")
    cube = make(rows, exp)
    for i in range(len(rows)):
        assert_failed(cube, rows, i, Reason.MISSING_FILE)
    assert any("0594m305" in note for note in cube.attrs["notes"])


def test_a_render_failure_is_a_row(real_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UserError("no")

    exp = experiment(real_root, plan={"repeats": 4})
    rows = planned(exp)
    monkeypatch.setattr(lensing, "render", refuse)
    cube = make(rows, exp)
    for i in range(len(rows)):
        if rows["lens_model"].iloc[i]:
            assert_failed(cube, rows, i, Reason.RENDER_FAILED)
        else:
            assert Reason(int(cube["reason"][i])) is Reason.OK


def test_an_arc_that_is_not_finite_is_a_row(
    real_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp = experiment(real_root, **ALL)
    broken = lensing.Rendered(np.full((3, 64, 64), np.nan), np.ones(3), 1.0, 16)
    monkeypatch.setattr(lensing, "render", lambda *_, **__: broken)
    rows = planned(exp)
    assert_failed(make(rows, exp), rows, 0, Reason.RENDER_FAILED)


# --- the same bytes -------------------------------------------------------------------------------


def test_pieces_and_repetitions_give_the_same_bytes(mixed: tuple[Experiment, xr.Dataset]) -> None:
    exp, whole = mixed
    rows = planned(exp)
    again = make(rows, exp)
    parts = [make(rows.iloc[a:b], exp) for a, b in ((0, 1), (1, 7), (7, 12))]
    pieces = xr.concat(parts, dim="pair", data_vars="minimal", coords="minimal", compat="override")
    for name in whole.data_vars:
        for other in (again, pieces):
            mine, theirs = whole[name].values, other[name].values
            if mine.dtype == object:
                assert mine.tolist() == theirs.tolist()
            else:
                assert mine.tobytes() == theirs.tobytes(), name


# --- hand-made cut-outs ---------------------------------------------------------------------------


def handmade(
    count: int,
    *,
    psfsize: tuple[float, float, float] = (1.4, 1.2, 1.3),
    holes: dict[str, Any] | None = None,
    uncovered: tuple[str, ...] = (),
) -> Cutouts:
    """Flat sky of sigma 0.01; ``holes``: pixels (y, x index) of a band without data."""
    rng = np.random.default_rng(5)
    invvar = np.full((count, 3, 64, 64), 1e4, np.float32)
    for band, where in (holes or {}).items():
        invvar[(slice(None), BANDS.index(band), *where)] = 0
    coverage = (invvar > 0).mean(axis=(2, 3)).astype(np.float32)
    width = np.tile(np.array(psfsize, np.float32), (count, 1))
    for band in uncovered:
        coverage[:, BANDS.index(band)] = 0
    fraction = np.zeros(count, np.float32)
    place = np.full(count, 31.7)
    return Cutouts(
        brick=BRICK,
        bands=BANDS,
        image=rng.normal(0, 0.01, invvar.shape).astype(np.float32),
        invvar=invvar,
        coverage=coverage,
        psfsize=width,
        bad_pixel_frac=fraction,
        wise_brightmask_frac=fraction,
        x=place,
        y=place,
        target_x=place,
        target_y=place,
        reason=np.full(count, Reason.OK, np.uint8),
    )


def from_handmade(
    monkeypatch: pytest.MonkeyPatch, cutouts: Cutouts, exp: Experiment, **columns: Any
) -> xr.Dataset:
    monkeypatch.setattr(inject, "read_cutouts", lambda *_, **__: cutouts)
    return make(planned(exp, PLACES[: len(cutouts.x)], **columns), exp)


def test_no_light_where_there_is_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each band keeps its own holes, and their light is in no sum."""
    holes = {"g": (slice(20, 40), slice(30, 34)), "z": (slice(0, 10), slice(None))}
    exp = experiment(store={"precision": "exact"}, **ALL)
    full = from_handmade(monkeypatch, handmade(1), exp)
    cube = from_handmade(monkeypatch, handmade(1, holes=holes), exp)
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 20:40, 30:34] = masks[2, :10] = True
    assert np.abs(full["arc"].values[0][masks]).max() > 0
    np.testing.assert_array_equal(cube["arc"].values[0], np.where(masks, 0, full["arc"].values[0]))
    np.testing.assert_array_equal(cube["nodata"].values[0], masks[0] + 4 * masks[2].astype(int))
    np.testing.assert_allclose(cube["coverage"][0], [1 - 80 / 4096, 1, 1 - 640 / 4096], rtol=1e-6)
    assert float(cube["total_injected_flux"][0, 0]) < float(full["total_injected_flux"][0, 0])
    np.testing.assert_array_equal(cube["arc_flux_total"], full["arc_flux_total"])


@pytest.mark.parametrize("pixels", ["none", "some"])
def test_a_band_without_coverage_at_the_target(
    monkeypatch: pytest.MonkeyPatch, pixels: str
) -> None:
    """No arc and no width, also where the stamp has pixels of that band further out."""
    where = (slice(None), slice(None) if pixels == "none" else slice(20, 64))
    cutouts = handmade(1, holes={"g": where}, uncovered=("g",), psfsize=(0.0, 1.2, 1.3))
    cube = from_handmade(monkeypatch, cutouts, experiment(**ALL))
    assert Reason(int(cube["reason"][0])) is Reason.OK
    assert (cube["arc"].values[0, 0] == 0).all()
    assert (np.abs(cube["arc"].values[0, 1:]).max(axis=(1, 2)) > 0).all()
    for name in ["psf_fwhm_used", "psf_fwhm_drawn", "total_injected_flux", "arc_flux_total"]:
        assert np.isnan(cube[name].values[0, 0]), name
        assert np.isfinite(cube[name].values[0, 1:]).all(), name
    assert cube["coverage"].values[0, 0] == 0
    assert cube["psf_source"].values[0].tolist() == [NO_PSF, 0, 0]
    assert np.isnan(cube["sky_sigma"].values[0, 0]) == (pixels == "none")
    assert np.isfinite(cube["arc_snr"].values[0])
    assert np.isfinite(cube["src_flux"].values[0, 0])  # planned it was


@pytest.mark.parametrize(
    ("at_target", "manifest", "used", "source"),
    [
        # The map at the target, then the manifest's value > 0, then the reference band's.
        ((1.4, 1.2, 1.3), (2, 2, 2), (1.4, 1.2, 1.3), (0, 0, 0)),
        ((0.0, 1.2, 1.3), (2, 2, 2), (2.0, 1.2, 1.3), (1, 0, 0)),
        ((0.0, 1.2, 1.3), (0, 0, 0), (1.2, 1.2, 1.3), (2, 0, 0)),
        ((0.0, 0.0, 1.3), (0, 1.1, 0), (1.1, 1.1, 1.3), (2, 1, 0)),
        ((0.0, 0.0, 0.0), (0, 1.1, -1), (1.1, 1.1, 1.1), (2, 1, 2)),
        # Nothing stands in for the reference band.
        ((1.4, 0.0, 1.3), (0, 0, 0), (1.4, np.nan, 1.3), (0, NO_PSF, 0)),
        ((0.0, 0.0, 0.0), (0, 0, 0), (np.nan,) * 3, (NO_PSF,) * 3),
    ],
)
def test_the_chain_of_widths(
    at_target: tuple[float, ...],
    manifest: tuple[float, ...],
    used: tuple[float, ...],
    source: tuple[int, ...],
) -> None:
    found = choose_widths(np.array(at_target), np.array(manifest, float), np.ones(3, bool), 1)
    np.testing.assert_array_equal(found.used, used)
    assert found.source.tolist() == list(source)


def test_a_band_without_pixels_gets_no_width_whatever_is_known() -> None:
    covered = np.array([False, True, False])
    found = choose_widths(np.array([1.4, 1.2, 0.0]), np.array([2.0, 2.0, 2.0]), covered, 1)
    np.testing.assert_array_equal(found.used, [np.nan, 1.2, np.nan])
    assert found.source.tolist() == [NO_PSF, 0, NO_PSF]


def test_the_manifests_width_is_read_from_the_target_table(monkeypatch: pytest.MonkeyPatch) -> None:
    cutouts = handmade(1, psfsize=(0.0, 1.2, 0.0))
    cube = from_handmade(monkeypatch, cutouts, experiment(**ALL), psfsize_g=1.7, psfsize_z=0.0)
    np.testing.assert_allclose(cube["psf_fwhm_used"][0], [1.7, 1.2, 1.2], rtol=1e-6)
    assert cube["psf_source"].values[0].tolist() == [1, 0, 2]
    np.testing.assert_allclose(cube["psfsize"][0], [0, 1.2, 0], rtol=1e-6)  # as read


def test_a_reference_band_of_unknown_width_fails_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    exp = experiment(**ALL)
    cube = from_handmade(monkeypatch, handmade(1, psfsize=(1.4, 0.0, 1.3)), exp)
    assert_failed(cube, planned(exp, PLACES[:1]), 0, Reason.PSF_MISSING)


def test_a_width_that_no_psf_has_is_a_failed_row(monkeypatch: pytest.MonkeyPatch) -> None:
    exp = experiment(**ALL)
    cube = from_handmade(monkeypatch, handmade(1, psfsize=(1.4, 25.0, 1.3)), exp)
    assert_failed(cube, planned(exp, PLACES[:1]), 0, Reason.RENDER_FAILED)


def test_rows_of_one_target_share_its_cutout(monkeypatch: pytest.MonkeyPatch) -> None:
    cutouts = handmade(2)
    exp = experiment(plan={"repeats": 3, "control_fraction": 0.5})
    cube = from_handmade(monkeypatch, cutouts, exp)
    k = cube["slot"].values & 0xFFFFFFFF
    step = 2.0 ** math.floor(math.log2(0.01 / 16))
    for i, target in enumerate(k):
        assert np.abs(cube["ctrl"].values[i] - cutouts.image[target]).max() <= step / 2 * 1.001

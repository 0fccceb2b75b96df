"""The audit's small conventions, one by one: bands, bits, axes, signs, ends of rings, shares of a risk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import t as student
from small_pairs import BANDS, SIGMA, small_pairs

from darkhaloscope.audit import AuditSpec, GateLimits, selection, stratum_counts
from darkhaloscope.audit.alignment import alignment
from darkhaloscope.audit.closure import closure
from darkhaloscope.audit.closure_summary import (
    MIN_EFFECTIVE,
    SUMMARY_COLUMNS,
    summarise,
    widened,
)
from darkhaloscope.audit.conclude import _shortcuts
from darkhaloscope.audit.core_gate import CoreGate, core_gate
from darkhaloscope.audit.gates import core_gates
from darkhaloscope.audit.hypotheses import p_above
from darkhaloscope.audit.intervals import FAMILY_RISK, Estimate, certain
from darkhaloscope.audit.leak_map import BLOCK, Stamps, parts
from darkhaloscope.audit.measure import Arrays, annuli, measure
from darkhaloscope.audit.sources.difference import GRANTED, difference_error
from darkhaloscope.geometry import PIXEL_SCALE, radius_map, sky_to_pixel, stamp_centre

SIZE = 32
ROWS, REGIONS = 120, 12
CENTRE = SIZE // 2


def spec_of(bands: tuple[str, ...] = BANDS) -> AuditSpec:
    counts = stratum_counts(np.ones(ROWS * 3 // 4))
    return AuditSpec(7, bands, "r", SIZE, PIXEL_SCALE, REGIONS, counts)


def rings() -> xr.Dataset:
    """Pairs whose arcs are rings about their targets, of about 100 sky sigma in all bands."""
    ds = small_pairs(ROWS, size=SIZE)
    ds["arc"].values[:] *= 20
    return ds


def as_promised(stats: Arrays, arcs: Callable[[np.ndarray], np.ndarray] = np.copy) -> Arrays:
    """The stored arcs (row, band, y, x), or what becomes of them, as if they had been drawn again."""
    return {
        "hash": stats["row_hash"],
        "core": arcs(stats["row_core_arc"].astype(float)),
        "magnification": np.full(len(stats["row_hash"]), 3.0),
        "whole_hash": stats["whole_hash"],
        "whole": arcs(stats["whole_arc"].astype(float)),
    }


def places_of(ds: xr.Dataset, stats: Arrays, hashes: np.ndarray | pd.Series) -> np.ndarray:
    """Row of ``ds`` of each hash; a slot is the row's own number here."""
    slot = dict(zip(stats["row_hash"].tolist(), stats["row_slot"].tolist(), strict=True))
    return np.array([slot[h] for h in np.asarray(hashes).tolist()])


# --- closure -------------------------------------------------------------------------------------


def test_a_pixel_without_data_is_one_of_its_own_band() -> None:
    """What one image has in it is not looked at; where another band has no data, it is."""
    ds, spec = rings(), spec_of()
    promised, wrong = as_promised(measure(ds, spec)), 4
    ds["arc"].values[wrong, 1, :6, :6] = 100 * SIGMA
    for bits, seen in ((0b010, set()), (0b101, {"r"}), (0b001, {"r"}), (0b111, set())):
        ds["nodata"].values[:, :6, :6] = bits
        pairs = closure(measure(ds, spec), promised, spec).pairs
        off = pairs[pairs["difference"] > 1e-6]
        assert set(off["band"]) == seen
        assert len(off) == len(seen)
        assert set(pairs["band"]) == set(BANDS)


def test_an_image_with_a_hole_near_the_arc_is_left_out() -> None:
    ds, spec = rings(), spec_of()
    near, far = 5, 9
    ds["nodata"].values[near, CENTRE, CENTRE + 8] = 0b100
    ds["nodata"].values[far, 0, 0] = 0b100
    stats = measure(ds, spec)
    found = closure(stats, as_promised(stats), spec)
    assert found.left_out["no data near the arc"] == 1
    at = places_of(ds, stats, found.pairs["hash"])
    assert set(found.pairs.band[at == near]) == {"g", "r"}
    assert set(found.pairs.band[at == far]) == {"g", "r", "z"}


def test_offsets_are_those_of_the_pixel_convention() -> None:
    ds, spec = rings(), spec_of()
    rng = np.random.default_rng(4)
    ds["lens_dx"].values[:], ds["lens_dy"].values[:] = rng.uniform(-0.3, 0.3, (2, ROWS))
    stats = measure(ds, spec)
    pairs = closure(stats, as_promised(stats), spec).pairs
    at = places_of(ds, stats, pairs["hash"])
    lens = sky_to_pixel(ds["lens_dx"].values[at], ds["lens_dy"].values[at], 0.0, 0.0)
    for axis, offset in zip("xy", lens, strict=True):
        np.testing.assert_allclose(pairs[f"lens_offset_{axis}"], offset, atol=1e-6)
        target = ds[f"target_{axis}"].values[at] - stamp_centre(SIZE)
        np.testing.assert_allclose(pairs[f"target_offset_{axis}"], target, atol=1e-6)


def test_each_band_has_its_share_of_the_risk() -> None:
    """The same images once, and as three bands: there the interval is one at 1 - 0.05 / 3."""
    ds = rings()
    own = np.random.default_rng(5).normal(1.0, 0.02, ROWS)
    ds["psfsize"].values[:] = ds["psf_fwhm_used"].values[:] = 1.3
    half, n = {}, 0
    for bands in (("r",), BANDS):
        part, spec = ds.isel(band=[BANDS.index(b) for b in bands]), spec_of(bands)
        promised = as_promised(measure(part, spec))
        stats = measure(part.assign(arc=part["arc"] * own[:, None, None, None]), spec)
        e = closure(stats, promised, spec).estimate("flux", "r")
        half[bands], n = 0.5 * (e.hi - e.lo), e.n
    wanted = student.ppf(1 - 0.025 / 3, n - 1) / student.ppf(0.975, n - 1)
    assert half[BANDS] / half[("r",)] == pytest.approx(wanted, rel=1e-3)


# --- what closure comes to -----------------------------------------------------------------------


@pytest.mark.parametrize(("telling", "known"), [(15, False), (25, True)])
def test_a_mean_of_a_few_effective_pairs_has_no_interval(telling: int, known: bool) -> None:
    assert 15 < MIN_EFFECTIVE < 25
    n = 200
    heavy = np.arange(n) < telling
    rng = np.random.default_rng(6)
    pairs = pd.DataFrame(
        {"hash": np.arange(n), "band": "r", "flux_ratio": 1.0, "shift": 0.0, "width_ratio": 1.0,
         "leftover": 0.0, "difference": 0.0, "signal": 100.0, "dx": rng.normal(0, 0.1, n), "dy": 0.0}
    )  # fmt: skip
    for where in ("core", "outer"):
        pairs[f"{where}_pedestal"] = rng.normal(0, 1e-3, n)
        pairs[f"{where}_weight"] = np.where(heavy, 1.0, 1e-4)
        pairs[f"{where}_granted"] = 0.0
    for of in ("target", "lens"):
        pairs[f"{of}_offset_x"], pairs[f"{of}_offset_y"] = np.where(heavy, 0.3, 1e-3), 0.0
    table = summarise(pairs, spec_of(("r",)), 0.95).set_index(["quantity", "band"])
    for name in ("core_pedestal", "outer_pedestal", "shift_with_target", "shift_with_lens"):
        assert np.isfinite(table.loc[(name, "r"), "value"])
        assert np.isfinite(table.loc[(name, "r"), "lo"]) == known
    assert np.isfinite(table.loc[("flux", "r"), "lo"])


def test_what_noise_does_widens_by_its_far_end() -> None:
    def of(lo: float, hi: float) -> pd.DataFrame:
        lines = [(name, "r", 0.5 * (lo + hi), lo, hi, 50, 0.0) for name in ("flux", "shift")]
        return pd.DataFrame(lines, columns=SUMMARY_COLUMNS)

    for noise in (of(-0.04, 0.01), of(-0.01, 0.04)):
        found = widened(of(-0.03, 0.03), noise).set_index("quantity")
        assert found.loc["flux", "hi"] == pytest.approx(0.05)
        assert found.loc["shift", "hi"] == pytest.approx(0.07)
        np.testing.assert_allclose(found["lo"], -found["hi"])


# --- how sure ------------------------------------------------------------------------------------


def test_what_the_fit_may_leave_is_granted() -> None:
    e = Estimate(0.02, 0.0199, 0.0201, 500)
    assert certain(e, 0.01, 18, 0.95)
    assert certain(replace(e, granted=0.005), 0.01, 18, 0.95)
    assert not certain(replace(e, granted=0.011), 0.01, 18, 0.95)


@pytest.mark.parametrize("n", [3, 6, 20])
def test_a_p_value_is_that_of_student(n: int) -> None:
    for value in (0.53, 0.6, 0.45):
        wanted = student.sf((value - 0.5) / 0.02, n - 1)
        assert p_above(value, 0.5, 0.02, n) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("strata", [1, 5])
def test_strata_share_the_risk_of_their_family(strata: int) -> None:
    limits, error, n = GateLimits(), 0.01, 30

    def found(errors: float) -> list[str]:
        excess = limits.excess_auc + errors * error * np.sqrt(n / (n - 1))
        line = {"family": "theta_e", "stratum": "1-2", "hi": 2.0, "regions": n, "auc": 0.9,
                "auc_rerendered": 0.9 - excess, "auc_lo": 0.8, "auc_hi": 1.0, "excess": excess,
                "excess_se": error}  # fmt: skip
        table = pd.concat([pd.DataFrame([line])] * strata, ignore_index=True)
        core = SimpleNamespace(strata=table, regions=n)
        return [c.name for c in _shortcuts(core, limits)]  # type: ignore[arg-type]

    edge = student.isf(FAMILY_RISK / strata / 2, n - 1)
    assert not found(0.99 * edge)
    assert found(1.01 * edge) == ["core_excess_auc"]


# --- the core ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def core() -> CoreGate:
    """Cores whose S/N is 5 in g, 20 in r and 0.5 in z."""
    spec = spec_of()
    stats = measure(rings(), spec)
    wanted = np.array([5.0, 20.0, 0.5]) * SIGMA

    def scaled(arc: np.ndarray) -> np.ndarray:
        norm = np.sqrt((arc**2).sum(axis=(2, 3), keepdims=True))
        return np.asarray(arc / norm * wanted[:, None, None])

    return core_gate(stats, as_promised(stats, scaled), spec)


def test_the_core_s_signal_is_that_of_the_reference_band(core: CoreGate) -> None:
    strata = core.strata[core.strata["family"] == "core_snr"]
    assert list(strata["stratum"]) == ["10-30"]


@pytest.mark.parametrize(("tied", "outcome"), [(0.4, "pass"), (0.6, "not_enough")])
def test_where_most_pairs_tie_the_core_is_no_test(
    core: CoreGate, tied: float, outcome: str
) -> None:
    limits = GateLimits()
    n = limits.core_auc_pairs
    curve = pd.DataFrame({"pairs": [n], "regions": 30, "auc": 0.5, "auc_lo": 0.48, "auc_hi": 0.52})
    at = replace(core, learning_curve=curve, pairs=n, regions=30, tied=tied)
    assert [g.outcome for g in core_gates(at, limits)] == [outcome, outcome]


# --- places in a stamp ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 41])
def test_a_block_is_where_its_name_says(size: int) -> None:
    y, x = np.mgrid[:size, :size]
    blocks = [p for p in parts(size) if p.reader == BLOCK]
    for part in blocks:
        assert (part.x, part.y) == (x[part.mask].mean(), y[part.mask].mean())
    assert (sum(p.mask.astype(int) for p in blocks) == 1).all()


def test_a_ring_has_its_inner_edge_and_not_its_outer() -> None:
    """About a target on a pixel both edges of the annulus run through pixels."""
    ds, spec = rings(), spec_of()
    ds["target_x"].values[:] = ds["target_y"].values[:] = CENTRE
    radius = radius_map(SIZE, CENTRE, CENTRE)
    ((inner, outer),) = annuli(SIZE)
    ring = (radius >= inner) & (radius < outer)
    assert (radius == inner).any()
    assert (radius == outer).any()
    ds["arc"].values[:] = np.where(ring, SIGMA, 1.0)
    stats = measure(ds, spec)
    injected = int((ds["lens_model"].values > 0).sum())
    assert stats["group_annulus_pixels"].sum() == injected * len(BANDS) * ring.sum()
    light = stats["group_annulus_sum"].sum(axis=(0, 1, 2))
    np.testing.assert_allclose(light, injected * len(BANDS) * ring.sum() * np.array([SIGMA, 1.0]))


def test_ctrl_is_moved_along_the_axis_that_is_named() -> None:
    n, spec = 6, spec_of()
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:SIZE, :SIZE]
    ctrl = np.broadcast_to(3.0 * x + 0.5 * y, (n, len(BANDS), SIZE, SIZE)).copy()
    ctrl += rng.normal(0, 1e-3, ctrl.shape)
    number = np.arange(n)
    stamps = Stamps(
        ctrl, ctrl, ctrl, np.ones(ctrl.shape, dtype=bool), number.astype(np.uint64), number,
        number.astype(np.uint64), number,
    )  # fmt: skip
    stats = {"row_theta_e": np.ones(n), "row_hash": number}
    _, shifts = alignment(stamps, stats, spec)
    # A ctrl moved by +1 along x has the light of x - 1.
    np.testing.assert_allclose(shifts["mean"], 3.0 * shifts.dx + 0.5 * shifts.dy, atol=1e-3)


# --- columns and sources -------------------------------------------------------------------------


def test_a_colour_that_tells_the_classes_apart_is_found() -> None:
    """Magnitudes of both bands scatter together, by more than the classes differ."""
    ds = small_pairs(ROWS * 2, size=10)
    injected = ds["lens_model"].values > 0
    rng = np.random.default_rng(9)
    brightness = rng.normal(19.0, 1.5, len(injected))
    colour = np.where(injected, 0.8, 0.5) + rng.normal(0, 0.02, len(injected))
    ds["host_mag"].values[:] = brightness[:, None] + np.array([1.0, 0.0, -1.0])
    ds["host_mag"].values[:, 0] = brightness + colour
    table = selection(ds, spec_of()).table.set_index("column")
    assert table.loc["colour g - r", "auc"] == pytest.approx(1.0, abs=0.01)
    assert abs(table.loc["host_mag g", "auc"] - 0.5) < 0.2


@pytest.mark.parametrize("size", [32, 64])
def test_the_error_of_a_sum_is_that_of_white_noise(size: int) -> None:
    rng = np.random.default_rng(10)
    level = 0.3
    noise = rng.normal(0, level, (60, 2, size, size)).astype(np.float32)
    sums = noise.sum(axis=(2, 3), dtype=float)
    known = np.zeros(noise.shape, dtype=bool)
    off = difference_error(noise, known, np.zeros(sums.shape))
    assert np.median(off) == pytest.approx(GRANTED * sums.std(), rel=0.15)
    np.testing.assert_allclose(difference_error(noise, known, np.full(sums.shape, 7.0)), off + 7.0)

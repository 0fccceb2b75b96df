"""Arcs that are off by themselves, rows that are not their own, and how sure a cause must be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from audit_pairs import SIZE, SKY, Ds, clean, measure, rerendered, spec_of, summed, with_arc
from planted import planted

from darkhaloscope.audit.causes import Limits, outside_of
from darkhaloscope.audit.closure import Closure, closure
from darkhaloscope.audit.closure_summary import SUMMARY_COLUMNS
from darkhaloscope.audit.explain import closure_images
from darkhaloscope.audit.gates import closure_gates, localisation_gate, scatter_gate
from darkhaloscope.audit.identity import NOT_UNIQUE, REPEATED, repeated, skies_in_two_splits
from darkhaloscope.audit.intervals import Estimate, certain, t_interval
from darkhaloscope.audit.measure import merge
from darkhaloscope.audit.named import closure_causes
from darkhaloscope.audit.rerender import predicted_width
from darkhaloscope.audit.rounding import rounded, steps, stored_as
from darkhaloscope.audit.shape import impossible_magnification
from darkhaloscope.audit.singles import of_all, scattered_words, singles
from darkhaloscope.audit.verdict import GateLimits
from darkhaloscope.geometry import core_slice
from darkhaloscope.variables import SPLITS

PAIRS = 110
LIMITS = Limits()


def closed(ds: Ds) -> Closure:
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    return closure(stats, rerendered(ds, stats, spec), spec)


def some(n: int, change: Callable[[np.ndarray], np.ndarray]) -> Ds:
    """Clean pairs with ``n`` arcs changed."""

    def plant(arc: np.ndarray) -> np.ndarray:
        arc[7 : 7 + n] = change(arc[7 : 7 + n])
        return arc

    return with_arc(clean(PAIRS), plant)


def test_arcs_that_lack_one_band_lack_that_band() -> None:
    def without_z(arc: np.ndarray) -> np.ndarray:
        arc[:, 2] = 0.0
        return arc

    found = singles(closed(some(9, without_z)), LIMITS)
    assert found is not None
    assert "9 of 110 arcs (8.2%) hold no light in band z, unlike the rest" in found.says


@pytest.mark.parametrize(
    ("n", "change", "says"),
    [
        (1, lambda a: 0 * a, "1 of 110 arcs (0.9%) hold no light, unlike the rest"),
        (4, lambda a: np.roll(a, 3, -1), "4 of 110 arcs (3.6%) are displaced by 3.00 px (median)"),
        (6, lambda a: 2 * a, "6 of 110 arcs (5.5%) hold 2 times the promised flux (median)"),
    ],
    ids=["missing", "moved", "doubled"],
)
def test_a_few_arcs_that_are_far_off_are_counted(
    n: int, change: Callable[[np.ndarray], np.ndarray], says: str
) -> None:
    found = closed(some(n, change))
    alone = singles(found, LIMITS)
    assert alone is not None
    assert alone.says.startswith(says)
    assert alone.share == pytest.approx(n / PAIRS)
    # What the mean says of them is not said of all.
    assert [
        c for c in of_all(closure_causes(found, LIMITS), found, LIMITS) if c.kind == "bug"
    ] == []


def test_clean_and_noisy_pairs_have_no_such_arcs() -> None:
    assert singles(closed(clean(PAIRS)), LIMITS) is None
    assert singles(closed(planted(clean(PAIRS), "noise in one class")), LIMITS) is None


def test_what_all_arcs_do_is_no_single_arc() -> None:
    found = closed(with_arc(clean(PAIRS), lambda arc: 2 * arc))
    assert singles(found, LIMITS) is None
    causes = closure_causes(found, LIMITS)
    assert of_all(causes, found, LIMITS) == causes


def test_each_band_has_its_own_factor() -> None:
    factors = np.array([3.2, 1.0, 0.31])[None, :, None, None]
    found = closed(with_arc(clean(PAIRS), lambda arc: factors * arc))
    cause = next(c for c in closure_causes(found, LIMITS) if c.name == "flux_scale")
    assert "3.200 times in g, 0.310 times in z" in cause.says
    assert cause.size == pytest.approx(3.2, abs=0.01)


def test_the_worst_pixel_is_where_it_is_said_to_be() -> None:
    glow = 3 * np.exp(-0.5 * (np.arange(SIZE) / 2) ** 2)  # smooth: sharp ones are stray pixels

    def corner(arc: np.ndarray) -> np.ndarray:
        return arc + SKY[None, :, None, None] * glow[:, None] * glow

    (cause,) = (
        c
        for c in closure_causes(closed(with_arc(clean(PAIRS), corner)), LIMITS)
        if c.name == "unexplained_residual"
    )
    assert "most at r = 3" in cause.says


def test_scatter_is_said_of_what_scatters() -> None:
    ds = clean(PAIRS)
    theta_e = ds["theta_e"].values[:PAIRS].astype(float)
    trend = closed(with_arc(ds, lambda arc: arc * (theta_e / 1.5)[:, None, None, None]))
    words = scattered_words(trend, LIMITS, mean_is_right=False)
    assert "flux ratios scatter" in words
    assert "follow theta_e with a rank correlation of +1.00" in words
    assert "mean is right" not in words


def test_gates_that_lack_certainty_do_not_ask_for_pairs_that_are_there() -> None:
    found = closed(some(5, lambda a: 1.5 * a))
    for gate in (scatter_gate(found, GateLimits()), localisation_gate(found, GateLimits())):
        assert gate.outcome == "pass" or "110" in gate.missing
        assert "needs 100 pairs (110" not in gate.missing


# --- rows that are not their own ------------------------------------------------------------------


def measured(ds: Ds) -> dict[str, np.ndarray]:
    spec = spec_of(ds)
    return merge([measure(ds, spec)], spec)


def test_rows_that_are_repeated_are_said_to_be() -> None:
    ds = clean(PAIRS)
    assert repeated(measured(ds)) == []
    twice = xr.concat([ds, ds.isel(pair=slice(0, 10))], "pair")
    (cause,) = repeated(measured(twice))
    assert (cause.name, cause.kind) == (REPEATED, "bug")
    assert "20 of 120 audit rows" in cause.says


def test_the_same_sky_in_two_splits_is_a_leak_whatever_its_name() -> None:
    stats = measured(clean(PAIRS))
    assert skies_in_two_splits(stats, SIZE) == 0
    split, ctrl = stats["row_region_split"], stats["row_core_ctrl"]
    train, test = np.flatnonzero(split == 0)[:5], np.flatnonzero(split == 2)[:5]
    same = {**stats, "row_core_ctrl": ctrl.copy()}
    same["row_core_ctrl"][test] = ctrl[train]
    assert skies_in_two_splits(same, SIZE) == 5
    guard = {**same, "row_region_split": split.copy()}
    guard["row_region_split"][test] = SPLITS.index("guard")
    assert skies_in_two_splits(guard, SIZE) == 0
    # Empty cores, and such of few counts, are equal by chance.
    assert skies_in_two_splits({**stats, "row_core_ctrl": np.round(ctrl * 0.0)}, SIZE) == 0
    assert (
        skies_in_two_splits({**same, "row_core_ctrl": (same["row_core_ctrl"] > 0.02) * 1.0}, SIZE)
        == 0
    )
    assert skies_in_two_splits({k: v[:0] for k, v in stats.items()}, SIZE) == 0


@pytest.mark.parametrize("size", [48, 49])
def test_a_sky_is_the_same_mirrored_and_turned(size: int) -> None:
    """Where its size is odd, the core of a mirrored stamp holds other pixels than the stamp's own."""
    whole = np.random.default_rng(2).normal(size=(9, 3, size, size)).astype("f4")
    ways = [np.rot90(v, k, (1, 2)) for v in (whole[0], whole[0, :, ::-1]) for k in range(4)]
    whole[1:] = np.stack(ways)
    core = core_slice(size)
    stats = {"row_core_ctrl": whole[..., core, core], "row_region_split": np.arange(9) % 2}
    for k in range(1, 9):
        pair = {
            "row_core_ctrl": stats["row_core_ctrl"][[0, k]],
            "row_region_split": np.array([0, 2]),
        }
        assert skies_in_two_splits(pair, size) == 1
    # Bands are mirrored together, and the values alone are not the sky.
    stats["row_core_ctrl"] = stats["row_core_ctrl"].copy()
    stats["row_core_ctrl"][1] = stats["row_core_ctrl"][0]
    stats["row_core_ctrl"][1, 0] = stats["row_core_ctrl"][0, 0, ::-1]
    pair = {name: v[:2] for name, v in stats.items()}
    assert skies_in_two_splits(pair, size) == 0


def test_two_sets_under_one_name_are_said_to_be() -> None:
    ds = clean(PAIRS)
    other = ds.assign(ctrl=ds["ctrl"] * np.float32(1.1))
    (cause,) = repeated(measured(xr.concat([ds, other], "pair")))
    assert cause.name == NOT_UNIQUE
    assert "220 of 220 audit rows share their brick and slot" in cause.says


# --- rounding of what was stored ------------------------------------------------------------------


def differences(ds: Ds, kind: type[np.floating], level: float = 0.0) -> Ds:
    """The pairs as two stacks of ``kind`` hold them, on a background."""
    ctrl = (ds["ctrl"].values.astype(float) + level).astype(kind)
    stamp = (ds["ctrl"].values.astype(float) + level + ds["arc"].values).astype(kind)
    arc = np.where(ds["arc"].values != 0, stamp.astype(float) - ctrl, 0.0).astype("f4")
    return summed(ds.assign(ctrl=(ds["ctrl"].dims, ctrl.astype("f4")), arc=(ds["arc"].dims, arc)))


def on_steps(ds: Ds, step: float) -> Ds:
    """The pairs as two stacks of counts hold them, each ``step`` nMgy."""
    ctrl = np.round(ds["ctrl"].values.astype(float) / step).astype(np.int32)
    stamp = np.round((ds["ctrl"].values.astype(float) + ds["arc"].values) / step).astype(np.int32)
    injected = (ds["lens_model"].values != 0)[:, None, None, None]
    arc = np.where(injected, (stamp - ctrl) * step, 0.0)
    ctrl = (ctrl * np.float32(step)).astype("f4")
    return summed(ds.assign(ctrl=(ds["ctrl"].dims, ctrl), arc=(ds["arc"].dims, arc.astype("f4"))))


@pytest.mark.parametrize(
    "stored",
    [
        lambda ds: differences(ds, np.float16),
        lambda ds: differences(ds, np.float32, 1000.0),
        lambda ds: on_steps(ds, 0.2 * SKY[0]),
        lambda ds: on_steps(ds, 0.7 * SKY[0]),
    ],
    ids=["float16", "on a background", "counts", "coarse counts"],
)
def test_the_rounding_of_two_stored_images_is_no_bug(stored: Callable[[Ds], Ds]) -> None:
    found = closed(stored(clean(PAIRS)))
    assert len(found.noise_pairs)
    assert [c.name for c in closure_causes(found, LIMITS) if c.kind == "bug"] == []
    assert singles(found, LIMITS) is None
    gates = [*closure_gates(found, GateLimits()), scatter_gate(found, GateLimits())]
    gates.append(localisation_gate(found, GateLimits()))
    assert "fail" not in {g.outcome for g in gates}


def test_a_doubled_flux_is_found_in_rounded_images() -> None:
    doubled = with_arc(clean(PAIRS), lambda arc: 2 * arc)
    causes = closure_causes(closed(differences(doubled, np.float16)), LIMITS)
    assert [c.name for c in causes if c.kind == "bug"] == ["flux_scale"]


def test_a_doubled_flux_is_found_in_counts() -> None:
    doubled = with_arc(clean(PAIRS), lambda arc: 2 * arc)
    causes = closure_causes(closed(on_steps(doubled, 0.2 * SKY[0])), LIMITS)
    first, *others = (c.name for c in causes if c.kind == "bug")
    assert first == "flux_scale"
    # What such steps make of a core is at the edge of being seen beside it.
    assert set(others) <= {"core_pedestal"}


@pytest.mark.parametrize("step", [1.0, 0.003, 7e4 / 3])
@pytest.mark.parametrize("brightest", [30.0, 1e5])
def test_the_step_of_counts_is_read_from_their_pixels(step: float, brightest: float) -> None:
    rng = np.random.default_rng(2)
    counts = np.round(rng.normal(0.0, 3.0, (5, 30, 30)))
    counts[:, 15, 15] = brightest
    light = np.round(rng.exponential(2.0, (5, 30, 30)))
    ctrl, stamp = (
        (np.float32(step) * v.astype("f4")).astype(float) for v in (counts, counts + light)
    )
    found = stored_as(ctrl, (stamp - ctrl).astype("f4").astype(float))
    assert isinstance(found, float)
    assert found == pytest.approx(step, rel=1e-5)
    arc = rng.exponential(2.0 * step, ctrl.shape)
    left = rounded(ctrl, arc, found)
    assert np.abs(left - arc).max() <= 0.501 * step
    assert steps(ctrl, arc, found).max() == found


def test_pixels_without_a_step_have_none() -> None:
    rng = np.random.default_rng(2)
    ctrl, arc = (rng.normal(size=(5, 30, 30)).astype("f4").astype(float) for _ in range(2))
    counts = np.round(10 * ctrl)
    # Arcs that are finer than the step of their ctrl were stored by themselves, and some counts are none.
    assert not isinstance(stored_as(counts, arc), float)
    assert not isinstance(stored_as(ctrl, arc), float)
    assert not isinstance(stored_as(0 * ctrl, arc), float)
    counts[0, 0, 0] += 0.3
    assert not isinstance(stored_as(counts, counts), float)


def test_the_type_of_stored_images_is_read_from_their_pixels() -> None:
    rng = np.random.default_rng(2)
    ctrl, arc = rng.normal(1.0, 0.2, (5, 30, 30)), rng.exponential(1e-2, (5, 30, 30))
    for kind in (np.float16, np.float32):
        stored = ctrl.astype(kind).astype(float)
        assert stored_as(stored, rounded(stored, arc, kind)) is kind
    fine = ctrl.astype(np.float32).astype(float)
    assert stored_as(fine, 1e-6 * arc) is None
    assert stored_as(fine, 0 * arc) is None


# --- how sure a cause must be ---------------------------------------------------------------------


def test_causes_are_certain_at_the_family_s_risk() -> None:
    # 1.96 standard errors above the limit are no cause, 5 are; nothing is of fewer than 20 pairs.
    def of(errors: float, n: int) -> Estimate:
        reach = (t_interval(0.0, np.array([-1.0, 1.0]), n)[1]) * np.sqrt((n - 1) / n / 2)
        value = 0.01 + errors * 0.01
        return Estimate(value, value - 0.01 * reach, value + 0.01 * reach, n)

    assert not certain(of(2.5, 500), 0.01, 18, 0.95)
    assert certain(of(5.0, 500), 0.01, 18, 0.95)
    assert not certain(of(50.0, 19), 0.01, 18, 0.95)
    assert certain(of(50.0, 20), 0.01, 18, 0.95)


@pytest.mark.parametrize(("pairs", "named"), [(15, False), (60, True), (200, True)])
def test_a_gate_fails_where_a_cause_is_named(pairs: int, named: bool) -> None:
    value = [
        ("flux", "r", 1.0, 0.99, 1.01, pairs, 0.0),
        ("shift", "r", 0.0, -1e-3, 1e-3, pairs, 0.0),
    ]
    empty = pd.DataFrame()
    table = pd.DataFrame({"band": ["r"] * pairs, "hash": np.arange(pairs)})
    found = Closure(
        table, pd.DataFrame(value, columns=SUMMARY_COLUMNS), empty, empty, pairs, {}, empty
    )
    assert bool(outside_of(found, "flux", 0.01)) == named
    outcome = {g.name: g.outcome for g in closure_gates(found, GateLimits())}
    assert outcome["closure_flux"] == ("fail" if named else "not_enough")
    assert outcome["closure_centroid"] == ("pass" if pairs >= 100 else "not_enough")


def test_intervals_are_those_of_student() -> None:
    """Of n units, from replicates of a bootstrap: wider by sqrt(n / (n - 1)), with t of n - 1."""
    lo, hi = t_interval(1.0, np.array([-1.0, 1.0]), 2)
    # Replicates spread by sqrt 2, times sqrt(2 / 1), times t(0.975, 1) = 12.706.
    assert (lo, hi) == (
        pytest.approx(1 - 2 * 12.7062, rel=1e-4),
        pytest.approx(1 + 2 * 12.7062, rel=1e-4),
    )


def test_the_predicted_width_is_the_map_s_where_it_has_one() -> None:
    source, used = np.array([0, 1, 2, 0]), np.array([9.0, 1.1, 1.2, 9.0])
    width = predicted_width(source, used, np.array([1.3, 7.0, 0.0, 1.4]), np.array([1, 1, 0.5, 0]))
    np.testing.assert_array_equal(width, [1.3, 1.1, 1.2, np.nan])


def test_a_magnification_a_little_below_one_is_none() -> None:
    def of(*values: float) -> list[float]:
        return [c.size for c in impossible_magnification({"row_magnification": np.array(values)})]

    assert of(1.0, 0.995, np.nan) == []
    assert of(0.98, 3.0) == [0.5]


def test_a_band_without_a_psf_is_left_out_and_the_others_are_looked_at() -> None:
    ds = with_arc(clean(PAIRS), lambda arc: 2 * arc).copy(deep=True)
    ds["psfsize"].values[:, 2] = np.nan
    found = closed(ds)
    assert found.pairs["band"].unique().tolist() == ["g", "r"]
    assert [c.name for c in closure_causes(found, LIMITS) if c.kind == "bug"] == ["flux_scale"]
    spec = spec_of(ds)
    stats = measured(ds)
    images = closure_images(stats, rerendered(ds, stats, spec), spec)
    assert len(images.arc) == PAIRS
    assert not images.good[:, 2].any()
    # A factor is allowed to all rows together: it leaves nothing.
    assert images.unexplained(images.again).max() < 1e-4

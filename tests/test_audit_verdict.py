"""Verdicts on clean pairs and on planted defects.

The pairs are drawn by the package's renderer, the audit draws them again by its own integrator.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from audit_pairs import (
    SIZE,
    SKY,
    clean,
    gate,
    masked_again,
    names,
    run_audit,
    spec_of,
    summed,
    with_arc,
)
from planted import planted

from darkhaloscope.audit import GateLimits, exit_code, to_json
from darkhaloscope.audit.conclude import _shortcuts
from darkhaloscope.audit.gates import (
    closure_gates,
    dose_gates,
    excess_gate,
    localisation_gate,
)
from darkhaloscope.audit.intervals import Estimate
from darkhaloscope.geometry import radius_map, stamp_centre

pytestmark = pytest.mark.usefixtures("verdict_alone")

UNIT = SKY[None, :, None, None]
RADIUS = radius_map(SIZE, stamp_centre(SIZE), stamp_centre(SIZE))


def test_clean_pairs_are_physics() -> None:
    result = run_audit(clean())
    assert result.verdict["verdict"] == "physics"
    assert result.exit_code == 0
    assert names(result) == []
    assert all(
        g["outcome"] == "pass" for g in result.verdict["gates"] if "core_auc" not in g["name"]
    )
    # An arc is allowed to be visible where it is.
    assert gate(result, "core_auc")["outcome"] == "fail"
    assert gate(result, "core_auc")["value"] > 0.75
    assert "300 arcs" in result.verdict["sentence"]


def test_verdict_has_exactly_the_schema() -> None:
    result = run_audit(with_arc(clean(), lambda arc: 1.05 * arc))
    back = json.loads(to_json(result.verdict))
    assert set(back) == {"schema", "verdict", "sentence", "causes", "gates", "pairs", "not_tested"}
    assert back["schema"] == 1
    assert back["pairs"] == 300
    for cause in back["causes"]:
        assert set(cause) == {"name", "size", "interval", "evidence"}
    for line in back["gates"]:
        assert set(line) == {"name", "value", "interval", "limit", "outcome"}
        assert line["outcome"] in ("pass", "fail", "not_enough")
    assert any("PSF impulse" in t for t in back["not_tested"])


@pytest.mark.parametrize("size", [2e-3, 0.02, 1.0, -0.05])
def test_a_constant_in_the_core_is_called_that(size: float) -> None:
    box = np.zeros((SIZE, SIZE))
    box[19:29, 19:29] = size
    result = run_audit(with_arc(clean(), lambda arc: arc + UNIT * box))
    assert result.verdict["verdict"] == "bug"
    assert result.exit_code == 1
    assert names(result)[0] == "core_pedestal"
    assert not {"blur", "flux_scale", "shift", "pedestal"} & set(names(result))
    cause = result.verdict["causes"][0]
    assert cause["size"] == pytest.approx(size, rel=0.05)
    assert "in the core, out to r = 5.6 px, in all bands" in result.verdict["sentence"]
    assert gate(result, "residual_pedestal")["outcome"] == "fail"


def test_the_reach_and_the_band_of_a_core_constant_are_said() -> None:
    disc = 0.01 * (RADIUS < 8)[None, None] * UNIT * np.array([0, 1, 0])[None, :, None, None]
    result = run_audit(with_arc(clean(), lambda arc: arc + disc))
    assert names(result) == ["core_pedestal"]
    assert "out to r = 8.1 px, in band r" in result.verdict["sentence"]


@pytest.mark.parametrize(
    ("change", "name", "size"),
    [
        (lambda arc: 1.05 * arc, "flux_scale", 1.05),
        (lambda arc: 2.0 * arc, "flux_scale", 2.0),
        (lambda arc: arc + 0.01 * UNIT, "pedestal", 0.01),
        (lambda arc: np.roll(arc, 1, axis=-1), "shift", 1.0),
        (lambda arc: np.roll(arc, SIZE // 2, axis=-1), "kernel_centre", SIZE / 2),
    ],
    ids=["flux", "flux_doubled", "pedestal", "one_pixel", "half_a_stamp"],
)
def test_named_causes(change: Callable[[np.ndarray], np.ndarray], name: str, size: float) -> None:
    result = run_audit(with_arc(clean(), change))
    assert result.verdict["verdict"] == "bug"
    assert names(result)[0] == name
    assert abs(result.verdict["causes"][0]["size"]) == pytest.approx(size, rel=0.01)


def test_a_sky_offset_of_one_band_is_placed() -> None:
    only_g = 0.05 * UNIT * np.array([1, 0, 0])[None, :, None, None]
    result = run_audit(with_arc(clean(), lambda arc: arc + only_g))
    assert names(result) == ["pedestal"]
    assert "in band g" in result.verdict["sentence"]


def test_psfsize_taken_for_a_moffat_fwhm_is_called_that() -> None:
    result = run_audit(planted(clean(), "psfsize as Moffat FWHM"))
    assert names(result) == ["psf_as_moffat_fwhm"]
    assert result.verdict["causes"][0]["size"] == pytest.approx(1.233, abs=0.005)
    assert "psfsize taken for the FWHM of a Moffat" in result.verdict["sentence"]


def test_rounded_targets_are_told_from_a_constant_shift() -> None:
    result = run_audit(planted(clean(), "target rounded"))
    assert names(result)[0] == "target_rounded"
    assert "the target was rounded" in result.verdict["causes"][0]["evidence"]


@pytest.mark.long
def test_angles_of_lens_shear_and_offset_are_fitted_apart() -> None:
    """All but the source's own angle are mirrored."""
    result = run_audit(planted(clean(), "angles mirrored"))
    assert result.verdict["verdict"] == "bug"
    assert names(result)[0] == "angle_convention"
    flipped_but_one = "the whole sky mirrored east for west, and then the source angle mirrored"
    assert flipped_but_one in result.verdict["sentence"]
    assert gate(result, "arc_localisation")["outcome"] == "fail"


def test_a_shortcut_that_closure_lets_pass_is_a_shortcut() -> None:
    """A faint chessboard in the core, under wide rings: no light, and no pixel that is off by itself."""
    ds = clean(300, 30, (3.0, 3.4), (-1.2, -0.6))
    hot = np.zeros((SIZE, SIZE))
    y, x = np.mgrid[16:26, 16:26]
    hot[y, x] = np.where((x + y) % 2, 0.08, -0.08)
    result = run_audit(with_arc(ds, lambda arc: arc + UNIT * hot))
    assert result.verdict["verdict"] == "shortcut", result.verdict["sentence"]
    assert result.exit_code == 1
    assert names(result) == ["core_excess_auc"]
    assert gate(result, "excess_auc")["outcome"] == "fail"
    for name in ("closure_flux", "closure_centroid", "closure_blur", "residual_pedestal"):
        assert gate(result, name)["outcome"] == "pass"


def test_a_region_or_a_sky_in_two_splits_is_a_bug() -> None:
    ds = clean().copy(deep=True)
    ds["region_split"].values[0] = (ds["region_split"].values[0] + 1) % 3
    ds["ctrl"].values[2] = ds["ctrl"].values[1]  # of another region, host and split
    result = run_audit(ds)
    assert result.verdict["verdict"] == "bug"
    assert names(result) == ["split_leak"]
    assert "1 of 30 regions and 1 of 120 hosts" in result.verdict["sentence"]
    assert "core pixels of 1 ctrl are exactly those of one" in result.verdict["sentence"]
    assert gate(result, "split_integrity")["value"] == 3


def test_a_missing_column_is_a_bug() -> None:
    ds = clean().copy(deep=True)
    ds["arc_snr"].values[:] = np.nan
    result = run_audit(ds)
    assert names(result) == ["column_coverage"]
    assert "arc_snr is missing on 300 of 300 injections" in result.verdict["sentence"]


def test_zero_for_none_on_controls_is_a_bug() -> None:
    ds = clean().copy(deep=True)
    ds["magnification"].values[300:] = 0.0
    result = run_audit(ds)
    assert names(result) == ["column_coverage"]
    assert "present on 30 of 30 controls" in result.verdict["sentence"]


@pytest.mark.parametrize("regions", [1, 4, 12])
def test_few_regions_are_undecided_although_closure_passes(regions: int) -> None:
    ds = clean(120, 30).copy(deep=True)
    label = np.array([f"r{i % regions}" for i in range(132)], dtype=object)
    ds["region_id"].values[:] = label
    ds["host_id"].values[:] = np.arange(132) % regions
    ds["region_split"].values[:] = 0
    result = run_audit(ds)
    assert result.verdict["verdict"] == "undecided"
    assert result.exit_code == 3
    assert (
        f"20 regions for the interval of excess_auc ({regions} here)" in result.verdict["sentence"]
    )
    assert gate(result, "core_auc")["outcome"] == "not_enough"
    for name in ("closure_flux", "closure_centroid", "closure_blur", "residual_pedestal"):
        assert gate(result, name)["outcome"] == "pass"


def test_few_pairs_are_undecided() -> None:
    ds = clean().isel(pair=slice(0, 60))
    result = run_audit(ds)
    assert result.exit_code == 3
    assert "closure needs 100 pairs (60 here)" in result.verdict["sentence"]


def test_a_required_gate_is_policy_not_diagnosis() -> None:
    limits = GateLimits(required=(*GateLimits().required, "core_auc"), core_auc_pairs=300)
    result = run_audit(clean(), limits)
    assert result.verdict["verdict"] == "physics"
    assert result.exit_code == 1
    assert "core_auc is 0.79 (limit 0.7)" in result.verdict["sentence"]
    assert exit_code(result.verdict) == 0
    with pytest.raises(ValueError, match="there is no gate 'core_acu'"):
        GateLimits(required=("core_acu",))


def test_bands_without_coverage_and_pixels_without_data_do_no_harm() -> None:
    ds = clean().copy(deep=True)
    for name in ("arc", "ctrl"):
        ds[name].values[:40, 0] = 0.0
        ds[name].values[50:70, :, :6, :] = 0.0
    ds["nodata"].values[:40] |= 1
    ds["nodata"].values[50:70, :6, :] = 7
    ds = summed(ds)
    ds["coverage"].values[:40, 0] = 0.0
    for name in ("psf_fwhm_used", "total_injected_flux", "arc_flux_total"):
        ds[name].values[:40, 0] = np.nan
    ds["psfsize"].values[:40, 0] = 0.0
    # The map is silent in z: the width that the chain took instead is what is predicted.
    ds["psfsize"].values[100:120, 2] = 0.0
    ds["psf_source"].values[100:120, 2] = 1
    result = run_audit(ds)
    assert result.verdict["verdict"] == "physics", result.verdict["sentence"]
    assert any("40 audit rows (a band without coverage)" in t for t in result.verdict["not_tested"])
    assert result.tables["closure_summary"].query("band == 'g'").pairs.max() == 260
    assert result.tables["auc_by_stratum"].pairs.iloc[0] == 260


def test_a_masked_core_is_not_a_test() -> None:
    ds = clean().copy(deep=True)
    box = np.ones((SIZE, SIZE))
    box[19:29, 19:29] = 0.0
    ds["arc"].values[:] *= box.astype(np.float32)
    spec = spec_of(ds)
    result = masked_again(ds, spec, box)
    assert gate(result, "core_auc")["outcome"] == "not_enough"
    table = result.tables["auc_by_stratum"]
    assert table.note.str.contains("not a test: 100% of the pairs tie exactly").all()
    assert "core gate: not a test, 100% of the pairs tie exactly" in result.verdict["not_tested"]
    assert gate(result, "residual_pedestal")["outcome"] == "pass"


def test_rows_that_cannot_be_drawn_again_leave_it_undecided() -> None:
    ds = clean().copy(deep=True)
    ds["lens_q"].values[:30] = np.nan
    result = run_audit(ds)
    assert result.verdict["verdict"] == "undecided"
    assert "30 of 300 audit rows could not be drawn again" in result.verdict["sentence"]


def test_a_psfsize_that_some_rows_lack_is_said_and_no_bug() -> None:
    ds = clean().isel(pair=slice(0, 30)).copy(deep=True)
    ds["psfsize"].values[:6] = np.nan
    ds["psfsize"].values[6, 0] = np.nan
    ds["arc"].values[:7, 0] = np.roll(ds["arc"].values[:7, 0], 3, axis=2)
    result = run_audit(ds)
    assert result.verdict["verdict"] == "undecided"
    assert not names(result)
    assert "7 of 30 audit rows could not be drawn again (b0" in result.verdict["sentence"]
    says = "psfsize: missing on 7 of 30 audit rows (7 in g, 6 in r, 6 in z), not compared there"
    assert says in result.verdict["not_tested"]


@pytest.mark.parametrize(
    "off", [{"centroid_shift": 0.6}, {"peak_misplaced": 1.0}, {"quadrant_difference": 0.06}]
)
def test_arcs_lie_elsewhere_by_centroid_peak_or_quadrant(off: dict[str, float]) -> None:
    right = {"centroid_shift": 0.1, "peak_misplaced": 0.0, "quadrant_difference": 0.01}
    pairs = pd.DataFrame({"hash": np.arange(200), **right})
    found = SimpleNamespace(pairs=pairs, n_pairs=200, noise_pairs=pairs[:0])
    assert localisation_gate(found, GateLimits()).outcome == "pass"  # type: ignore[arg-type]
    found.pairs = pairs.assign(**off)
    assert localisation_gate(found, GateLimits()).value == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hi", "outcome"), [(0.0005, "pass"), (0.002, "not_enough"), (np.nan, "not_enough")]
)
def test_every_band_must_pass_the_gates_of_dose(hi: float, outcome: str) -> None:
    lines = pd.DataFrame(
        {"pairs": 300, "intercept": 0.0, "intercept_lo": -0.0005, "intercept_hi": [0.0005, hi],
         "slope": 1.0, "slope_lo": 0.999, "slope_hi": 1.001}
    )  # fmt: skip
    assert [g.outcome for g in dose_gates(lines, GateLimits())] == [outcome, "pass"]
    lines.loc[0, ["intercept_lo", "intercept_hi"]] = 0.003, 0.004
    assert dose_gates(lines, GateLimits())[0].outcome == "fail"


def test_an_auc_without_dose_is_a_shortcut() -> None:
    line = {"family": "core_snr", "stratum": "< 0.1", "hi": 0.1, "regions": 30, "auc": 0.6,
            "auc_rerendered": 0.51, "auc_lo": 0.55, "auc_hi": 0.65, "excess": 0.03,
            "excess_se": 0.005}  # fmt: skip
    core = SimpleNamespace(strata=pd.DataFrame([line]), regions=30)
    assert [c.name for c in _shortcuts(core, GateLimits())] == ["core_auc_without_dose"]  # type: ignore[arg-type]
    core.strata["auc_lo"] = 0.515
    assert not _shortcuts(core, GateLimits())  # type: ignore[arg-type]


def test_an_interval_that_is_not_known_is_not_printed() -> None:
    nan = float("nan")
    found = SimpleNamespace(
        pairs=pd.DataFrame({"band": ["r"]}),
        displacements=("shift",),
        estimate=lambda *_: Estimate(0.0, nan, nan, 300),
    )
    core = SimpleNamespace(excess=(nan, nan, nan), regions=30, overall=None)
    gates = [*closure_gates(found, GateLimits()), excess_gate(core, GateLimits())]  # type: ignore[arg-type]
    assert {g.outcome for g in gates} == {"not_enough"}
    assert not any("nan" in g.missing for g in gates)


def test_tables_have_the_promised_columns() -> None:
    tables = run_audit(clean()).tables
    assert set(tables) == {
        "auc_by_stratum", "learning_curve", "zero_dose", "zero_dose_points", "closure_pairs",
        "closure_summary", "closure_profile", "closure_annulus", "profiles", "annulus", "quality",
        "column_coverage", "reasons", "psf_sources", "footprint", "leak_map", "alignment",
        "shift_sensitivity", "core", "quadrants", "groups", "selection", "tests",
        "independence", "psf_outliers", "dose", "magnification", "core_slopes", "quality_sets",
        "auc_by_quality", "core_points", "growth",
    }  # fmt: skip
    strata = tables["auc_by_stratum"]
    assert {"all", "theta_e", "theta_e_coarse", "core_snr"} == set(strata.family)
    assert list(strata[strata.family == "theta_e_coarse"].stratum) == ["< 1", "1-2", ">= 2"]
    by_theta = strata[strata.family == "theta_e"]
    assert by_theta.pairs.sum() == 300
    assert (strata.regions <= 30).all()
    assert (strata.hosts >= strata.regions).all()
    snr = strata[strata.family == "core_snr"].sort_values("lo")
    assert snr.auc.is_monotonic_increasing

"""Light, area and magnification against the Einstein radius; and which pairs are shown as the worst."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from audit_pairs import SCALE, clean, measure, merge, rerendered, run_audit, spec_of
from scipy.stats import linregress, spearmanr

from darkhaloscope.audit import AuditSpec
from darkhaloscope.audit.growth import growth_table, magnification_table, other_magnifications
from darkhaloscope.audit.leak_map import Stamps, whole_stamps
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.shape import core_table, quadrant_table
from darkhaloscope.audit.slopes import core_slopes
from darkhaloscope.geometry import radius_map

Parts = tuple[Stamps, Arrays, Arrays, AuditSpec]


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return clean(60, 20, seed=4)


@pytest.fixture(scope="module")
def parts(ds: xr.Dataset) -> Parts:
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    again = rerendered(ds, stats, spec)
    return whole_stamps(stats, again, spec), stats, again, spec


def test_light_and_trend_are_those_of_the_stored_arcs(ds: xr.Dataset, parts: Parts) -> None:
    stamps, stats, _, spec = parts
    table = growth_table(stamps, stats, spec).set_index(["stratum", "quantity"])
    injected = ds["lens_model"].values != 0
    theta_e = ds["theta_e"].values[injected]
    flux = ds["arc"].values[injected, 1].sum(axis=(1, 2), dtype=float)
    wide = theta_e >= 2
    assert table.loc[(">= 2", "flux"), "value"] == pytest.approx(flux[wide].mean(), rel=1e-5)
    assert table.loc[("trend", "flux"), "value"] == pytest.approx(spearmanr(theta_e, flux)[0])
    for quantity in ("flux", "area"):
        part = table.xs(quantity, level="quantity")
        np.testing.assert_allclose(part["value"], part["rerendered"], rtol=1e-3)
        assert (part["lo"] <= part["value"]).all()
    # A wider ring covers more sky.
    assert table.loc[("trend", "area"), "lo"] > 0.5


@pytest.mark.filterwarnings("error")
def test_what_is_known_of_no_arc_is_missing_without_a_warning(parts: Parts) -> None:
    """No promised arc has light, and one stamp has no data in any band."""
    stamps, stats, _, spec = parts
    good = stamps.good.copy()
    good[0] = False
    dark = replace(stamps, promised=stamps.ctrl, good=good)
    core = core_table(dark, stats, spec)
    assert core.loc[core["quantity"] != "core_excess", "rerendered"].isna().all()
    area = growth_table(dark, stats, spec).query("quantity == 'area'")
    assert area["rerendered"].isna().all()
    assert np.isfinite(core["value"]).all()
    assert quadrant_table(dark, stats, spec)["rerendered"].isna().all()


def test_the_area_of_a_gaussian_is_known(parts: Parts) -> None:
    stamps, stats, _, spec = parts
    width = np.linspace(1.5, 5.0, len(stamps.row))[:, None, None, None]
    r2 = radius_map(spec.size, 23.5, 23.5) ** 2
    spot = np.exp(-r2 / (2 * width**2)) * np.ones((1, 3, 1, 1))
    table = growth_table(replace(stamps, seen=stamps.ctrl + spot), stats, spec)
    theta_e = stats["row_theta_e"][stamps.row]
    line = table[(table.stratum == ">= 2") & (table.quantity == "area")].iloc[0]
    wanted = 4 * np.pi * width[:, 0, 0, 0] ** 2 * SCALE**2  # of (sum a)^2 / sum a^2
    assert line["value"] == pytest.approx(wanted[theta_e >= 2].mean(), rel=1e-3)


def test_slopes_are_those_of_least_squares(ds: xr.Dataset, parts: Parts) -> None:
    _, stats, again, spec = parts
    table, points = core_slopes(stats, again, spec)
    injected = ds["lens_model"].values != 0
    core = ds["arc"].values[injected, 1, 19:29, 19:29].mean(axis=(1, 2), dtype=float)
    columns = {
        "theta_e": ds["theta_e"].values[injected],
        "flux": ds["total_injected_flux"].values[injected, 1],
        "snr": ds["arc_snr"].values[injected],
    }
    for line in table.to_dict("records"):
        wanted = linregress(columns[line["on"]].astype(float), core)
        assert line["slope"] == pytest.approx(wanted.slope, rel=1e-5)
        assert line["r2"] == pytest.approx(wanted.rvalue**2, rel=1e-4)
        assert line["lo"] < line["slope"] < line["hi"]
        assert line["slope_rerendered"] == pytest.approx(line["slope"], rel=2e-3)
    assert list(table["on"]) == ["theta_e", "flux", "snr"]
    assert len(points) == 60
    # Light that every core has alike changes no slope, light that grows with theta_e does.
    lit = {**stats, "row_core_arc": stats["row_core_arc"].copy()}
    lit["row_core_arc"] += 0.003 * stats["row_theta_e"][:, None, None, None]
    more = core_slopes(lit, again, spec)[0]
    assert more["slope"][0] - table["slope"][0] == pytest.approx(0.003, rel=1e-3)


def test_rows_of_one_region_are_one_witness(parts: Parts) -> None:
    """Every row twice in its region says no more about a slope."""
    _, stats, again, spec = parts
    twice = {k: np.concatenate([v, v]) for k, v in stats.items() if k.startswith("row_")}
    once, both = (core_slopes(v, again, spec)[0] for v in (stats, twice))
    np.testing.assert_allclose(both["hi"] - both["lo"], once["hi"] - once["lo"])


def test_magnifications_are_counted_below_one(parts: Parts) -> None:
    _, stats, again, spec = parts
    low = {**stats, "row_magnification": stats["row_magnification"].copy()}
    low["row_magnification"][:7] = 0.4
    table = magnification_table(low, again, spec).set_index(["stratum", "of"])
    assert table.loc[("all", "recorded"), "below_one"] == 7
    assert table.loc[("all", "recorded"), "min"] == pytest.approx(0.4)
    assert table.loc[("all", "re-rendered"), "below_one"] == 0
    right = magnification_table(stats, again, spec).set_index(["stratum", "of"])
    one, two = (right.xs(name, level="of")["median"] for name in ("recorded", "re-rendered"))
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_a_magnification_of_another_kind_is_noted(parts: Parts) -> None:
    _, stats, again, _ = parts
    assert other_magnifications(stats, again, 0.01) == []
    other = {**stats, "row_magnification": 1.3 * stats["row_magnification"]}
    (says,) = other_magnifications(other, again, 0.01)
    assert "60 of 60 recorded ones differ by more than 0.01" in says
    assert "ratio 1.3, 5-95 %: 1.3 to 1.3" in says
    one = {**stats, "row_magnification": stats["row_magnification"].copy()}
    one["row_magnification"][:2] = np.nan, 100.0
    assert "1 of 59 recorded" in other_magnifications(one, again, 0.01)[0]


def test_the_worst_pair_is_the_one_that_was_spoilt(ds: xr.Dataset) -> None:
    spoilt = ds.copy(deep=True)
    spoilt["arc"][17, 2] *= 1.5
    shown = run_audit(spoilt, closure=60, whole_cap=100, cap=200).examples
    worst = np.flatnonzero(shown["kind"] == "worst")
    assert (shown["brick"][worst[0]], shown["slot"][worst[0]]) == (
        ds["brick"].values[17],
        ds["slot"].values[17],
    )
    assert shown["why"][worst[0]].startswith("50 %")
    spread = shown["theta_e"][shown["kind"] == "spread"]
    assert len(spread) == 8
    assert (np.diff(spread) > 0).all()
    np.testing.assert_allclose(spread[[0, -1]], np.sort(ds["theta_e"].values)[[6, -1]])

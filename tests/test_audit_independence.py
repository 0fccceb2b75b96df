"""Drawn parameters against the sky, by columns alone; each dependence is planted and found."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import spearmanr

from darkhaloscope.audit import AuditSpec, selection, stratum_counts
from darkhaloscope.audit.hypotheses import Hypothesis, judged, p_beyond, without_p
from darkhaloscope.audit.independence import independence, independence_tests

N, REGIONS = 900, 60
BANDS = ("g", "r", "z")


def _columns(seed: int = 1) -> xr.Dataset:
    """Regions of their own seeing and brightness; lenses and sources that know nothing of them."""
    rng = np.random.default_rng(seed)
    region = np.arange(N) % REGIONS
    injected = np.arange(N) % 10 > 0
    seeing = (1 + 0.1 * rng.normal(size=REGIONS))[region, None]
    per_pair = {
        "theta_e": np.where(injected, rng.uniform(0.5, 2.5, N), 0.0),
        "src_reff": np.where(injected, rng.uniform(0.1, 0.5, N), np.nan),
        "src_dmag": np.where(injected, rng.uniform(0.5, 3.0, N), np.nan),
        "lens_model": np.where(injected, 2, 0),
        "brick": np.array([f"b{r}" for r in region], dtype=object),
        "region_id": np.array([f"b{r}" for r in region], dtype=object),
        "slot": np.arange(N) // REGIONS,
        "host_id": np.arange(N) // 2,
        "cutout_ok": np.ones(N, bool),
        "ra": rng.uniform(0, 1, N),
    }
    per_band = {
        "psfsize": 1.3 * seeing * rng.normal(1, 0.02, (N, 3)),
        "host_mag": 19 + rng.normal(size=(REGIONS, 1))[region] * 0.3 + rng.normal(size=(N, 3)),
    }
    return xr.Dataset(
        {
            **{k: ("pair", v) for k, v in per_pair.items()},
            **{k: (("pair", "band"), v) for k, v in per_band.items()},
        }
    )


def _spec(columns: xr.Dataset) -> AuditSpec:
    theta_e = columns["theta_e"].values[columns["lens_model"].values > 0]
    return AuditSpec(7, BANDS, "r", 64, 0.262, REGIONS, stratum_counts(theta_e))


def _by_seeing(columns: xr.Dataset) -> None:
    columns["src_reff"].values[:] += 1.0 * (columns["psfsize"].values[:, 1] - 1.3)


def _by_host(columns: xr.Dataset) -> None:
    columns["theta_e"].values[:] -= 0.4 * (columns["host_mag"].values[:, 1] - 19)


def _by_region(columns: xr.Dataset) -> None:
    own = np.random.default_rng(3).uniform(-1, 1, REGIONS)
    columns["src_dmag"].values[:] += own[np.arange(N) % REGIONS]


def test_parameters_that_know_nothing_of_the_sky_raise_no_alarm() -> None:
    for seed in range(5):
        columns = _columns(seed)
        tests = selection(columns, _spec(columns)).tests(0.02, 20)
        assert {t.name for t in tests} == {"selection_shortcut", "parameters_dependent"}
        assert not judged(tests)[1]


@pytest.mark.parametrize(
    ("plant", "parameter", "sky"),
    [
        (_by_seeing, "src_reff", "psfsize r"),
        (_by_host, "theta_e", "host_mag r"),
        (_by_region, "src_dmag", "region"),
    ],
    ids=["seeing", "host", "region"],
)
def test_a_dependence_is_found_and_named(
    plant: Callable[[xr.Dataset], None], parameter: str, sky: str
) -> None:
    columns = _columns()
    plant(columns)
    found = selection(columns, _spec(columns))
    causes = {c.name: c for c in judged(found.tests(0.02, 20))[1]}
    assert parameter in causes["parameters_dependent"].says
    table = found.dependence.set_index(["parameter", "sky"])
    assert table["correlation"].abs().idxmax() == (parameter, sky)
    if sky != "region":
        use = columns["lens_model"].values > 0
        name, _ = sky.split()
        ours = table.loc[(parameter, sky), "correlation"]
        theirs = spearmanr(columns[parameter].values[use], columns[name].values[use, 1])
        assert ours == pytest.approx(theirs.statistic, abs=1e-9)


def test_a_perfect_dependence_in_two_levels_has_an_error() -> None:
    """Every region says 1: that is no want of an error, and no independence."""
    columns = _columns()
    two = np.arange(N) % REGIONS // 30
    columns["theta_e"].values[:] = np.where(columns["lens_model"].values > 0, 1.0 + two, 0.0)
    columns["psfsize"].values[:] = np.where(two, 1.3, 1.1)[:, None]
    lensed = np.flatnonzero(columns["lens_model"].values)
    found = independence(columns, lensed, _spec(columns))
    table = found.set_index(["parameter", "sky"])
    for sky in ("psfsize r", "region"):
        assert table.loc[("theta_e", sky), "correlation"] == pytest.approx(1.0, abs=1e-9)
        assert table.loc[("theta_e", sky), "p"] < 1e-9
    (cause,) = judged(independence_tests(found, 20))[1]
    assert cause.interval[0] < 1.0


def test_what_has_no_p_value_is_not_tested() -> None:
    assert np.isnan(p_beyond(0.3, 0.1, float("nan"), 30))
    tests = [Hypothesis("t", k, 1, (0, 2), 0, 9, p, "bug", "") for k, p in
             (("a", 0.5), ("b", np.nan), ("c", np.nan))]  # fmt: skip
    assert without_p(tests) == ["t: 2 tests without a p-value, the first: b"]
    assert not without_p(tests[:1])


@pytest.mark.parametrize("seeing", [1.3, 2.0])
def test_controls_of_another_seeing_are_a_shortcut(seeing: float) -> None:
    """Also where the classes never mix: every resample then says 1, and that is no want of an error."""
    columns = _columns()
    controls = columns["lens_model"].values == 0
    columns["psfsize"].values[controls] *= seeing
    found = selection(columns, _spec(columns))
    assert (float(found.table["auc"].iloc[0]) == 1.0) is (seeing == 2.0)
    (cause,) = judged(found.tests(0.02, 20))[1]
    assert cause.name == "selection_shortcut"
    assert "psfsize" in cause.says
    alone = found.table.set_index("column")
    assert alone.loc["psfsize r", "p"] < 1e-3


def test_strange_psf_widths_are_listed() -> None:
    columns = _columns()
    columns["psfsize"].values[7, 0] = 0.508
    columns["psfsize"].values[9, 0] = 0.0  # none, and no outlier
    columns["psfsize"].values[[30, 31], 2] = 4.0
    table = selection(columns, _spec(columns)).outliers
    low = table[table["band"] == "g"]
    assert list(low["psfsize"]) == [0.508]
    assert (low["brick"].iloc[0], low["slot"].iloc[0]) == ("b7", 0)
    assert low["z"].iloc[0] < -5
    assert list(low["outliers_low"]) == [1]
    assert list(table[table["band"] == "z"]["outliers_high"]) == [2, 2]
    assert not (table["band"] == "r").any()


def test_a_strange_width_among_equal_ones_is_listed() -> None:
    """More than half of the widths are one number: their median absolute deviation is 0."""
    columns = _columns()
    columns["psfsize"].values[: 2 * N // 3] = 1.3
    columns["psfsize"].values[7, 0] = 0.508
    columns["psfsize"].values[:, 2] = 1.3
    columns["psfsize"].values[5, 2] = 1.31  # 0.8 % wider
    table = selection(columns, _spec(columns)).outliers
    assert not (table["band"] == "z").any()
    low = table[table["band"] == "g"].iloc[0]
    assert low["psfsize"] == 0.508
    assert (
        low["outliers_low"] + low["outliers_high"] < 0.02 * N
    )  # of a third that scatters by a tenth
    columns["psfsize"].values[:, 0] = np.where(np.arange(N) == 7, 0.508, 1.3)
    (alone,) = selection(columns, _spec(columns)).outliers.query("band == 'g'").to_dict("records")
    assert alone["z"] == pytest.approx(100 * np.log(0.508 / 1.3))


def test_the_rows_that_are_looked_at_do_not_depend_on_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_module(
        "darkhaloscope.audit.selection"
    )  # the package has a function of this name
    monkeypatch.setattr(module, "MOST_ROWS", 600)
    monkeypatch.setattr(module, "HASHED_AT_ONCE", 250)
    columns = _columns()
    spec = _spec(columns)
    mixed = columns.isel(pair=np.random.default_rng(4).permutation(N))
    ours, theirs = (selection(ds, spec) for ds in (columns, mixed))
    assert ours.table[["injections", "controls"]].iloc[0].sum() == 600
    for table in ("table", "dependence"):
        pd.testing.assert_frame_equal(getattr(ours, table), getattr(theirs, table), rtol=1e-9)


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.1])
def test_a_grid_dealt_out_in_full_to_every_region_is_no_dependence(missing: float) -> None:
    """Five values to five rows of each region: the rest of a full list is unlike, by -1 / 4."""
    columns = _columns()
    region = np.arange(N) % REGIONS
    row = np.arange(N) // REGIONS
    columns["lens_model"].values[:] = (row < 5) * 2
    columns["src_dmag"].values[:] = np.array([0.5, 1.0, 1.5, 2.0, 2.5])[(row + region) % 5]
    gone = np.random.default_rng(2).random(N) < missing
    columns["src_dmag"].values[gone] = np.nan
    found = selection(columns, _spec(columns))
    table = found.dependence.set_index(["parameter", "sky"])
    assert table.loc[("src_dmag", "region"), "correlation"] == pytest.approx(-0.25, abs=0.05)
    assert table.loc[("src_dmag", "region"), "p"] > 0.5
    assert "parameters_dependent" not in {c.name for c in judged(found.tests(0.02, 20))[1]}

"""Rows that no correct data set has are a bug, whatever the arcs look like on average."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from audit_pairs import clean, names, run_audit, spec_of, summed, with_arc

from darkhaloscope.audit import measure, merge
from darkhaloscope.audit.integrity import CHECKS, columns_written, half_unit, offenders, written_as
from darkhaloscope.audit.wrong_rows import wrong_rows

pytestmark = pytest.mark.usefixtures("remembered")

Ds = xr.Dataset


def light_without_data(ds: Ds) -> Ds:
    nodata = ds["nodata"].values.copy()
    nodata[ds["lens_model"].values != 0, :8] = 1 << 2
    arc = ds["arc"].values.copy()
    arc[:, :2, :8] = 0
    return summed(ds.assign(nodata=(ds["nodata"].dims, nodata), arc=(ds["arc"].dims, arc)))


def light_in_an_uncovered_band(ds: Ds) -> Ds:
    coverage = ds["coverage"].values.copy()
    coverage[np.flatnonzero(ds["lens_model"].values)[0], 0] = 0
    return ds.assign(coverage=(("pair", "band"), coverage))


def light_on_a_control(ds: Ds) -> Ds:
    arc = ds["arc"].values.copy()
    arc[np.flatnonzero(ds["lens_model"].values == 0)[0], 0, 3, 3] = 0.01
    return ds.assign(arc=(ds["arc"].dims, arc))


def a_nan(ds: Ds) -> Ds:
    arc = ds["arc"].values.copy()
    arc[np.flatnonzero(ds["lens_model"].values)[0], 1, 5, 5] = np.nan
    return ds.assign(arc=(ds["arc"].dims, arc))


def a_failed_row_with_pixels(ds: Ds) -> Ds:
    ok = ds["cutout_ok"].values.copy()
    ok[0] = False
    return ds.assign(cutout_ok=("pair", ok))


def flux_column_off(ds: Ds) -> Ds:
    return ds.assign(total_injected_flux=ds["total_injected_flux"] * np.float32(1.5))


def magnification_column_off(ds: Ds) -> Ds:
    return ds.assign(magnification=ds["magnification"] * np.float32(1.01))


@pytest.mark.parametrize(
    ("plant", "cause"),
    [
        (light_without_data, "light_without_data"),
        (light_in_an_uncovered_band, "light_without_data"),
        (light_on_a_control, "light_on_controls"),
        (a_nan, "pixels_not_finite"),
        (a_failed_row_with_pixels, "pixels_on_failed_rows"),
        (flux_column_off, "flux_column"),
        (magnification_column_off, "magnification_column"),
    ],
)
def test_such_a_row_is_counted(plant: Callable[[Ds], Ds], cause: str) -> None:
    found = {name: int(rows.sum()) for name, rows in offenders(plant(clean())).items()}
    assert found[cause] > 0
    assert {name for name, n in found.items() if n} == {cause}


def test_clean_pairs_have_none() -> None:
    found = offenders(clean())
    assert set(found) == set(CHECKS)
    assert not any(rows.any() for rows in found.values())


@pytest.mark.parametrize("plant", [light_on_a_control, a_nan])
def test_one_such_row_is_a_bug(plant: Callable[[Ds], Ds]) -> None:
    result = run_audit(plant(clean()))
    assert result.verdict["verdict"] == "bug"
    assert result.exit_code == 1
    assert names(result)[0] in result.verdict["sentence"]


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (light_on_a_control, "1 of {controls} controls hold arc light"),
        (magnification_column_off, "{injections} of {injections} injections have a magnification"),
        (a_nan, "1 of {rows} rows: pixels_not"),
    ],
)
def test_wrong_rows_are_counted_among_their_own_class(plant: Callable[[Ds], Ds], says: str) -> None:
    ds = plant(clean())
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    injections = int((ds["lens_model"].values > 0).sum())
    rows = ds.sizes["pair"]
    (found,) = wrong_rows(stats, spec)
    says = says.format(rows=rows, injections=injections, controls=rows - injections)
    assert found.text.startswith(says.replace("pixels_not", CHECKS["pixels_not_finite"]))


def test_flux_errors_that_cancel_in_the_mean_are_a_bug() -> None:
    """Each arc 5 % too bright or too faint, as many of one as of the other."""
    sign = np.where(np.arange(clean().sizes["pair"]) % 2, 1.05, 0.95)

    def change(arc: np.ndarray) -> np.ndarray:
        return arc * sign[: len(arc), None, None, None]

    result = run_audit(with_arc(clean(), change))
    assert result.verdict["verdict"] == "bug"
    assert "closure_scatter" in names(result)


def written(column: xr.DataArray, form: Callable[[np.ndarray], np.ndarray]) -> xr.DataArray:
    return column.copy(data=form(column.values.astype(float)).astype("f4"))


def digits(n: int) -> Callable[[np.ndarray], np.ndarray]:
    return np.vectorize(lambda v: float(f"{v:.{n - 1}e}"))


@pytest.mark.parametrize(
    "form",
    [digits(3), digits(4), lambda v: np.round(v, 3), lambda v: v.astype(np.float16)],
    ids=["3 digits", "4 digits", "3 decimals", "float16"],
)
def test_a_column_is_granted_the_digits_that_it_was_written_with(
    form: Callable[[np.ndarray], np.ndarray],
) -> None:
    ds = clean()
    names_ = ("total_injected_flux", "magnification")
    rounded = ds.assign({name: written(ds[name], form) for name in names_})
    assert not any(
        rows.any() for rows in offenders(rounded, dict(columns_written(rounded))).values()
    )
    # A twentieth more is still no rounding, but for fluxes of a few thousandths in three decimals.
    spoilt = ds.assign({name: written(1.05 * ds[name], form) for name in names_})
    found = offenders(spoilt, dict(columns_written(spoilt)))
    assert found["magnification_column"].sum() > 200
    assert found["flux_column"].sum() > 200


def test_arcs_in_half_precision_sum_to_their_flux_within_their_steps() -> None:
    ds = clean()
    half = ds.assign(arc=ds["arc"].astype(np.float16).astype("f4"))
    assert not any(rows.any() for rows in offenders(half).values())
    assert (
        offenders(flux_column_off(half))["flux_column"].all()
        == offenders(flux_column_off(ds))["flux_column"].all()
    )


def granted(*values: float) -> np.ndarray:
    column = np.array(values)
    return half_unit(column, written_as(column))


def test_half_a_unit_of_the_last_digit() -> None:
    np.testing.assert_allclose(granted(1.23, 45.6, np.nan), [0.005, 0.05, 0.0])
    np.testing.assert_allclose(granted(1.23, 45.67, 0.01), [0.005, 0.005, 0.005])
    assert not granted(*np.random.default_rng(1).uniform(1, 2, 50)).any()
    assert not granted(*np.full(50, 2.0)).any()
    assert not granted(0.0, np.nan).any()
    column = np.array([1.23, 45.67])  # each block is granted what its column is
    np.testing.assert_allclose(half_unit(column[:1], written_as(column)), 0.005)

"""Rounding on real pixels: no bias of the sky, no flux of faint arcs lost, and the same audit."""

from __future__ import annotations

import numpy as np
import pytest
import rounding
import xarray as xr


@pytest.fixture(scope="module")
def pairs() -> tuple[xr.Dataset, xr.Dataset]:
    return rounding.both(64)


def test_the_sky_keeps_its_mean(pairs: tuple[xr.Dataset, xr.Dataset]) -> None:
    exact, rounded = pairs
    for row in rounding.sky_rows(exact, rounded):
        assert abs(row["bias_sigma"]) < rounding.BIAS, row
        assert abs(row["annulus_bias_sigma"]) < rounding.BIAS, row
        assert 1 / 64 < row["largest_sigma"] <= 1 / 32, "something was rounded, by half a step"
    for row in rounding.sky_rows(exact, rounding.shifted(rounded, 0.5)):
        assert abs(row["bias_sigma"]) > 10 * rounding.BIAS, "what truncation does is seen"


def test_arcs_keep_their_flux(pairs: tuple[xr.Dataset, xr.Dataset]) -> None:
    exact, rounded = pairs
    rows = rounding.flux_rows(exact, rounded)
    assert sum(row["rows"] for row in rows) == 64
    for row in rows:
        assert 0 < row["flux_99"] < rounding.FLUX, row
        assert row["within"] >= 0.99, row
        assert abs(row["annulus"]) < rounding.FLUX, row
    lost = rounding.flux_rows(exact, rounding.absolute(exact))
    assert lost[0]["flux_99"] > 0.1, "what an absolute step does to faint arcs is seen"


@pytest.mark.long
def test_an_audit_says_the_same(pairs: tuple[xr.Dataset, xr.Dataset]) -> None:
    exact, rounded = pairs
    of_exact, of_rounded = rounding.audits(exact, rounded)
    found = rounding.compare(of_exact, of_rounded)
    assert found["statistics"] > 500
    assert found["outcomes"] == []
    assert found["causes"] == [0, 0]
    assert found["most_of_limit"] < rounding.OF_LIMIT, found["apart"]
    # An absolute step on the arcs is seen: the comparison can fail.
    spoilt = rounding.compare(*rounding.audits(exact, rounding.absolute(exact)))
    assert spoilt["most_of_limit"] > 1 or np.diff(spoilt["causes"])[0] > 0, spoilt

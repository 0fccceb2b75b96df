"""Negatives as bright as arcs: what a reader sees against them, and controls chosen to be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from audit_pairs import SIZE, clean, spec_of
from scipy.stats import ks_2samp

from darkhaloscope.audit import (
    AuditSpec,
    core_brightness,
    match_controls,
    measure,
    merge,
    selection,
)
from darkhaloscope.audit.integrity import offenders
from darkhaloscope.audit.matched import matched_negatives
from darkhaloscope.geometry import core_slice

CORE = core_slice(SIZE)
Ds = xr.Dataset


def with_negatives(extra_of: str) -> Ds:
    """The clean pairs and a core-matched negative of each injection, whose light is that of its arc, as
    much light in one corner of the core, or none."""
    ds = clean()
    kind = np.where(ds["lens_model"].values != 0, 0, 1).astype(np.uint8)
    zero = xr.zeros_like(ds["arc"])
    ds = ds.assign(
        extra=zero, negative_kind=("pair", kind), partner=("pair", 0 * ds["slot"].values - 1)
    )
    negatives = ds.isel(pair=kind == 0).copy(deep=True)
    arc = negatives["arc"].values
    extra = np.zeros_like(arc)
    if extra_of == "arc":
        extra = arc.copy()
    elif extra_of == "corner":
        extra[..., CORE.start, CORE.start] = arc[..., CORE, CORE].sum(axis=(2, 3))
    negatives["extra"].values[:] = extra
    negatives["arc"].values[:] = 0
    negatives["partner"].values[:] = negatives["slot"].values
    negatives["slot"].values[:] += 1 << 32
    negatives["negative_kind"].values[:] = 2
    negatives["lens_model"].values[:] = 0
    negatives["theta_e"].values[:] = 0
    for name in ("arc_snr", "magnification", "total_injected_flux", "arc_flux_total"):
        negatives[name].values[:] = np.nan
    return xr.concat(
        [ds, negatives], "pair", data_vars="minimal", coords="minimal", compat="override"
    )


def measured(ds: Ds, spec: AuditSpec) -> dict[str, np.ndarray]:
    """In blocks that cut between partners."""
    edges = np.linspace(0, ds.sizes["pair"], 4).astype(int)
    parts = [measure(ds.isel(pair=slice(a, b)), spec) for a, b in pairwise(edges)]
    return merge(parts, spec)


@pytest.mark.parametrize("extra_of", ["arc", "corner", "none"])
def test_what_a_reader_sees_against_them(extra_of: str) -> None:
    ds = with_negatives(extra_of)
    assert not any(rows.any() for rows in offenders(ds).values())
    spec = spec_of(ds)
    table = matched_negatives(measured(ds, spec), spec)
    by_reading = table[table.family == "all"].set_index("reading")
    pixels, brightness = by_reading.loc["pixels"], by_reading.loc["brightness"]
    n = int((ds["lens_model"] != 0).sum())
    assert pixels.pairs == brightness.pairs == n
    assert pixels.auc_plain > 0.7
    if extra_of == "arc":
        assert pixels.auc == brightness.auc == 0.5
    elif extra_of == "corner":
        assert abs(brightness.auc - 0.5) < 0.02
        assert pixels.auc > 0.9
    else:
        assert pixels.auc == pixels.auc_plain
        assert brightness.auc == brightness.auc_plain
    assert table[table.family == "theta_e"].groupby("reading")["pairs"].sum().tolist() == [n, n]


def test_no_other_statistic_knows_them() -> None:
    ds = with_negatives("arc")
    without = ds.isel(pair=ds["negative_kind"].values != 2)
    spec = spec_of(ds)
    with_them, alone = measured(ds, spec), measured(without, spec)
    for name in ("row_hash", "whole_hash", "group_pairs", "psf_sources", "integrity"):
        np.testing.assert_array_equal(with_them[name], alone[name])
    for name in ("group_profile_sum", "group_annulus_sum"):
        np.testing.assert_allclose(with_them[name], alone[name], rtol=1e-12)
    both = [selection(d, spec).table for d in (ds, without)]
    assert both[0].equals(both[1])
    assert len(both[0])


def test_light_where_none_belongs_is_a_bug() -> None:
    ds = with_negatives("corner")
    extra = ds["extra"].values
    plain, matched = (int(np.flatnonzero(ds["negative_kind"].values == k)[0]) for k in (1, 2))
    extra[plain, 0, 3, 3] = 0.1
    ds["nodata"].values[matched, 24, 24] = 1
    extra[matched, 0, 24, 24] = 0.1
    assert np.flatnonzero(offenders(ds)["stray_extra"]).tolist() == sorted([plain, matched])


def test_an_excluded_row_is_in_no_statistic() -> None:
    ds = clean().copy(deep=True)
    cut = np.flatnonzero(ds["lens_model"].values != 0)[::3]
    ds["reason"].values[cut] = 13
    spec = spec_of(ds)
    kept = ds.isel(pair=np.setdiff1d(np.arange(ds.sizes["pair"]), cut))
    some, truth = (merge([measure(d, spec)], spec) for d in (ds, kept))
    for name in ("row_hash", "whole_hash", "group_pairs", "group_profile_sum"):
        np.testing.assert_array_equal(some[name], truth[name])
    assert some["outcomes"][1, 13].sum() == len(cut)


def drawn(n: int, m: int, bands: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Cores of n injections and m controls, galaxies of one kind, injections brighter by an arc."""
    rng = np.random.default_rng(8)
    host = np.exp(rng.normal(2.0, 0.8, (n + m, 1))) * np.array([0.4, 1.0, 1.6])[:bands]
    injected = np.arange(n + m) < n
    arc = np.exp(rng.normal(0.5, 0.5, (n + m, 1))) * np.array([1.0, 1.2, 1.3])[:bands]
    return host * np.exp(rng.normal(0, 0.05, host.shape)) + injected[:, None] * arc, injected


def test_chosen_controls_are_as_bright() -> None:
    bright, injected = drawn(300, 6000)
    found = match_controls(bright, injected)
    assert len(found) > 200  # the others have none within the caliper
    assert injected[found[:, 0]].all()
    assert not injected[found[:, 1]].any()
    assert len(np.unique(found[:, 1])) == len(np.unique(found[:, 0])) == len(found)
    for b in range(3):
        before = ks_2samp(bright[found[:, 0], b], bright[~injected, b])
        after = ks_2samp(bright[found[:, 0], b], bright[found[:, 1], b])
        assert before.pvalue < 1e-6
        assert after.pvalue > 0.5
    softened = np.arcsinh(bright / np.median(abs(bright), axis=0))
    softened /= softened[injected].std(axis=0)
    assert abs(softened[found[:, 0]] - softened[found[:, 1]]).max() <= 0.2


def test_the_nearest_that_is_left_is_chosen() -> None:
    """Against a search over all pairs, the brightest injection first; groups are kept apart."""
    bright, injected = drawn(40, 60)
    group = np.arange(100) % 2
    softened = np.arcsinh(bright / np.median(abs(bright), axis=0))
    softened /= softened[injected].std(axis=0)
    truth = []
    for name in (0, 1):
        lensed, plain = (np.flatnonzero(kind & (group == name)) for kind in (injected, ~injected))
        left = plain.tolist()
        for i in lensed[np.argsort(-softened[lensed].sum(axis=1), kind="stable")]:
            far = {k: abs(softened[k] - softened[i]).max() for k in left}
            if far and min(far.values()) <= 0.5:
                left.remove(nearest := min(far, key=lambda k: far[k]))
                truth.append((int(i), nearest))
    found = match_controls(bright, injected, group, caliper=0.5)
    assert found.tolist() == [list(pair) for pair in sorted(truth)]
    assert len(found) < 40  # some find none, and others' controls are taken
    assert match_controls(bright[:40], injected[:40]).shape == (0, 2)


def test_core_brightness_is_that_of_the_image() -> None:
    ds = with_negatives("corner")
    image = (ds["ctrl"] + ds["arc"] + ds["extra"]).values.astype(float)
    truth = image[..., CORE, CORE].sum(axis=(2, 3))
    np.testing.assert_allclose(core_brightness(ds.chunk(pair=16)), truth, rtol=1e-5, atol=1e-6)

"""Accumulators: what they hold, that merging them is adding, and which rows they keep."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from audit_pairs import BANDS, REGIONS, SIZE, SKY, clean, spec_of

from darkhaloscope.audit import (
    AuditSpec,
    audit_rows,
    chunks,
    join,
    measure,
    merge,
    quality,
    rerender,
)
from darkhaloscope.audit.core_gate import core_gate
from darkhaloscope.audit.leak_map import whole_stamps
from darkhaloscope.audit.measure import radial_bins
from darkhaloscope.audit.spec import interval_labels, row_hashes, shares
from darkhaloscope.audit.tables import annulus_offsets, footprint, profiles, psf_sources, reasons
from darkhaloscope.audit.zero_dose import zero_dose
from darkhaloscope.geometry import radius_map


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(value, b[name], rtol=1e-12, atol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(value, b[name], err_msg=name)


def _blocks(n: int, pieces: int) -> list[slice]:
    edges = np.linspace(0, n, pieces + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(edges)]


def test_merging_is_associative_and_blind_to_blocks_and_order() -> None:
    ds = clean()
    spec = spec_of(ds, cap=90, whole_cap=40, closure=20)
    whole = merge([measure(ds, spec)], spec)
    for pieces in (2, 7):
        parts = [measure(ds.isel(pair=s), spec) for s in _blocks(ds.sizes["pair"], pieces)]
        _same(whole, merge(parts, spec))
        _same(whole, merge(parts[::-1], spec))
        _same(whole, merge([merge(parts[:1], spec), merge(parts[1:], spec)], spec))


def test_statistics_travel_through_npz_without_pickle() -> None:
    ds = clean()
    spec = spec_of(ds)
    stats = measure(ds.isel(pair=slice(0, 40)), spec)
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **stats)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as back:
        _same(stats, {k: back[k] for k in back.files})


def test_kept_rows_are_the_lowest_hashes_of_each_stratum() -> None:
    ds = clean()
    spec = spec_of(ds, cap=60, whole_cap=24, closure=12)
    stats = merge([measure(ds, spec)], spec)
    injected = ds["lens_model"].values != 0
    theta_e = ds["theta_e"].values[injected]
    hashes = row_hashes(7, ds["brick"].values[injected], ds["slot"].values[injected])
    per_stratum = shares(60, spec.stratum_counts)
    assert per_stratum.sum() == 60
    edges = [-np.inf, *spec.theta_e_edges, np.inf]
    expected: set[int] = set()
    for k, cap in enumerate(per_stratum):
        members = hashes[(theta_e >= np.float32(edges[k])) & (theta_e < np.float32(edges[k + 1]))]
        expected |= {int(h) for h in np.sort(members)[:cap]}
    kept = {int(h) for h in stats["row_hash"]}
    # The threshold is 1.1 times the share: by chance a stratum may hold fewer than its share.
    assert kept <= expected
    assert len(kept) > 45
    assert {int(h) for h in stats["whole_hash"]} <= kept
    assert len(stats["whole_hash"]) <= 24
    rows = audit_rows(stats, spec)
    assert 0 < rows["closure"].sum() <= 12


@pytest.mark.parametrize(
    ("total", "counts", "wanted"),
    [
        (60, [10, 100, 100], [10, 25, 25]),
        (60, [0, 100, 100], [0, 30, 30]),
        (60, [5, 5, 5], [5, 5, 5]),
        (60, [1, 15, 1000], [1, 15, 44]),
    ],
)
def test_shares_of_the_cap(total: int, counts: list[int], wanted: list[int]) -> None:
    assert shares(total, counts).tolist() == wanted


def test_profile_is_the_mean_of_the_pixels_of_each_ring() -> None:
    ds = clean().isel(pair=slice(0, 12)).copy(deep=True)
    ds["nodata"].values[3, 20:28, 5:40] = 0b010
    ds["coverage"].values[5, 0] = 0.0
    spec = spec_of(ds)
    table = profiles(merge([measure(ds, spec)], spec), spec)
    for b, band in enumerate("grz"):
        total, count = np.zeros(radial_bins(SIZE)), np.zeros(radial_bins(SIZE))
        for i in range(12):
            if b == 0 and i == 5:
                continue
            radius = radius_map(SIZE, float(ds["target_x"][i]), float(ds["target_y"][i]))
            good = (ds["nodata"].values[i] >> b) & 1 == 0
            for r in range(radial_bins(SIZE)):
                ring = (radius >= r) & (radius < r + 1) & good
                total[r] += ds["arc"].values[i, b][ring].astype(float).sum()
                count[r] += ring.sum()
        found = table[(table.stratum == "all") & (table.band == band)]
        np.testing.assert_allclose(found["mean"], total / count, rtol=1e-9)
        np.testing.assert_allclose(found["pixels"], count)


def test_a_constant_offset_is_found_in_sky_sigma() -> None:
    ds = clean().isel(pair=slice(0, 60)).copy(deep=True)
    ds["arc"].values[:] = (0.25 * SKY)[None, :, None, None].astype(np.float32)
    spec = spec_of(ds)
    table = annulus_offsets(merge([measure(ds, spec)], spec), spec)
    assert len(table)
    np.testing.assert_allclose(table.offset_sky_sigma, 0.25, rtol=1e-5)


def test_outcomes_are_counted_once() -> None:
    ds = clean().copy(deep=True)
    ds["cutout_ok"].values[:7] = False
    ds["reason"].values[:7] = 5
    ds["psf_source"].values[10:13, 0] = 2
    spec = spec_of(ds)
    stats = merge([measure(ds.isel(pair=s), spec) for s in _blocks(ds.sizes["pair"], 3)], spec)
    table = reasons(stats)
    assert table.rows.sum() == ds.sizes["pair"]
    assert table[table.reason == "crosses_edge"].rows.sum() == 7
    sources = psf_sources(stats, spec)
    assert sources[(sources.band == "g") & (sources.source == "fallback")].injections.item() == 3
    where = footprint(stats)
    assert len(where) == REGIONS
    assert where.pairs.sum() == ds.sizes["pair"]
    assert where.failed.sum() == 7
    assert set(np.round(where.ra).astype(int)) == set(range(10, 10 + REGIONS))


def test_pixels_without_data_are_in_no_annulus() -> None:
    ds = clean().isel(pair=slice(0, 4)).copy(deep=True)
    spec = spec_of(ds)
    whole = measure(ds, spec)["group_annulus_pixels"].sum()
    ds["nodata"].values[:, :2] = 0b010
    sums = []
    for light in (0.0, 5.0):
        ds["arc"].values[:, 1, :2] = light
        stats = measure(ds, spec)
        sums.append(stats["group_annulus_sum"])
        assert stats["group_annulus_pixels"].sum() < whole
    np.testing.assert_array_equal(*sums)


def test_many_regions_are_folded() -> None:
    ds = clean()
    spec = spec_of(ds, n_regions=180_000)
    stats = merge([measure(ds, spec)], spec)
    assert spec.folded
    assert int(stats["row_region"].max()) < 1024


def test_spec_survives_json() -> None:
    spec = spec_of(clean())
    assert AuditSpec.from_json(spec.to_json()) == spec
    assert interval_labels((0.5, 1)) == ("< 0.5", "0.5-1", ">= 1")


def test_wrong_stamps_are_refused() -> None:
    ds = clean()
    with pytest.raises(ValueError, match="the audit expects"):
        measure(ds, spec_of(ds, size=64))


def test_rows_that_cannot_be_drawn_again_are_named() -> None:
    ds = clean().isel(pair=slice(0, 20)).copy(deep=True)
    ds["lens_q"].values[4] = np.nan
    ds["fix"].values[6] = "core_mask(radius_px=5,taper_px=0)"
    ds["coverage"].values[8, 0] = 0.0
    ds["nodata"].values[9, 20:30, 20:30] = 0b100
    spec = spec_of(ds, cap=20, whole_cap=10, closure=5)
    stats = merge([measure(ds, spec)], spec)
    rows = audit_rows(stats, spec)
    out = join([rerender(c, spec) for c in chunks(rows, 2)])
    place = {
        (b, int(s)): i for i, (b, s) in enumerate(zip(rows["brick"], rows["slot"], strict=True))
    }
    order = {int(h): i for i, h in enumerate(out["hash"])}

    def drawn(i: int) -> int:
        row = place[(str(ds["brick"].values[i]), int(ds["slot"].values[i]))]
        return order[int(rows["hash"][row])]

    failed = [str(m) for m in out["message"] if m]
    assert len(failed) == 2
    assert any("lens_q" in m and m.startswith("b004/") for m in failed)
    assert any("core_mask" in m for m in failed)
    assert np.isnan(out["core"][drawn(4)]).all()
    assert not out["core"][drawn(8), 0].any()
    assert out["core"][drawn(8), 1].any()
    assert not out["core"][drawn(9), 2, 2:10, 2:10].any()
    masked = rerender(rows, spec, apply_fix=lambda arc, fix, *place: arc * (fix == "none"))
    assert (masked["message"] != "").sum() == 1


def test_a_band_whose_psf_nobody_knows_is_not_dark() -> None:
    """What is not said is missing on both sides of every comparison, never an arc of 0."""
    ds = clean().isel(pair=slice(0, 12)).copy(deep=True)
    ds["psfsize"].values[2, 0] = np.nan
    ds["psfsize"].values[3] = 0.0
    ds["psf_source"].values[4, 1], ds["psf_fwhm_used"].values[4, 1] = 1, np.nan
    ds["coverage"].values[5, 2] = np.nan
    ds["sky_sigma"].values[6, 1] = np.nan
    ds["coverage"].values[7, 0] = ds["psfsize"].values[7, 0] = 0.0  # no pixels: nothing is missing
    spec = spec_of(ds, cap=12, whole_cap=12, closure=12)
    stats = merge([measure(ds, spec)], spec)
    rows = audit_rows(stats, spec)
    out = rerender(rows, spec)
    says = dict(str(m).split("/0: ") for m in out["message"] if m)
    assert says == {
        "b002": "no psfsize in g",
        "b003": "no psfsize in g, r, z",
        "b004": "no psfsize in r",
        "b005": "no coverage in z",
        "b006": "no sky_sigma in r",
    }
    at = {str(b): i for i, b in enumerate(rows["brick"])}
    for name, dark in (("b002", "g"), ("b003", "grz"), ("b004", "r"), ("b005", "z"), ("b006", "")):
        wanted = [band not in dark for band in BANDS]
        for key in ("core", "whole"):  # every row is drawn whole here
            assert np.isfinite(out[key][at[name]]).all(axis=(1, 2)).tolist() == wanted
    assert not out["core"][at["b007"], 0].any()
    assert core_gate(stats, out, spec).left_out == {
        "a band without coverage": 2, "not re-rendered": 3,
    }  # fmt: skip
    told = {str(stats["row_brick"][i]) for i in whole_stamps(stats, out, spec).row}
    assert told == {f"b{i:03d}" for i in (0, 1, 8, 9, 10, 11)}
    assert zero_dose(stats, out, spec)[0].pairs.tolist() == [9, 9, 10]


def test_cores_drawn_alone_and_whole_agree() -> None:
    ds = clean().isel(pair=slice(0, 30))
    spec = spec_of(ds, whole_cap=30, closure=30)
    stats = merge([measure(ds, spec)], spec)
    rows = audit_rows(stats, spec)
    assert rows["closure"].all()
    whole = rerender(rows, spec)
    alone = rerender({**rows, "closure": np.zeros(30, bool)}, spec)
    peak = whole["whole"].max(axis=(2, 3))[:, :, None, None]
    assert np.max(np.abs(whole["core"] - alone["core"]) / peak) < 1e-3


def test_quality_table_counts_missing_and_zero() -> None:
    ds = clean()
    table = quality(ds, "r").table

    def line(column: str, kind: str, band: str = "", split: str = "all") -> object:
        at = (table.column == column) & (table["class"] == kind)
        found = table[at & (table.band == band) & (table.split == split)]
        assert len(found) == 1
        return found.iloc[0]

    injected = ds["lens_model"].values != 0
    theta_e = ds["theta_e"].values[injected].astype(float)
    got = line("theta_e", "injection")
    assert (got.n, got.missing, got.zeros) == (300, 0, 0)
    assert got.p5 == pytest.approx(np.percentile(theta_e, 5))
    assert got["mean"] == pytest.approx(theta_e.mean())
    assert line("theta_e", "control").zeros == 30
    assert line("arc_snr", "control").missing == 30
    per_split = [line("psfsize", "injection", "g", s).n for s in ("train", "val", "test")]
    assert sum(per_split) == 300
    assert not (table.column == "arc").any()

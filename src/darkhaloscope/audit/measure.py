"""One block of pairs to mergeable statistics, while its pixels are in memory.

:func:`measure` returns plain arrays, which :func:`numpy.savez` stores without pickle;
:func:`merge` adds any number of such results. Sums are float64, so that the order of merging shows
only in rounding; the rows that are kept are the lowest hashes of their stratum, so not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.audit.integrity import CHECKS, CORE_MATCHED, offenders
from darkhaloscope.audit.looks import LOST_CTRL, LOST_STAMP, looks
from darkhaloscope.audit.spec import AuditSpec, lowest, row_hashes, shares
from darkhaloscope.errors import Reason
from darkhaloscope.geometry import core_slice
from darkhaloscope.variables import (
    NEGATIVE_KINDS,
    NO_PSF,
    OPTIONAL_KINDS,
    PSF_SOURCES,
    SPLITS,
    without_data,
)

Arrays = dict[str, NDArray[Any]]

PAIR_COLUMNS = (
    "brick", "slot", "host_id", "ra", "dec", "target_x", "target_y", "region_split",
    "lens_model", "theta_e", "lens_q", "lens_pa", "gamma1", "gamma2", "lens_dx", "lens_dy",
    "src_model", "src_reff", "src_n", "src_q", "src_pa", "src_dx", "src_dy", "psf_model",
    "psf_beta", "pixel_response", "fix", "arc_snr", "magnification",
    "bad_pixel_frac", "wise_brightmask_frac",
)  # fmt: skip
"""Provenance per pair that an audit row keeps: enough to draw its arc again."""

OPTIONAL_COLUMNS = tuple(
    v.name for columns in OPTIONAL_KINDS.values() for v in columns if not v.sharded
)
"""The same, kept where the data set has them."""

BAND_COLUMNS = (
    "src_flux", "psfsize", "psf_fwhm_used", "psf_source", "sky_sigma", "coverage",
    "total_injected_flux", "arc_flux_total", "psfdepth",
)  # fmt: skip
"""Provenance per (pair, band) that an audit row keeps."""

TEXT_COLUMNS = ("brick", "fix")
N_REASONS = max(Reason) + 1
PSF_SOURCE_CODES = (*range(len(PSF_SOURCES)), NO_PSF)
INNER_ANNULUS = (20.0, 32.0)
"""Radii in pixels of the outer sky annulus of a 64-pixel stamp."""

FOOTPRINT_COUNTS = ("pairs", "injections", "controls", "ok", "failed")


def annuli(size: int) -> tuple[tuple[float, float], ...]:
    """Annuli in pixels whose offset is measured: 20 <= r < 32, and 32 <= r < N/2 where it exists.

    On a stamp too small for either (N <= 40) the outer quarter of its radius stands for the first.
    """
    edge = size / 2
    if edge <= INNER_ANNULUS[0]:
        return ((0.75 * edge, edge),)
    first = (INNER_ANNULUS[0], min(INNER_ANNULUS[1], edge))
    return (first,) if edge <= INNER_ANNULUS[1] else (first, (INNER_ANNULUS[1], edge))


def radial_bins(size: int) -> int:
    """Number of 1-pixel radial bins out to the stamp's edge: N // 2."""
    return size // 2


def measure(ds: xr.Dataset, spec: AuditSpec) -> Arrays:
    """Statistics of one block.

    Parameters
    ----------
    ds : xarray.Dataset
        A block in memory: ``ctrl``, ``arc`` (pair, band, y, x) in nMgy, ``nodata`` (pair, y, x), and
        the provenance variables.
    spec : AuditSpec
        Which rows are kept, which strata there are.

    Returns
    -------
    dict of ndarray
        Counts of outcomes, and of rows that no correct data set has (:mod:`.integrity`), over all
        rows; radial profiles and annulus offsets of ``stamp - ctrl`` over
        injections with ``cutout_ok`` that no cut excluded, per (region, theta_e stratum); the audit
        rows, of these alone; what controls look like (:mod:`.looks`), and the core light of core-matched
        negatives, where there are any.
        Pixels without data, and bands without coverage, are left out of every sum.

    Raises
    ------
    ValueError
        If the block's stamps or bands are not those of ``spec``.
    """
    _check(ds, spec)
    injected = ds["lens_model"].values != 0
    ok = ds["cutout_ok"].values.astype(bool)
    stats = _outcomes(ds, injected, ok)
    stats.update(_footprint(ds, spec, injected, ok))
    wrong = offenders(ds, dict(spec.written))
    stats["integrity"] = np.array([wrong[name].sum() for name in CHECKS], dtype=np.int64)
    kept = ds["reason"].values == Reason.OK
    use = np.flatnonzero(injected & ok & kept & ~wrong["pixels_not_finite"])
    region = spec.region_keys(ds["region_id"].values[use])
    stratum = spec.stratum(ds["theta_e"].values[use])
    stats.update(_group_sums(ds, spec, use, region, stratum))
    stats.update(_audit_rows(ds, spec, use, region, stratum))
    stats.update(
        _controls(ds, spec, np.flatnonzero(~injected & ok & kept & ~wrong["pixels_not_finite"]))
    )
    if "extra" in ds:
        stats.update(_negatives(ds, spec, np.flatnonzero(ok & kept & ~wrong["pixels_not_finite"])))
    return stats


def merge(parts: Sequence[Arrays], spec: AuditSpec) -> Arrays:
    """Add results of :func:`measure`: associative, and independent of order to rounding.

    Raises
    ------
    ValueError
        If there is nothing to merge.
    """
    if not parts:
        raise ValueError("no statistics to merge: no block was measured")
    out: Arrays = {}
    for name in ("outcomes", "psf_sources", "integrity"):
        out[name] = np.sum([p[name] for p in parts], axis=0)
    for prefix, n_keys in (("group", 2), ("footprint", 1)):
        names = [k for k in parts[0] if k.startswith(f"{prefix}_") and not k.endswith("_key")]
        keys = np.concatenate([p[f"{prefix}_key"].reshape(-1, n_keys) for p in parts])
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        out[f"{prefix}_key"] = unique if n_keys > 1 else unique[:, 0]
        for name in names:
            values = np.concatenate([p[name] for p in parts])
            out[name] = _sum_by(values, inverse.reshape(-1), len(unique))
    rows = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k.startswith("row_")}
    out.update(_trim(rows, spec, spec.cap, "row_"))
    whole = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k.startswith("whole_")}
    out.update(_trim(whole, spec, spec.whole_cap, "whole_"))
    controls = {
        k: np.concatenate([p[k] for p in parts]) for k in parts[0] if k.startswith("control_")
    }
    kinds = controls["control_kind"].astype(np.int64)
    caps = np.full(len(NEGATIVE_KINDS), spec.whole_cap)
    chosen = lowest(controls["control_hash"], kinds, caps, (controls["control_slot"],))
    out.update({k: v[chosen] for k, v in controls.items()})
    matched = [k for k in parts[0] if k.startswith("negative_")]
    negatives = {k: np.concatenate([p[k] for p in parts]) for k in matched}
    if negatives:
        order = np.argsort(negatives["negative_hash"], kind="stable")[: spec.cap]
        out.update({k: v[order] for k, v in negatives.items()})
    return out


def _trim(rows: Arrays, spec: AuditSpec, cap: int, prefix: str) -> Arrays:
    keep = lowest(
        rows[f"{prefix}hash"].astype(np.uint64),
        rows[f"{prefix}stratum"].astype(np.int64),
        shares(cap, spec.stratum_counts),
        (rows[f"{prefix}slot"],),
    )
    return {k: v[keep] for k, v in rows.items()}


def _check(ds: xr.Dataset, spec: AuditSpec) -> None:
    shape = ds["arc"].shape[1:]
    wanted = (len(spec.bands), spec.size, spec.size)
    if shape != wanted:
        raise ValueError(f"stamps are (band, y, x) = {shape}, the audit expects {wanted}")
    if "band" in ds.coords and tuple(str(b) for b in ds["band"].values) != spec.bands:
        raise ValueError(f"bands are {list(ds['band'].values)}, the audit expects {spec.bands}")
    for name, known in (("reason", N_REASONS), ("region_split", len(SPLITS))):
        if len(ds[name]) and int(ds[name].values.max()) >= known:
            raise ValueError(
                f"{name} holds {int(ds[name].values.max())}, which is no code of its list"
            )


def _outcomes(ds: xr.Dataset, injected: NDArray[np.bool_], ok: NDArray[np.bool_]) -> Arrays:
    """Counts of rows by (class, reason, split), and of PSF sources by band over drawn injections."""
    reason = ds["reason"].values.astype(np.int64)
    split = ds["region_split"].values.astype(np.int64)
    counts = np.zeros((2, N_REASONS, len(SPLITS)), dtype=np.int64)
    np.add.at(counts, (injected.astype(np.int64), reason, split), 1)
    source = ds["psf_source"].values[injected & ok]
    by_band = np.stack([(source == code).sum(axis=0) for code in PSF_SOURCE_CODES], axis=-1)
    return {"outcomes": counts, "psf_sources": by_band.astype(np.int64)}


def _footprint(
    ds: xr.Dataset, spec: AuditSpec, injected: NDArray[np.bool_], ok: NDArray[np.bool_]
) -> Arrays:
    """Counts of outcomes by region, or by square degree where there are too many regions."""
    ra, dec = ds["ra"].values.astype(float), ds["dec"].values.astype(float)
    if spec.folded:
        cell = np.floor(np.clip(dec, -90, 89.999) + 90) * 360 + np.floor(ra % 360)
        key = cell.astype(np.uint64)
    else:
        key = spec.region_keys(ds["region_id"].values)
    unique, inverse = np.unique(key, return_inverse=True)
    columns = np.stack([np.ones_like(ok), injected, ~injected, ok, ~ok], axis=-1)
    reason = ds["reason"].values.astype(np.int64)
    by_reason = np.eye(N_REASONS, dtype=np.int64)[reason]
    # Sums of unit vectors: a mean position that does not break where RA goes from 360 to 0.
    lon, lat = np.deg2rad(ra), np.deg2rad(dec)
    vector = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    n = len(unique)
    return {
        "footprint_key": unique,
        "footprint_counts": _sum_by(columns.astype(np.int64), inverse, n),
        "footprint_reasons": _sum_by(by_reason, inverse, n),
        "footprint_vector": _sum_by(vector, inverse, n),
    }


def _sum_by(values: NDArray[Any], index: NDArray[np.integer], n: int) -> NDArray[Any]:
    """Sum rows of ``values`` that share an index: ``(n, ...)``."""
    out = np.zeros((n, *values.shape[1:]), dtype=values.dtype)
    np.add.at(out, index, values)
    return out


def _group_sums(
    ds: xr.Dataset,
    spec: AuditSpec,
    use: NDArray[np.int64],
    region: NDArray[np.uint64],
    stratum: NDArray[np.int64],
) -> Arrays:
    """Radial and annulus sums per (region, theta_e stratum)."""
    keys = np.stack([region, stratum.astype(np.uint64)], axis=-1)
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    n_bins, n_band = radial_bins(spec.size), len(spec.bands)
    total = np.zeros((len(unique), n_band, n_bins))
    count = np.zeros((len(unique), n_band, n_bins))
    rings = annuli(spec.size)
    offset = np.zeros((len(unique), n_band, len(rings), 2))
    pixels = np.zeros((len(unique), n_band, len(rings)))
    axis = np.arange(spec.size, dtype=float)
    band_bit = np.uint8(1) << np.arange(n_band, dtype=np.uint8)
    arcs, nodata = ds["arc"].values, ds["nodata"].values
    covered = ds["coverage"].values > 0
    sigma = ds["sky_sigma"].values.astype(float)
    tx, ty = ds["target_x"].values.astype(float), ds["target_y"].values.astype(float)
    for group, i in zip(inverse, use, strict=True):
        radius = np.hypot(axis[None, :] - tx[i], axis[:, None] - ty[i])
        bins = np.minimum(radius.astype(np.int64), n_bins).ravel()
        in_ring = [((radius >= lo) & (radius < hi)).ravel() for lo, hi in rings]
        lost = (nodata[i].ravel()[None, :] & band_bit[:, None]) != 0
        for b in np.flatnonzero(covered[i]):
            arc = arcs[i, b].ravel().astype(float)
            good = ~lost[b]
            weight = good.astype(float)
            total[group, b] += np.bincount(bins, arc * weight, n_bins + 1)[:n_bins]
            count[group, b] += np.bincount(bins, weight, n_bins + 1)[:n_bins]
            for k, ring in enumerate(in_ring):
                light = arc[ring & good]
                offset[group, b, k, 0] += light.sum()
                if sigma[i, b] > 0:
                    offset[group, b, k, 1] += light.sum() / sigma[i, b]
                pixels[group, b, k] += light.size
    return {
        "group_key": unique,
        "group_pairs": np.bincount(inverse, minlength=len(unique)).astype(np.int64),
        "group_profile_sum": total,
        "group_profile_pixels": count,
        "group_annulus_sum": offset,
        "group_annulus_pixels": pixels,
    }


def _audit_rows(
    ds: xr.Dataset,
    spec: AuditSpec,
    use: NDArray[np.int64],
    region: NDArray[np.uint64],
    stratum: NDArray[np.int64],
) -> Arrays:
    """The rows whose hash is low enough: provenance, core pixels, and whole stamps of the lowest."""
    brick = ds["brick"].values[use].astype(str)
    hashes = row_hashes(spec.seed, brick, ds["slot"].values[use])
    fraction = hashes / 2.0**64
    chosen = np.flatnonzero(fraction < spec.thresholds(spec.cap)[stratum])
    keep = use[chosen]
    core = core_slice(spec.size)
    rows: Arrays = {
        "row_hash": hashes[chosen],
        "row_stratum": stratum[chosen],
        "row_region": region[chosen],
        "row_core_ctrl": ds["ctrl"].values[keep][..., core, core].astype(np.float32),
        "row_core_arc": ds["arc"].values[keep][..., core, core].astype(np.float32),
        "row_core_nodata": ds["nodata"].values[keep][..., core, core].astype(np.uint8),
    }
    optional = (name for name in (*OPTIONAL_COLUMNS, LOST_STAMP, LOST_CTRL) if name in ds)
    for name in (*PAIR_COLUMNS, *optional, *BAND_COLUMNS):
        values = ds[name].values[keep]
        rows[f"row_{name}"] = values.astype(str) if name in TEXT_COLUMNS else values
    whole = chosen[fraction[chosen] < spec.thresholds(spec.whole_cap)[stratum[chosen]]]
    rows["whole_hash"] = hashes[whole]
    rows["whole_stratum"] = stratum[whole]
    rows["whole_slot"] = ds["slot"].values[use[whole]]
    for name in ("ctrl", "arc", "nodata"):
        rows[f"whole_{name}"] = ds[name].values[use[whole]]
    return rows


def _negatives(ds: xr.Dataset, spec: AuditSpec, use: NDArray[np.int64]) -> Arrays:
    """Core light of the core-matched negatives of audit rows, under their partners' hashes.

    Which stratum a partner is in is not known here: of all strata alike the lowest hashes are kept.
    """
    matched = use[ds["negative_kind"].values[use] == CORE_MATCHED]
    brick = ds["brick"].values[matched].astype(str)
    hashes = row_hashes(spec.seed, brick, ds["partner"].values[matched])
    chosen = np.flatnonzero(hashes / 2.0**64 < spec.even_threshold(spec.cap))
    core = core_slice(spec.size)
    extra = ds["extra"].values[matched[chosen]][..., core, core]
    return {"negative_hash": hashes[chosen], "negative_core_extra": extra.astype(np.float32)}


def _controls(ds: xr.Dataset, spec: AuditSpec, use: NDArray[np.int64]) -> Arrays:
    """What the ctrl of controls looks like, of each kind, of about as many as injections are kept whole."""
    hashes = row_hashes(spec.seed, ds["brick"].values[use].astype(str), ds["slot"].values[use])
    chosen = np.flatnonzero(hashes / 2.0**64 < spec.even_threshold(spec.whole_cap))
    keep = use[chosen]
    kind = np.full(len(keep), NEGATIVE_KINDS.index("plain"), dtype=np.uint8)
    if "negative_kind" in ds:
        kind = ds["negative_kind"].values[keep].astype(np.uint8)
    good = ~without_data(ds["nodata"].values[keep], len(spec.bands))
    good &= (ds["coverage"].values[keep] > 0)[:, :, None, None]
    return {
        "control_hash": hashes[chosen],
        "control_slot": ds["slot"].values[keep],
        "control_kind": kind,
        "control_region": spec.region_keys(ds["region_id"].values[keep]),
        "control_looks": looks(ds["ctrl"].values[keep], good).astype(np.float32),
    }

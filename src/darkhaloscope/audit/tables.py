"""Merged statistics as tables: outcomes, PSF sources, footprint, radial profiles, annulus offsets."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from darkhaloscope.audit.intervals import CONFIDENCE, DESCRIBED_REGIONS, Floats
from darkhaloscope.audit.measure import FOOTPRINT_COUNTS, Arrays, annuli
from darkhaloscope.audit.spec import AuditSpec, interval_labels
from darkhaloscope.errors import Reason
from darkhaloscope.variables import PSF_SOURCES, SPLITS

CLASSES = ("control", "injection")
REASON_COLUMNS = ["class", "split", "reason", "rows", "fraction"]
PSF_SOURCE_COLUMNS = ["band", "source", "injections", "fraction"]
PROFILE_COLUMNS = ["stratum", "band", "r", "mean", "lo", "hi", "pixels", "pairs", "regions"]
ANNULUS_COLUMNS = [
    "stratum", "band", "r_in", "r_out", "offset", "offset_sky_sigma", "lo", "hi",
    "pixels", "pairs", "regions",
]  # fmt: skip
PSF_SOURCE_NAMES = (*PSF_SOURCES, "none")


def reasons(stats: Arrays) -> pd.DataFrame:
    """Rows by class, split and reason; ``fraction`` of the rows of that class and split."""
    counts = stats["outcomes"].astype(np.int64)
    rows = []
    for c, s in np.ndindex(counts.shape[0], counts.shape[2]):
        total = counts[c, :, s].sum()
        for reason in Reason:
            n = int(counts[c, reason, s])
            if n:
                rows.append((CLASSES[c], SPLITS[s], reason.text, n, n / total))
    return pd.DataFrame(rows, columns=REASON_COLUMNS)


def psf_sources(stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Where each band's PSF width came from, over injections with ``cutout_ok``."""
    rows = []
    for b, band in enumerate(spec.bands):
        counts = stats["psf_sources"][b].astype(np.int64)
        total = max(int(counts.sum()), 1)
        rows += [
            (band, PSF_SOURCE_NAMES[k], int(counts[k]), int(counts[k]) / total)
            for k in range(len(PSF_SOURCE_NAMES))
        ]
    return pd.DataFrame(rows, columns=PSF_SOURCE_COLUMNS)


def footprint(stats: Arrays) -> pd.DataFrame:
    """Outcomes by region (or square degree): mean position in degrees, counts, and each reason."""
    vector = stats["footprint_vector"].astype(float)
    table = pd.DataFrame(
        {
            "key": stats["footprint_key"],
            "ra": np.rad2deg(np.arctan2(vector[:, 1], vector[:, 0])) % 360.0,
            "dec": np.rad2deg(np.arctan2(vector[:, 2], np.hypot(vector[:, 0], vector[:, 1]))),
        }
    )
    for k, name in enumerate(FOOTPRINT_COUNTS):
        table[name] = stats["footprint_counts"][:, k].astype(np.int64)
    for reason in Reason:
        table[reason.text] = stats["footprint_reasons"][:, reason].astype(np.int64)
    return table


def profiles(stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Mean profile of ``stamp - ctrl`` in nMgy a pixel by theta_e stratum and band.

    ``lo``, ``hi``: interval over regions (ratio estimator, t with regions - 1 degrees of freedom);
    missing below five regions.
    """
    rows = []
    for label, members in _strata(stats, spec):
        region = stats["group_key"][members, 0]
        pairs = int(stats["group_pairs"][members].sum())
        for b, band in enumerate(spec.bands):
            total = stats["group_profile_sum"][members, b].astype(float)
            pixels = stats["group_profile_pixels"][members, b].astype(float)
            mean, lo, hi, n = region_mean(total, pixels, region)
            for r in range(total.shape[1]):
                rows.append(
                    (label, band, r + 0.5, mean[r], lo[r], hi[r], pixels[:, r].sum(), pairs, n)
                )
    return pd.DataFrame(rows, columns=PROFILE_COLUMNS)


def annulus_offsets(stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Mean of ``stamp - ctrl`` in the outer annuli, in nMgy and in sky sigma a pixel.

    ``lo``, ``hi`` are of ``offset_sky_sigma``. Real arcs reach there: what closure compares with them
    is in the closure tables.
    """
    rows = []
    for label, members in _strata(stats, spec):
        region = stats["group_key"][members, 0]
        pairs = int(stats["group_pairs"][members].sum())
        for b, band in enumerate(spec.bands):
            sums = stats["group_annulus_sum"][members, b].astype(float)
            pixels = stats["group_annulus_pixels"][members, b].astype(float)
            flux, _, _, _ = region_mean(sums[..., 0], pixels, region)
            mean, lo, hi, n = region_mean(sums[..., 1], pixels, region)
            for k, (inner, edge) in enumerate(annuli(spec.size)):
                rows.append(
                    (label, band, inner, edge, flux[k], mean[k], lo[k], hi[k],
                     pixels[:, k].sum(), pairs, n)
                )  # fmt: skip
    return pd.DataFrame(rows, columns=ANNULUS_COLUMNS)


def _strata(stats: Arrays, spec: AuditSpec) -> list[tuple[str, np.ndarray]]:
    """All groups, then those of each stratum of theta_e that has pairs."""
    stratum = stats["group_key"][:, 1].astype(np.int64)
    out = [("all", np.arange(len(stratum)))] if len(stratum) else []
    if "theta_e" in spec.lacks:
        return out
    for s, label in enumerate(interval_labels(spec.theta_e_edges)):
        members = np.flatnonzero(stratum == s)
        if len(members):
            out.append((label, members))
    return out


def region_mean(
    total: Floats, pixels: Floats, region: np.ndarray
) -> tuple[Floats, Floats, Floats, int]:
    """Ratio of sums over groups, with an interval from the scatter of regions.

    The linearised variance of a ratio of cluster totals (Cochran 1977, sec. 6.13), which is what
    resampling whole regions gives, without the noise of resampling.
    """
    keys, index = np.unique(region, return_inverse=True)
    n = len(keys)
    shape = (n, total.shape[1])
    t, p = np.zeros(shape), np.zeros(shape)
    np.add.at(t, index.reshape(-1), total)
    np.add.at(p, index.reshape(-1), pixels)
    whole = p.sum(axis=0)
    safe = np.where(whole > 0, whole, np.nan)
    mean = t.sum(axis=0) / safe
    if n < DESCRIBED_REGIONS:
        none = np.full(shape[1], np.nan)
        return mean, none, none, n
    spread = np.sqrt(n / (n - 1) * ((t - mean * p) ** 2).sum(axis=0)) / safe
    reach = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * spread
    return mean, mean - reach, mean + reach, n

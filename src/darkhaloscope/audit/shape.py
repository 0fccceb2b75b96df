"""Arcs as numbers by Einstein radius, each beside the re-rendered one: core, peak, quadrants; and groups.

What a core AUC rests on: how much of an arc's light lies in the core, how much that adds to the galaxy,
and whether the profile has its peak in the centre.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.hypotheses import Hypothesis, p_above
from darkhaloscope.audit.intervals import Floats, known_mean, weighted_mean
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import COARSE_THETA_E_EDGES, AuditSpec, interval_labels
from darkhaloscope.audit.verdict import BUG, GateLimits
from darkhaloscope.geometry import radius_map
from darkhaloscope.variables import PSF_SOURCES, SPLITS

CORE_RADIUS = 5.0
CENTRE_RADIUS = 1.5
CORE_COLUMNS = [
    "family", "stratum", "quantity", "value", "lo", "hi", "rerendered", "pairs",
]  # fmt: skip
QUADRANTS = ("NE", "NW", "SE", "SW")
QUADRANT_COLUMNS = ["quadrant", "value", "lo", "hi", "rerendered", "pairs"]
GROUP_COLUMNS = ["by", "group", "band", "quantity", "value", "lo", "hi", "pairs"]
QUANTITIES = ("flux_ratio", "width_ratio", "dx", "dy")
"""What groups are compared in. Not in the length of a shift: noise alone makes it longer, and one group may
have more of it."""

FEWEST = 20
"""Pairs of a group below which it is not compared."""
BELOW_ONE = 0.99


def core_table(stamps: Stamps, stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Core fraction (r < 5 px), core excess over ctrl, and centre-to-peak ratio of the mean profile.

    In the reference band, by theta_e; intervals resample pairs.
    """
    theta_e = stats["row_theta_e"][stamps.row].astype(float)
    radius = _radii(stamps, stats, spec)
    families = (("theta_e", spec.theta_e_edges), ("theta_e_coarse", COARSE_THETA_E_EDGES))
    groups = [("all", "all", np.arange(len(theta_e)))]
    if "theta_e" not in spec.lacks:
        for family, edges in families:
            index = np.digitize(theta_e.astype(np.float32), np.asarray(edges, np.float32))
            labels = interval_labels(edges)
            groups += [
                (family, label, np.flatnonzero(index == k)) for k, label in enumerate(labels)
            ]
    seen = _numbers(stamps.seen, stamps, radius, spec)
    again = None if stamps.promised is None else _numbers(stamps.promised, stamps, radius, spec)
    lines = []
    for family, label, members in groups:
        if not len(members):
            continue
        for quantity in ("core_fraction", "core_excess", "centre_to_peak"):
            e = weighted_mean(seen[quantity][members], np.ones(len(members)), spec.seed, stream=21)
            expected = np.nan if again is None else known_mean(again[quantity][members])
            lines.append((family, label, quantity, e.value, e.lo, e.hi, expected, e.n))
    return pd.DataFrame(lines, columns=CORE_COLUMNS)


def quadrant_table(stamps: Stamps, stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Mean fraction of an arc's light in each quadrant about the target, in the reference band."""
    x, y = (
        stats[f"row_{n}"][stamps.row].astype(float)[:, None, None] for n in ("target_x", "target_y")
    )
    axis = np.arange(spec.size)
    north, west = axis[None, :, None] > y, axis[None, None, :] > x
    band = spec.reference_index
    lines = []
    for name in QUADRANTS:
        mask = (north if name[0] == "N" else ~north) & (west if name[1] == "W" else ~west)
        part = []
        for images in (stamps.seen, stamps.promised):
            if images is None:
                part.append(np.full(len(stamps.row), np.nan))
                continue
            light = (images[:, band] - stamps.ctrl[:, band]) * stamps.good[:, band]
            part.append(_ratio((light * mask).sum(axis=(1, 2)), light.sum(axis=(1, 2))))
        e = weighted_mean(part[0], np.ones(len(part[0])), spec.seed, stream=22)
        lines.append((name, e.value, e.lo, e.hi, known_mean(part[1]), e.n))
    return pd.DataFrame(lines, columns=QUADRANT_COLUMNS)


def group_table(closed: pd.DataFrame, stats: Arrays, spec: AuditSpec) -> pd.DataFrame:
    """Mean flux ratio, width ratio and displacement (px in x and in y) of closure pairs by split and by PSF
    source."""
    lines = []
    for by, group, band, part in _groups(closed, stats, spec):
        for quantity in QUANTITIES:
            e = weighted_mean(
                part[quantity].to_numpy(float), np.ones(len(part)), spec.seed, stream=23
            )
            lines.append((by, group, band, quantity, e.value, e.lo, e.hi, e.n))
    return pd.DataFrame(lines, columns=GROUP_COLUMNS)


def group_tests(table: pd.DataFrame, limits: GateLimits) -> list[Hypothesis]:
    """Whether one split, or one PSF source, differs from another by more than closure's own limit."""
    out = []
    limit_of = {"flux_ratio": limits.closure_flux, "width_ratio": limits.closure_blur,
                "dx": limits.closure_centroid, "dy": limits.closure_centroid}  # fmt: skip
    enough = table[table["pairs"] >= FEWEST]
    for key, part in enough.groupby(["by", "band", "quantity"], sort=False):
        by, band, quantity = (str(k) for k in key)
        if len(part) < 2:
            continue
        ordered = part.sort_values("value").to_dict("records")
        low, high = ordered[0], ordered[-1]
        gap = float(high["value"] - low["value"])
        error = max(float(np.hypot(high["hi"] - high["lo"], low["hi"] - low["lo"])) / 4.0, 1e-5)
        n = int(min(high["pairs"], low["pairs"]))
        says = (
            f"{quantity.replace('_', ' ')} in {band} is {high['value']:.3f} where {by} is {high['group']}, "
            f"{low['value']:.3f} where it is {low['group']}"
        )
        p = p_above(gap, limit_of[quantity], error, n)
        out.append(
            Hypothesis(f"{by}_differs", f"{quantity} {band}", gap, (gap - 2 * error, gap + 2 * error),
                       limit_of[quantity], n, p, "bug", says)
        )  # fmt: skip
    return out


def impossible_magnification(stats: Arrays) -> list[Cause]:
    """Arcs with less light than their source has: no lens of positive mass does that (Schneider 1984)."""
    magnification = stats["row_magnification"].astype(float)
    known = np.isfinite(magnification)
    low = int((magnification[known] < BELOW_ONE).sum())
    if not low:
        return []
    least = float(magnification[known].min())
    says = f"{low} of {int(known.sum())} arcs have a magnification below 1, the least {least:.2f}"
    share = low / int(known.sum())
    return [Cause("magnification_below_one", share, (share, share), says, BUG, 1.0, says)]


def _groups(
    closed: pd.DataFrame, stats: Arrays, spec: AuditSpec
) -> list[tuple[str, str, str, pd.DataFrame]]:
    place = {int(h): k for k, h in enumerate(stats["row_hash"].tolist())}
    row = np.array([place[int(h)] for h in closed["hash"]], dtype=np.int64)
    band = np.array([spec.bands.index(b) for b in closed["band"]], dtype=np.int64)
    split = stats["row_region_split"][row].astype(int) if len(row) else row
    source = stats["row_psf_source"][row, band].astype(int) if len(row) else row
    out = []
    for by, code, names in (("split", split, SPLITS), ("psf_source", source, PSF_SOURCES)):
        for k, name in enumerate(names):
            for b, known in enumerate(spec.bands):
                part = closed[(code == k) & (band == b)]
                if len(part):
                    out.append((by, name, known, part))
    return out


def _radii(stamps: Stamps, stats: Arrays, spec: AuditSpec) -> Floats:
    x, y = (stats[f"row_{n}"][stamps.row].astype(float) for n in ("target_x", "target_y"))
    return np.array([radius_map(spec.size, a, b) for a, b in zip(x, y, strict=True)])


def _numbers(images: Floats, stamps: Stamps, radius: Floats, spec: AuditSpec) -> dict[str, Floats]:
    band = spec.reference_index
    good = stamps.good[:, band]
    light = (images[:, band] - stamps.ctrl[:, band]) * good
    core = (radius < CORE_RADIUS) & good
    inside = (light * core).sum(axis=(1, 2))
    galaxy = (stamps.ctrl[:, band] * core).sum(axis=(1, 2))
    rings = [light.sum(axis=(1, 2)) * np.nan]
    for inner in np.arange(0.0, spec.size / 2 - 1.0):
        ring = good & (radius >= inner) & (radius < inner + CENTRE_RADIUS)
        rings.append(_ratio((light * ring).sum(axis=(1, 2)), ring.sum(axis=(1, 2))))
    profile = np.stack(rings[1:])
    return {
        "core_fraction": _ratio(inside, light.sum(axis=(1, 2))),
        "core_excess": _ratio(inside, galaxy),
        "centre_to_peak": _ratio(profile[0], np.fmax.reduce(profile)) if len(light) else inside,
    }


def _ratio(a: Floats, b: Floats | NDArray[np.int64]) -> Floats:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) > 0)
